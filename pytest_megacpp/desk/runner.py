"""Owns the lanes' part of a pytest session: waits for results in order and reports them; must not judge."""

import os
import signal
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from pytest_megacpp.desk.git import look
from pytest_megacpp.desk.lanes import LaneMarks
from pytest_megacpp.desk.launch import Place, Selected, choose_place, make_plan, select
from pytest_megacpp.desk.markers import Expectation
from pytest_megacpp.desk.options import misspelt_twins
from pytest_megacpp.desk.outcomes import drill_result, reports
from pytest_megacpp.desk.replay import Recorded
from pytest_megacpp.desk.rundir import LaneDirError, RunDirectory, iso, mark_interrupted, utc_now
from pytest_megacpp.desk.session import LaneRun, summary_lines
from pytest_megacpp.recording.redact import Redactor
from pytest_megacpp.report.run_json import RunMeta
from pytest_megacpp.surfaces.local import LocalSurface, sweep

_IN_ORDER = (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED, pytest.ExitCode.NO_TESTS_COLLECTED)


@dataclass(frozen=True, slots=True)
class _Placed:
    """Where an item's result comes from, and the verdict it expects if it is a drill."""

    run: LaneRun
    index: int
    drill: Expectation | None


class LaneRunner:
    """Registered when a lane was asked for. One box per lane; it starts before the first test of the session."""

    def __init__(self, config: pytest.Config, marks: LaneMarks) -> None:
        self._config = config
        self._marks = marks
        self._options = marks.options
        self._runs: list[LaneRun] = []
        self._place_of: dict[pytest.Item, _Placed] = {}
        self._reported: set[pytest.Item] = set()
        self._chosen: Place | None = None
        if config.getoption("numprocesses", None) or getattr(config, "workerinput", None):
            raise pytest.UsageError(
                "lane tests run in one box, which pytest-xdist's workers can't share yet: run them without -n"
            )
        mark_interrupted(self._options.lane_dir, sweep)
        replay = self._options.replay
        self._recorded = Recorded(self._options, replay) if replay is not None else None

    # -- what will happen ----------------------------------------------------------------------------------

    def _where(self) -> Place:
        if self._chosen is None:
            from pytest_megacpp.box.preflight import devices

            self._chosen = choose_place(self._options, os.environ, len(devices().devices))
        return self._chosen

    def pytest_report_header(self) -> list[str]:
        if self._recorded is not None:
            return [f"megacpp: replay of {self._options.replay} ({_short(self._recorded.path)})"]
        lanes = [self._options.lanes[name] for name in self._marks.asked]
        shapes = ", ".join(f"{lane.name} ({self._options.ranks or lane.ranks} ranks of {lane.gpu})" for lane in lanes)
        return [
            f"megacpp: {shapes} on {self._where().notice}",
            f"megacpp: runs in {self._options.lane_dir}",
            *(f"megacpp: {line}" for line in misspelt_twins(os.environ)),
        ]

    # -- the session ---------------------------------------------------------------------------------------

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> None:
        """Starts the boxes before the first test, so that they warm up while ordinary tests run."""
        failed_collection = session.testsfailed and not session.config.option.continue_on_collection_errors
        if session.config.option.collectonly or failed_collection:
            return
        _end_in_order_on_sigterm()
        of_lane = {lane: select(self._items(session, lane), lane) for lane in self._marks.asked}
        if self._recorded is not None:
            self._replay(self._recorded, [one for selected in of_lane.values() for one in selected])
            return
        for lane, selected in of_lane.items():
            if selected:
                self._start(lane, selected)

    def _items(self, session: pytest.Session, lane: str) -> list[pytest.Item]:
        return [item for item in session.items if self._marks.lane_of(item) == lane]

    def _replay(self, recorded: Recorded, selected: Sequence[Selected]) -> None:
        if selected:
            run, index_of = recorded.run(self._directory(), [one.item.nodeid for one in selected])
            self._place(run, selected, index_of)

    def _place(self, run: LaneRun, selected: Sequence[Selected], index_of: Mapping[str, int]) -> None:
        self._runs.append(run)
        self._place_of |= {one.item: _Placed(run, index_of[one.item.nodeid], one.drill) for one in selected}

    def _directory(self) -> RunDirectory:
        try:
            return RunDirectory.create(self._options.lane_dir)
        except LaneDirError as e:
            raise pytest.UsageError(str(e)) from e

    def _start(self, lane: str, selected: Sequence[Selected]) -> None:
        place, directory = self._where(), self._directory()
        plan = make_plan(directory.run_id, lane, selected, self._options, place, self._config)
        redactor = Redactor({**os.environ, **plan.environment})
        meta = RunMeta(
            run_id=directory.run_id,
            lane=lane,
            surface=place.surface,
            dry_run=place.dry_run,
            ranks=plan.ranks,
            requested_gpu=plan.gpu,
            started_at=iso(utc_now()),
            run_limit_s=plan.run_s or None,
            git=look(Path(plan.cwd)),
        )
        run = LaneRun(plan, directory, redactor, meta)
        self._place(run, selected, {one.item.nodeid: index for index, one in enumerate(selected)})
        run.start(LocalSurface())

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item, nextitem: pytest.Item | None) -> bool | None:
        if item not in self._place_of:
            return None
        placed = self._place_of[item]
        run = placed.run
        item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
        result, wrong = run.wait_for(placed.index), None
        if placed.drill is not None:
            result, wrong = drill_result(result, placed.drill)
            run.amend(placed.index, result)
        receipt = run.receipt_path(placed.index, Path(self._config.invocation_params.dir))
        *first, last = reports(item, result, run.timeline, receipt=receipt, lane=run.plan.lane, wrong=wrong)
        for report in (*first, _tear_down_desk(item, nextitem) or last):
            item.ihook.pytest_runtest_logreport(report=report)
        item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
        self._reported.add(item)
        return True

    @pytest.hookimpl(tryfirst=True, optionalhook=True)
    def pytest_timeout_set_timer(self, item: pytest.Item) -> bool | None:
        """pytest-timeout's clock would run while the box works on other tests; the box has the limit."""
        return True if item in self._place_of else None

    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> None:
        complete = len(self._reported) == len(self._place_of) or session.shouldfail or session.shouldstop
        self.finish(interrupted=not (complete and exitstatus in _IN_ORDER))
        if exitstatus == pytest.ExitCode.OK and any(run.unwritten for run in self._runs):
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def finish(self, *, interrupted: bool) -> None:
        """Ends every box that still runs; safe to call twice."""
        for run in self._runs:
            if len(run.judged) < len(run.plan.tests):
                run.stop("interrupted" if interrupted else "stopped")
        for run in self._runs:
            run.finish(interrupted=interrupted)

    # -- what happened -------------------------------------------------------------------------------------

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        for run in self._runs:
            title = f"lane {run.plan.lane}" + (", dry run on CPU/gloo" if run.plan.dry_run else "")
            terminalreporter.section(title)
            for line in summary_lines(run):
                terminalreporter.line(line)
            for problem in run.unwritten:
                terminalreporter.line(problem, red=True)
            seconds = run.timeline.last_s
            terminalreporter.line(f"run {run.plan.run_id}, {seconds:.1f} s: {_short(run.directory.path)}")


def _tear_down_desk(item: pytest.Item, nextitem: pytest.Item | None) -> pytest.TestReport | None:
    """A test of the desk before this one may have left fixtures for its module or class; a report if one fails."""
    call = pytest.CallInfo.from_call(
        lambda: item.session._setupstate.teardown_exact(nextitem),
        when="teardown",
        reraise=(pytest.exit.Exception, KeyboardInterrupt),
    )
    return pytest.TestReport.from_item_and_call(item, call) if call.excinfo is not None else None


def _end_in_order_on_sigterm() -> None:
    """A cancelled CI job gets SIGTERM; like Ctrl-C it must end the box and finish `run.json`."""
    if threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        signal.signal(signal.SIGTERM, lambda *_: pytest.exit("SIGTERM", returncode=128 + signal.SIGTERM))


def _short(path: Path) -> str:
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)
