"""Owns the lanes' part of a pytest session: waits for results in order and reports them; must not judge."""

import os
import signal
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from pytest_megacpp.desk.config.git import look, named
from pytest_megacpp.desk.config.markers import Expectation
from pytest_megacpp.desk.config.options import LaneConfig, Options, misspelt_twins
from pytest_megacpp.desk.config.prices import allowance
from pytest_megacpp.desk.gate.enforce import Gatekeeper
from pytest_megacpp.desk.hooks import signals
from pytest_megacpp.desk.hooks.announcer import Announcer, is_wanted
from pytest_megacpp.desk.hooks.lanes import LaneMarks
from pytest_megacpp.desk.hooks.rank_warnings import RankWarnings
from pytest_megacpp.desk.hooks.reports import drill_result, left_reports, reports
from pytest_megacpp.desk.hooks.timeouts import Timeouts
from pytest_megacpp.desk.hooks.unreported import unreported_lines
from pytest_megacpp.desk.run.directory import LaneDirError, RunDirectory, iso, mark_interrupted, utc_now
from pytest_megacpp.desk.run.environment import refused
from pytest_megacpp.desk.run.launch import (
    Selected,
    choose_place,
    longest_s,
    make_plan,
    rate_of,
    select,
    worst_s,
)
from pytest_megacpp.desk.run.replay import Elsewhere, Recorded
from pytest_megacpp.desk.run.session import LaneRun, climbed_lines, summary_lines
from pytest_megacpp.recording.codec import to_json
from pytest_megacpp.recording.endings import bad_endings
from pytest_megacpp.recording.events import ProblemFound, Progress, SeedChecked
from pytest_megacpp.recording.redact import Redactor
from pytest_megacpp.recording.timeline import Timeline
from pytest_megacpp.recording.vocabulary import ProblemCode, RunEnd
from pytest_megacpp.report.clean import clean, one_line
from pytest_megacpp.report.data import bucket_lines
from pytest_megacpp.report.money import cost, estimate, footer
from pytest_megacpp.report.run_json import RunMeta, RunStatus, run_json
from pytest_megacpp.report.seed import began_line, ended_lines
from pytest_megacpp.surfaces.protocol import Place
from pytest_megacpp.surfaces.registry import provider
from pytest_megacpp.surfaces.sweep import sweep

