"""Owns what is shown of a run as spans, and how much of it; must not know a format, a page, or whose fault anything is.

Pure, from the timeline's views. What the recording doesn't tell isn't made up, and what is left out because there is
too much is counted.
"""

import heapq
from collections.abc import Iterator, Mapping, Sequence, Set
from typing import TypeAlias

from pytest_megacpp.judge.moments import DecisiveMoment, decisive_moment
from pytest_megacpp.judge.verdicts import TestResult
from pytest_megacpp.recording.events import Error, RankCollected
from pytest_megacpp.recording.timeline import Timeline
from pytest_megacpp.recording.views import Phase, RankView, TestView, WorldView
from pytest_megacpp.recording.vocabulary import WARM_UP_PHASE, TestPhase
from pytest_megacpp.report.collective_spans import CollectiveSpans
from pytest_megacpp.report.spans import Kind, Mark, MarkKind, RunSpans, Span, WorldSpans
from pytest_megacpp.report.states import death, short_type
from pytest_megacpp.report.waiting import Ends, open_waits, other_waits

MOST_SPANS = 100_000  # of a run; docs/decisions/0087
RED_WEIGHT = 16  # a test that isn't green gets so many times the room of a green one
PYTEST_PHASES = frozenset(TestPhase)

Spans: TypeAlias = list[tuple[int, Span]]
"""Each with its rank."""


def run_spans(timeline: Timeline, judged: Mapping[int, TestResult], most: int = MOST_SPANS) -> RunSpans:
    """The whole run, thinned to about `most` spans: each test gets its share, those that aren't green the larger one.
    In a test that failed the waits and the last collectives stay before all else, in each one the longest spans, and
    of the collectives the last ones before the longest, always on all their ranks.
    """
    red = {attempt for result in judged.values() for attempt in _red_attempts(result)}
    rooms = dict(zip(timeline.tests, _rooms(timeline, red, most), strict=True))
    worlds = {name: _world(world, timeline) for name, world in timeline.worlds.items()}
    for number, test in timeline.tests.items():
        if test.world in worlds:
            is_red = number in red
            moment = decisive_moment(timeline, test) if is_red or test.ended is None else None
            _add_test(worlds[test.world], test, timeline.last_s, rooms[number], moment, is_red=is_red)
    for world in worlds.values():
        for lane in world.lanes.values():
            lane.sort(key=lambda span: (span.start_s, -span.end_s))
        world.marks.sort(key=lambda mark: mark.at_s)
    problems = [Mark(at_s, MarkKind.PROBLEM, None, found.detail) for at_s, found in timeline.problems]
    return RunSpans([*worlds.values()], [*_steps(timeline)], problems, timeline.box_memory.points(), timeline.last_s)


def _red_attempts(result: TestResult) -> Iterator[int]:
    codes = [(attempt.number, attempt.verdict.code) for attempt in result.attempts]
    yield from (number for number, code in codes or [(result.number, result.verdict.code)] if not code.is_green)


def _rooms(timeline: Timeline, red: Set[int], most: int) -> list[int]:
    """How many spans each test may have. What small tests don't need goes to the others."""
    needs = [sum(map(_least_spans, test.ranks.values())) for test in timeline.tests.values()]
    weights = [RED_WEIGHT if number in red else 1 for number in timeline.tests]
    return shares(needs, weights, most)


def _least_spans(view: RankView) -> int:
    seen = view.collectives
    return len(seen.entries) + len(seen.messages) + len(view.phases) + len(view.compiles) + 2 * len(view.joinings) + 1


