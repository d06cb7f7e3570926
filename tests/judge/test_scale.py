"""Reading and judging are linear in events and ranks, and what is remembered doesn't grow with the events."""

import sys
import tracemalloc
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from pytest_megacpp.desk.run.runs import read_timeline
from pytest_megacpp.judge.arbiter import judge_run
from pytest_megacpp.recording import collectives
from pytest_megacpp.recording import events as ev
from pytest_megacpp.recording.collectives import KEPT_ENTRIES, KEPT_IN_ALL, kept_entries
from pytest_megacpp.recording.numbers import Numbers
from pytest_megacpp.recording.timeline import Timeline, fold
from pytest_megacpp.recording.vocabulary import ActReason, FlightOrigin, ReportOutcome, TestEnd, TestPhase, WorldReason
from pytest_megacpp.recording.wire import encode
from tests.scenario import TIMED_OUT, FakeBox


class Stream:
    """Events of a large run, built without the wire."""

    def __init__(self, ranks: int, tests: int) -> None:
        self.ranks = ranks
        self.events: list[ev.Event] = []
        self._seq = 0
        self._said: Counter[tuple[str, str]] = Counter()
        self.say(ev.RunStarted("run-1", "", "lane", "local", True, ranks, tests))
        for test in range(tests):
            self.say(ev.TestPlanned(test, f"t.py::test_{test}", ranks))

    def say(self, fact: ev.Fact, world: str = "w1", source: str = "box") -> None:
        self._seq += 1
        self.events.append(ev.Event("run-1", world, source, self._said[world, source], self._seq / 1e4, fact))
        self._said[world, source] += 1

    def world(self, found: tuple[int, ...] = ()) -> None:
        self.say(ev.WorldStarted(self.ranks, WorldReason.FIRST))
        for rank in range(self.ranks):
            self.say(ev.RankCollected(rank, Numbers(found), "d"), source=f"rank {rank}")

    def samples(self, test: int, rank: int, cpu_s: float) -> None:
        self.say(ev.Sampled(rank, test, True, "R", (), 0.0, cpu_s, cpu_s))

    def looks(self, test: int, times: int) -> None:
        """A test that runs on: every rank is looked at, and is in the next collective each time."""
        self.say(ev.TestStarted(test, f"t.py::test_{test}", self.ranks, ev.Limits()))
        for seq in range(1, times + 1):
            for rank in range(self.ranks):
                self.samples(test, rank, seq / 10)
                self.enters(test, rank, seq, False, self._seq / 1e4)

    def write(self, path: Path) -> Path:
        path.write_bytes(b"".join(map(encode, self.events)))
        return path

    def enters(self, test: int, rank: int, seq: int, done: bool, at_s: float) -> None:
        entry = ev.Collective("0", seq, "gloo:all_reduce", 8, 8, "Float", "[[8]]", at_s, done)
        self.say(ev.FlightRecorded(rank, test, FlightOrigin.POLL, (entry,), (ev.GroupStatus(0, seq, seq - 1),)))

    def passes(self, test: int, collectives: int) -> None:
        self.say(ev.TestStarted(test, f"t.py::test_{test}", self.ranks, ev.Limits()))
        started_s = self._seq / 1e4
        for rank in range(self.ranks):
            for seq in range(1, collectives + 1):
                self.enters(test, rank, seq, True, started_s + seq)
            for when in TestPhase:
                self.say(ev.Reported(rank, test, when, ReportOutcome.PASSED, 0.1), source=f"rank {rank}")
            self.say(ev.Finished(rank, test, True), source=f"rank {rank}")
        self.say(ev.TestEnded(test, TestEnd.FINISHED))

    def stalls(self, test: int, missing: int) -> None:
        self.say(ev.TestStarted(test, f"t.py::test_{test}", self.ranks, ev.Limits()))
        started_s = self._seq / 1e4
        for rank in range(self.ranks):
            self.enters(test, rank, 1, True, started_s)
            if rank != missing:
                self.enters(test, rank, 2, False, started_s)
        self.say(ev.Acted(test, ActReason.STALL, "", (), (missing,)))
        self.say(ev.TestEnded(test, TestEnd.ABORTED, "stall"))


def healthy(tests: int) -> Stream:
    stream = Stream(256, tests)
    stream.world()
    for test in range(tests):
        stream.passes(test, 12)
    return stream


def stalled(ranks: int) -> Stream:
    stream = Stream(ranks, 1)
    stream.world()
    stream.stalls(0, 3)
    return stream


def unreached(tests: int) -> Stream:
    """One rank lacks every test of a large plan."""
    stream = Stream(64, tests)
    stream.world(found=())
    for test in range(tests):
        stream.say(ev.TestEnded(test, TestEnd.NOT_RUN, "collection"))
    return stream


