"""Owns pytest inside one rank: the user's own session, driven test by test by the box; must not judge.

Every report leaves the rank at once, before the next phase begins, without asking a peer.
"""

import contextlib
import hashlib
import os
import sys
import threading
import time
import traceback
import types
import warnings
from collections.abc import Generator, Iterator
from dataclasses import replace
from typing import Any, NoReturn

import pytest

from pytest_megacpp.rank.agent import Agent
from pytest_megacpp.rank.collection import most_telling, other_parameters
from pytest_megacpp.rank.coverage_data import CoverageData
from pytest_megacpp.rank.crash import CrashLine
from pytest_megacpp.rank.debugger import RankDebugger
from pytest_megacpp.rank.default_group import DefaultGroup, nothing_in_flight
from pytest_megacpp.rank.errors import describe, rendered
from pytest_megacpp.rank.hot_reads import HotReads
from pytest_megacpp.rank.lane import Lane
from pytest_megacpp.rank.observers import Counters, Observers
from pytest_megacpp.rank.own_pytest import OwnPytest
from pytest_megacpp.rank.python_warnings import Warnings
from pytest_megacpp.rank.reports import outcome_of, properties_of, sections_of, shown, skip_of, unrendered
from pytest_megacpp.rank.snapshots import Snapshots
from pytest_megacpp.recording.events import (
    CollectError,
    Error,
    Finished,
    PhaseStarted,
    RankCollected,
    Reported,
    ThreadRaised,
)
from pytest_megacpp.recording.numbers import Numbers
from pytest_megacpp.recording.plan import Go, Plan
from pytest_megacpp.recording.texts import beginning, text_of
from pytest_megacpp.recording.vocabulary import FlightOrigin, ReportOutcome, TestPhase

KEPT_ERRORS = 256  # of collection; cut to 200 characters each, as many as this fit into a line whatever they hold
KEPT_SKIPPED = 64
SETTLE_LOOKS = 20
DEBUGGED_S = 7 * 86_400.0  # groups wait for a rank that somebody debugs
SETTLE_S = 0.001
_PHASES = frozenset(TestPhase)


