"""Owns `trace.json`, a run for Perfetto and chrome://tracing; must not know how spans are found, or a file.

Trace Event Format, JSON object form: a process per rank, threads for phases, collectives and compiles in it, counters
of its CPU and memory, and a flow that joins each collective across ranks. Timestamps are microseconds since the run
began.
Slices of a thread must not overlap unless one lies in the other, so collectives in flight together get more threads.
"""

import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from itertools import pairwise
from typing import Any, TypeAlias

from pytest_megacpp.judge.verdicts import TestResult, Verdict
from pytest_megacpp.recording.ranks import rank_list, ranks_named
from pytest_megacpp.recording.timeline import Timeline
from pytest_megacpp.report.clean import one_line
from pytest_megacpp.report.quantities import microseconds, whole
from pytest_megacpp.report.spans import Kind, Mark, RunSpans, Span, WorldSpans

Event: TypeAlias = dict[str, Any]

BOX = 1  # the process with what is of no rank
FIRST_PID = 10
PHASES, COLLECTIVES, COMPILE = 1, 10, 2  # threads; further ones for collectives follow
MOST_THREADS = 8  # for collectives that are in flight together
NAME_CHARS = 120
ARGUMENT_CHARS = 400  # of what a viewer shows of one event
_OF_PHASES = (Kind.START, Kind.COLLECTION, Kind.PHASE, Kind.STEP)


def trace(
    run: RunSpans, timeline: Timeline, judged: Mapping[int, TestResult], redact: Callable[[str], str]
) -> Mapping[str, Any]:
    """The document. `redact` takes secrets out of a text."""
    writer = _Writer(
        cache(lambda text: one_line(redact(text), NAME_CHARS)),
        cache(lambda text: one_line(redact(text), ARGUMENT_CHARS)),
    )
    started = timeline.started
    return {
        "traceEvents": [*writer.box(run, timeline, judged), *writer.worlds(run.worlds)],
        "displayTimeUnit": "ms",
        "otherData": {
            "run": writer.text(timeline.run_id),
            "lane": writer.text(started.lane) if started else "",
            "started_at": writer.text(started.started_at) if started else "",
            "spans_left_out": run.left_out,
        },
    }


def trace_bytes(document: Mapping[str, Any]) -> bytes:
    """An event per line, so that the file can be read and searched."""
    rest = json.dumps({name: value for name, value in document.items() if name != "traceEvents"})
    encode = json.JSONEncoder(separators=(",", ":")).encode
    events = ",\n".join(map(encode, document["traceEvents"]))
    return f'{{"traceEvents":[\n{events}\n],{rest[1:]}\n'.encode()


