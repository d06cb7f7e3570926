"""Owns a box that only talks: it tells runs as the events that a real box writes. Must not know verdicts.

Every call adds events at the current time `now_s` (box seconds); `after` lets time pass. What the real box does by
itself (taking evidence, ending ranks) is done by `act`, unless a scenario wants it otherwise.
"""

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from pytest_megacpp.recording import events as ev
from pytest_megacpp.recording.numbers import Numbers
from pytest_megacpp.recording.timeline import Timeline, fold
from pytest_megacpp.recording.vocabulary import (
    ActReason,
    FlightOrigin,
    NotRun,
    Preset,
    Purpose,
    ReportOutcome,
    RunEnd,
    SettingOrigin,
    StackMethod,
    Stream,
    TestEnd,
    TestPhase,
    WarmUp,
    WorldReason,
)
from pytest_megacpp.recording.wire import encode, read_all

NODEID = "suite/test_step.py::test_step"
MAIN_THREAD = "0x7f01"
USER_FILE = "/repo/suite/train.py"
C10D = "/usr/lib/python3.11/site-packages/torch/distributed/distributed_c10d.py"
PEER_CLOSED = (
    "[/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:553] Connection closed by peer [127.0.0.1]:31337. "
    "This is typically caused by a remote worker crashing"
)
TIMED_OUT = "[/pytorch/gloo/transport/tcp/unbound_buffer.cc:78] Timed out waiting 6000ms for recv operation to complete"
ENFORCE = (
    "terminate called after throwing an instance of 'gloo::EnforceNotMet'\n  what():  [enforce fail at pair.cc:454] "
    "op.preamble.length <= op.nbytes. 48 vs 32. Received data size doesn't match expected size. "
    "Is there a distributed collective mismatch in your code?\n"
)
Ranks = int | Iterable[int]


def _each(ranks: Ranks) -> tuple[int, ...]:
    return (ranks,) if isinstance(ranks, int) else tuple(ranks)


def _preset(purpose: Purpose) -> Preset:
    return Preset.DIAGNOSTIC if purpose is Purpose.DIAGNOSTIC else Preset.FULL


