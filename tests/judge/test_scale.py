"""Judging is linear in events and ranks: twice as much takes about twice as long."""

import time
from collections.abc import Callable

import pytest

from pytest_megacpp.judge.arbiter import judge_run
from pytest_megacpp.recording import events as ev
from pytest_megacpp.recording.timeline import Timeline, fold

FEWER_THAN_QUADRATIC = 3.3  # twice is linear, four times would be quadratic; a shared machine is noisy
ROUNDS = 4


class Stream:
    """Events of a large run, built without the wire."""

    def __init__(self, ranks: int, tests: int) -> None:
        self.ranks = ranks
        self.events: list[ev.Event] = []
        self._seq = 0
        self.say(ev.RunStarted("run-1", "", "lane", "local", True, ranks, tests))
        for test in range(tests):
            self.say(ev.TestPlanned(test, f"t.py::test_{test}", ranks))

    def say(self, fact: ev.Fact, world: str = "w1", source: str = "box") -> None:
        self._seq += 1
        self.events.append(ev.Event("run-1", world, source, self._seq, self._seq / 1e4, fact))

    def world(self, found: tuple[int, ...] = ()) -> None:
        self.say(ev.WorldStarted(self.ranks, "first"))
        for rank in range(self.ranks):
            self.say(ev.RankCollected(rank, found, "d"), source=f"rank {rank}")

    def enters(self, test: int, rank: int, seq: int, done: bool, at_s: float) -> None:
        entry = ev.Collective("0", seq, "gloo:all_reduce", 8, 8, "Float", "[[8]]", at_s, done)
        self.say(ev.FlightRecorded(rank, test, "poll", (entry,), (ev.GroupStatus(0, seq, seq - 1),)))

    def passes(self, test: int, collectives: int) -> None:
        self.say(ev.TestStarted(test, f"t.py::test_{test}", self.ranks, ev.Limits()))
        started_s = self._seq / 1e4
        for rank in range(self.ranks):
            for seq in range(1, collectives + 1):
                self.enters(test, rank, seq, True, started_s + seq)
            for when in ("setup", "call", "teardown"):
                self.say(ev.Reported(rank, test, when, "passed", 0.1), source=f"rank {rank}")
            self.say(ev.Finished(rank, test, True), source=f"rank {rank}")
        self.say(ev.TestEnded(test, "finished"))

    def stalls(self, test: int, missing: int) -> None:
        self.say(ev.TestStarted(test, f"t.py::test_{test}", self.ranks, ev.Limits()))
        started_s = self._seq / 1e4
        for rank in range(self.ranks):
            self.enters(test, rank, 1, True, started_s)
            if rank != missing:
                self.enters(test, rank, 2, False, started_s)
        self.say(ev.Acted(test, "stall", "", (), (missing,)))
        self.say(ev.TestEnded(test, "aborted", "stall"))


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
        stream.say(ev.TestEnded(test, "not-run", "collection"))
    return stream


def cpu_s(timeline: Timeline) -> float:
    began = time.process_time()
    judge_run(timeline)
    return time.process_time() - began


@pytest.mark.parametrize(
    ("make", "small"),
    [(healthy, 5), (stalled, 1024), (unreached, 1000)],
    ids=["tests", "ranks", "unreached"],
)
def test_twice_as_much_takes_about_twice_as_long(make: Callable[[int], Stream], small: int) -> None:
    timelines = [fold(make(size).events) for size in (small, 2 * small)]
    once, twice = (min(cpu_s(t) for _ in range(ROUNDS)) for t in timelines)
    assert twice < FEWER_THAN_QUADRATIC * once + 0.02


def test_a_large_world_has_a_readable_verdict() -> None:
    verdict = judge_run(fold(stalled(1024).events)).tests[0].verdict
    assert verdict.blamed_ranks == (3,)
    assert "ranks 0-2,4-1023 waited" in verdict.summary
    assert len(verdict.evidence) < 12
    assert len(verdict.consequences) == 1023