class RankSession(OwnPytest):
    """The pytest plugin of one rank."""

    def __init__(self, agent: Agent, observers: Observers, crash: CrashLine, plan: Plan) -> None:
        super().__init__()
        self.agent = agent
        self.observers = observers
        self.crash = crash
        self.plan = plan
        self.hot_reads = HotReads(agent, plan.data)
        self.hot_reads.install()
        self.warnings = Warnings(agent)
        self.collected = False
        self.gave_up: BaseException | None = None  # what ended pytest before it had collected
        self.released = False  # the box let this rank go; an end without it is the test's doing
        self._snapshots = Snapshots(agent.rank)
        self._coverage = CoverageData(is_wanted=plan.coverage)
        self._debugger = RankDebugger(agent, plan.debugger, lambda: observers.test)
        self._fixture = _fixture(plan.lane)
        self._items: dict[int, pytest.Item] = {}
        self._errors: list[CollectError] = []
        self._skipped: list[CollectError] = []
        self._group = DefaultGroup(observers)
        self._go: Go | None = None
        self._raised: tuple[float, Error] | None = None
        self._failed = False  # the test that runs, in any phase
        self._current = TestPhase.CALL

    # -- start ---------------------------------------------------------------------------------------------

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_load_initial_conftests(self, early_config: pytest.Config) -> Generator[None, object, object]:
        self._coverage.begin(early_config.known_args_namespace)
        return (yield from super().pytest_load_initial_conftests(early_config))

    @pytest.hookimpl(trylast=True)
    def pytest_configure(self) -> None:
        self.crash.use()
        self._snapshots.begin()

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:
            self._errors.append(CollectError(report.nodeid or ".", shown(report)))
        elif report.skipped and isinstance(report.longrepr, tuple):
            self._skipped.append(CollectError(report.nodeid or ".", beginning(text_of(report.longrepr[-1]), 1_000)))

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_collection(self, session: pytest.Session) -> Iterator[None]:
        result = yield
        self._announce(session)
        return result

    def pytest_warning_recorded(self, warning_message: warnings.WarningMessage, when: str) -> None:
        self.warnings.report(warning_message, when)

    def pytest_internalerror(self, excinfo: pytest.ExceptionInfo[BaseException]) -> None:
        self.gave_up = self.gave_up or excinfo.value

    def pytest_keyboard_interrupt(self, excinfo: pytest.ExceptionInfo[BaseException]) -> None:
        self.gave_up = self.gave_up or excinfo.value

    def _announce(self, session: pytest.Session) -> None:
        by_nodeid = {item.nodeid: item for item in session.items}
        nodeids = [test.nodeid for test in self.plan.tests]
        self._items = {i: by_nodeid[n] for i, n in enumerate(nodeids) if n in by_nodeid}
        found = "\n".join(nodeids[i] for i in self._items).encode(errors="surrogateescape")  # of files with odd names
        digest = hashlib.sha256(found).hexdigest()[:16]
        self.collected = True
        with_lane = (i for i, item in self._items.items() if self._fixture in getattr(item, "fixturenames", ()))
        lacking = [nodeid for nodeid in nodeids if nodeid not in by_nodeid]
        self.agent.send(
            RankCollected(
                self.agent.rank,
                Numbers(self._items),
                digest,
                most_telling(self._errors, lacking, KEPT_ERRORS),
                Numbers(with_lane),
                most_telling(self._skipped, lacking, KEPT_SKIPPED),
                other_parameters(nodeids, by_nodeid.keys()),
            )
        )

    # -- tests ---------------------------------------------------------------------------------------------

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        while isinstance(go := self.agent.receive(), Go):
            self._run(go)
            if self.agent.is_forked:
                self._end_child()
        self.released = True
        return True

    def _end_child(self) -> NoReturn:
        """Ends a forked child that came back from its test, with the status that pytest would give it."""
        try:
            sys.stdout.flush()
            sys.stderr.flush()
        finally:
            os._exit(pytest.ExitCode.TESTS_FAILED if self._failed else pytest.ExitCode.OK)

    def _run(self, go: Go) -> None:
        item = self._items[go.item]
        following = self._items.get(go.next_item) if go.next_item is not None else None
        self._go, self.observers.test, self._failed = go, go.test, False
        self.observers.issued.begin()
        self.observers.handling.begin()
        self._apply_purpose(go)
        is_debugged = self.plan.debugger is not None
        self.observers.patience.begin(replace(go.limits, test=DEBUGGED_S) if is_debugged else go.limits)
        try:  # the box may have left out the test that the last teardown prepared for
            item.session._setupstate.teardown_exact(item)
        except Exception:
            traceback.print_exc()
        self._group.prepare(go)
        self._watch_threads()
        self.observers.compile_counts.begin()
        before = self.observers.counters()
        self.hot_reads.begin(go.test)
        self.warnings.begin(go.test)
        try:
            item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
        except (KeyboardInterrupt, pytest.exit.Exception) as e:
            self._report_beside(go, e)
            raise
        except BaseException as e:  # a plugin's hook: pytest would end its session, here the world ends after a failure
            self._report_beside(go, e)
        self.hot_reads.end()
        try:
            self._snapshots.test_is_over(item.session)
            self._coverage.test_is_over()
        except Exception as e:
            self._report_beside(go, e)
        self.observers.send_compiled()
        with contextlib.suppress(Exception):
            self.observers.check_recorders()
        counted = self._settled_counters()
        clean, foreign = self._group.after_test(counted)
        entered, completed = (sum(c[i] - before.get(pg, (0, 0))[i] for pg, c in counted.items()) for i in (0, 1))
        digests, missed = self.observers.finished()
        issued = self.observers.issued
        fact = Finished(
            rank=self.agent.rank,
            test=go.test,
            group_clean=clean,
            group_foreign=foreign,
            entered=entered,
            completed=completed,
            digests=digests,
            missed=missed,
            left_open=entered > completed,
            gave_up=issued.gave_up,
            running=tuple(issued.running()),
        )
        self.agent.send(fact)
        self.observers.test = None

    def _apply_purpose(self, go: Go) -> None:
        """Applies what this attempt asks of its processes; its world has no other test."""
        if go.detail:
            import torch.distributed as dist

            os.environ["TORCH_DISTRIBUTED_DEBUG"] = "DETAIL"
            dist.set_debug_level(dist.DebugLevel.DETAIL)  # type: ignore[attr-defined]
        if go.cold:
            empty = os.path.join(os.path.dirname(os.environ["MEGACPP_TMP"]), f"cold-{os.environ['MEGACPP_WORLD']}")
            os.environ["TORCHINDUCTOR_CACHE_DIR"] = os.path.join(empty, "inductor")
            os.environ["TRITON_CACHE_DIR"] = os.path.join(empty, "triton")

    def _watch_threads(self) -> None:
        """Reports at once what ends a thread: pytest keeps it to itself until the phase is over, which may never be."""
        previous = threading.excepthook
        if getattr(previous, "is_megacpp", False):
            return

        def hook(args: threading.ExceptHookArgs, /) -> None:
            self._thread_raised(args)
            previous(args)

        hook.is_megacpp = True  # type: ignore[attr-defined]
        threading.excepthook = hook

    def _thread_raised(self, args: threading.ExceptHookArgs) -> None:
        error = args.exc_value
        if error is None:
            return
        described = describe(error, rendered(error))
        name = args.thread.name if args.thread is not None else ""
        self.agent.send(ThreadRaised(self.agent.rank, self.observers.test, name, described))

    def _report_beside(self, go: Go, error: BaseException) -> None:
        """Reports an exception of which pytest makes no report: it ends a session. The rank that raised it reports it
        before that.
        """
        self._failed = True
        described = describe(error, rendered(error, limit=-2))
        self.agent.send(Reported(self.agent.rank, go.test, self._current, ReportOutcome.FAILED, 0.0, described))

    def _settled_counters(self) -> Counters:
        """Returns the counters once they are settled: another thread retires a finished collective a moment after the
        call returned.
        """
        counted = self.observers.counters()
        for _ in range(SETTLE_LOOKS):
            if nothing_in_flight(counted):
                break
            time.sleep(SETTLE_S)
            counted = self.observers.counters()
        return counted

    def lane(self) -> Lane:
        """Returns the handle for the test that asks; initialises the default process group."""
        assert self._go is not None
        lane = Lane(self.agent, self.observers.patience, self._go, self.plan)
        if lane.ensure_group():
            self._group.made_by_plugin()
        return lane

    def pytest_enter_pdb(self, pdb: Any) -> None:
        self._debugger.enter(pdb)

    def pytest_exception_interact(self, node: pytest.Item | pytest.Collector, call: pytest.CallInfo[Any]) -> None:
        if self._go is not None and call.excinfo is not None:
            self._debugger.examine(call.excinfo, node.config)

    @pytest.hookimpl(tryfirst=True, optionalhook=True)
    def pytest_timeout_set_timer(self) -> bool:
        """Keeps pytest-timeout from setting a timer: the box watches the limits of all ranks."""
        return True

    # -- reports -------------------------------------------------------------------------------------------

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> Iterator[None]:
        self._phase(TestPhase.SETUP)
        yield

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Iterator[None]:
        self._phase(TestPhase.CALL)
        self._group.before_call()
        with self.observers.first_forwards():
            yield

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_teardown(self, item: pytest.Item) -> Iterator[None]:
        self._phase(TestPhase.TEARDOWN)
        yield

    def _phase(self, phase: TestPhase) -> None:
        """Announces a phase. The beginning of set-up travels with what follows; a rank that never gets further shows no
        phase at all.
        """
        self._current = phase
        if self._go is not None:
            begun = PhaseStarted(self.agent.rank, self._go.test, phase.value)
            self.agent.send(begun, hold=phase is TestPhase.SETUP)

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_makereport(self, item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
        at_s = self.agent.now_s()
        try:
            report: pytest.TestReport = yield  # type: ignore[assignment]
        except Exception as e:
            if call.excinfo is None:
                raise
            report = unrendered(item, call, e)
        self._raised = None
        if call.excinfo is not None:
            self._raised = at_s, describe(call.excinfo.value, text_of(report.longrepr), call.excinfo)
        return report  # type: ignore[return-value]

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if self._go is None:
            return
        at_s, error = self._raised or (None, None)
        outcome, phase = outcome_of(report), self._phase_of(report)
        xfail = getattr(report, "wasxfail", None)
        failed = outcome is ReportOutcome.FAILED
        self._failed |= failed
        if self.agent.is_forked:
            sys.stderr.write(f"{shown(report)}\n" if failed else "")  # nobody else hears of it
            return
        if failed:
            self.observers.send_flight_record(FlightOrigin.FAILURE, at_s)
        fact = Reported(
            rank=self.agent.rank,
            test=self._go.test,
            when=phase,
            outcome=outcome,
            duration_s=round(report.duration, 6),
            error=(error or Error("", shown(report), "", 0, "")) if failed else error if xfail is not None else None,
            skip=skip_of(report),
            xfail=xfail,
            sections=sections_of(report),
            properties=properties_of(report) if phase is TestPhase.TEARDOWN else {},
        )
        self.agent.send(fact, at_s, hold=not failed)

    def _phase_of(self, report: pytest.TestReport) -> TestPhase:
        """Returns the phase that a report counts for. A plugin's report of something else counts for the phase that the
        test is in.
        """
        return TestPhase(report.when) if report.when in _PHASES else self._current


def _fixture(lane: str) -> str:
    return f"modal_{lane}"


def lane_fixture(session: RankSession) -> types.ModuleType:
    """Returns a plugin with the lane's fixture."""
    name = _fixture(session.plan.lane)

    @pytest.fixture(name=name)
    def modal_lane() -> Lane:
        """The lane handle of this rank."""
        return session.lane()

    plugin = types.ModuleType(f"megacpp-{name}")
    setattr(plugin, name, modal_lane)
    return plugin
