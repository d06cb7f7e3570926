"""Owns who waited for whom in a test, from when to when, and the same waits of several ranks as one; must not know
whose fault a wait is.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from pytest_megacpp.judge.moments import DecisiveMoment
from pytest_megacpp.recording.events import Acted
from pytest_megacpp.recording.views import RankView, TestView
from pytest_megacpp.report.spans import Kind, OpenWait, Span


@dataclass(frozen=True, slots=True)
class Ends:
    """When ranks were through with a test: `over_s` by rank, and in a test that failed when they `gave_up_s`."""

    test: TestView
    over_s: Mapping[int, float]
    gave_up_s: Mapping[int, float] = field(default_factory=dict)

    @classmethod
    def of(cls, test: TestView, last_s: float, moment: DecisiveMoment | None) -> "Ends":
        over_s = {rank: _over_s(view, test, last_s) for rank, view in test.ranks.items()}
        return cls(test, over_s, moment.gave_up_s if moment is not None else {})

    def out_s(self, rank: int, start_s: float) -> float:
        """When the rank gave up or failed in what it entered at `start_s`, or was through with the test."""
        failure = self.test.ranks[rank].failure
        known = (failure[0] if failure is not None else None, self.gave_up_s.get(rank))
        return max(start_s, min([self.over_s[rank], *(s for s in known if s is not None and s >= start_s)]))


def _over_s(view: RankView, test: TestView, last_s: float) -> float:
    """When the rank was through with the test, or somebody ended it."""
    known = (view.exit_s, view.finished_s, test.acted_s, test.ended_s)
    return min((s for s in known if s is not None), default=last_s)


def other_waits(test: TestView, moment: DecisiveMoment, ends: Ends) -> Iterator[tuple[int, Span]]:
    """What flight recorders don't tell as collectives: messages, groups that aren't made, calls that only stacks show,
    as the judge saw them. Messages count differently on each rank, so they have no number; of calls nobody knows for
    whom they wait.
    """
    for wait in moment.graph.waits:
        if wait.partner is not None or wait.makes_group:
            for rank in wait.waiting:
                since_s = _since_s(test.ranks[rank], moment.at_s, wait.since_s) if wait.makes_group else wait.since_s
                end_s = ends.out_s(rank, since_s)
                yield rank, Span(since_s, end_s, Kind.WAIT, wait.op, test.index, 0, wait.group, wait.missing)
    for rank, (call, since_s) in moment.graph.calls.items():
        yield rank, Span(since_s, ends.out_s(rank, since_s), Kind.WAIT, call, test.index)


def _since_s(view: RankView, at_s: float, default_s: float) -> float:
    joining = view.joining(at_s)
    return default_s if joining is None else joining.begun_s


def open_waits(spans: Iterable[tuple[int, Span]], test: TestView, at_s: float) -> tuple[OpenWait, ...]:
    """The waits of a test, given by rank, those for the same as one, the longest first. What came after `at_s` is not
    counted: the verdict doesn't count it either.
    """
    found: dict[_What, dict[int, float]] = defaultdict(dict)
    for rank, span in spans:
        waited_s = max(0.0, min(span.end_s, at_s) - span.start_s)
        same = found[_What(span.name, span.number, span.group, span.peers)]
        same[rank] = max(waited_s, same.get(rank, 0.0))
    acted = test.acted if test.acted_s == at_s else None
    waits = [OpenWait(at_s, _by_the_box(waited_s, what, acted), *what) for what, waited_s in found.items()]
    return tuple(sorted(waits, key=lambda wait: (-wait.longest_s, wait.ranks)))


class _What(NamedTuple):
    name: str
    number: int
    group: str
    peers: tuple[int, ...]

    @property
    def is_call(self) -> bool:
        """Whether only stacks show it."""
        return not (self.number or self.group or self.peers)


def _by_the_box(waited_s: Mapping[int, float], what: _What, acted: Acted | None) -> Mapping[int, float]:
    """Of the wait on which the box acted its own figure, as in the verdict: it may have seen more than is recorded,
    and counts a call only from where it knew that it is a wait.
    """
    if acted is None or not acted.waited_s:
        return waited_s
    if what.is_call and waited_s.keys() & {*acted.waiting}:
        return {rank: min(of, acted.waited_s) for rank, of in waited_s.items()}
    if acted.missing != what.peers or not acted.waiting or not {*acted.waiting} <= waited_s.keys():
        return waited_s
    unseen_s = max(0.0, acted.waited_s - max(waited_s.values()))
    return {rank: of + unseen_s for rank, of in waited_s.items()}
