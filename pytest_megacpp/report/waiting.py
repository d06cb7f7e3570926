"""Owns who waited for whom in a test beside its collectives, and the same waits of several ranks as one; must not know
whose fault a wait is.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby

from pytest_megacpp.judge.moments import DecisiveMoment
from pytest_megacpp.recording.views import RankView, TestView
from pytest_megacpp.report.spans import Kind, Span, WorldSpans


def other_waits(test: TestView, moment: DecisiveMoment, ends_s: Mapping[int, float]) -> Iterator[tuple[int, Span]]:
    """What flight recorders don't tell as collectives: messages, groups that aren't made, calls that only stacks show,
    as the judge saw them. Messages count differently on each rank, so they have no number; of calls nobody knows for
    whom they wait.
    """
    at_s, graph = moment
    for wait in graph.waits:
        if wait.partner is not None or wait.makes_group:
            for rank in wait.waiting:
                since_s = _since_s(test.ranks[rank], at_s, wait.since_s) if wait.makes_group else wait.since_s
                end_s = max(since_s, ends_s[rank])
                yield rank, Span(since_s, end_s, Kind.WAIT, wait.op, test.index, 0, wait.group, wait.missing)
    for rank, (call, since_s) in graph.calls.items():
        yield rank, Span(since_s, max(since_s, ends_s[rank]), Kind.WAIT, call, test.index)


def _since_s(view: RankView, at_s: float, default_s: float) -> float:
    joining = view.joining(at_s)
    return default_s if joining is None else joining.begun_s


@dataclass(frozen=True, slots=True)
class OpenWait:
    """Ranks that waited for the same to the end of their test, the first of them since `since_s`."""

    ranks: tuple[int, ...]
    name: str
    number: int
    group: str
    peers: tuple[int, ...]
    since_s: float
    end_s: float


def open_waits(world: WorldSpans, test: int) -> list[OpenWait]:
    """Who waited for whom in a test, the longest wait first."""
    spans = [(s, rank) for rank, lane in world.lanes.items() for s in lane if s.kind is Kind.WAIT and s.test == test]
    spans.sort(key=lambda pair: _shared(pair[0]))
    found = []
    for _, group in groupby(spans, key=lambda pair: _shared(pair[0])):
        same = list(group)
        first = min((span for span, _ in same), key=lambda span: span.start_s)
        ranks = tuple(sorted(rank for _, rank in same))
        end_s = max(span.end_s for span, _ in same)
        found.append(OpenWait(ranks, first.name, first.number, first.group, first.peers, first.start_s, end_s))
    return sorted(found, key=lambda wait: (wait.since_s - wait.end_s, wait.ranks))


def _shared(span: Span) -> tuple[str, int, str, tuple[int, ...]]:
    return span.group, span.number, span.name, span.peers