@dataclass(slots=True)
class _Writer:
    """`text` cleans and cuts what names something, `argument` what is said of it."""

    text: Callable[[str], str]
    argument: Callable[[str], str]
    _flows: int = field(default=0)

    # -- what is of no rank ------------------------------------------------------------------------------------

    def box(self, run: RunSpans, timeline: Timeline, judged: Mapping[int, TestResult]) -> Iterator[Event]:
        yield from _named(BOX, "box", 0, {1: "tests", 2: "steps"})
        for index, result in judged.items():
            verdicts = {attempt.number: attempt.verdict for attempt in result.attempts} or {index: result.verdict}
            for number in timeline.attempts(index):
                view = timeline.tests.get(number)
                if view is not None:
                    end_s = view.ended_s if view.ended_s is not None else timeline.last_s
                    verdict = verdicts.get(number)
                    args = (self._verdict(verdict) if verdict is not None else {}) | {"attempt": number}
                    name = self.text(f"{_headed(verdict)}{result.nodeid}")
                    yield _slice(BOX, 1, name, "test", view.started_s, end_s, args)
        for start_s, end_s, what, detail in run.steps:
            yield _slice(BOX, 2, self.text(what), "step", start_s, end_s, {"detail": self.argument(detail)})
        yield from (self._mark(BOX, mark) for mark in run.marks)
        yield from (_counter(BOX, "memory", at_s, "GiB", value / 2**30) for at_s, value in run.memory)

    def _verdict(self, verdict: Verdict) -> Event:
        return {
            "verdict": str(verdict.code),
            "blamed": ranks_named(verdict.blamed_ranks) if verdict.blamed_ranks else "",
            "cause": self.argument(verdict.cause or ""),
            "summary": self.argument(verdict.summary),
        }

    # -- worlds ------------------------------------------------------------------------------------------------

    def worlds(self, worlds: Sequence[WorldSpans]) -> Iterator[Event]:
        pid = FIRST_PID
        for number, world in enumerate(worlds):
            pids = {rank: pid + rank for rank in world.lanes}
            threads = {rank: _threads(lane) for rank, lane in world.lanes.items()}
            for rank in world.lanes:
                name = f"rank {rank}" if not number else f"{self.text(world.name)} rank {rank}"
                yield from self._rank(pids[rank], name, world, rank, threads[rank])
            yield from self._joined(world, pids, threads)
            for mark in world.marks:
                yield self._mark(BOX if mark.rank is None else pids.get(mark.rank, BOX), mark)
            pid += world.size

    def _rank(self, pid: int, name: str, world: WorldSpans, rank: int, threads: Sequence[int]) -> Iterator[Event]:
        extra = {tid: f"collectives {tid - COLLECTIVES + 1}" for tid in set(threads) if tid > COLLECTIVES}
        names = {PHASES: "phases", COMPILE: "compile", COLLECTIVES: "collectives"} | extra
        yield from _named(pid, name, pid, names)
        of_threads: dict[int, list[Span]] = {tid: [] for tid in names}
        for span, tid in zip(world.lanes[rank], threads, strict=True):
            of_threads[tid].append(span)
        for tid, spans in of_threads.items():
            title = self._title if tid >= COLLECTIVES else self._name
            for span, end_s in _nested(spans):
                yield _slice(pid, tid, title(span), span.kind, span.start_s, end_s, self._args(span, rank))
        yield from _cores(pid, world.cpu.get(rank, ()))
        yield from (_counter(pid, "memory", at_s, "GiB", of / 2**30) for at_s, of in world.memory.get(rank, ()))

    def _name(self, span: Span) -> str:
        return self.text(span.name)

    def _title(self, span: Span) -> str:
        number = f" #{whole(span.number)}" if span.number else ""
        awaited = f" waits for {ranks_named(span.peers)}" if span.kind is Kind.WAIT and span.peers else ""
        return f"{self.text(span.name.partition('(')[0])}{number}{awaited}"

    def _args(self, span: Span, rank: int) -> Event:
        args: Event = {"rank": rank}
        if span.test is not None:
            args["attempt"] = span.test
        if span.number or span.group:
            args |= {
                "group": self.argument(span.group),
                "number": whole(span.number),
                "operation": self.argument(span.name),
            }
        if span.peers:
            args["missing" if span.kind is Kind.WAIT else "last_to_come"] = rank_list(span.peers)
        return args

    def _joined(
        self, world: WorldSpans, pids: Mapping[int, int], threads: Mapping[int, Sequence[int]]
    ) -> Iterator[Event]:
        """One flow per collective, from the rank that came first to the one that came last."""
        for spans in _collectives_of(world.lanes):
            self._flows += 1
            for nth, (start_s, rank, place) in enumerate(spans):
                phase = "s" if nth == 0 else "f" if nth == len(spans) - 1 else "t"
                event: Event = {"ph": phase, "cat": "collective", "name": "collective", "id": self._flows}
                event |= {"pid": pids[rank], "tid": threads[rank][place], "ts": microseconds(start_s)}
                yield event | {"bp": "e"} if phase == "f" else event

    def _mark(self, pid: int, mark: Mark) -> Event:
        scope = "g" if mark.rank is None else "p"
        name = f"{mark.kind}: {self.text(mark.text)}"
        return {
            "ph": "i",
            "s": scope,
            "cat": str(mark.kind),
            "name": name,
            "pid": pid,
            "tid": 1,
            "ts": microseconds(mark.at_s),
            "args": self._said(mark),
        }

    def _said(self, mark: Mark) -> Event:
        """What is known of a moment, at more length than its name has room for."""
        of_whom = {"rank": mark.rank, "attempt": mark.test}
        said = {"place": self.argument(mark.place), "message": self.argument(mark.message)}
        found: Event = {"text": self.argument(mark.text)} | of_whom | said
        return {name: value for name, value in found.items() if value not in (None, "")}


