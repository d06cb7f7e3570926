"""Owns the lanes' part of a pytest session: waits for results in order and reports them; must not judge."""

import os
import signal
import threading
from pathlib import Path

import pytest

from pytest_megacpp.desk.git import look
from pytest_megacpp.desk.lanes import DRILL_MARK, LaneMarks
from pytest_megacpp.desk.launch import Place, choose_place, make_plan, select
from pytest_megacpp.desk.outcomes import drill_result, reports
from pytest_megacpp.desk.rundir import LaneDirError, RunDirectory, iso, mark_interrupted, utc_now
from pytest_megacpp.desk.session import LaneRun, summary_counts
from pytest_megacpp.recording.redact import Redactor
from pytest_megacpp.report.run_json import RunMeta
from pytest_megacpp.surfaces.local import LocalSurface, sweep


class LaneRunner:
    """Registered when a lane was asked for. One box per lane; it starts before the first test of the session."""

    def __init__(self, config: pytest.Config, marks: LaneMarks) -> None:
        self._config = config
        self._marks = marks
        self._options = marks.options
        self._runs: dict[str, LaneRun] = {}
        self._place_of: dict[pytest.Item, tuple[LaneRun, int]] = {}
        self._place: Place | None = None
        if config.getoption("numprocesses", None) or getattr(config, "workerinput", None):
            raise pytest.UsageError(
                "lane tests run in one box, which pytest-xdist's workers can't share yet: run them without -n"
            )
        mark_interrupted(self._options.lane_dir, sweep)

    # -- what will happen ----------------------------------------------------------------------------------

    def _where(self) -> Place:
        if self._place is None:
            from pytest_megacpp.box.preflight import devices

            self._place = choose_place(self._options, os.environ, len(devices().devices))
        return self._place

    def pytest_report_header(self) -> list[str]:
        if self._options.replay is not None:
            return [f"megacpp: replay of {self._options.replay}"]
        lanes = [self._options.lanes[name] for name in self._marks.asked]
        shapes = ", ".join(f"{lane.name} ({self._options.ranks or lane.ranks} ranks of {lane.gpu})" for lane in lanes)
        return [f"megacpp: {shapes} on {self._where().notice}", f"megacpp: runs in {self._options.lane_dir}"]

    # -- the session ---------------------------------------------------------------------------------------

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> None:
        """Starts the boxes before the first test, so that they warm up while ordinary tests run."""
        failed_collection = session.testsfailed and not session.config.option.continue_on_collection_errors
        if session.config.option.collectonly or failed_collection:
            return
        _end_in_order_on_sigterm()
        for lane in self._marks.asked:
            items = [i for i in session.items if self._marks.lane_of(i) == lane]
            if items:
                self._start(lane, items)

    def _start(self, lane: str, items: list[pytest.Item]) -> None:
        selected = select(items, lane)
        place = self._where()
        try:
            directory = RunDirectory.create(self._options.lane_dir)
        except LaneDirError as e:
            raise pytest.UsageError(str(e)) from e
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
        self._runs[lane] = run
        self._place_of |= {item: (run, index) for index, item in enumerate(items)}
        run.start(LocalSurface())

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item, nextitem: pytest.Item | None) -> bool | None:
        if item not in self._place_of:
            return None
        run, index = self._place_of[item]
        item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
        result, wrong = run.wait_for(index), None
        mark = item.get_closest_marker(DRILL_MARK)
        if mark is not None:
            result, wrong = drill_result(result, mark)
            run.amend(index, result)
        receipt = run.receipt_path(index, Path(self._config.invocation_params.dir))
        for report in reports(item, result, run.timeline, receipt=receipt, lane=run.plan.lane, wrong=wrong):
            item.ihook.pytest_runtest_logreport(report=report)
        item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
        # A test of the desk before this one may have left fixtures for its module or class.
        item.session._setupstate.teardown_exact(nextitem)
        return True

    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> None:
        in_order = exitstatus in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED, pytest.ExitCode.NO_TESTS_COLLECTED)
        self.finish(interrupted=not (in_order or session.shouldstop))

    def finish(self, *, interrupted: bool) -> None:
        """Ends every box that still runs; safe to call twice."""
        for run in self._runs.values():
            if len(run.judged) < len(run.plan.tests):
                run.stop("interrupted" if interrupted else "stopped")
        for run in self._runs.values():
            run.finish(interrupted=interrupted)

    # -- what happened -------------------------------------------------------------------------------------

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        for run in self._runs.values():
            title = f"lane {run.plan.lane}" + (", dry run on CPU/gloo" if run.plan.dry_run else "")
            terminalreporter.section(title)
            for file, counts in summary_counts(list(run.judged.values())).items():
                terminalreporter.line(f"{file}: {', '.join(f'{n} {code}' for code, n in sorted(counts.items()))}")
            seconds = run.timeline.last_s
            terminalreporter.line(f"run {run.plan.run_id}, {seconds:.1f} s: {_short(run.directory.path)}")


def _end_in_order_on_sigterm() -> None:
    """A cancelled CI job gets SIGTERM; like Ctrl-C it must end the box and finish `run.json`."""
    if threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        signal.signal(signal.SIGTERM, lambda *_: pytest.exit("SIGTERM", returncode=128 + signal.SIGTERM))


def _short(path: Path) -> str:
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)