_NO_DRY_GATE = ProblemFound(
    ProblemCode.BLOCKED,
    "dry-run",
    "a gate never degrades to a dry run in silence, and there is no GPU here",
    "run it where the GPUs are, or ask for a dry run by name: --dry-run",
)
LINE_CHARS = 4_000
_GREEN = (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED)
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
        self._selected: tuple[pytest.Item, ...] = ()
        self._reported: set[pytest.Item] = set()
        self.unreported: list[pytest.Item] = []
        self._interrupted = False
        self.is_over = False
        self._chosen: Place | None = None
        self.lane_of = marks.asked_lane_of
        self.distributed = _is_distributed(config)
        mark_interrupted(self._options.lane_dir, sweep)
        self._gatekeeper = self._post_gatekeeper()
        self._made = _made_before(self._options, self._marks.asked)
        self._timeouts = Timeouts(config, lambda item: item in self._place_of)
        config.pluginmanager.register(self._timeouts, "megacpp-timeouts")
        self._warnings = RankWarnings(config)
        config.pluginmanager.register(self._warnings, "megacpp-warnings")
        wanted = is_wanted(self._options.annotations, os.environ)
        self._announcer = Announcer(config.invocation_params.dir, config.rootpath) if wanted else None

    def _post_gatekeeper(self) -> Gatekeeper | None:
        if self._options.gate_since is None:
            return None
        if self._options.replay is not None:
            raise pytest.UsageError("--gate-since with --replay makes no sense: an old recording proves no new change")
        return Gatekeeper.of(self._config, self._options, self._marks.asked, self.lane_of)

    @property
    def left(self) -> bool:
        """Whether runs were submitted and left to themselves."""
        return any(run.left for run in self._runs)

    @property
    def complaints(self) -> Sequence[str]:
        """What a gate has to say against this session."""
        return self._gatekeeper.complaints if self._gatekeeper is not None else ()

    @property
    def needed_none(self) -> bool:
        """Whether a gate needed none of the lane tests that were there."""
        return self._gatekeeper is not None and self._gatekeeper.ran_nothing_rightly

    # -- what will happen ----------------------------------------------------------------------------------

    def _where(self) -> Place:
        if self._chosen is None:
            from pytest_megacpp.box.host.preflight import devices

            self._chosen = choose_place(self._options, os.environ, lambda: len(devices().devices))
        return self._chosen

    def pytest_report_header(self) -> list[str]:
        if self._made is not None:
            return [*self._gate_header(), f"megacpp: {self._made.notice}"]
        if self._gatekeeper is not None and not self._gatekeeper.gate.triggered:
            return [*self._gate_header(), "megacpp: no rule wants a lane test to run"]
        lanes = [self._options.lanes[name] for name in self._marks.asked]
        shapes = ", ".join(f"{lane.name} ({self._options.ranks or lane.ranks} ranks of {lane.gpu})" for lane in lanes)
        return [
            *self._gate_header(),
            f"megacpp: {shapes} on {self._where().notice}",
            *(f"megacpp: {line}" for line in self._where().details),
            *(f"megacpp: {line}" for lane in lanes if (line := self._price(lane))),
            f"megacpp: seeds: {self._seeds()}",
            f"megacpp: runs in {self._options.lane_dir}",
            *(f"megacpp: {line}" for line in misspelt_twins(os.environ)),
            *(f"megacpp: {line}" for line in [signals.header_line(os.getpid())] if line),
        ]

    def _seeds(self) -> str:
        """Where compile caches are kept, and what becomes of a test whose is not warm; what they are worth to the
        selected tests is said when the box has looked.
        """
        place, options = self._where(), self._options
        asked = (
            options.cache_seed_for(None, dry_run=place.dry_run)
            or "used as found (--cache-seed auto warms up on a dry run too)"
        )
        return f"{asked}, {provider(place.surface).seeds(options)}"

    def _gate_header(self) -> list[str]:
        return [f"megacpp: {line}" for line in self._gatekeeper.header()] if self._gatekeeper else []

    # -- what is selected ----------------------------------------------------------------------------------

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if self._gatekeeper is not None:
            self._gatekeeper.note_skipped_file(report, self._config.rootpath)

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> Iterator[None]:
        collected = list(items)
        try:
            return (yield)
        finally:  # whoever leaves the session here, the gate's own selection stands
            if self._gatekeeper is not None and (refused := self._gatekeeper.sort_out(collected, items)):
                self._config.hook.pytest_deselected(items=refused)

    @pytest.hookimpl(tryfirst=True)
    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """What is selected is settled here: whoever takes a lane test out of the session later, it is missing."""
        self._selected = tuple(item for item in session.items if self.lane_of(item) is not None)
        if self._gatekeeper is not None:
            self._gatekeeper.check_selection(session.items)

    def _price(self, lane: LaneConfig) -> str:
        """What a box of the lane costs, as far as that is known before tests are; empty when it is free."""
        place, options = self._where(), self._options
        rate = rate_of(place, options, lane.name, options.ranks or lane.ranks)
        said = estimate(rate, longest_s(place, options, lane.name), options.budget_usd)
        return f"{lane.name} costs {said}" if said else ""

    # -- the session ---------------------------------------------------------------------------------------

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> Iterator[None]:
        """Starts the boxes before the first test, so that they warm up while ordinary tests run; a wrapper, because a
        conftest may run the tests in a loop of its own.
        """
        self._start_all(session)
        return (yield)

    @pytest.hookimpl(tryfirst=True)
    def pytest_keyboard_interrupt(self, excinfo: pytest.ExceptionInfo[BaseException]) -> None:
        """A second one, while other plugins hear of the first, keeps pytest from saying so by its exit code."""
        self._interrupted = isinstance(excinfo.value, KeyboardInterrupt)

    def _start_all(self, session: pytest.Session) -> None:
        failed_collection = session.testsfailed and not session.config.option.continue_on_collection_errors
        if session.config.option.collectonly or failed_collection:
            return
        if self._gatekeeper is not None and self._gatekeeper.complaints:
            session.shouldfail = "the gate is not complete, so nothing was started"
            raise session.Failed(session.shouldfail)
        _end_in_order_on_sigterm()
        of_lane = {lane: self._select(self._items(session, lane), lane) for lane in self._marks.asked}
        if self._made is not None:
            self._take(self._made, [one for selected in of_lane.values() for one in selected])
            return
        for lane, selected in of_lane.items():
            if selected:
                self._start(lane, selected)

    def _select(self, items: Sequence[pytest.Item], lane: str) -> tuple[Selected, ...]:
        must_run = self._gatekeeper.must_run if self._gatekeeper is not None else lambda item: False
        return select(items, lane, self._timeouts.limit_s, must_run)

    def _items(self, session: pytest.Session, lane: str) -> list[pytest.Item]:
        return [item for item in session.items if self._marks.lane_of(item) == lane]

    def _take(self, made: Recorded | Elsewhere, selected: Sequence[Selected]) -> None:
        if selected:
            try:
                run, index_of = made.run([one.item.nodeid for one in selected], self._say_progress)
            except LaneDirError as e:
                raise pytest.UsageError(str(e)) from e
            if isinstance(made, Elsewhere):
                run.on_progress = self._say_progress
            self._place(run, selected, index_of)

    def _place(self, run: LaneRun, selected: Sequence[Selected], index_of: Mapping[str, int]) -> None:
        drills = {one.item.nodeid: to_json(one.drill) for one in selected if one.drill is not None}
        run.meta = replace(run.meta, drills=drills)
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
        rate = rate_of(place, self._options, lane, plan.ranks)
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
            rate=rate,
        )
        unfit = refused(self._options, lane, place, os.environ)
        allowed = allowance(self._options.budget_usd, rate)
        plan = replace(plan, budget_s=allowed.run_s, revision=named(meta.git))
        run = LaneRun(plan, directory, redactor, meta)
        self._place(run, selected, {one.item.nodeid: index for index, one in enumerate(selected)})
        run.on_progress = self._say_progress
        self._say_worst(run, longest_s(place, self._options, lane))
        if unfit is not None:
            run.refuse(replace(unfit, detail=redactor.text(unfit.detail)))
        elif allowed.refusal is not None:
            run.refuse(ProblemFound(ProblemCode.BLOCKED, "budget", allowed.refusal, allowed.mend))
        elif self._gatekeeper is not None and place.dry_run and not self._options.dry_run:
            run.refuse(_NO_DRY_GATE)
        else:
            run.start(provider(place.surface).surface(self._options, _tags(run.meta, self._config)))
        if self._options.detach:
            run.leave()

    def is_through(self, item: pytest.Item) -> bool:
        """Whether a lane test can be reported without waiting."""
        placed = self._place_of.get(item)
        return placed is not None and placed.run.is_through(placed.index)

    def _say_worst(self, run: LaneRun, longest: float | None) -> None:
        said = estimate(run.meta.rate, worst_s(run.plan, longest), self._options.budget_usd)
        if said:
            self._say(f"{len(run.plan.tests)} tests of {run.plan.lane}: {said}")

    def _say_progress(self, progress: Progress | SeedChecked) -> None:
        """The cache that a run begins with; a step on the way to a box elsewhere, with its time once it is over."""
        if isinstance(progress, SeedChecked):
            self._say(began_line(progress))
        else:
            self._say(f"{progress.phase} {progress.detail or '…'}")

    def _say(self, line: str) -> None:
        reporter = self._config.pluginmanager.get_plugin("terminalreporter")
        if reporter is not None and reporter.verbosity >= 0:
            reporter.ensure_newline()
            _line(reporter, f"megacpp: {line}")

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item, nextitem: pytest.Item | None) -> bool | None:
        if item not in self._place_of:  # a lane test without a place, somebody's copy of one, never runs at the desk
            return None if self.lane_of(item) is None else True
        placed = self._place_of[item]
        run = placed.run
        item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
        if run.left:
            self._report(item, nextitem, left_reports(item, run.plan.run_id, provider(run.plan.surface).title))
            return True
        result, wrong = run.wait_for(placed.index), None
        if placed.drill is not None:
            result, wrong = drill_result(result, placed.drill)
            run.amend(placed.index, result)
        if self._gatekeeper is not None:
            self._gatekeeper.note(item, result)
        if self._announcer is not None:
            self._announcer.note(item, result, run)
        here = Path(self._config.invocation_params.dir)
        told = reports(
            item,
            result,
            run.timeline,
            receipt=run.receipt_path(placed.index, here),
            flight=run.flight_path(placed.index, here),
            lane=run.plan.lane,
            wrong=wrong,
            more=run.properties(placed.index),
            known=run.known(placed.index, here),
            drill=placed.drill is not None,
        )
        self._report(item, nextitem, told)
        self._warnings.of_test(item, run.timeline, placed.index)
        return True

    def _report(self, item: pytest.Item, nextitem: pytest.Item | None, told: Iterable[pytest.TestReport]) -> None:
        *first, last = told
        for report in (*first, _tear_down_desk(item, nextitem) or last):
            item.ihook.pytest_runtest_logreport(report=report)
        self._reported.add(item)
        item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> Iterator[None]:
        """Whatever exit code others see to, what is missing makes the session red."""
        self._finish_session(session, exitstatus)
        status = session.exitstatus
        result = yield
        if self.unreported and session.exitstatus in _GREEN:
            session.exitstatus = status
        return result

    def _finish_session(self, session: pytest.Session, exitstatus: int) -> None:
        self.is_over, stopped = True, bool(session.shouldfail or session.shouldstop)
        in_order = (exitstatus in _IN_ORDER and not self._interrupted) or (
            self.distributed and stopped and exitstatus == pytest.ExitCode.INTERRUPTED
        )
        missing, is_green = self._without_a_result(session), exitstatus in _GREEN
        if not self._interrupted and (is_green or (exitstatus == pytest.ExitCode.TESTS_FAILED and not stopped)):
            self.unreported = missing
        if self.unreported and is_green:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED
        complete = not missing or stopped or bool(self.unreported)
        if not _only_lists(session.config):
            self._close_gate(session, finished=complete and in_order and not stopped)
        for run in self._runs:
            run.meta = replace(run.meta, unreported=tuple(item.nodeid for item in self.unreported))
        self.finish(interrupted=not (complete and in_order))
        for run in self._runs:
            self._warnings.before_tests(run.timeline, run.redactor)
        if session.exitstatus == pytest.ExitCode.OK and any(run.unwritten for run in self._runs):
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def _without_a_result(self, session: pytest.Session) -> list[pytest.Item]:
        """Of the selected lane tests. Whatever a conftest or a plugin did with them, they didn't pass. What is left in
        the session at its end proves little: somebody may have emptied it, or put copies there.
        """
        if _only_lists(session.config):
            return []
        known = dict.fromkeys((*self._selected, *self._place_of))
        nodeids = {item.nodeid for item in known}
        left = [item for item in getattr(session, "items", ()) if self.lane_of(item) is not None]
        added = [item for item in left if item.nodeid not in nodeids]
        return [item for item in dict.fromkeys((*known, *added)) if item not in self._reported]

    def _close_gate(self, session: pytest.Session, *, finished: bool) -> None:
        """A gate that got less than it wants is red; one that rightly ran nothing is green."""
        keeper = self._gatekeeper
        if keeper is None:
            return
        if finished:
            keeper.check_collected()
        if finished and (self._place_of or self.unreported) and not self._options.detach:
            keeper.check_results(tuple(dict.fromkeys((*self._place_of, *self.unreported))), self._reported)
        if self._made is not None and finished:
            here = named(look(self._options.project))
            for run in self._runs:
                keeper.check_run(run.plan.run_id, run.timeline.started, here, dry=self._options.dry_run)
        for run in self._runs:
            run.meta = replace(run.meta, gate=keeper.as_json())
        if keeper.complaints and session.exitstatus in _GREEN:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED
        elif keeper.ran_nothing_rightly and session.exitstatus == pytest.ExitCode.NO_TESTS_COLLECTED:
            session.exitstatus = pytest.ExitCode.OK
        if not self._runs and (keeper.complaints or keeper.ran_nothing_rightly):
            self._record_gate_alone(keeper)

    def _record_gate_alone(self, keeper: Gatekeeper) -> None:
        """A gate without a launch leaves a `run.json`, too: what it decided, and why."""
        lane = self._marks.asked[0]
        gpu, now = self._options.lanes[lane].gpu, iso(utc_now())
        with self._directory() as directory:
            meta = RunMeta(directory.run_id, lane, self._options.surface, self._options.dry_run, 0, gpu, now, now)
            meta = replace(meta, git=look(self._options.project), gate=keeper.as_json())
            status = RunStatus.FAILED if keeper.complaints else RunStatus.PASSED
            redactor = Redactor(os.environ)
            directory.write_json("run.json", run_json(meta, status, [], {}, {}, Timeline(), redact=redactor.text))

    def finish(self, *, interrupted: bool) -> None:
        """Ends every box that still runs; safe to call twice."""
        for run in self._runs:
            if len(run.judged) < len(run.plan.tests):
                run.stop(RunEnd.INTERRUPTED if interrupted else RunEnd.STOPPED)
        for run in self._runs:
            run.finish(interrupted=interrupted)

    # -- what happened -------------------------------------------------------------------------------------

    # As a string: pytest exports the name since 8.4, and 8.2 is supported.
    def pytest_terminal_summary(self, terminalreporter: "pytest.TerminalReporter") -> None:
        if self.unreported:
            terminalreporter.section("lane tests without a result", red=True)
            for line in unreported_lines(self.unreported, self._config.pluginmanager):
                _line(terminalreporter, line, red=True)
        if self._gatekeeper is not None and (told := (*self._gatekeeper.told(), *self._gatekeeper.complaints)):
            terminalreporter.section("gate")
            for line in told:
                _line(terminalreporter, line, red=line in self._gatekeeper.complaints)
        for run in self._runs:
            title = f"lane {run.plan.lane}" + (", dry run on CPU/gloo" if run.plan.dry_run else "")
            terminalreporter.section(one_line(title, 200))
            for line in (*summary_lines(run), *climbed_lines(run)):
                _line(terminalreporter, line)
            for line in ended_lines(run.timeline):
                _line(terminalreporter, line)
            for ending in bad_endings(run.timeline):
                _line(terminalreporter, f"{ending}: see its log in {_short(run.directory.path)}/ranks", red=True)
            for line in bucket_lines(run.timeline):
                _line(terminalreporter, run.redactor.text(line), yellow=True)
            for problem in run.unwritten:
                _line(terminalreporter, problem, red=True)
            seconds, rate = run.timeline.last_s, run.meta.rate
            spent = ", ".join(part for part in (f"{seconds:.1f} s", footer(cost(seconds, rate), rate)) if part)
            _line(terminalreporter, f"run {run.plan.run_id}, {spent}: {_short(run.directory.path)}")
            if run.stays and run.timeline.finished is None and not run.timeline.problems:
                _line(terminalreporter, f"it works on without this desk: pytest --attach {run.plan.run_id}")
        if self._announcer is not None:
            self._announce(self._announcer, terminalreporter)

    def _announce(self, announcer: Announcer, terminalreporter: "pytest.TerminalReporter") -> None:
        """GitHub reads commands from the beginning of a line."""
        keeper = self._gatekeeper
        announcer.complain(keeper.complaints if keeper else ())
        notes = [*keeper.header(), *keeper.told()] if keeper else []
        unwritten = announcer.write_summary(self._runs, [note.strip() for note in notes])
        terminalreporter.ensure_newline()
        for line in (*announcer.lines(), *([unwritten] if unwritten else [])):
            terminalreporter.write_line(line)


