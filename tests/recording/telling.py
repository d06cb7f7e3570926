"""Owns telling a run to a timeline, fact by fact, as a box would stamp it; must not know what is expected of it."""

from pytest_megacpp.recording import events as ev
from pytest_megacpp.recording.timeline import Timeline
from pytest_megacpp.recording.views import RankView, TestView
from pytest_megacpp.recording.vocabulary import WorldReason

BLOCKED = """Thread 0x0000000000000012 (most recent call first):
  File "/lib/python3.11/site-packages/torch/distributed/distributed_c10d.py", line 9 in recv
  File "/home/me/test_a.py", line 4 in test_a
"""
LIMITS = ev.Limits(startup=10.0, skew=6.0, compile=20.0, stall=4.0, test=60.0)


class Telling:
    """One world `w1`; times are box seconds."""

    def __init__(self, ranks: int = 2, *, test: bool = True) -> None:
        self.timeline = Timeline()
        self._seq: dict[tuple[str, str], int] = {}
        self.box(0.0, ev.RunStarted("r1", "2026", "h200x8", "local", True, ranks, 1), world="")
        self.box(1.0, ev.WorldStarted(ranks, WorldReason.FIRST))
        if test:
            self.box(2.0, ev.TestStarted(0, "test_a.py::test_a", ranks, LIMITS))

    def box(self, time_s: float, *facts: ev.Fact, world: str = "w1", source: str = "box") -> None:
        for fact in facts:
            seq = self._seq[world, source] = self._seq.get((world, source), -1) + 1
            self.timeline.add(ev.Event("r1", world, source, seq, time_s, fact))

    def rank(self, time_s: float, *facts: ev.RankFact, world: str = "w1") -> None:
        for fact in facts:
            self.box(time_s, fact, world=world, source=f"rank {fact.rank}")

    @property
    def test(self) -> TestView:
        return self.timeline.tests[0]

    def of(self, rank: int) -> RankView:
        return self.test.ranks[rank]
