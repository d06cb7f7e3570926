"""Owns the lanes' part of a pytest session: waits for results in order and reports them; must not judge."""

import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from pytest_megacpp.desk.config.declarations import misspelt_variables
from pytest_megacpp.desk.config.lanes import LaneConfig
from pytest_megacpp.desk.config.options import Options
from pytest_megacpp.desk.gate.enforce import Gatekeeper
from pytest_megacpp.desk.hooks import signals
from pytest_megacpp.desk.hooks.calls import call_of
from pytest_megacpp.desk.hooks.gate_end import close_gate
from pytest_megacpp.desk.hooks.lanes import LaneMarks
from pytest_megacpp.desk.hooks.launcher import Launcher, Placed
from pytest_megacpp.desk.hooks.phases import Phases, red_if_overruled
from pytest_megacpp.desk.hooks.rank_warnings import RankWarnings
from pytest_megacpp.desk.hooks.reporters import reporters
from pytest_megacpp.desk.hooks.reports import drill_result, missed_reports, reports_of, skipped_reports
from pytest_megacpp.desk.hooks.selection import Selection, only_lists
from pytest_megacpp.desk.hooks.short_summary import ShortSummary
from pytest_megacpp.desk.hooks.summary import failure_lines, lines_cut_off
from pytest_megacpp.desk.hooks.terminal import write
from pytest_megacpp.desk.hooks.unreported import unreported_lines
from pytest_megacpp.desk.run.artefacts import Artefacts, encoded
from pytest_megacpp.desk.run.directory import replace_file
from pytest_megacpp.desk.run.interrupted import mark_interrupted
from pytest_megacpp.desk.run.launch import choose_place, longest_s, rate_of
from pytest_megacpp.desk.run.session import LaneRun
from pytest_megacpp.desk.source.nodes import as_case, module_of
from pytest_megacpp.judge.verdicts import Verdict
from pytest_megacpp.recording.events import SourceRead
from pytest_megacpp.recording.redact import Redactor
from pytest_megacpp.recording.vocabulary import RunEnd
from pytest_megacpp.report.money import estimate
from pytest_megacpp.report.reporter import Content, GateResults, Line, RunResults, SessionResults
from pytest_megacpp.report.source import NotRun, not_run, source_complaints
from pytest_megacpp.surfaces.protocol import Place
from pytest_megacpp.surfaces.registry import provider
from pytest_megacpp.surfaces.sweep import sweep

_GREEN = (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED)
_UNREAD_SETUP = "its fixtures are not known here: the file could only be read"
_NO_SETUP = "its fixtures are set up by ranks, and --setup-only starts no box; --setup-plan shows them without one"
_LEFT_OUT = "-k or -m selects none of its cases at the box"
_DIFFERING = "its marks at the box have other arguments than those that could be read from the source"
_IN_ORDER = (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED, pytest.ExitCode.NO_TESTS_COLLECTED)