def _line(reporter: "pytest.TerminalReporter", text: str, **markup: bool) -> None:
    """What a box or a rank wrote of it must not act on a terminal, or as a command of a workflow."""
    reporter.line(clean(text).replace("\n", " ")[:LINE_CHARS], **markup)


def _is_distributed(config: pytest.Config) -> bool:
    """As pytest-xdist itself decides, once it has read its options."""
    option = config.option
    return bool(getattr(option, "dist", "no") != "no" and getattr(option, "tx", None)) and not option.collectonly


def _only_lists(config: pytest.Config) -> bool:
    """Whether pytest was asked for what it knows, and runs no test."""
    names = ("collectonly", "showfixtures", "show_fixtures_per_test", "cacheshow")
    return any(getattr(config.option, name, None) for name in names)


def _made_before(options: Options, lanes: Sequence[str]) -> Recorded | Elsewhere | None:
    if options.replay is not None:
        return Recorded(options, options.replay)
    return Elsewhere(options, options.attach, lanes) if options.attach is not None else None


def _tags(meta: RunMeta, config: pytest.Config) -> dict[str, str]:
    """What tells runs apart in an account that many projects share."""
    revision = meta.git.revision
    return {"suite": config.rootpath.name, **({"revision": revision} if revision else {})}


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