def calls(work: Callable[[], object]) -> int:
    """Calls of Python functions, and by them of C functions: the same on every machine."""
    counted = 0

    def count(frame: Any, happened: str, argument: Any) -> None:
        nonlocal counted
        counted += happened in ("call", "c_call")

    sys.setprofile(count)
    try:
        work()
    finally:
        sys.setprofile(None)
    return counted


@pytest.mark.parametrize(
    ("make", "small"),
    [(healthy, 5), (stalled, 1024), (unreached, 1000)],
    ids=["tests", "ranks", "unreached"],
)
def test_twice_as_much_takes_about_twice_as_long(make: Callable[[int], Stream], small: int) -> None:
    timelines = [fold(make(size).events) for size in (small, 2 * small)]
    once, twice = (calls(partial(judge_run, timeline)) for timeline in timelines)
    assert twice < 2.6 * once


def watched(ranks: int, looks: int) -> Stream:
    stream = Stream(ranks, 1)
    stream.world()
    stream.looks(0, looks)
    return stream


def raised_alone(ranks: int) -> Timeline:
    """All ranks but one raised, each in words of its own, and went on alone in a group of its own."""
    box = FakeBox(ranks).begins()
    for rank in range(ranks):
        box.announces(f"alone-{rank}", (rank,))
    for rank in range(ranks - 1):
        box.raises(rank, f"Error{rank}")
    box.after(0.1)
    for rank in range(ranks - 1):
        for seq in range(1, 9):
            box.enters(rank, seq=seq, group=f"alone-{rank}", done=True)
    return box.after(1).exits(ranks - 1, 4).after(0.2).acts(ActReason.EXIT).aborts("exit").done().timeline()


def test_whose_failure_began_it_takes_about_twice_the_calls_for_twice_the_ranks() -> None:
    small, large = (raised_alone(ranks) for ranks in (64, 128))
    assert judge_run(large).tests[0].verdict.blamed_ranks == (0,)
    once, twice = (calls(partial(judge_run, timeline)) for timeline in (small, large))
    assert twice < 2.6 * once


def all_late_but_one(ranks: int) -> Timeline:
    """Rank 0 gave up on all others, each of which was looked at."""
    box, others = FakeBox(ranks).begins().enters(0, "gloo:barrier", 1), range(1, ranks)
    box.after(1).at(others, 88).after(1).at(others, 89).after(4).loses_peer(0, TIMED_OUT).after(1)
    return box.enters(others, "gloo:barrier", 1).loses_peer(others).finishes().ends().done().timeline()


def test_why_ranks_were_late_takes_about_twice_the_calls_for_twice_the_ranks() -> None:
    small, large = (all_late_but_one(ranks) for ranks in (64, 128))
    assert judge_run(large).tests[0].verdict.blamed_ranks == tuple(range(1, 128))
    once, twice = (calls(partial(judge_run, timeline)) for timeline in (small, large))
    assert twice < 2.6 * once


def peak_bytes(work: Callable[[], object]) -> int:
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(("ranks", "looks"), [(8, 60), (32, 15)])
def test_reading_takes_the_same_for_every_event(tmp_path: Path, ranks: int, looks: int) -> None:
    short, long = (watched(ranks, n).write(tmp_path / f"{n}.jsonl") for n in (looks, 4 * looks))
    once, four_times = (calls(partial(read_timeline, path)) for path in (short, long))
    assert four_times < 4 * once


def test_memory_does_not_grow_with_the_events(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(collectives, "KEPT_ENTRIES", 8)
    short, long = (watched(8, n).write(tmp_path / f"{n}.jsonl") for n in (100, 400))
    read_timeline(short)  # fills caches
    once, four_times = (peak_bytes(partial(read_timeline, path)) for path in (short, long))
    assert long.stat().st_size > 3.9 * short.stat().st_size
    assert four_times < 1.1 * once


def test_what_is_remembered_of_a_test_is_bounded_for_all_its_ranks_together() -> None:
    assert kept_entries(8) == kept_entries(128) == KEPT_ENTRIES
    assert 1024 * kept_entries(1024) == KEPT_IN_ALL
    seen = fold(watched(1024, 80).events).tests[0].ranks[7].collectives
    assert [seq for _, seq in seen.entries] == list(range(17, 81))
    assert len(seen.changed) == 64
    assert seen.enqueued == {"0": 80}


def test_a_large_world_has_a_readable_verdict() -> None:
    verdict = judge_run(fold(stalled(1024).events)).tests[0].verdict
    assert verdict.blamed_ranks == (3,)
    assert "ranks 0-2,4-1023 waited" in verdict.summary
    assert len(verdict.evidence) < 12
    assert len(verdict.consequences) == 1023
