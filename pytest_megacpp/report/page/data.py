"""Owns what the page knows of a run, as one JSON value; must not know HTML, or how it is drawn.

Every text that a rank or a user wrote is redacted and cleaned here. Texts of equal size add up, so they share a budget:
that of the ranks that are blamed is spent first. Spans are flat lists of whole numbers, which name entries of tables.
"""

from collections.abc import Callable, Collection, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Generic, TypeAlias, TypeVar

from pytest_megacpp.judge.verdicts import Attempt, TestResult, Verdict
from pytest_megacpp.recording.events import Json
from pytest_megacpp.recording.ranks import rank_list, ranks_named
from pytest_megacpp.recording.stacks import main_first
from pytest_megacpp.recording.views import RankView, WorldView
from pytest_megacpp.recording.vocabulary import Stream
from pytest_megacpp.report.attempts import attempts_line
from pytest_megacpp.report.clean import bounded_lines, clean, one_line
from pytest_megacpp.report.holes import holes
from pytest_megacpp.report.layout import counted, grouped_texts
from pytest_megacpp.report.quantities import MOST, microseconds, waited_text, whole
from pytest_megacpp.report.rank_output import raised, what_ranks_wrote
from pytest_megacpp.report.reporter import RunResults
from pytest_megacpp.report.reporters import flight_records, receipt_path
from pytest_megacpp.report.spans import Kind, Mark, RunSpans, Span, WorldSpans
from pytest_megacpp.report.states import Scene, rank_states, scene
from pytest_megacpp.report.text import headline, said, says

TEXT_CHARS = 1_200_000  # of the details of all ranks in all tests
LINE_CHARS = 400
TAIL_LINES = 30
TAIL_CHARS = 16_000
STACK_LINES = 60
TRACEBACK_LINES = 80
KEPT_KEYS = 16  # of each cache on a rank
KEPT_RECORDS = 24
KEPT_EVIDENCE = 60
KEPT_WAITS = 32
ITEMISED_STATES = 16

Texts = Callable[[str], str]
What: TypeAlias = tuple[Kind, str, str, int | None]  # kind, name, group, number of the attempt
K = TypeVar("K", bound=Hashable)


@dataclass(slots=True)
class Table(Generic[K]):
    """Values by numbers, each once; `of` makes one of its key."""

    of: Callable[[K], Json]
    values: list[Json] = field(default_factory=list)
    _places: dict[K, int] = field(default_factory=dict)

    def place(self, key: K) -> int:
        """The number of what `key` stands for."""
        found = self._places.get(key)
        if found is None:
            found = self._places[key] = len(self.values)
            self.values.append(self.of(key))
        return found


def page_data(run: RunResults, spans: RunSpans) -> dict[str, Json]:
    """All of it. Times are seconds since the run began, those in lists of spans microseconds."""
    return _Writer(run).document(spans)