class FakeBox:
    """One run. `world` is the current world's name, `test` the index of the running test."""

    def __init__(
        self,
        ranks: int = 4,
        tests: Sequence[str] = (NODEID,),
        *,
        limits: ev.Limits | None = None,
        sizes: Sequence[int] | None = None,
        must_run: bool = False,
        dry_run: bool = True,
    ) -> None:
        self.events: list[ev.Event] = []
        self.now_s = 0.0
        self.ranks = ranks
        self.limits = limits or ev.Limits()
        self.world = ""
        self.test: int | None = None
        self.compile_s: dict[int, float] = {}
        self._worlds = 0
        self._seq: dict[tuple[str, str], int] = {}
        self._entered: dict[int, dict[tuple[str, int], ev.Collective]] = {}
        self._exited: set[int] = set()
        self._nodeids, self._selected = tuple(tests), len(tests)
        self.box(ev.RunStarted("run-1", "2026-11-22T21:45:01.000Z", "h200x8", "local", dry_run, ranks, len(tests)))
        for index, nodeid in enumerate(tests):
            self.box(ev.TestPlanned(index, nodeid, sizes[index] if sizes else ranks, must_run))

    # -- the wire ------------------------------------------------------------------------------------------

    def say(self, fact: ev.Fact, source: str = "box", world: str | None = None) -> "FakeBox":
        world = self.world if world is None else world
        seq = self._seq[world, source] = self._seq.get((world, source), -1) + 1
        self.events.append(ev.Event("run-1", world, source, seq, round(self.now_s, 6), fact))
        return self

    def box(self, fact: ev.Fact) -> "FakeBox":
        return self.say(fact)

    def rank(self, fact: Any) -> "FakeBox":
        return self.say(fact, f"rank {fact.rank}")

    def after(self, seconds: float) -> "FakeBox":
        self.now_s += seconds
        return self

    def recording(self) -> bytes:
        return b"".join(encode(event) for event in self.events)

    def timeline(self) -> Timeline:
        """As a reader of the recording sees it."""
        return fold(read_all(self.recording()))

    # -- worlds --------------------------------------------------------------------------------------------

    def starts_world(self, size: int | None = None) -> "FakeBox":
        """Processes only."""
        self._worlds += 1
        self.world, self.ranks = f"w{self._worlds}", size or self.ranks
        self._entered, self._exited = {r: {} for r in range(self.ranks)}, set()
        self.box(ev.WorldStarted(self.ranks, WorldReason.FIRST if self._worlds == 1 else WorldReason.NEXT))
        for rank in range(self.ranks):
            self.box(ev.RankStarted(rank, 1000 + rank))
        return self.after(0.1)

    def readies(self, ranks: Ranks | None = None) -> "FakeBox":
        for rank in self._all(ranks):
            self.rank(ev.RankReady(rank, 1000 + rank, MAIN_THREAD))
        return self.after(0.1)

    def collects(self, ranks: Ranks | None = None, found: Iterable[int] | None = None, *errors: Any) -> "FakeBox":
        indices = tuple(range(self._selected)) if found is None else tuple(found)
        for rank in self._all(ranks):
            digest = "d" + "".join(map(str, indices))
            self.rank(ev.RankCollected(rank, Numbers(indices), digest, tuple(ev.CollectError(*e) for e in errors)))
        return self.after(0.1)

    def world_ready(self, size: int | None = None) -> "FakeBox":
        return self.starts_world(size).readies().collects()

    def plans(self, purpose: Purpose, of: int = 0) -> "FakeBox":
        """One more attempt at a test."""
        self._nodeids = (*self._nodeids, self._nodeids[of])
        number, preset = len(self._nodeids) - 1, _preset(purpose)
        planned = ev.TestPlanned(number, self._nodeids[of], self.ranks, of=of, purpose=purpose, preset=preset)
        return self.say(planned, world="")

    def tries(self, purpose: Purpose, of: int = 0) -> "FakeBox":
        """One more attempt, begun in a new world if the last one is over."""
        warmup = WarmUp.RUNS if purpose is Purpose.WARM_UP else None
        return self.plans(purpose, of).begins(len(self._nodeids) - 1, preset=_preset(purpose), warmup=warmup)

    def refuses(self, purpose: Purpose, why: NotRun, of: int = 0) -> "FakeBox":
        """A further attempt that is planned and not made; `of` ran in the first world."""
        self.plans(purpose, of)
        return self.say(ev.TestEnded(len(self._nodeids) - 1, TestEnd.NOT_RUN, why), world="w1")

    def begins(self, test: int = 0, *, preset: Preset = Preset.FULL, warmup: WarmUp | None = None) -> "FakeBox":
        """Releases the ranks into a test; they set up."""
        self.starts(test, preset=preset, warmup=warmup)
        self.phase("setup").after(0.05).reports(TestPhase.SETUP).phase("call")
        return self.after(0.05)

    def starts(self, test: int = 0, *, preset: Preset = Preset.FULL, warmup: WarmUp | None = None) -> "FakeBox":
        if not self.world:
            self.world_ready()
        self.test = test
        self.box(ev.TestStarted(test, self._nodeids[test], self.ranks, self.limits, preset, warmup))
        for rank in range(self.ranks):
            self.samples(rank)
        return self

    def _all(self, ranks: Ranks | None) -> tuple[int, ...]:
        return tuple(range(self.ranks)) if ranks is None else _each(ranks)

    def others(self, *ranks: int) -> tuple[int, ...]:
        return tuple(r for r in range(self.ranks) if r not in ranks)

    # -- what ranks say ------------------------------------------------------------------------------------

    def phase(self, name: str, ranks: Ranks | None = None) -> "FakeBox":
        for rank in self._all(ranks):
            self.rank(ev.PhaseStarted(rank, self.index, name))
        return self

    @property
    def index(self) -> int:
        assert self.test is not None
        return self.test

    def reports(
        self,
        when: TestPhase,
        ranks: Ranks | None = None,
        outcome: ReportOutcome = ReportOutcome.PASSED,
        **more: Any,
    ) -> "FakeBox":
        for rank in self._all(ranks):
            self.rank(ev.Reported(rank, self.index, when, outcome, 0.05, **more))
        return self

    def finishes(
        self,
        ranks: Ranks | None = None,
        digests: Mapping[int, str] | None = None,
        missed: Mapping[int, int] | None = None,
        left_open: Collection[int] = (),
    ) -> "FakeBox":
        """Tears down and is through. `digests`: of its collectives in the default group, by rank. `left_open`: on which
        ranks the newest is open, and none failed.
        """
        self.phase("teardown", ranks).reports(TestPhase.TEARDOWN, ranks).after(0.01)
        for rank in self._all(ranks):
            said = {"0": digests[rank]} if digests is not None else {}
            lost, is_open = (missed or {}).get(rank, 0), rank in left_open
            self.rank(ev.Finished(rank, self.index, True, digests=said, missed=lost, left_open=is_open))
        return self

    def passes(self, ranks: Ranks | None = None) -> "FakeBox":
        return self.reports(TestPhase.CALL, ranks).finishes(ranks)

    def raises(
        self,
        ranks: Ranks,
        type_name: str = "ValueError",
        message: str = "no shards",
        line: int = 31,
        *,
        when: TestPhase = TestPhase.CALL,
        traceback: str = "",
        context: tuple[str, ...] = (),
        raised_in: str = "",
        causes: tuple[ev.Cause, ...] = (),
    ) -> "FakeBox":
        """A failure as a rank reports it, its flight recorder first."""
        for rank in _each(ranks):
            if self._entered[rank]:
                self._flight(rank, FlightOrigin.FAILURE, source=f"rank {rank}")
            text = traceback or f"train.py:{line}: in step\nE   {type_name}: {message}"
            error = ev.Error(type_name, message, "suite/train.py", line, text, context, raised_in, causes)
            self.reports(when, rank, ReportOutcome.FAILED, error=error)
        return self

    def loses_peer(self, ranks: Ranks, message: str = PEER_CLOSED) -> "FakeBox":
        """What gloo says to those left behind; their collective is over then."""
        for rank in _each(ranks):
            self._close(rank)
            self.raises(rank, "RuntimeError", message, 40)
        return self

    def skips(
        self, ranks: Ranks | None = None, reason: str = "needs NVLink", *, when: TestPhase = TestPhase.CALL
    ) -> "FakeBox":
        skip = ev.Skip("suite/test_step.py", 9, f"Skipped: {reason}")
        return self.reports(when, ranks, ReportOutcome.SKIPPED, skip=skip)

    def exits(
        self,
        rank: int,
        code: int | None = None,
        signal: str | None = None,
        oom: bool | None = False,
        *,
        alive_s: float | None = None,
    ) -> "FakeBox":
        self._exited.add(rank)
        return self.box(ev.RankExited(rank, code, signal, oom, alive_s=alive_s))

    def writes(self, rank: int, text: str, stream: Stream = Stream.STDERR) -> "FakeBox":
        return self.box(ev.OutputRead(rank, self.test, stream, text))

    # -- what the box sees ---------------------------------------------------------------------------------

    def enters(
        self,
        ranks: Ranks,
        op: str = "gloo:all_reduce",
        seq: int = 1,
        *,
        group: str = "0",
        numel: int = 8,
        dtype: str = "Float",
        done: bool = False,
        origin: FlightOrigin = FlightOrigin.POLL,
        started: bool = False,
    ) -> "FakeBox":
        for rank in _each(ranks):
            pg = int(group) if group.isdigit() else 7
            p2p = bool(re.search(r"(send|recv) \d", op))
            entry = ev.Collective(
                group, seq, op, numel, numel, dtype, f"[[{numel}]]", round(self.now_s, 6), done, p2p, pg, started
            )
            self._entered[rank][group, seq] = entry
            self._flight(rank, origin)
        return self

    def completes(self, ranks: Ranks | None = None) -> "FakeBox":
        for rank in self._all(ranks):
            self._close(rank)
            self._flight(rank, FlightOrigin.POLL)
        return self

    def device_begins(self, ranks: Ranks) -> "FakeBox":
        """Their devices begin all that they had queued."""
        for rank in self._all(ranks):
            self._entered[rank] = {key: replace(e, started=True) for key, e in self._entered[rank].items()}
            self._flight(rank, FlightOrigin.POLL)
        return self

    def _close(self, rank: int) -> None:
        self._entered[rank] = {key: replace(e, done=True) for key, e in self._entered[rank].items()}

    def _flight(self, rank: int, origin: FlightOrigin, source: str = "box") -> None:
        entries = tuple(self._entered[rank].values())
        newest = {e.group: e for e in entries}.values()
        listed = entries if origin is not FlightOrigin.POLL else tuple(e for e in entries if not e.done or e in newest)
        pgs = {e.pg: e.seq for e in entries}
        done = {pg: max((e.seq for e in entries if e.pg == pg and e.done), default=0) for pg in pgs}
        status = tuple(ev.GroupStatus(pg, seq, done[pg]) for pg, seq in pgs.items())
        self.say(ev.FlightRecorded(rank, self.test, origin, listed, status), source)

    def announces(self, name: str, ranks: Iterable[int]) -> "FakeBox":
        """A process group, by each of its members."""
        members = tuple(ranks)
        for rank in members:
            self.rank(ev.GroupCreated(rank, self.test, name, members, "gloo"))
        return self

    def samples(
        self,
        ranks: Ranks,
        *,
        compiling: tuple[str, ...] = (),
        answered: bool = True,
        state: str = "S",
        cpu_s: float = 1.0,
        compile_s: float | None = None,
    ) -> "FakeBox":
        for rank in _each(ranks):
            total_s = self.compile_s.get(rank, 0.0) if compile_s is None else compile_s
            self.compile_s[rank] = total_s
            self.box(ev.Sampled(rank, self.test, answered, state, compiling, total_s, cpu_s, 0.5))
        return self

    def stack(
        self,
        rank: int,
        *frames: tuple[str, int, str],
        method: StackMethod = StackMethod.TRACEBACK,
        ok: bool = True,
    ) -> "FakeBox":
        lines = [f'  File "{file}", line {line} in {function}' for file, line, function in frames]
        dump = "\n".join((f"Thread {MAIN_THREAD} (most recent call first):", *lines, ""))
        return self.box(ev.StackTaken(rank, self.test, method, ok, dump if ok else ""))

    def at(self, ranks: Ranks, line: int = 88, function: str = "load_batch") -> "FakeBox":
        """A stack in the user's own code."""
        for rank in _each(ranks):
            self.stack(rank, (USER_FILE, line, function), ("/repo/suite/test_step.py", 9, "test_step"))
        return self

    def blocked(self, ranks: Ranks, call: str = "recv") -> "FakeBox":
        """A stack in a distributed call."""
        for rank in _each(ranks):
            self.stack(rank, (C10D, 2400, call), (C10D, 81, "wrapper"), (USER_FILE, 52, "exchange"))
        return self

    def handles(
        self, ranks: Ranks, kind: str = "ValueError", message: str = "bad shard", *, propagates: bool = True
    ) -> "FakeBox":
        """An exception of their own, while they call for the others."""
        for rank in _each(ranks):
            error = ev.Error(kind, message, USER_FILE, 38, "", raised_in=USER_FILE)
            self.rank(ev.Handles(rank, self.test, error, propagates))
        return self

    # -- ends ----------------------------------------------------------------------------------------------

    def acts(
        self,
        why: ActReason,
        detail: str = "",
        waiting: Iterable[int] = (),
        missing: Iterable[int] = (),
        compiling: Iterable[int] = (),
        waited_s: float = 0.0,
    ) -> "FakeBox":
        """The box's decision, then what its flight recorder look says once more."""
        self.box(ev.Acted(self.test, why, detail, tuple(waiting), tuple(missing), tuple(compiling), waited_s))
        if self.test is not None:
            for rank in self.others(*self._exited):
                if self._entered[rank]:
                    self._flight(rank, FlightOrigin.EVIDENCE)
        return self.after(0.02)

    def aborts(self, why: str = "") -> "FakeBox":
        """The rest of an early end: test, ranks, world."""
        self.after(0.1).box(ev.TestEnded(self.index, TestEnd.ABORTED, why))
        for rank in self.others(*self._exited):
            self.box(ev.RankExited(rank, None, "SIGTERM", False, True))
        self.after(0.1).box(ev.WorldEnded(f"after {why}"))
        self.world, self.test = "", None
        return self

    def ends(self) -> "FakeBox":
        """All ranks reported."""
        self.after(0.01).box(ev.TestEnded(self.index, TestEnd.FINISHED))
        self.test = None
        return self

    def gives_up(self, why: NotRun, tests: Iterable[int] | None = None) -> "FakeBox":
        """The world never got ready for these tests."""
        for index in range(len(self._nodeids)) if tests is None else tests:
            self.box(ev.TestEnded(index, TestEnd.NOT_RUN, why))
        return self.box(ev.WorldEnded(f"start-up failed: {why}"))

    def done(self, reason: RunEnd = RunEnd.COMPLETED, detail: str = "") -> "FakeBox":
        self.after(0.1).say(ev.RunFinished(reason, detail), world="")
        return self


def timed_devices(ranks: int = 4) -> FakeBox:
    """A test that runs on devices whose recorder shows which collectives they have begun."""
    box = FakeBox(ranks)
    box.box(ev.EnvironmentSet("TORCH_NCCL_ENABLE_TIMING", "1", SettingOrigin.PLUGIN, "who began"))
    return box.begins()
