"""Owns when a run that goes on is shown, and how: by a board where the terminal has room for one, else by lines; must
not know what is said of it.

The box's clock is read off the events that arrive: between two of them it goes on as fast as the desk's.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from pytest_megacpp.box.alarms import Clocks, counting
from pytest_megacpp.desk.run.earlier import seconds_before
from pytest_megacpp.judge.verdicts import Outcome
from pytest_megacpp.recording.views import TestView
from pytest_megacpp.report.clean import one_line
from pytest_megacpp.report.live import Live, Now, Tally, board_rows, estimated_s, heartbeat_lines, steps, wait_sentence
from pytest_megacpp.report.money import cost, dollars
from pytest_megacpp.report.reporter import Board, Line, Output, Reporter, RunResults
from pytest_megacpp.report.text import headline

LOOK_S = 1.0  # between two looks at a run
COST_SHARE = 100  # a look that takes longer (27 ms for 1,024 ranks) is followed by a pause of so many times that
SLOWEST_S = 2.0  # but the clock on a board has to move
WAITED_SHARE = 0.25  # of a limit: waiting for longer is worth a line
FAILURE_LINES = 20  # of a run; of later failures the heartbeat has the number, and pytest's summary all
LATE_S = 2.0  # a test that began longer ago when it is first seen had its waits counted by nobody here


@dataclass
class _Box:
    """What is remembered of one run. `heard_s` is the desk's time when the box's clock was last read."""

    began_s: float
    heard_s: float
    said_s: float
    last_s: float = 0.0
    events: int = 0
    progress: int = 0
    stepped_s: float = 0.0
    next_s: float = 0.0
    clocks: dict[int, Clocks] = field(default_factory=dict)
    reported: set[object] = field(default_factory=set)
    before: Mapping[str, float] | None = None
    done: set[int] = field(default_factory=set)
    failures: list[tuple[str, str]] = field(default_factory=list)
    heard_results: int = 0
    said_failures: int = 0

    def now_s(self, run: RunResults, desk_s: float) -> float:
        """Box time; it begins with the box."""
        timeline = run.timeline
        if timeline.events != self.events:
            self.events, self.last_s, self.heard_s = timeline.events, timeline.last_s, desk_s
        if len(timeline.progress) != self.progress:
            self.progress, self.stepped_s = len(timeline.progress), desk_s
        return self.last_s + (desk_s - self.heard_s if timeline.started is not None else 0.0)

    def hear_results(self, run: RunResults) -> None:
        """Tests that pytest has got: until then a drill's outcome may still take the place of its verdict."""
        for index in run.reported[self.heard_results :]:
            result = run.judged[index]
            if result.outcome in (Outcome.FAILED, Outcome.ERROR):
                self.failures.append((run.nodeids[index], run.redact(headline(result.verdict))))
        self.heard_results = len(run.reported)


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
        desk_s = self._clock()
        return self._boxes.setdefault(run.plan.run_id, _Box(desk_s, desk_s, desk_s, stepped_s=desk_s))

    def running(self, run: RunResults) -> Iterator[Output]:
        """Whatever fails in here costs one line, and the rest of what would be shown."""
        box, desk_s = self._box(run), self._clock()
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
            return [Board(board_rows(now, run.plan.lane))]
        shown: list[Output] = []
        for nodeid, said in box.failures[box.said_failures : FAILURE_LINES]:
            shown.append(Line(f"{one_line(nodeid, 160)}: {said}", always=True, red=True))
        box.said_failures = len(box.failures)
        for live in now.tests:
            for one in live.waits:
                key = live.view.index, one.the_wait.number, one.the_wait.waiting if one.guessed else ()
                if one.seconds >= WAITED_SHARE * one.limit_s and key not in box.reported:
                    box.reported.add(key)
                    shown.append(Line(f"{one_line(live.view.nodeid, 160)}: {wait_sentence(live, one)}", always=True))
        if desk_s - box.said_s >= self._heartbeat_s:
            box.said_s = desk_s
            shown += [Line(line, always=True) for line in heartbeat_lines(now)]
        return shown

    def _now(self, run: RunResults, box: _Box, desk_s: float) -> Now:
        now_s = box.now_s(run, desk_s)
        box.hear_results(run)
        tests = tuple(_live(test, box, now_s) for test in _running(run))
        box.clocks = {live.view.index: box.clocks[live.view.index] for live in tests}
        at = () if tests else steps(run.timeline, now_s, desk_s - box.stepped_s)
        return Now(_tally(run, box, tests, now_s, desk_s), tests, at, tuple(box.failures))


def _running(run: RunResults) -> list[TestView]:
    """The tests that run now, by the worlds that live: a run may have had a hundred thousand tests."""
    timeline = run.timeline
    living = (world for world in timeline.worlds.values() if world.ended is None and world.test is not None)
    views = (timeline.tests.get(world.test) for world in living if world.test is not None)
    return [view for view in views if view is not None and view.ended is None]


def _live(view: TestView, box: _Box, now_s: float) -> Live:
    known = view.index in box.clocks
    clocks = box.clocks.setdefault(view.index, Clocks())
    if known or now_s - view.started_s < LATE_S:
        clocks.advance(view, now_s)
    else:
        clocks.catch_up(view, now_s)
    return Live(view, counting(view, clocks, now_s), now_s)


def _tally(run: RunResults, box: _Box, tests: tuple[Live, ...], now_s: float, desk_s: float) -> Tally:
    timeline, plan = run.timeline, run.plan
    if box.before is None:
        box.before = seconds_before(run.directory, plan.lane, dry_run=plan.dry_run)
    for index in range(len(plan.tests)):
        if index not in box.done and all(map(timeline.has_ended, timeline.attempts(index))):
            box.done.add(index)
    box.done -= {index for index in timeline.further if not all(map(timeline.has_ended, timeline.attempts(index)))}
    known = {name: s for name in run.nodeids if (s := box.before.get(name)) is not None} | _took(run, box)
    left = [run.nodeids[index] for index in range(len(plan.tests)) if index not in box.done]
    elapsed = {live.view.nodeid: live.elapsed_s for live in tests}
    usd = cost(now_s, run.meta.rate).usd
    price = dollars(usd) if usd and run.meta.rate.usd_per_hour else ""
    return Tally(
        len(box.done),
        len(plan.tests),
        max(now_s, desk_s - box.began_s),
        estimated_s(left, known, elapsed),
        price,
        len(box.failures),
    )


def _took(run: RunResults, box: _Box) -> dict[str, float]:
    """The seconds of tests of this run that are over."""
    found = {}
    for index in box.done:
        views = (run.timeline.tests.get(number) for number in run.timeline.attempts(index))
        found[run.nodeids[index]] = sum(v.ended_s - v.started_s for v in views if v is not None and v.ended_s)
    return found