class _Writer:
    def __init__(self, run: RunResults) -> None:
        self.run, self.timeline = run, run.timeline
        self.line: Texts = cache(lambda text: one_line(run.redact(text), LINE_CHARS))
        self._chars_left = TEXT_CHARS
        self._whats: Table[What] = Table(self._what)
        self._peers: Table[tuple[int, ...]] = Table(lambda ranks: [rank_list(ranks), ranks[0] if ranks else None])

    def document(self, spans: RunSpans) -> dict[str, Json]:
        numbers = {world.name: number for number, world in enumerate(spans.worlds)}
        by_name = {world.name: world for world in spans.worlds}
        ordered = sorted(self.run.judged.items(), key=lambda pair: (pair[1].verdict.code.is_green, pair[0]))
        details = {index: self._details(result) for index, result in ordered}
        return {
            "run": self._run(spans),
            "tests": [
                self._test(result, by_name, numbers) | {"ranks": details[index]}
                for index, result in sorted(self.run.judged.items())
            ],
            "worlds": [self._world(world) for world in spans.worlds],
            "steps": [
                [_s(start_s), _s(end_s), self.line(what), self.line(d)] for start_s, end_s, what, d in spans.steps
            ],
            "marks": [[_s(mark.at_s), str(mark.kind), None, self.line(mark.text), None] for mark in spans.marks],
            "whats": self._whats.values,
            "peers": self._peers.values,
        }

    # -- the run -----------------------------------------------------------------------------------------------

    def _run(self, spans: RunSpans) -> dict[str, Json]:
        run, timeline = self.run, self.timeline
        return {
            "id": self.line(run.plan.run_id),
            "lane": self.line(run.plan.lane),
            "surface": self.line(run.plan.surface),
            "dry_run": run.plan.dry_run,
            "status": str(run.status),
            "is_running": run.is_still_running,
            "started_at": self.line(run.meta.started_at),
            "seconds": _s(timeline.last_s),
            "selected": len(run.nodeids),
            "unfinished": run.unfinished,
            "spans_left_out": spans.left_out,
            "problems": [self.line(f"{p.code}: {p.detail}") for _, p in timeline.problems[:8]],
            "holes": self._holes(spans),
        }

    def _holes(self, spans: RunSpans) -> str:
        """What the page can't show of the run; empty if it shows all."""
        left_out = [f"{counted(spans.left_out, 'span')} left out for their number"] if spans.left_out else []
        return "; ".join([*holes(self.timeline), *left_out])

    # -- tests -------------------------------------------------------------------------------------------------

    def _test(
        self, result: TestResult, worlds: Mapping[str, WorldSpans], numbers: Mapping[str, int]
    ) -> dict[str, Json]:
        verdict, where, green = result.verdict, scene(result, self.timeline), result.verdict.code.is_green
        where_from = self.run.defined_at.get(result.index)
        found: dict[str, Json] = {
            "index": result.index,
            "nodeid": self.line(result.nodeid),
            "outcome": str(result.outcome),
            "fine": not result.outcome.is_red,
            "defined_at": self.line(f"{where_from[0]}:{where_from[1]}") if where_from else "",
            "receipt": receipt_path(self.run, result.index),
            "flight": flight_records(self.run, result).get(result.number),
            "attempts_line": self.line(attempts_line(result) or ""),
            "attempts": [self._attempt(result, attempt, numbers) for attempt in _attempts(result)],
            "size": where.size,
            **self._verdict(verdict),
            "headline": self.line(said(result)),
            "missed": self.line(result.missed),
        }
        if not green:
            found |= {
                "states": self._states(where, verdict),
                "wrote": self._wrote(verdict, where, result),
                "waits": [*self._waits(where, worlds, verdict.blamed_ranks)],
            }
        return found

    def _verdict(self, verdict: Verdict) -> dict[str, Json]:
        blamed = ranks_named(verdict.blamed_ranks) if verdict.blamed_ranks else ""
        evidence = sorted(verdict.evidence, key=lambda e: (e.time_s is None, e.time_s or 0.0))
        return {
            "code": str(verdict.code),
            "green": verdict.code.is_green,
            "headline": self.line(headline(verdict)),
            "summary": self.line(verdict.summary),
            "blamed": list(verdict.blamed_ranks),
            "blamed_text": blamed,
            "says_blamed": bool(blamed) and says(verdict.summary, blamed),
            "cause": self.line(verdict.cause or ""),
            "certainty": str(verdict.certainty),
            "phase": str(verdict.phase),
            "next": clean(self.run.redact(verdict.next_step)).strip(),
            "evidence": [
                [None if e.time_s is None else _s(e.time_s), e.rank, str(e.source), self.line(e.text)]
                for e in evidence[:KEPT_EVIDENCE]
            ],
            "evidence_left_out": max(0, len(evidence) - KEPT_EVIDENCE),
            "consequences": [
                [ranks_named(ranks), text]
                for ranks, text in grouped_texts([(c.rank, self._consequence(c)) for c in verdict.consequences], 8)
            ],
        }

    def _consequence(self, found: Any) -> str:
        own = f" (of its own: {found.cause})" if found.cause else ""
        return self.line(f"{found.text}{own}")

    def _attempt(self, result: TestResult, attempt: Attempt | None, numbers: Mapping[str, int]) -> dict[str, Json]:
        number = result.number if attempt is None else attempt.number
        view = self.timeline.tests.get(number)
        verdict = result.verdict if attempt is None else attempt.verdict
        where = scene(result, self.timeline) if attempt is None else None
        world = view.world if view else where.world.name if where and where.world else ""
        end_s = None if view is None else view.ended_s if view.ended_s is not None else self.timeline.last_s
        return {
            "number": number,
            "purpose": "" if attempt is None else str(attempt.purpose),
            "code": str(verdict.code),
            "green": verdict.code.is_green,
            "headline": self.line(headline(verdict)),
            "blamed": list(verdict.blamed_ranks),
            "world": numbers.get(world),
            "start_s": None if view is None else _s(view.started_s),
            "end_s": None if end_s is None else _s(end_s),
            "decides": number == result.number,
        }

    def _states(self, where: Scene, verdict: Verdict) -> list[Json]:
        """Ranks with what they were in, one by one while they are few; else the blamed ones apart from the others."""
        states = [(state.rank, self.line(state.text)) for state in rank_states(where, verdict)]
        if len(states) > ITEMISED_STATES:
            blamed = frozenset(verdict.blamed_ranks)
            parts = ([s for s in states if s[0] in blamed], [s for s in states if s[0] not in blamed])
            groups = [group for part in parts for group in grouped_texts(part, 8)]
            return [[ranks_named(ranks), ranks[0], text] for ranks, text in groups]
        return [[f"rank {rank}", rank, text] for rank, text in states]

    def _wrote(self, verdict: Verdict, where: Scene, result: TestResult) -> list[Json]:
        """What the ranks that matter wrote, in blocks of lines, the first of which says what it is."""
        started = self.timeline.started
        blocks = what_ranks_wrote(verdict, where, result.nodeid, started.cwd if started else "")
        return [self._spend("\n".join(block)) for block in blocks if block]

    def _waits(self, where: Scene, worlds: Mapping[str, WorldSpans], blamed: Collection[int]) -> Iterator[Json]:
        """Those for ranks that are blamed first. `span`: what lanes show of it, without the times."""
        if where.test is None or where.test.world not in worlds:
            return
        waits = worlds[where.test.world].waits.get(where.test.index, ())
        for wait in sorted(waits, key=lambda wait: not {*wait.peers} & {*blamed})[:KEPT_WAITS]:
            what = (Kind.WAIT, wait.name, wait.group, where.test.index)
            whom = ([r for r in wait.peers if r in blamed], [r for r in wait.peers if r not in blamed])
            yield {
                "ranks": ranks_named(wait.ranks),
                "list": rank_list(wait.ranks),
                "what": self.line(wait.name.partition("(")[0]) + (f" #{whole(wait.number)}" if wait.number else ""),
                "whom": [[ranks_named(ranks), ranks is whom[0]] for ranks in whom if ranks],
                "targets": rank_list(wait.peers),
                "span": [self._whats.place(what), whole(wait.number), self._peers.place(wait.peers)],
                "numbered": bool(wait.number),
                "all_came": bool(wait.number) and len(wait.ranks) == self._members(where.test.index, wait.group),
                "at_s": _s(wait.at_s),
                "waited": waited_text(wait.shortest_s, wait.longest_s),
            }

    def _members(self, test: int | None, group: str) -> int | None:
        """How many members a group of an attempt has; None where that isn't known."""
        view = None if test is None else self.timeline.tests.get(test)
        return len(view.groups.of(group, ())) if view is not None and view.groups.knows(group) else None

    # -- ranks -------------------------------------------------------------------------------------------------

    def _details(self, result: TestResult) -> dict[str, Json]:
        """By rank what is known of it in the attempt that decided; the blamed ranks first, as long as there is room."""
        where = scene(result, self.timeline)
        if where.test is None:
            return {}
        ranks = dict.fromkeys(rank for rank in result.verdict.blamed_ranks if rank in where.test.ranks)
        ranks |= dict.fromkeys(where.test.ranks)
        return _known({str(rank): self._rank(where, rank, result.verdict) for rank in ranks})

    def _before_tests(self, world: WorldView) -> dict[str, Json]:
        """By rank what is known of it before any test, of ranks that came to some harm or said something."""
        ranks = {*world.broken, *world.stacks, *(rank for rank, _ in world.output)}
        ranks |= {rank for rank, (_, exited) in world.exits.items() if not exited.expected}
        where = Scene(0, world, None)
        return _known({str(rank): _known(self._testimony(where, rank, None)) for rank in sorted(ranks)})

    def _rank(self, where: Scene, rank: int, verdict: Verdict) -> Json:
        view = where.test.ranks[rank] if where.test else RankView(rank)
        known = self._of_view(view)
        world = where.world
        if world is not None and rank in world.devices:
            known["device"] = self.line(f"{world.devices[rank].index}: {world.devices[rank].name}")
        if not verdict.code.is_green:
            known |= self._testimony(where, rank, view)
        return _known(known)

    def _of_view(self, view: RankView) -> dict[str, Json]:
        totals = view.compiled
        known: dict[str, Json] = {"first_forward_s": view.first_forward_s and _s(view.first_forward_s)}
        if totals is not None and (totals.graphs or totals.cache_hits or totals.cache_misses):
            known["compiled"] = (
                f"{totals.seconds:.2f} s, {totals.graphs} graphs, cache: {totals.cache_hits} hits, "
                f"{totals.cache_misses} misses"
            )
            known["keys"] = {self.line(name): self._keys(keys) for name, keys in totals.keys.items() if keys}
        known["records"] = {
            self.line(key): self.line(str(value)) for key, value in list(view.records.items())[:KEPT_RECORDS]
        }
        return known

    def _keys(self, keys: Sequence[str]) -> list[Json]:
        more = len(keys) - KEPT_KEYS
        shown = self._spend_lines([self.line(key) for key in keys[:KEPT_KEYS]])
        return [*shown, *([f"… {more} more in the receipt"] if more > 0 else [])]

    def _testimony(self, where: Scene, rank: int, view: RankView | None) -> dict[str, Json]:
        error = raised(where, rank)
        taken = [fact for _, fact in view.stacks] if view else []
        if view is None and where.world is not None and rank in where.world.stacks:
            taken = [where.world.stacks[rank][1]]
        stack = next((fact.text for fact in reversed(taken) if fact.ok), "")
        main = where.world.ready[rank][1].main_thread if where.world and rank in where.world.ready else ""
        return {
            "error": self._bounded(error.traceback or f"{error.type}: {error.message}", TRACEBACK_LINES)
            if error
            else "",
            "stack": self._begin_of(main_first(stack, main), STACK_LINES),
            **{str(stream): self._tail(where, rank, view, stream) for stream in Stream},
        }

    def _tail(self, where: Scene, rank: int, view: RankView | None, stream: Stream) -> str:
        read = view.output.get(stream) if view else where.world.output.get((rank, stream)) if where.world else None
        lines = clean(self.run.redact(read.text)[-TAIL_CHARS:]).rstrip().split("\n") if read else []
        return self._spend("\n".join(line[:LINE_CHARS] for line in lines[-TAIL_LINES:]))

    def _bounded(self, text: str, lines: int) -> str:
        return self._spend("\n".join(bounded_lines(self.run.redact(text), lines=lines))) if text.strip() else ""

    def _begin_of(self, text: str, lines: int) -> str:
        first = text.split("\n", lines)
        cut = [f"… {first[lines].count(chr(10)) + 1} lines cut …"] if len(first) > lines else []
        return self._bounded("\n".join([*first[:lines], *cut]), lines + 1)

    def _spend(self, text: str) -> str:
        """A text of some length, while there is room for it."""
        text = clean(self.run.redact(text))
        if len(text) > self._chars_left:
            return "… left out here for its size: see the receipt"
        self._chars_left -= len(text)
        return text

    def _spend_lines(self, lines: Iterable[str]) -> list[str]:
        kept = []
        for line in lines:
            if self._chars_left < len(line):
                break
            self._chars_left -= len(line)
            kept.append(line)
        return kept

    # -- worlds ------------------------------------------------------------------------------------------------

    def _world(self, world: WorldSpans) -> dict[str, Json]:
        return {
            "name": self.line(world.name),
            "size": world.size,
            "start_s": _s(world.start_s),
            "end_s": _s(world.end_s),
            "left_out": world.left_out,
            "lanes": [self._lane(world.lanes.get(rank, ())) for rank in range(max(world.lanes, default=-1) + 1)],
            "ranks": self._before_tests(self.timeline.worlds[world.name]),
            "marks": [self._mark(mark) for mark in world.marks],
            "cpu": {str(rank): _points(points, 1.0) for rank, points in world.cpu.items()},
            "rank_memory": {str(rank): _points(points, 2**30) for rank, points in world.memory.items()},
        }

    def _mark(self, mark: Mark) -> list[Json]:
        """A failure also has its place, and its message while there is room for it."""
        flat: list[Json] = [_s(mark.at_s), str(mark.kind), mark.rank, self.line(mark.text), mark.test]
        if mark.place or mark.message:
            flat += [self.line(mark.place), *self._spend_lines([self.line(mark.message)])]
        return flat

    def _lane(self, lane: Sequence[Span]) -> list[Json]:
        """Five numbers a span: microseconds since the start of the one before, and its own; what it is; number of the
        collective; ranks that came last, or didn't come.
        """
        flat: list[Json] = []
        last_us = 0
        for span in lane:
            start_us = microseconds(span.start_s)
            what = self._whats.place((span.kind, span.name, span.group, span.test))
            peers = self._peers.place(span.peers)
            flat += (start_us - last_us, microseconds(span.end_s) - start_us, what, whole(span.number), peers)
            last_us = start_us
        return flat

    def _what(self, what: What) -> list[Json]:
        """A wait also has the number of members of its group."""
        kind, name, group, test = what
        members = [self._members(test, group)] if kind is Kind.WAIT else []
        return [str(kind), self.line(name), self.line(group), test, *members]


def _known(fields: dict[str, Json]) -> dict[str, Json]:
    """Those that say something."""
    return {name: value for name, value in fields.items() if value not in ("", None, [], {})}


def _attempts(result: TestResult) -> Sequence[Attempt | None]:
    """None stands for the only one."""
    return result.attempts or (None,)


def _points(points: Iterable[tuple[float, float]], unit: float) -> list[Json]:
    return [[_s(at_s), round(value / unit, 4)] for at_s, value in points]


def _s(seconds: float) -> float:
    return round(min(max(seconds, 0.0), MOST / 1e6), 6)
