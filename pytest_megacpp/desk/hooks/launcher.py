"""Owns starting the boxes of a session, or taking runs that exist; must not report results."""

import os
import signal
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import pytest

from pytest_megacpp.desk.config.git import look, named
from pytest_megacpp.desk.config.markers import Expectation
from pytest_megacpp.desk.config.options import Options
from pytest_megacpp.desk.config.prices import allowance
from pytest_megacpp.desk.gate.enforce import Gatekeeper
from pytest_megacpp.desk.hooks import signals
from pytest_megacpp.desk.hooks.debugging import HANDED_OVER, Debugging
from pytest_megacpp.desk.hooks.lanes import LaneMarks
from pytest_megacpp.desk.hooks.measuring import measures_ranks
from pytest_megacpp.desk.hooks.other_plugins import OtherPlugins
from pytest_megacpp.desk.hooks.rank_output import check_sizes
from pytest_megacpp.desk.hooks.spared import spare_lane_tests
from pytest_megacpp.desk.hooks.terminal import Terminal
from pytest_megacpp.desk.hooks.timeouts import Timeouts
from pytest_megacpp.desk.run.artefacts import Reporting
from pytest_megacpp.desk.run.deal import deal, with_cases
from pytest_megacpp.desk.run.directory import LaneDirError, RunDirectory, iso, utc_now
from pytest_megacpp.desk.run.earlier import seconds_before
from pytest_megacpp.desk.run.environment import refused
from pytest_megacpp.desk.run.joint import JointRun
from pytest_megacpp.desk.run.launch import (
    Selected,
    longest_s,
    make_plan,
    ranks_of,
    rate_of,
    select,
    worst_s,
)
from pytest_megacpp.desk.run.replay import Elsewhere, Recorded
from pytest_megacpp.desk.run.session import LaneRun
from pytest_megacpp.desk.source.nodes import is_open, module_of
from pytest_megacpp.recording.codec import to_json
from pytest_megacpp.recording.events import Json, ProblemFound, Progress
from pytest_megacpp.recording.naming import ReadTest, opened_around, spelt_marks
from pytest_megacpp.recording.redact import Redactor
from pytest_megacpp.recording.vocabulary import ProblemCode
from pytest_megacpp.report.money import estimate
from pytest_megacpp.report.reporter import Reporter
from pytest_megacpp.report.run_json import Box, RunMeta
from pytest_megacpp.surfaces.protocol import Place
from pytest_megacpp.surfaces.registry import is_remote, provider

_NO_DRY_GATE = ProblemFound(
    ProblemCode.BLOCKED,
    "dry-run",
    "no GPU found, and a gate never silently falls back to a dry run",
    "run it where the GPUs are, or ask for a dry run by name: --dry-run",
)


@dataclass(frozen=True, slots=True)
class Placed:
    """Where an item's results come from, and the verdict it expects if it is a drill. `number`: in the plan that was
    made of the selected items (`LaneRun.cases_of`).
    """

    run: LaneRun
    number: int
    drill: Expectation | None


