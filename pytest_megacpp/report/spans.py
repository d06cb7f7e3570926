"""Owns a run as spans of time: what each rank of each world was in, from when to when, and the moments that matter;
must not know a format, a page, or whose fault anything is.

Pure, from the timeline's views. What the recording doesn't tell isn't made up: the end of a collective isn't recorded,
so its span ends when its last member came to it (nobody leaves it before), and one that did not end stays open until
the rank died, failed, left the test or was ended by the box. Who waited in it, and for whom, is what the judge saw at
its moment: no other wait is shown. A root or a sender may be through before others come, so these have no length. What
is left out because there is too much is counted.
"""

import heapq
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import groupby, islice
from typing import NamedTuple

from pytest_megacpp.judge.moments import DecisiveMoment, decisive_moment
from pytest_megacpp.judge.verdicts import TestResult
from pytest_megacpp.recording.collectives import Number
from pytest_megacpp.recording.events import Collective
from pytest_megacpp.recording.flight import without_backend
from pytest_megacpp.recording.operations import ROOTED, bare_op, describe
from pytest_megacpp.recording.ranks import ranks_named
from pytest_megacpp.recording.timeline import Timeline
from pytest_megacpp.recording.views import Phase, RankView, TestView, WorldView
from pytest_megacpp.recording.vocabulary import WARM_UP_PHASE, TestPhase
from pytest_megacpp.recording.waits import Wait
from pytest_megacpp.report.states import death, short_type

MOST_SPANS = 100_000  # of a run; docs/decisions/0087
RED_WEIGHT = 16  # a test that isn't green gets so many times the room of a green one
LAST_KEPT = 16  # of a rank's collectives in a test: what led to its end is never left out
MISMATCHES_MARKED = 4
OTHERS_NAMED = 3  # of what ranks issued instead
PYTEST_PHASES = frozenset(TestPhase)


class Kind(StrEnum):
    START = "start"  # of the process: fork, imports of torch and pytest
    COLLECTION = "collection"  # of the test files, which imports them
    PHASE = "phase"  # of pytest: set-up, call, teardown
    STEP = "step"  # a phase that the test itself named, a warm-up or a first forward
    COMPILE = "compile"
    GROUP = "group"  # a process group is made
    COLLECTIVE = "collective"
    WAIT = "wait"  # for a peer that didn't come


class MarkKind(StrEnum):
    DEATH = "death"
    FAILURE = "failure"
    ACT = "act"
    FAULT = "fault"
    MISMATCH = "mismatch"
    PROBLEM = "problem"


class Span(NamedTuple):
    """Times in seconds. `test` is the number of an attempt, None before any test. A collective has its `group` and its
    `number` there. `peers` are the ranks that came last, or didn't come at all; then it is a wait.
    """

    start_s: float
    end_s: float
    kind: Kind
    name: str
    test: int | None = None
    number: int = 0
    group: str = ""
    peers: tuple[int, ...] = ()


class Mark(NamedTuple):
    """A moment of one rank, or of all ranks (`rank` None)."""

    at_s: float
    kind: MarkKind
    rank: int | None
    text: str
    test: int | None = None


@dataclass(slots=True)
class WorldSpans:
    """One world. `lanes` has the spans of each rank of which anything is known, in order of their starts; `left_out`
    counts the spans that are in none. `cpu`: CPU seconds so far, `memory`: bytes, by rank.
    """

    name: str
    size: int
    reason: str
    start_s: float
    end_s: float
    lanes: dict[int, list[Span]] = field(default_factory=dict)
    marks: list[Mark] = field(default_factory=list)
    left_out: int = 0
    cpu: dict[int, list[tuple[float, float]]] = field(default_factory=dict)
    memory: dict[int, list[tuple[float, float]]] = field(default_factory=dict)


@dataclass(slots=True)
class RunSpans:
    """`steps` are those of the surface and the box before and between worlds: from when to when, what, details."""

    worlds: list[WorldSpans]
    steps: list[tuple[float, float, str, str]]
    marks: list[Mark]
    memory: list[tuple[float, float]]
    end_s: float

    @property
    def left_out(self) -> int:
        return sum(world.left_out for world in self.worlds)


