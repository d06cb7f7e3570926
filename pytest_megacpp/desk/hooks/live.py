"""Owns when a run that goes on is shown, and how: by a board where the terminal has room for one, else by lines; must
not know what is said of it.

The box's clock is read off the events that arrive: between two of them it goes on as fast as the desk's.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from pytest_megacpp.box.alarms import Clocks
from pytest_megacpp.box.counting import counting
from pytest_megacpp.desk.hooks.summary import failures
from pytest_megacpp.desk.run.earlier import seconds_before
from pytest_megacpp.recording.timeline import Timeline
from pytest_megacpp.recording.views import TestView
from pytest_megacpp.recording.waits import Counted
from pytest_megacpp.report.clean import one_line
from pytest_megacpp.report.live import (
    BUDGET,
    Live,
    Now,
    Tally,
    board_rows,
    estimated_s,
    heartbeat_lines,
    steps,
    wait_sentence,
)
from pytest_megacpp.report.money import cost, dollars
from pytest_megacpp.report.reporter import Board, Line, Output, Reporter, RunResults

LOOK_S = 1.0  # between two looks at a run
COST_SHARE = 100  # a look that takes longer (tens of ms for 1,024 ranks) is followed by a pause of so many times that
SLOWEST_S = 2.0  # but the clock on a board has to move
WAITED_SHARE = 0.25  # of a limit: waiting for longer is worth a line
FAILURE_LINES = 20  # of a run; of later failures the heartbeat has the number, and pytest's summary all
LATE_S = 2.0  # a test that began longer ago when it is first seen had its waits counted by nobody here


@dataclass
class _BoxClock:
    """The box's time, read off its events. By the desk's time: `heard_s` is when one came last, `stepped_s` when the
    newest step on the way to the box did.
    """

    heard_s: float
    stepped_s: float
    last_s: float = 0.0
    events: int = 0
    progress: int = 0

    def now_s(self, timeline: Timeline, desk_s: float) -> float:
        """Box time; it begins with the box."""
        if timeline.events != self.events:
            self.events, self.last_s, self.heard_s = timeline.events, timeline.last_s, desk_s
        if len(timeline.progress) != self.progress:
            self.progress, self.stepped_s = len(timeline.progress), desk_s
        return self.last_s + (desk_s - self.heard_s if timeline.started is not None else 0.0)


@dataclass
class _Progress:
    """How far a run is: tests that are `done`, those that pytest has got as `failures`, seconds of tests `before`."""

    began_s: float
    before: Mapping[str, float] | None = None
    done: set[int] = field(default_factory=set)
    failures: list[tuple[str, str]] = field(default_factory=list)
    heard_results: int = 0

    def hear_results(self, run: RunResults) -> None:
        self.failures += failures(run, self.heard_results)
        self.heard_results = len(run.reported)

    def tally(self, run: RunResults, tests: Sequence[Live], now_s: float, desk_s: float) -> Tally:
        self._note_done(run)
        total, usd = len(run.plan.tests), cost(now_s, run.meta.rate).usd
        price = dollars(usd) if usd and run.meta.rate.usd_per_hour else ""
        elapsed_s = max(now_s, desk_s - self.began_s)
        return Tally(len(self.done), total, elapsed_s, self._left_s(run, tests, now_s), price, len(self.failures))

    def _note_done(self, run: RunResults) -> None:
        timeline = run.timeline
        for index in range(len(run.plan.tests)):
            if index not in self.done and all(map(timeline.has_ended, timeline.attempts(index))):
                self.done.add(index)
        self.done -= {index for index in timeline.further if not all(map(timeline.has_ended, timeline.attempts(index)))}

    def _left_s(self, run: RunResults, tests: Sequence[Live], now_s: float) -> float | None:
        """What tests take, and for each that has yet to begin what came on top of a test so far: starts of worlds."""
        plan, took = run.plan, self._took(run)
        if self.before is None:
            self.before = seconds_before(run.directory, plan.lane, dry_run=plan.dry_run)
        known = {name: s for name in run.nodeids if (s := self.before.get(name)) is not None} | took
        left = [run.nodeids[index] for index in range(len(plan.tests)) if index not in self.done]
        estimate_s = estimated_s(left, known, {live.view.nodeid: live.elapsed_s for live in tests})
        begun = run.timeline.tests.values()
        if estimate_s is None or not begun:
            return estimate_s
        ends_s = [now_s if view.ended_s is None else view.ended_s for view in begun]
        in_tests_s = sum(ends_s) - sum(view.started_s for view in begun)
        between_s = max(ends_s) - min(view.started_s for view in begun) - in_tests_s
        return estimate_s + max(0.0, between_s) / len(begun) * (len(left) - len(tests))

    def _took(self, run: RunResults) -> dict[str, float]:
        """The seconds of tests of this run that are over."""
        found = {}
        for index in self.done:
            views = (run.timeline.tests.get(number) for number in run.timeline.attempts(index))
            found[run.nodeids[index]] = sum(v.ended_s - v.started_s for v in views if v is not None and v.ended_s)
        return found


@dataclass
class _Said:
    """What lines have said of a run: waits by a key, a number of its `failures`, and by the desk's time `heard_s` the
    last heartbeat.
    """

    heard_s: float
    waits: set[object] = field(default_factory=set)
    failures: int = 0

    def lines(self, now: Now) -> Iterator[Line]:
        """What nobody has said yet."""
        for nodeid, said in now.failures[self.failures : FAILURE_LINES]:
            yield Line(f"{one_line(nodeid, 160)}: {said}", always=True, red=True)
        self.failures = len(now.failures)
        for live in now.tests:
            for one in live.long_waits:
                key = live.view.index, one.name, one.the_wait.number, one.the_wait.waiting if one.guessed else ()
                if one.seconds >= WAITED_SHARE * one.limit_s and key not in self.waits:
                    self.waits.add(key)
                    yield Line(f"{one_line(live.view.nodeid, 160)}: {wait_sentence(live, one)}", always=True)

    def heartbeat(self, now: Now, desk_s: float, every_s: float) -> Iterator[Line]:
        if desk_s - self.heard_s >= every_s:
            self.heard_s = desk_s
            yield from (Line(line, always=True) for line in heartbeat_lines(now))


@dataclass
class _Box:
    """What is remembered of one run; the next look at it is due at `next_s`."""

    clock: _BoxClock
    progress: _Progress
    said: _Said
    clocks: dict[int, Clocks] = field(default_factory=dict)
    debugged_rank: int | None = None
    next_s: float = 0.0

    @classmethod
    def since(cls, desk_s: float) -> "_Box":
        return cls(_BoxClock(desk_s, desk_s), _Progress(desk_s), _Said(desk_s))


class LiveLines(Reporter):
    """A heartbeat every `heartbeat_s` seconds (0: none), and a line as soon as somebody waits for long. `draws` says
    whether a board is shown instead.
    """

    name = "live lines"

    def __init__(
        self, heartbeat_s: float, draws: Callable[[], bool], desk_clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._heartbeat_s = heartbeat_s
        self._draws = draws
        self._clock = desk_clock
        self._boxes: dict[str, _Box] = {}
        self._is_broken = False

    def started(self, run: RunResults) -> tuple[()]:
        self._box(run)
        return ()

    def _box(self, run: RunResults) -> _Box:
        return self._boxes.setdefault(run.plan.run_id, _Box.since(self._clock()))

    def running(self, run: RunResults) -> Iterator[Output]:
        """Whatever fails in here costs one line, and the rest of what would be shown."""
        box, desk_s = self._box(run), self._clock()
        box.debugged_rank = run.plan.debugger.rank if run.plan.debugger is not None else None
        if self._is_broken or desk_s < box.next_s or (self._heartbeat_s == 0 and not self._draws()):
            return
        try:
            yield from self._shown(run, box, desk_s)
        except Exception as e:
            self._is_broken = True
            why = one_line(run.redact(f"{type(e).__name__}: {e}"))
            yield Line(f"the run can't be shown while it goes on ({why}); its results come as ever", always=True)
        took_s = self._clock() - desk_s
        box.next_s = desk_s + max(LOOK_S, min(SLOWEST_S, COST_SHARE * took_s))

    def _shown(self, run: RunResults, box: _Box, desk_s: float) -> list[Output]:
        now = self._now(run, box, desk_s)
        if self._draws():
            box.said.failures = len(now.failures)
            return [Board(board_rows(now, f"{run.plan.lane}{run.meta.box.title}"), of=run.plan.run_id)]
        return [*box.said.lines(now), *box.said.heartbeat(now, desk_s, self._heartbeat_s)]

    def _now(self, run: RunResults, box: _Box, desk_s: float) -> Now:
        now_s = box.clock.now_s(run.timeline, desk_s)
        box.progress.hear_results(run)
        counts = _counting_of_the_run(run, now_s)
        tests = tuple(_live(test, box, counts, now_s) for test in _running(run.timeline))
        box.clocks = {live.view.index: box.clocks[live.view.index] for live in tests}
        tally, since_s = box.progress.tally(run, tests, now_s, desk_s), desk_s - box.clock.stepped_s
        at = () if tests else steps(run.timeline, now_s, since_s, is_through=tally.done == tally.total)
        return Now(tally, tests, at, tuple(box.progress.failures), counts)


def seen_once(timeline: Timeline, now_s: float) -> list[Live]:
    """The tests that run now, for who looks at a run once and knows nothing of what was before."""
    run_s = timeline.limit_s(0.0)
    of_the_run = [Counted("run", run_s, now_s)] if run_s else []
    return [_caught_up(view, of_the_run, now_s) for view in _running(timeline)]


def _caught_up(view: TestView, of_the_run: Sequence[Counted], now_s: float) -> Live:
    clocks = Clocks()
    clocks.catch_up(view, now_s)
    return Live(view, (*counting(view, clocks, now_s), *of_the_run), now_s)


def _running(timeline: Timeline) -> list[TestView]:
    """The tests that run now, by the worlds that live: a run may have had a hundred thousand tests."""
    living = (world for world in timeline.worlds.values() if world.ended is None and world.test is not None)
    views = (timeline.tests.get(world.test) for world in living if world.test is not None)
    return [view for view in views if view is not None and view.ended is None]


def _counting_of_the_run(run: RunResults, now_s: float) -> tuple[Counted, ...]:
    """What counts towards the limits that end the run, whatever it is at: those that its box has, once it said so."""
    limits = (("run", run.timeline.limit_s(run.plan.run_s)), (BUDGET, run.plan.budget_s))
    return tuple(Counted(name, limit_s, now_s) for name, limit_s in limits if limit_s)


def _live(view: TestView, box: _Box, of_the_run: Sequence[Counted], now_s: float) -> Live:
    known = view.index in box.clocks
    clocks = box.clocks.setdefault(view.index, Clocks(debugged_rank=box.debugged_rank))
    if known or now_s - view.started_s < LATE_S:
        clocks.advance(view, now_s)
    else:
        clocks.catch_up(view, now_s)
    return Live(view, (*counting(view, clocks, now_s), *of_the_run), now_s)
