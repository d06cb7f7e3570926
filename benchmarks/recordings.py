"""Owns generated recordings of any size, as a box would write them; must not know how they are read or judged.

Every rank passes its tests but one: in the last test a rank stays away from a collective that all others wait in.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from math import ceil
from pathlib import Path

from pytest_megacpp.recording import events as ev
from pytest_megacpp.recording.numbers import Numbers
from pytest_megacpp.recording.vocabulary import (
    ActReason,
    FlightOrigin,
    ForwardOrigin,
    ReportOutcome,
    RunEnd,
    StackMethod,
    TestEnd,
    TestPhase,
    WorldReason,
)
from pytest_megacpp.recording.wire import encode

MISSING = 3
LOOK_S = 1.0
STALL_S = 120.0
TESTS = 8
_PER_RANK_AND_TEST = 12  # what a rank tells of a test, about
_PER_LOOK = 2


def write(path: Path, events: int, ranks: int) -> int:
    """Writes a recording of about `events` events; how many they are."""
    looks = max(4, ceil((events / ranks / TESTS - _PER_RANK_AND_TEST) / _PER_LOOK))
    story, count = _Story(ranks), 0
    with path.open("wb") as file:
        for event in story.tell(looks):
            file.write(encode(event))
            count += 1
    return count


@dataclass
class _Story:
    """One world of `ranks`, told event by event."""

    ranks: int
    now_s: float = 0.0
    _seq: Counter[tuple[str, str]] = field(default_factory=Counter)
    _done: int = 0  # collectives of the default group so far

    def tell(self, looks: int) -> Iterator[ev.Event]:
        yield self._box(ev.RunStarted("large", "2026-01-01T00:00:00.000Z", "lane", "local", True, self.ranks, TESTS))
        for test in range(TESTS):
            yield self._box(ev.TestPlanned(test, _nodeid(test), self.ranks))
        yield from self._start()
        for test in range(TESTS):
            yield from self._test(test, looks, stalls=test == TESTS - 1)
        yield self._box(ev.WorldEnded("after stall"), "w1")
        yield self._box(ev.RunFinished(RunEnd.COMPLETED))

    def _event(self, fact: ev.Fact, world: str, source: str) -> ev.Event:
        seq = self._seq[world, source]
        self._seq[world, source] += 1
        self.now_s += 1e-5
        return ev.Event("large", world, source, seq, self.now_s, fact)

    def _box(self, fact: ev.Fact, world: str = "") -> ev.Event:
        return self._event(fact, world, "box")

    def _rank(self, fact: ev.RankFact) -> ev.Event:
        return self._event(fact, "w1", f"rank {fact.rank}")

    def _start(self) -> Iterator[ev.Event]:
        yield self._box(ev.WorldStarted(self.ranks, WorldReason.FIRST), "w1")
        for rank in range(self.ranks):
            yield self._box(ev.RankStarted(rank, 1000 + rank), "w1")
            yield self._rank(ev.RankReady(rank, 1000 + rank, "0x7f01"))
            yield self._rank(ev.RankCollected(rank, Numbers(range(TESTS)), "digest"))

    def _test(self, test: int, looks: int, *, stalls: bool) -> Iterator[ev.Event]:
        yield self._box(ev.TestStarted(test, _nodeid(test), self.ranks, ev.Limits(stall=STALL_S)), "w1")
        for rank in range(self.ranks):
            yield self._rank(ev.GroupCreated(rank, test, "0", tuple(range(self.ranks)) if rank == 0 else (), "gloo"))
            yield from self._phase(rank, test, TestPhase.SETUP)
            yield self._rank(ev.PhaseStarted(rank, test, "call"))
        for look in range(looks):
            yield from self._look(test, look, compiling=look < looks // 4)
        yield from self._stall(test) if stalls else self._pass(test, looks)

    def _phase(self, rank: int, test: int, phase: TestPhase) -> Iterator[ev.Event]:
        yield self._rank(ev.PhaseStarted(rank, test, phase.value))
        yield self._rank(ev.Reported(rank, test, phase, ReportOutcome.PASSED, 0.25))

    def _look(self, test: int, look: int, *, compiling: bool) -> Iterator[ev.Event]:
        """Every rank once: it computes, and enters one collective after another."""
        self.now_s += LOOK_S
        self._done += 1
        names = ("dynamo_compile", "entire_forward_compile") if compiling else ()
        for rank in range(self.ranks):
            cpu_s = round(self.now_s * 0.8 + rank / 100, 2)
            yield self._box(
                ev.Sampled(rank, test, True, "R", names, round(cpu_s / 2, 3), cpu_s, cpu_s, 100 * look), "w1"
            )
            yield self._box(self._seen(rank, test, FlightOrigin.POLL, self._done, done=False), "w1")

    def _seen(self, rank: int, test: int, origin: FlightOrigin, seq: int, *, done: bool) -> ev.FlightRecorded:
        """The collective that the rank is in."""
        at_s = round(self.now_s - 0.05, 6)
        entry = ev.Collective("0", seq, "gloo:all_reduce", 1 << 20, 1 << 20, "Float", "[[1048576]]", at_s, done)
        return ev.FlightRecorded(rank, test, origin, (entry,), (ev.GroupStatus(0, seq, seq - 1 + done),))

    def _pass(self, test: int, looks: int) -> Iterator[ev.Event]:
        for rank in range(self.ranks):
            yield self._rank(ev.Reported(rank, test, TestPhase.CALL, ReportOutcome.PASSED, looks * LOOK_S))
            yield self._rank(ev.Recorded(rank, test, "loss", 0.5))
            yield self._rank(ev.FirstForward(rank, test, "step", 12.5, ForwardOrigin.AUTOMATIC))
            yield self._rank(ev.Compiled(rank, test, 10.5, 12, 3, 9))
            yield from self._phase(rank, test, TestPhase.TEARDOWN)
            yield self._rank(ev.Finished(rank, test, True, False, looks, looks, {"0": f"{self._done}:0011aabb"}))
        yield self._box(ev.TestEnded(test, TestEnd.FINISHED), "w1")

    def _stall(self, test: int) -> Iterator[ev.Event]:
        waiting = tuple(rank for rank in range(self.ranks) if rank != MISSING)
        yield self._box(self._seen(MISSING, test, FlightOrigin.POLL, self._done, done=True), "w1")
        for rank in waiting:
            yield self._box(self._seen(rank, test, FlightOrigin.POLL, self._done + 1, done=False), "w1")
        self.now_s += STALL_S
        yield self._box(ev.Acted(test, ActReason.STALL, "", waiting, (MISSING,), (), STALL_S), "w1")
        for rank in waiting:
            yield self._box(_stack(rank, test, "/site-packages/torch/distributed/distributed_c10d.py", 9), "w1")
        yield self._box(_stack(MISSING, test, "/repo/train.py", 88), "w1")
        yield self._box(ev.TestEnded(test, TestEnd.ABORTED, "stall"), "w1")
        for rank in range(self.ranks):
            yield self._box(ev.RankExited(rank, None, "SIGTERM", False, True), "w1")


def _stack(rank: int, test: int, file: str, line: int) -> ev.StackTaken:
    text = f'Thread 0x7f01 (most recent call first):\n  File "{file}", line {line} in step\n'
    return ev.StackTaken(rank, test, StackMethod.TRACEBACK, True, text)


def _nodeid(test: int) -> str:
    return f"suite/test_large.py::test_step[{test}]"