def shares(needs: Sequence[int], weights: Sequence[int], most: int) -> list[int]:
    """`most` divided by weight among those who need something, nobody getting more than it needs."""
    given, left, weight = [0] * len(needs), most, sum(weights)
    for index in sorted(range(len(needs)), key=lambda i: needs[i] / weights[i]):
        given[index] = min(needs[index], left * weights[index] // weight)
        left, weight = left - given[index], weight - weights[index]
    return given


def _steps(timeline: Timeline) -> Iterator[tuple[float, float, str, str]]:
    """A step lasts until the next one is reported, or a world starts."""
    starts = sorted([s for s, _ in timeline.progress] + [w.started_s for w in timeline.worlds.values()])
    for at_s, step in timeline.progress:
        yield at_s, next((s for s in starts if s > at_s), at_s), step.phase, step.detail


# -- a world before its tests ------------------------------------------------------------------------------


def _world(world: WorldView, timeline: Timeline) -> WorldSpans:
    end_s = world.ended_s if world.ended_s is not None else timeline.last_s
    spans = WorldSpans(world.name, world.size, world.reason, world.started_s, max(end_s, world.started_s))
    ranks = sorted({*world.pids, *world.ready, *world.collected, *world.exits, *world.broken})
    spans.lanes = {rank: [*_beginnings(world, rank, spans.end_s)] for rank in ranks}
    spans.marks += [
        Mark(at_s, MarkKind.DEATH, rank, f"died ({death(fact)})")
        for rank, (at_s, fact) in world.exits.items()
        if not fact.expected
    ]
    spans.marks += [
        Mark(at_s, MarkKind.FAILURE, rank, f"{short_type(broken.type)} at {broken.stage}", message=broken.message)
        for rank, (at_s, broken) in world.broken.items()
    ]
    spans.marks += [
        Mark(at_s, MarkKind.FAILURE, rank, _not_collected(collected))
        for rank, (at_s, collected) in world.collected.items()
        if collected.errors
    ]
    spans.marks += [Mark(at_s, MarkKind.FAULT, fault.rank, fault.text) for at_s, fault in world.faults]
    if world.acted is not None and world.acted_s is not None:
        spans.marks.append(Mark(world.acted_s, MarkKind.ACT, None, f"the box ended the world: {world.acted.why}"))
    spans.cpu = {rank: series.points() for rank, series in world.cpu.items()}
    spans.memory = {rank: series.points() for rank, series in world.memory.items()}
    return spans


def _not_collected(collected: RankCollected) -> str:
    first, *others = collected.errors
    return f"could not collect {first.nodeid}" + (f" and {len(others)} more" if others else "")


def _beginnings(world: WorldView, rank: int, end_s: float) -> Iterator[Span]:
    """From the start of the process to the end of collection, as far as the rank came."""
    over_s = min(s for s in (_at(world.exits, rank), _at(world.broken, rank), end_s) if s is not None)
    ready_s, collected_s = _at(world.ready, rank), _at(world.collected, rank)
    yield Span(world.started_s, _until(ready_s, over_s), Kind.START, "start")
    if ready_s is not None:
        yield Span(ready_s, _until(collected_s, over_s), Kind.COLLECTION, "collection")


def _at(facts: Mapping[int, tuple[float, object]], rank: int) -> float | None:
    return facts[rank][0] if rank in facts else None


def _until(known_s: float | None, over_s: float) -> float:
    return over_s if known_s is None else known_s


# -- a test ------------------------------------------------------------------------------------------------


def _add_test(
    world: WorldSpans, test: TestView, last_s: float, room: int, moment: DecisiveMoment | None, *, is_red: bool
) -> None:
    """Adds its spans and marks to its world's; the waits of one that failed or still runs are those of its `moment`."""
    ends = Ends.of(test, last_s, moment)
    others = [(r, span) for r, view in test.ranks.items() for span in _of_rank(view, test.index, ends.over_s[r])]
    collectives = CollectiveSpans(test, ends, moment.graph.waits if moment is not None else (), is_red)
    waits = [*other_waits(test, moment, ends)] if moment is not None else []
    if moment is not None:
        world.waits[test.index] = open_waits((*waits, *collectives.wait_spans()), test, moment.at_s)
    kept = _kept(waits, collectives, others, room)
    for rank in test.ranks:
        world.lanes.setdefault(rank, [])
    for rank, span in kept:
        world.lanes[rank].append(span)
    world.left_out += len(waits) + len(collectives) + len(others) - len(kept)
    world.marks += _marks(test)
    if is_red:
        world.marks += collectives.mismatches()


def _kept(waits: Spans, collectives: CollectiveSpans, others: Spans, room: int) -> Spans:
    """What there is room for: first what says who waited for whom, then the longest spans, then more collectives."""
    if len(waits) + len(collectives) + len(others) <= room:
        return [*others, *waits, *collectives.within(collectives.entries, room)]
    kept = _longest(waits, room)
    kept += collectives.within(collectives.evidence(), room - len(kept))
    kept += _longest(others, room - len(kept))
    return [*kept, *collectives.within(collectives.others(), room - len(kept))]


def _longest(spans: Spans, room: int) -> Spans:
    return heapq.nlargest(room, spans, key=lambda pair: pair[1].end_s - pair[1].start_s)


def _of_rank(view: RankView, test: int, end_s: float) -> Iterator[Span]:
    """All but collectives and waits."""
    for phase in view.phases:
        kind = Kind.PHASE if phase.name in PYTEST_PHASES else Kind.STEP
        yield Span(phase.start_s, max(phase.start_s, _phase_end_s(phase, view, end_s)), kind, phase.name, test)
    for at_s, forward in view.first_forwards:
        if forward.name != WARM_UP_PHASE:
            name = f"first forward {forward.name}".strip()
            yield Span(max(at_s - max(forward.seconds, 0.0), 0.0), at_s, Kind.STEP, name, test)
    for compiling in view.compiles:
        stop_s = end_s if compiling.end_s is None else compiling.end_s
        yield Span(compiling.start_s, max(compiling.start_s, stop_s), Kind.COMPILE, compiling.name or "compile", test)
    for joining in view.joinings:
        if joining.end_s is not None:
            yield Span(joining.begun_s, joining.end_s, Kind.GROUP, joining.call, test, 0, joining.group)


def _phase_end_s(phase: Phase, view: RankView, end_s: float) -> float:
    """A phase of pytest ends with its report."""
    reported_s = next((at_s for when, (at_s, _) in view.reports.items() if when == phase.name), None)
    return next((s for s in (phase.end_s, reported_s) if s is not None), end_s)


def _marks(test: TestView) -> Iterator[Mark]:
    """Failures that ranks reported, and what the box did. Deaths are their world's."""
    for rank, view in test.ranks.items():
        if view.failure is not None:
            at_s, report = view.failure
            text = f"raised {short_type(report.error.type)}" if report.error else "failed"
            said = (report.error.message, _place(report.error)) if report.error else ("", "")
            yield Mark(at_s, MarkKind.FAILURE, rank, f"{text} in {report.when}", test.index, *said)
    if test.acted is not None and test.acted_s is not None:
        detail = f" ({test.acted.detail})" if test.acted.detail else ""
        yield Mark(test.acted_s, MarkKind.ACT, None, f"the box ended the test: {test.acted.why}{detail}", test.index)


def _place(error: Error) -> str:
    return f"{error.file}:{error.line}" if error.file and error.line > 0 else ""