class Launcher:
    """`runs` in the order in which they were started, `joint` those of several boxes; `placed` has every lane test that
    has a result to come.
    """

    def __init__(
        self,
        config: pytest.Config,
        marks: LaneMarks,
        gatekeeper: Gatekeeper | None,
        reporters: Sequence[Reporter],
        where: Callable[[], Place],
    ) -> None:
        self._config = config
        self._marks = marks
        self._options = marks.options
        self._gatekeeper = gatekeeper
        self._where = where
        self.terminal = Terminal(config)
        self.debugging = Debugging(config, self._options, self.terminal)
        self._reporting = Reporting(reporters, self.terminal.show, self.terminal.waiting)
        self.runs: list[LaneRun] = []
        self.joint: list[JointRun] = []
        self.placed: dict[pytest.Item, Placed] = {}
        self.existing = _existing_run(self._options, marks.asked, self._reporting)
        self._timeouts = Timeouts(config, lambda item: item in self.placed)
        config.pluginmanager.register(self._timeouts, "megacpp-timeouts")

    def start_all(self, session: pytest.Session) -> None:
        """A box, or several, per lane that was asked for and has tests. Raises UsageError, and Failed under a gate
        that already has complaints.
        """
        if self._gatekeeper is not None and self._gatekeeper.complaints:
            session.shouldfail = "the gate is not complete, so nothing was started"
            raise session.Failed(session.shouldfail)
        _end_in_order_on_sigterm()
        of_lane = {lane: self._select(session, lane) for lane in self._marks.asked}
        items = [one.item for selected in of_lane.values() for one in selected]
        names = frozenset(item.nodeid for item in items)
        opened = frozenset(item.nodeid for item in items if is_open(item))
        spare_lane_tests(
            self._config,
            lambda nodeid: nodeid in names or bool(opened_around(nodeid, opened)),
            annotates=self._options.lane_annotations != "off",
        )
        OtherPlugins.of(self._config).selected(items)
        if self.existing is not None:
            self._take(self.existing, [one for selected in of_lane.values() for one in selected])
            return
        check_sizes(
            self._options,
            self._config,
            [ranks_of(one, lane, self._options) for lane in of_lane for one in of_lane[lane]],
        )
        for lane, selected in of_lane.items():
            if selected:
                self._start(lane, selected)
        for run in self.runs:
            run.beside = [other for other in self.runs if other is not run]

    def _select(self, session: pytest.Session, lane: str) -> tuple[Selected, ...]:
        must_run = self._gatekeeper.must_run if self._gatekeeper is not None else lambda item: False
        items = [item for item in session.items if self._marks.lane_of(item) == lane]
        return select(items, lane, self._timeouts.limit_s, must_run)

    def _take(self, existing: Recorded | Elsewhere, selected: Sequence[Selected]) -> None:
        if selected:
            try:
                opened = frozenset(one.item.nodeid for one in selected if is_open(one.item))
                run, numbers = existing.run([one.item.nodeid for one in selected], opened, self._say_progress)
            except LaneDirError as e:
                raise pytest.UsageError(str(e)) from e
            if isinstance(existing, Elsewhere):
                run.on_progress = self._say_progress
            run.stands_for = {number: numbers[one.item.nodeid] for number, one in enumerate(selected)}
            self._place(run, selected)

    def _place(self, run: LaneRun, selected: Sequence[Selected]) -> None:
        drills: dict[str, Json] = {}
        for number, one in enumerate(selected):
            if one.drill is not None:
                indexes = run.stands_for.get(number, (number,))
                drills |= {run.plan.tests[index].nodeid: to_json(one.drill) for index in indexes}
        run.meta = replace(run.meta, drills=drills)
        self.runs.append(run)
        for number, one in enumerate(selected):
            file, line, _ = one.item.location
            self.placed[one.item] = Placed(run, number, one.drill)
            for index in run.stands_for.get(number, (number,)):
                run.defined_at[index] = file, (line or 0) + 1

    def new_directory(self) -> RunDirectory:
        """Raises UsageError."""
        try:
            return RunDirectory.create(self._options.lane_dir)
        except LaneDirError as e:
            raise pytest.UsageError(str(e)) from e

    def _start(self, lane: str, selected: Sequence[Selected]) -> None:
        """Starts the lane's boxes, with a joint run if there are several."""
        if self._options.boxes == 1 or len(selected) == 1:
            self._start_box(lane, selected, self._options, Box())
            return
        directory = self.new_directory()
        before = seconds_before(directory.path, lane, dry_run=self._where().dry_run)
        opened = frozenset(one.item.nodeid for one in selected if is_open(one.item))
        shares = deal([one.item.nodeid for one in selected], with_cases(before, opened), self._options.boxes)
        options, began = self._options.sharing_budget(len(shares)), len(self.runs)
        for number, share in enumerate(shares, 1):
            box = Box(directory.run_id, number, len(shares))
            self._start_box(lane, [selected[index] for index in share], options, box)
        self._join(directory, selected, self.runs[began:])

    def _join(self, directory: RunDirectory, selected: Sequence[Selected], runs: Sequence[LaneRun]) -> None:
        nodeids = runs[0].redactor.ids(one.item.nodeid for one in selected)
        joint = JointRun(directory, nodeids, [run.plan.run_id for run in runs])
        self.joint.append(joint)
        with suppress(OSError):  # it is written again at the end, which reports what is wrong
            directory.is_latest()
            joint.write()

    def _start_box(self, lane: str, selected: Sequence[Selected], options: Options, box: Box) -> None:
        place = self._where()
        OtherPlugins.of(self._config).launching(provider(place.surface, self._options.tables))
        debugger = self.debugging.plan(place.surface, max(ranks_of(one, lane, self._options) for one in selected))
        directory = self.new_directory()
        git = look(Path(self._config.invocation_params.dir))
        plan = make_plan(directory.run_id, lane, selected, options, place, self._config, named(git))
        measured = measures_ranks(self._config, is_remote=is_remote(place.surface))
        if debugger is not None:
            debugger = replace(debugger, handed_over=os.path.abspath(directory.path / HANDED_OVER))
        plan = replace(plan, read=self._read(lane, selected), coverage=measured, debugger=debugger)
        rate = rate_of(place, self._options, lane, plan.ranks)
        allowed = allowance(options.lane_budget, rate)
        meta = RunMeta(plan, iso(utc_now()), git=git, rate=rate, box=box)
        run = LaneRun(directory, Redactor({**os.environ, **plan.environment}), meta, self._reporting)
        self._place(run, selected)
        run.on_progress = self._say_progress
        run.on_debugged = partial(self.debugging.turn, run)
        self._say_worst(run, longest_s(place, self._options, lane), options.lane_budget)
        over_budget = allowed.refusal and ProblemFound(ProblemCode.BLOCKED, "budget", allowed.refusal, allowed.remedy)
        problem = self._refused(lane, place, run) or over_budget or self._no_dry_gate(place)
        if problem:
            run.refuse(problem)
        else:
            found = provider(place.surface, self._options.tables)
            run.start(found.surface(self._options, _tags(run.meta, self._config)))
        if self._options.detach:
            run.leave()

    def _read(self, lane: str, selected: Sequence[Selected]) -> tuple[ReadTest, ...]:
        """All lane tests of the files of which some are selected and could only be read."""
        source = self._config.pluginmanager.get_plugin("megacpp-source")
        files = {one.item.path for one in selected if module_of(one.item) is not None}
        items = source.lane_tests(files) if source is not None and files else ()
        return tuple(ReadTest(i.nodeid, spelt_marks(i.iter_markers(), lane), is_open(i)) for i in items)

    def _refused(self, lane: str, place: Place, run: LaneRun) -> ProblemFound | None:
        """The first variable with which nothing can be launched."""
        unfit = refused(self._options, lane, place, os.environ)
        return None if unfit is None else replace(unfit, detail=run.redactor.text(unfit.detail))

    def _no_dry_gate(self, place: Place) -> ProblemFound | None:
        undeclared = self._gatekeeper is not None and place.dry_run and not self._options.dry_run
        return _NO_DRY_GATE if undeclared else None

    def _say_worst(self, run: LaneRun, longest: float | None, budget_usd: float | None) -> None:
        costs = estimate(run.meta.rate, worst_s(run.plan, longest), budget_usd)
        if costs:
            self.terminal.say(f"{len(run.plan.tests)} tests of {run.plan.lane}{run.meta.box.title}: {costs}")

    def _say_progress(self, progress: Progress) -> None:
        """A step on the way to a box elsewhere, with its time once it is over."""
        self.terminal.say(f"{progress.phase} {progress.detail or '…'}")


def _existing_run(options: Options, lanes: Sequence[str], reporting: Reporting) -> Recorded | Elsewhere | None:
    """What `--replay` or `--attach` named."""
    if options.replay is not None:
        return Recorded(options, options.replay, reporting)
    return Elsewhere(options, options.attach, reporting, lanes) if options.attach is not None else None


def _tags(meta: RunMeta, config: pytest.Config) -> dict[str, str]:
    """What tells runs apart in an account that many projects share."""
    revision = meta.git.revision
    return {"suite": config.rootpath.name, **({"revision": revision} if revision else {})}


def _end_in_order_on_sigterm() -> None:
    """A cancelled CI job gets SIGTERM; like Ctrl-C it must end the box and finish `run.json`."""
    if threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        signal.signal(signal.SIGTERM, signals.cancelled)