def run_spans(timeline: Timeline, judged: Mapping[int, TestResult], most: int = MOST_SPANS) -> RunSpans:
    """The whole run, thinned to about `most` spans: each test gets its share, those that aren't green the larger one.
    Of the collectives of a test the last ones stay, then those that took longest, on all their ranks.
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
        Mark(at_s, MarkKind.FAILURE, rank, f"{short_type(broken.type)} at {broken.stage}")
        for rank, (at_s, broken) in world.broken.items()
    ]
    spans.marks += [
        Mark(at_s, MarkKind.FAILURE, rank, "could not collect")
        for rank, (at_s, collected) in world.collected.items()
        if collected.errors
    ]
    spans.marks += [Mark(at_s, MarkKind.FAULT, fault.rank, fault.text) for at_s, fault in world.faults]
    if world.acted is not None and world.acted_s is not None:
        spans.marks.append(Mark(world.acted_s, MarkKind.ACT, None, f"the box ended the world: {world.acted.why}"))
    spans.cpu = {rank: series.points() for rank, series in world.cpu.items()}
    spans.memory = {rank: series.points() for rank, series in world.memory.items()}
    return spans


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
    ends_s = {rank: _end_of(view, test, last_s) for rank, view in test.ranks.items()}
    found: dict[int, list[Span]] = {r: [*_of_rank(v, test.index, ends_s[r])] for r, v in test.ranks.items()}
    if moment is not None:
        for rank, span in _other_waits(test, moment, ends_s):
            found[rank].append(span)
    kept = _thinned(found, room)
    collectives = _Collectives(test, ends_s, moment.graph.waits if moment is not None else (), is_red)
    numbers = collectives.worth_keeping(room - sum(map(len, kept.values())))
    for number in numbers:
        for rank, span in collectives.spans(number):
            kept[rank].append(span)
    for rank, spans in kept.items():
        world.lanes.setdefault(rank, []).extend(spans)
    everything = sum(map(len, found.values())) + sum(len(of) for of in collectives.entries.values())
    world.left_out += everything - sum(map(len, kept.values()))
    world.marks += _marks(test)
    if is_red:
        world.marks += collectives.mismatches()


def _end_of(view: RankView, test: TestView, last_s: float) -> float:
    """When the rank was through with the test, or somebody ended it."""
    known = (view.exit_s, view.finished_s, test.acted_s, test.ended_s)
    return min((s for s in known if s is not None), default=last_s)


def _thinned(found: Mapping[int, list[Span]], room: int) -> dict[int, list[Span]]:
    """The spans of each rank, the longest of all where there isn't room for all."""
    if sum(map(len, found.values())) <= room:
        return {rank: [*spans] for rank, spans in found.items()}
    listed = ((span.end_s - span.start_s, rank, at) for rank, spans in found.items() for at, span in enumerate(spans))
    kept = {(rank, at) for _, rank, at in heapq.nlargest(max(room, 0), listed)}
    return {rank: [s for at, s in enumerate(spans) if (rank, at) in kept] for rank, spans in found.items()}


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
            yield Mark(at_s, MarkKind.FAILURE, rank, f"{text} in {report.when}", test.index)
    if test.acted is not None and test.acted_s is not None:
        detail = f" ({test.acted.detail})" if test.acted.detail else ""
        yield Mark(test.acted_s, MarkKind.ACT, None, f"the box ended the test: {test.acted.why}{detail}", test.index)


# -- collectives -------------------------------------------------------------------------------------------