def _headed(verdict: Verdict | None) -> str:
    """`rank-death, rank 3: ` in front of a test that isn't green: a timeline shows names, and arguments at a click."""
    if verdict is None or verdict.code.is_green:
        return ""
    blamed = [ranks_named(verdict.blamed_ranks)] if verdict.blamed_ranks else []
    return f"{', '.join([str(verdict.code), *blamed])}: "


def _named(pid: int, name: str, place: int, threads: Mapping[int, str]) -> Iterator[Event]:
    yield {"ph": "M", "name": "process_name", "pid": pid, "tid": 0, "args": {"name": name}}
    yield {"ph": "M", "name": "process_sort_index", "pid": pid, "tid": 0, "args": {"sort_index": place}}
    for tid, thread in threads.items():
        yield {"ph": "M", "name": "thread_name", "pid": pid, "tid": tid, "args": {"name": thread}}


def _slice(pid: int, tid: int, name: str, kind: str, start_s: float, end_s: float, args: Event) -> Event:
    """At least a microsecond long, so that an arrow finds it."""
    start = microseconds(start_s)
    event = {"ph": "X", "cat": str(kind), "name": name, "pid": pid, "tid": tid, "ts": start}
    return event | {"dur": max(microseconds(end_s) - start, 1), "args": args}


def _counter(pid: int, name: str, at_s: float, unit: str, value: float) -> Event:
    return {"ph": "C", "name": name, "pid": pid, "tid": 0, "ts": microseconds(at_s), "args": {unit: round(value, 4)}}


def _cores(pid: int, spent: Sequence[tuple[float, float]]) -> Iterator[Event]:
    """Cores in use, from the CPU seconds by then. A counter keeps its value, so after the last look it is 0."""
    for (at_s, spent_s), (next_s, next_spent_s) in pairwise(spent):
        cores = max(0.0, next_spent_s - spent_s) / max(next_s - at_s, 1e-6)
        yield _counter(pid, "CPU", at_s, "cores", cores)
    if len(spent) > 1:
        yield _counter(pid, "CPU", spent[-1][0], "cores", 0.0)


def _nested(spans: Sequence[Span]) -> Iterator[tuple[Span, float]]:
    """Spans in order of their starts, of those that begin in the same microsecond the longest first, with their ends,
    which are cut where they reach beyond the span that they begin in.
    """
    open_: list[float] = []
    for span in sorted(spans, key=lambda span: (microseconds(span.start_s), -span.end_s)):
        start = microseconds(span.start_s)
        while open_ and microseconds(open_[-1]) <= start:
            open_.pop()
        end_s = min(span.end_s, open_[-1]) if open_ else span.end_s
        open_.append(end_s)
        yield span, end_s


def _threads(lane: Iterable[Span]) -> list[int]:
    """A thread for each span. Of those for collectives the first that is free; where none is, the last one."""
    free_us: list[int] = []
    threads = []
    for span in lane:
        if span.kind in _OF_PHASES or span.kind is Kind.COMPILE:
            threads.append(COMPILE if span.kind is Kind.COMPILE else PHASES)
            continue
        start = microseconds(span.start_s)
        place = next((n for n, us in enumerate(free_us) if us <= start), len(free_us))
        if place == len(free_us) and place < MOST_THREADS:
            free_us.append(0)
        place = min(place, MOST_THREADS - 1)
        free_us[place] = max(free_us[place], microseconds(span.end_s), start + 1)
        threads.append(COLLECTIVES + place)
    return threads


def _collectives_of(lanes: Mapping[int, Iterable[Span]]) -> list[list[tuple[float, int, int]]]:
    """Each collective that more than one rank came to: when they came, in order, which rank, the place in its lane."""
    found: dict[tuple[int | None, str, int], list[tuple[float, int, int]]] = defaultdict(list)
    for rank, lane in lanes.items():
        for place, span in enumerate(lane):
            if span.number and span.kind in (Kind.COLLECTIVE, Kind.WAIT):
                found[span.test, span.group, span.number].append((span.start_s, rank, place))
    return [sorted(spans) for spans in found.values() if len(spans) > 1]