class LaneRunner:
    """Registered when a lane was asked for. One box per lane; it starts before the first test of the session."""

    def __init__(self, config: pytest.Config, marks: LaneMarks) -> None:
        self._config = config
        self._marks = marks
        self._options = marks.options
        self._reported: set[pytest.Item] = set()
        self.unreported: list[pytest.Item] = []
        self.further_cases = 0  # of tests that were one here and several at the box
        self._interrupted = False
        self._interrupted_by = ""
        self.is_over = False
        self._chosen: Place | None = None
        self.lane_of = marks.asked_lane_of
        self.distributed = _is_distributed(config)
        mark_interrupted(self._options.lane_dir, sweep)
        self._gatekeeper = self._post_gatekeeper()
        self._reporters = reporters(self._options, config)
        self._artefacts = Artefacts(self._reporters, self._write, Redactor(os.environ).text)
        self._closing: list[Line] = []
        self._is_summed_up = False
        self._launcher = Launcher(config, marks, self._gatekeeper, self._reporters, self._where)
        self._selection = Selection(config, self.lane_of, self._gatekeeper)
        config.pluginmanager.register(self._selection, "megacpp-selection")
        self._phases = Phases(config)
        config.pluginmanager.register(self._phases, "megacpp-phases")
        self._warnings = RankWarnings(config)
        config.pluginmanager.register(self._warnings, "megacpp-warnings")
        config.pluginmanager.register(ShortSummary(config), "megacpp-short-summary")

    def _post_gatekeeper(self) -> Gatekeeper | None:
        if self._options.gate_since is None:
            return None
        if self._options.replay is not None:
            raise pytest.UsageError(
                "--gate-since and --replay exclude each other: an old recording proves nothing about a new change"
            )
        return Gatekeeper.of(self._config, self._options, self._marks.asked, self.lane_of)

    @property
    def left(self) -> bool:
        """Whether runs were submitted and left to themselves."""
        return any(run.left for run in self._launcher.runs)

    @property
    def beyond(self) -> int:
        """How many lane tests the box has in files that were read here, and did not run, since nobody read them so."""
        return sum(one.differing_count + one.more_count for one in self._not_run())

    def _not_run(self) -> list[NotRun]:
        """What boxes have otherwise than it was read, by lane: several boxes of one have read the same files."""
        of_lane: dict[str, list[SourceRead]] = defaultdict(list)
        for run in self._launcher.runs:
            if run.timeline.source is not None:
                of_lane[run.plan.lane].append(run.timeline.source)
        return [not_run(found) for found in of_lane.values()]

    @property
    def complaints(self) -> Sequence[str]:
        """Why a gate makes this session red."""
        return self._gatekeeper.complaints if self._gatekeeper is not None else ()

    @property
    def needed_none(self) -> bool:
        """Whether a gate needed none of the lane tests that were there."""
        return self._gatekeeper is not None and self._gatekeeper.ran_nothing_rightly

    # -- what will happen ----------------------------------------------------------------------------------

    def _where(self) -> Place:
        if self._chosen is None:
            from pytest_megacpp.box.gpus.devices import devices

            self._chosen = choose_place(self._options, os.environ, lambda: len(devices().devices))
        return self._chosen

    def pytest_report_header(self) -> list[str]:
        if self._launcher.existing is not None:
            return [*self._gate_header(), f"megacpp: {self._launcher.existing.notice}"]
        if self._gatekeeper is not None and not self._gatekeeper.gate.triggered:
            return [*self._gate_header(), "megacpp: no rule wants a lane test to run"]
        lanes = [self._options.lanes[name] for name in self._marks.asked]
        several = f" on each of up to {self._options.boxes} boxes" if self._options.boxes > 1 else ""
        shapes = ", ".join(
            f"{lane.name} ({self._options.ranks or lane.ranks} ranks of {lane.gpu}{several})" for lane in lanes
        )
        try:
            place = self._where()
        except pytest.UsageError as e:
            if not only_lists(self._config):
                raise
            return [*self._gate_header(), f"megacpp: {shapes}: {e}"]
        return [
            *self._gate_header(),
            f"megacpp: {shapes} on {place.notice}",
            *(f"megacpp: {line}" for line in place.details),
            *(f"megacpp: {line}" for lane in lanes if (line := self._price(lane))),
            f"megacpp: seeds: {self._seeds()}",
            f"megacpp: runs in {self._options.lane_dir}",
            *(f"megacpp: {line}" for line in misspelt_variables(Options, os.environ)),
            *(f"megacpp: {line}" for line in [signals.header_line(os.getpid())] if line),
        ]

    def _seeds(self) -> str:
        """Where compile caches are kept, and what becomes of a test whose is not warm; how much of the
        selected tests they cover is shown once the box has checked.
        """
        place, options = self._where(), self._options
        asked = (
            options.cache_seed_for(None, dry_run=place.dry_run)
            or "used as found (--cache-seed auto warms up on a dry run too)"
        )
        return f"{asked}, {provider(place.surface, options.tables).seeds(options)}"

    def _gate_header(self) -> list[str]:
        return [f"megacpp: {line}" for line in self._gatekeeper.header()] if self._gatekeeper else []

    def _price(self, lane: LaneConfig) -> str:
        """What a box of the lane costs, as far as that is known before tests are; empty when it is free."""
        place, options = self._where(), self._options
        rate = rate_of(place, options, lane.name, options.ranks or lane.ranks)
        price = estimate(rate, longest_s(place, options, lane.name), options.sharing_budget(options.boxes).lane_budget)
        each = " for each box" if options.boxes > 1 else ""
        return f"{lane.name} costs {price}{each}" if price else ""

    # -- the session ---------------------------------------------------------------------------------------

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> Iterator[None]:
        """Starts the boxes before the first test, so that they warm up while ordinary tests run; a wrapper, because a
        conftest may run the tests in a loop of its own.
        """
        failed_collection = session.testsfailed and not session.config.option.continue_on_collection_errors
        if not only_lists(session.config) and not failed_collection:
            self._launcher.start_all(session)
        return (yield)

    @pytest.hookimpl(tryfirst=True)
    def pytest_keyboard_interrupt(self, excinfo: pytest.ExceptionInfo[BaseException]) -> None:
        """A second one, while other plugins handle the first, keeps pytest from returning the exit code for it."""
        self._interrupted = isinstance(excinfo.value, KeyboardInterrupt)
        self._interrupted_by = signals.interruption(excinfo.value)

    def is_through(self, item: pytest.Item) -> bool:
        """Whether a lane test can be reported without waiting."""
        placed = self._launcher.placed.get(item)
        return placed is not None and placed.run.is_through(placed.number)

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item, nextitem: pytest.Item | None) -> bool | None:
        if self.lane_of(item) is not None and self._config.getoption("setuponly", False):
            return self._show_setup(item, nextitem)
        placed = self._launcher.placed.get(item)
        if placed is None:  # a lane test without a place, such as a copy of one, never runs at the desk
            return None if self.lane_of(item) is None else True
        run = placed.run
        if run.left:
            self._begin(item)
            title = provider(run.plan.surface, self._options.tables).title
            why = f"it runs on {title}; its result: pytest --attach {run.plan.run_id}"
            self._report(item, nextitem, skipped_reports(item, why), None)
            return True
        cases = run.cases_of(placed.number)
        item.session.testscollected += max(len(cases) - 1, 0)
        self.further_cases += max(len(cases) - 1, 0)
        for index in cases:
            self._report_case(item, nextitem, placed, index)
            if item.session.shouldfail or item.session.shouldstop:
                break
        if not cases:
            self._report_nothing(item, nextitem, placed)
        return True

    def _begin(self, item: pytest.Item) -> None:
        item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
        self._phases.set_up(item)

    def _report_case(self, item: pytest.Item, nextitem: pytest.Item | None, placed: Placed, index: int) -> None:
        """`item`: the one that was selected. What is reported is the case's own."""
        run = placed.run
        case = as_case(item, run.results().nodeids[index])
        self._begin(case)
        self._phases.call(case, lambda: run.wait_for(index))
        result = run.judged[index]
        if placed.drill is not None:
            result = drill_result(result, placed.drill)
            run.amend(index, result)
        if self._gatekeeper is not None:
            self._gatekeeper.note(item, result)
        run.reported.append(index)
        self._report(case, nextitem, self._reports(case, placed, index), result.verdict, selected=item)
        self._warnings.of_test(case, run.timeline, index)
        if _has_quit_debugger(run, index):
            item.session.shouldstop = "Quitting debugger"

    def _report_nothing(self, item: pytest.Item, nextitem: pytest.Item | None, placed: Placed) -> None:
        """Of a test that was read from its source, and of which the box runs no case."""
        source = placed.run.timeline.source
        is_left_out = source is not None and placed.number in source.left_out
        if is_left_out and self._gatekeeper is not None:
            self._gatekeeper.note_left_out(item)
        self._begin(item)
        made = skipped_reports(item, _LEFT_OUT) if is_left_out else missed_reports(item, _DIFFERING)
        self._report(item, nextitem, made, None)

    def _show_setup(self, item: pytest.Item, nextitem: pytest.Item | None) -> bool | None:
        """pytest itself shows a plan, with fixtures that it makes up; real ones are set up by ranks only."""
        if self._config.getoption("setupplan", False) and module_of(item) is None:
            return None
        why = _NO_SETUP if module_of(item) is None else _UNREAD_SETUP
        item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
        self._report(item, nextitem, skipped_reports(item, why), None)
        return True

    def _reports(self, item: pytest.Item, placed: Placed, index: int) -> Iterable[pytest.TestReport]:
        run, here = placed.run, Path(self._config.invocation_params.dir)
        properties, is_drill = run.properties(index), placed.drill is not None
        return reports_of(item, run.results(), index, here, properties, drill=is_drill)

    def _report(
        self,
        item: pytest.Item,
        nextitem: pytest.Item | None,
        made: Iterable[pytest.TestReport],
        verdict: Verdict | None,
        selected: pytest.Item | None = None,
    ) -> None:
        """`selected` has a result by this, where `item` is a case of it."""
        *first, last = ((report, call_of(report, verdict, self._config)) for report in made)
        self._launcher.debugging.take_back()
        self._launcher.terminal.resume()
        for report, call in first:
            self._phases.report(item, report, call)
        self._phases.tear_down(item, nextitem)
        self._phases.report(item, *(_tear_down_desk(item, nextitem) or last))
        self._reported.add(selected or item)
        item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> Iterator[None]:
        """Whatever exit code others see to, what is missing makes the session red."""
        self._finish_session(session, exitstatus)
        status = session.exitstatus
        result = yield
        is_lacking = self.unreported or self.beyond or self._phases.overruled
        if session.exitstatus in _GREEN and (is_lacking or status in _GREEN):  # syrupy puts back what it was before
            session.exitstatus = status
        self._sum_up_if_pytest_does_not()
        return result

    def _finish_session(self, session: pytest.Session, exitstatus: int) -> None:
        self.is_over, stopped = True, bool(session.shouldfail or session.shouldstop)
        self._launcher.terminal.results_are_over()
        in_order = (exitstatus in _IN_ORDER and not self._interrupted) or (
            self.distributed and stopped and exitstatus == pytest.ExitCode.INTERRUPTED
        )
        missing = self._selection.without_a_result(session, self._launcher.placed, self._reported)
        is_green = exitstatus in _GREEN
        if not self._interrupted and (is_green or (exitstatus == pytest.ExitCode.TESTS_FAILED and not stopped)):
            self.unreported = missing
        if (self.unreported or self.beyond) and is_green:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED
        complete = not missing or stopped or bool(self.unreported)
        if self._gatekeeper is not None and not only_lists(session.config):
            finished = complete and in_order and not stopped
            keeper, launcher, unreported = self._gatekeeper, self._launcher, self.unreported
            close_gate(keeper, session, launcher, self._options, unreported, self._reported, finished=finished)
        for run in self._launcher.runs:
            source = run.timeline.source
            beyond = (*source.differing, *source.more) if source is not None else ()
            run.meta = replace(run.meta, unreported=(*(item.nodeid for item in self.unreported), *beyond))
        self.finish(interrupted=not (complete and in_order))
        for run in self._launcher.runs:
            self._warnings.before_tests(run.timeline, run.redactor)
        self._close()
        is_overruled = red_if_overruled(self._phases.overruled, is_gated=self._gatekeeper is not None)
        if is_overruled and session.exitstatus in _GREEN:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED
        if session.exitstatus == pytest.ExitCode.OK and any(run.unwritten for run in self._launcher.runs):
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def _close(self) -> None:
        """Asks reporters for the end of the session; their lines wait for pytest's summary. A report that fails now
        costs a line only: `run.json` is written, and has to agree with the exit code.
        """
        keeper = self._gatekeeper
        gate = GateResults(keeper.header(), keeper.notes(), tuple(keeper.complaints)) if keeper is not None else None
        unreported = tuple(unreported_lines(self.unreported, self._config.pluginmanager)) if self.unreported else ()
        unreported += tuple(source_complaints(self._not_run()))
        overruled = tuple(self._phases.lines())
        results = SessionResults([run.results() for run in self._launcher.runs], gate, unreported, overruled)
        shown = self._artefacts.ask(lambda reporter: reporter.closing(results))
        self._closing = [line for line in shown if isinstance(line, Line)]

    def _write(self, path: str, content: Content) -> None:
        target = self._options.lane_dir / path
        target.parent.mkdir(parents=True, exist_ok=True)
        replace_file(target, encoded(content, target))

    def finish(self, *, interrupted: bool) -> None:
        """Ends every box that still runs; safe to call twice."""
        self._launcher.debugging.take_back()
        for run in self._launcher.runs:
            if len(run.judged) < len(run.plan.tests):
                run.stop(RunEnd.INTERRUPTED if interrupted else RunEnd.STOPPED, self._interrupted_by)
        for run in self._launcher.runs:
            run.finish(interrupted=interrupted)
        self._close_joint_runs()

    def _close_joint_runs(self) -> None:
        """Once the runs of their boxes are written; twice does no harm."""
        while self._launcher.joint:
            joint = self._launcher.joint.pop()
            try:
                joint.close()
            except OSError as e:
                self._artefacts.note(f"{joint.name} could not be written: {e.strerror or e}")

    # -- what happened -------------------------------------------------------------------------------------

    # As a string: pytest exports the name since 8.4, and 8.2 is supported.
    def pytest_terminal_summary(self, terminalreporter: "pytest.TerminalReporter") -> None:
        """pytest itself names the failures that it has got; the one that ran when the session was ended is none."""
        self._is_summed_up = True
        self._sum_up(terminalreporter, "interrupted lane tests", lines_cut_off)

    def _sum_up(
        self, reporter: "pytest.TerminalReporter", title: str, failures: Callable[[RunResults], Iterable[Line]]
    ) -> None:
        """`failures` of all runs below a title of their own, then what reporters have to say."""
        named = [line for run in self._launcher.runs for line in failures(run.results())]
        heading = [Line(title, title=True, red=True)] if named else []
        problems = (Line(problem, red=True) for problem in self._artefacts.unwritten)
        for line in (*heading, *named, *self._closing, *problems):
            write(reporter, line)

    def _sum_up_if_pytest_does_not(self) -> None:
        """Of a cancelled job (exit code 143) and after an error of its own, pytest shows no failure, and asks no plugin
        for its summary: the log would say neither what failed, nor where the evidence is.
        """
        reporter = self._config.pluginmanager.get_plugin("terminalreporter")
        if self._is_summed_up or reporter is None or getattr(reporter, "no_summary", False):
            return
        self._sum_up(reporter, "failing lane tests", failure_lines)


def _has_quit_debugger(run: LaneRun, index: int) -> bool:
    """As pytest ends a session whose debugger somebody quits."""
    view = run.timeline.tests.get(run.judged[index].number)
    return run.plan.debugger is not None and view is not None and any(r.quit_debugger for r in view.ranks.values())


def _is_distributed(config: pytest.Config) -> bool:
    """As pytest-xdist itself decides, once it has read its options."""
    option = config.option
    return bool(getattr(option, "dist", "no") != "no" and getattr(option, "tx", None)) and not option.collectonly


def _tear_down_desk(
    item: pytest.Item, nextitem: pytest.Item | None
) -> tuple[pytest.TestReport, pytest.CallInfo[None]] | None:
    """A test of the desk before this one may have left fixtures for its module or class; a report if one fails."""
    call = pytest.CallInfo.from_call(
        lambda: item.session._setupstate.teardown_exact(nextitem),
        when="teardown",
        reraise=(pytest.exit.Exception, KeyboardInterrupt),
    )
    return (pytest.TestReport.from_item_and_call(item, call), call) if call.excinfo is not None else None