class _Collectives:
    """Those of all ranks of a test, by group and number."""

    def __init__(self, test: TestView, ends_s: Mapping[int, float], waits: Iterable[Wait], is_red: bool) -> None:
        self.test, self.ends_s, self.is_red = test, ends_s, is_red
        self._may_be_open = is_red or test.ended is None  # of others nothing is shown as open
        self.waits = {wait.number: wait for wait in waits if wait.partner is None and not wait.makes_group}
        self.entries: dict[Number, dict[int, Collective]] = defaultdict(dict)
        self._users: dict[str, set[int]] = defaultdict(set)
        self._members: dict[str, frozenset[int]] = {}
        groups = test.groups
        for rank, view in test.ranks.items():
            for name in view.collectives.enqueued:
                self._users[groups.as_named_by(rank, name) if groups.disputed else name].add(rank)
            for (name, seq), entry in view.collectives.entries.items():
                group = groups.as_named_by(rank, name) if groups.disputed else name
                self.entries[group, seq][rank] = entry

    def worth_keeping(self, room: int) -> list[Number]:
        """The numbers for whose spans there is room: the last ones of each rank, then those with the longest spans."""
        if sum(map(len, self.entries.values())) <= room:
            return [*self.entries]
        last = dict.fromkeys(self._last_of_ranks())
        rest = sorted((n for n in self.entries if n not in last), key=self._length_s, reverse=True)
        kept = []
        for number in (*sorted(last, key=self._first_s, reverse=True), *rest):
            room -= len(self.entries[number])
            if room < 0:
                break
            kept.append(number)
        return kept

    def _last_of_ranks(self) -> Iterator[Number]:
        """Of the collectives that are kept of each rank, the last ones it entered."""
        own: dict[int, list[tuple[float, Number]]] = defaultdict(list)
        for number, entries in self.entries.items():
            for rank, entry in entries.items():
                own[rank].append((entry.entered_s, number))
        for entered in own.values():
            yield from (number for _, number in heapq.nlargest(LAST_KEPT, entered))

    def _first_s(self, number: Number) -> float:
        return min(entry.entered_s for entry in self.entries[number].values())

    def _length_s(self, number: Number) -> float:
        """How long its first rank waited for the last one; one that lacks a member is longer than all others."""
        entries = self.entries[number]
        times = [entry.entered_s for entry in entries.values()]
        lacks_any = number in self.waits or (self.is_red and bool(self._absent(number, entries.keys())))
        return float("inf") if lacks_any else max(times) - min(times)

    def spans(self, number: Number) -> Iterator[tuple[int, Span]]:
        """What each of its ranks spent in it, as far as that is known."""
        group, seq = number
        entries = self.entries[number]
        last_s = max(entry.entered_s for entry in entries.values())
        last = tuple(rank for rank, entry in entries.items() if entry.entered_s == last_s)
        missing, ended_s = self._missing(number), self._ended_s(number, last_s)
        for rank, entry in entries.items():
            name, start_s = describe(entry), entry.entered_s
            if rank in missing:
                end_s = self._out_s(rank, start_s)
                yield rank, Span(start_s, end_s, Kind.WAIT, name, self.test.index, seq, group, missing[rank])
                continue
            end_s = self._own_end_s(rank, entry, ended_s)
            peers = last if end_s == last_s > start_s else ()
            yield rank, Span(start_s, end_s, Kind.COLLECTIVE, name, self.test.index, seq, group, peers)

    def _missing(self, number: Number) -> dict[int, tuple[int, ...]]:
        """For whom each rank waited in it that did; for nobody where all had come, and it did not end in a test that
        failed.
        """
        wait, entries = self.waits.get(number), self.entries[number]
        if wait is None:
            return {}
        inside = (r for r in wait.waiting if r in entries)
        return {r: wait.missing for r in inside if wait.missing or (self.is_red and self._is_open(r, entries[r]))}

    def _is_open(self, rank: int, entry: Collective) -> bool:
        """Whether the rank was still in it when a test ended that failed, or still is."""
        return self._may_be_open and not self.test.ranks[rank].collectives.is_done(entry)

    def _own_end_s(self, rank: int, entry: Collective, ended_s: float | None) -> float:
        """When a rank that did not wait in it was through with what ended at `ended_s`."""
        is_rooted = bare_op(entry.op) in ROOTED
        if self._is_open(rank, entry) and (ended_s is None or is_rooted):
            return self._out_s(rank, entry.entered_s)
        return entry.entered_s if ended_s is None or is_rooted else max(entry.entered_s, ended_s)

    def _ended_s(self, number: Number, last_s: float) -> float | None:
        """When it ended: when its last member came, if it ended for any of them. A rank that died may not have been
        seen in it, though it was: had others gone on to the next one, all had come. Otherwise it ended with what kept
        the members that never came from coming; None if nothing tells of an end.
        """
        entries = self.entries[number]
        absent = self._absent(number, entries.keys())
        is_over = any(self.test.ranks[rank].collectives.is_done(entry) for rank, entry in entries.items())
        if not is_over:
            return None if absent or self._may_be_open else last_s
        if not absent:
            return last_s
        gone_s = self._gone_s(absent, last_s)
        group, seq = number
        following = self.entries[group, seq + 1].values() if (group, seq + 1) in self.entries else ()
        return last_s if any(entry.entered_s <= gone_s for entry in following) else gone_s

    def _out_s(self, rank: int, start_s: float) -> float:
        """When the rank failed in what it entered at `start_s`, or was through with the test."""
        failure = self.test.ranks[rank].failure
        failed_s = failure[0] if failure is not None and failure[0] >= start_s else self.ends_s[rank]
        return max(start_s, min(failed_s, self.ends_s[rank]))

    def _gone_s(self, absent: Iterable[int], start_s: float) -> float:
        """When the first of the members that never came had died or failed; without that, nothing is known of it."""
        views = [self.test.ranks[rank] for rank in absent]
        failed = [view.failure[0] for view in views if view.failure is not None]
        return max(
            start_s, min([*failed, *(view.exit_s for view in views if view.exit_s is not None)], default=start_s)
        )

    def mismatches(self) -> Iterator[Mark]:
        """Where ranks issued different collectives under one number: a mark for each that isn't of the majority, for
        all of them on a tie.
        """
        for found in self.test.disagreements()[:MISMATCHES_MARKED]:
            entries, odd = self.entries.get((found.group, found.seq), {}), frozenset(found.odd)
            for variant, ranks in found.variants:
                others = islice(((what, of) for what, of in found.variants if what != variant), OTHERS_NAMED)
                named = ", ".join(f"{ranks_named(of)} {what}" for what, of in others)
                left_out = len(found.variants) - 1 - OTHERS_NAMED
                more = f" and {left_out} more" if left_out > 0 else ""
                text = f"issued {variant} as #{found.seq}, and {named}{more}: {found.aspect} differs"
                for rank in (r for r in ranks if r in entries and (r in odd or not odd)):
                    yield Mark(entries[rank].entered_s, MarkKind.MISMATCH, rank, text, self.test.index)

    def _absent(self, number: Number, there: Collection[int]) -> tuple[int, ...]:
        """The members that never came, as far as all members are known."""
        group, seq = number
        members = self._members_of(group)
        if len(members) <= len(there):
            return ()
        ranks = self.test.ranks
        counted = (r for r in members if r not in there and r in ranks)
        return tuple(sorted(r for r in counted if ranks[r].collectives.enqueued.get(group, 0) < seq))

    def _members_of(self, group: str) -> frozenset[int]:
        """Nobody for a group that has no name: several may look like one."""
        if group not in self._members:
            is_named = without_backend(group)[:1] not in ("", "~", "@")
            self._members[group] = self.test.groups.of(group, self._users[group]) if is_named else frozenset()
        return self._members[group]


def _other_waits(test: TestView, moment: DecisiveMoment, ends_s: Mapping[int, float]) -> Iterator[tuple[int, Span]]:
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


def collectives_of(lanes: Mapping[int, Iterable[Span]]) -> list[list[tuple[float, int, int]]]:
    """Each collective that more than one rank came to: when they came, in order, which rank, the place in its lane."""
    found: dict[tuple[int | None, str, int], list[tuple[float, int, int]]] = defaultdict(list)
    for rank, lane in lanes.items():
        for place, span in enumerate(lane):
            if span.number and span.kind in (Kind.COLLECTIVE, Kind.WAIT):
                found[span.test, span.group, span.number].append((span.start_s, rank, place))
    return [sorted(spans) for spans in found.values() if len(spans) > 1]
