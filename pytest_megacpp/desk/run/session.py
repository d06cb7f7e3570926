"""Owns one lane's run at the desk, from the plan to judged tests and their reports; must not know pytest's hooks.

The box is on the other side of a `Transport`, further attempts are ordered by `Orders`, and what is written of results
is up to the reporters, which `Artefacts` asks.
"""

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from types import MappingProxyType

from pytest_megacpp.desk.run.artefacts import Artefacts, Reporting, encoded
from pytest_megacpp.desk.run.directory import RunDirectory, iso, utc_now
from pytest_megacpp.desk.run.leftovers import clean
from pytest_megacpp.desk.run.orders import Orders
from pytest_megacpp.desk.run.transport import POLL_S, Transport
from pytest_megacpp.judge.arbiter import judge_run, judge_test
from pytest_megacpp.judge.verdicts import TestResult
from pytest_megacpp.recording.events import Debugged, Event, ProblemFound, Progress, RunFinished, SourceRead, TestEnded
from pytest_megacpp.recording.plan import Plan
from pytest_megacpp.recording.redact import Redactor
from pytest_megacpp.recording.timeline import Timeline
from pytest_megacpp.recording.vocabulary import BoxStep, ProblemCode, RunEnd
from pytest_megacpp.report.money import cost
from pytest_megacpp.report.receipt import receipt_names
from pytest_megacpp.report.reporter import Board, Content, Line, Moment, RunResults
from pytest_megacpp.report.run_json import Ids, RunMeta, RunStatus, run_status
from pytest_megacpp.report.source import source_lines
from pytest_megacpp.surfaces.protocol import RunningBox, Surface, SurfaceFailed
from pytest_megacpp.surfaces.registry import is_remote

DONE_S = 600.0  # for a box that has run all tests: it may pack a large compile cache
RUNNING_S = 0.25  # between two questions to reporters while the desk waits


class LaneRun:
    """One box and what comes of it. `judged` goes by the plan's index, as do `reported`, the tests whose result pytest
    has got, and `defined_at`, where each is. `stands_for`: the tests that one of the desk's plan is, where that isn't
    just the one with its number (`cases_of`).

    `beside` are the session's other runs, which are read while this one is waited for. `left`: the box goes on
    without this desk. `stays`: it would, if this desk ended now. `on_progress` gets each step
    on the way to a box elsewhere.
    """

    def __init__(
        self,
        directory: RunDirectory,
        redactor: Redactor,
        meta: RunMeta,
        reporting: Reporting,
        timeline: Timeline | None = None,
    ) -> None:
        self.directory = directory
        self.redactor = redactor
        self.meta = meta
        self.judged: dict[int, TestResult] = {}
        self.reported: list[int] = []
        self.defined_at: dict[int, tuple[str, int]] = {}
        self.stands_for: dict[int, tuple[int, ...]] = {}
        self.beside: Sequence[LaneRun] = ()
        self.left = False
        self.stays = False
        self.on_progress: Callable[[Progress], object] = lambda progress: None
        self.on_debugged: Callable[[Debugged], object] = lambda fact: None
        self._show = reporting.show
        self._waiting = reporting.waiting
        self._status = RunStatus.RUNNING
        self._is_named = False
        self._is_finishing = False
        self._asked_s = 0.0
        self._nodeids = redactor.ids(test.nodeid for test in self.plan.tests)  # as they are recorded
        self._receipt_names = receipt_names(self._nodeids)
        self._artefacts = Artefacts(reporting.reporters, self._write, redactor.text)
        self._transport = Transport(
            plan=meta.plan,
            recording=directory.recording,
            redactor=redactor,
            nodeids=self._nodeids,
            started_at=meta.started_at,
            timeline=timeline or Timeline(),
            on_event=self._on_event,
        )
        self._orders = Orders(self._transport)

    @property
    def plan(self) -> Plan:
        return self.meta.plan

    @property
    def timeline(self) -> Timeline:
        return self._transport.timeline

    @property
    def unwritten(self) -> list[str]:
        """Which reports failed, and why."""
        return self._artefacts.unwritten

    # -- how it begins ---------------------------------------------------------------------------------------

    def start(self, surface: Surface) -> None:
        """Starts the box. A surface that fails ends the run with its words."""
        self._report(lambda reporter: reporter.started(self.results()))
        try:
            self._transport.connect(surface.start(self.plan, self.directory.path))
        except SurfaceFailed as e:
            self._transport.is_over = True
            self._transport.record(ProblemFound(ProblemCode.ENVIRONMENT, "surface", self.redactor.text(str(e))))

    def refuse(self, problem: ProblemFound) -> None:
        """Ends the run before it began: every test gets this problem's verdict, and nothing is spent."""
        self._report(lambda reporter: reporter.started(self.results()))
        self._transport.is_over = True
        self._transport.introduce()
        self._transport.record(problem)
        self._transport.record(RunFinished(RunEnd.REFUSED))

    def lose(self, problem: ProblemFound | None, own_facts: int) -> None:
        """Ends a run of which nothing more can come: every test is judged by what is known, and by `problem`.
        `own_facts` is how many facts of a desk the recording has already.
        """
        self._report(lambda reporter: reporter.started(self.results()))
        self._transport.is_over, self._transport.own_facts = True, own_facts
        if problem is not None:
            self._transport.record(problem)
        for index in range(len(self.plan.tests)):
            self._judge(index)

    def follow(self, box: RunningBox, head: bytes, earlier: Callable[[], bytes]) -> None:
        """Reads from a box that was started before; `head` was read from it already, `earlier` as in
        `Transport`.
        """
        self.stays = True
        self._report(lambda reporter: reporter.started(self.results()))
        self._transport.earlier = earlier
        self._transport.connect(box, head)
        self._orders.send()

    def leave(self) -> None:
        """Waits until the box is on its own; a launch that failed ends the run instead."""
        self._wait_until(lambda: self._transport.is_over)
        self.left = self.stays = not self.timeline.problems

    # -- while it runs ---------------------------------------------------------------------------------------

    def is_through(self, number: int) -> bool:
        """Whether `wait_for` would answer at once for all tests that one of the desk's plan stands for."""
        for run in self.beside:
            run._read_beside()
        while not self._transport.is_over and self._read():
            pass
        return self._transport.is_over or (
            self._knows_cases and all(map(self._orders.is_done, self.stands_for.get(number, (number,))))
        )

    def cases_of(self, number: int) -> tuple[int, ...]:
        """The tests that one of the desk's plan stands for, once the box has named them; none is possible."""
        self._wait_until(lambda: self._transport.is_over or self._knows_cases)
        return self.stands_for.get(number, (number,))

    @property
    def _knows_cases(self) -> bool:
        return not self.plan.read or self._is_named

    def wait_for(self, index: int) -> TestResult:
        """The result of a test, judged and reported as soon as the box is done with it."""
        self._wait_until(lambda: self._transport.is_over or self._orders.is_done(index))
        return self._judge(index)

    def _wait_until(self, is_over: Callable[[], bool]) -> None:
        """Reads until something is over. The board is there as long as that takes, however it ends."""
        try:
            with self._waiting() as turn:
                while not is_over():
                    turn()
                    if not any([self._read(), *(run._read_beside() for run in self.beside)]):
                        time.sleep(POLL_S)
        finally:
            self._show([Board()])

    def _read(self) -> bool:
        got = self._transport.read()
        self._orders.send()
        if self._transport.is_over:
            self._show([Board(of=self.plan.run_id)])
            return got
        now_s = time.monotonic()
        if now_s - self._asked_s >= RUNNING_S:
            self._asked_s = now_s
            self._report(lambda reporter: reporter.running(self.results()))
        return got

    def _read_beside(self) -> bool:
        """What came of a box for which nobody waits now: it may wait for orders."""
        goes_on = self._transport.has_box and not self._transport.is_over and not self._is_finishing
        return goes_on and self._read()

    def _on_event(self, event: Event, had_begun: bool) -> None:
        if isinstance(event.fact, Debugged):
            self.on_debugged(event.fact)
        if isinstance(event.fact, TestEnded):
            self._orders.note_end(event.fact.test)
        if self.plan.read and self.timeline.source is not None and not self._is_named and self.timeline.are_named:
            self._take_names(self.timeline.source)
        self._announce(event, had_begun)

    def _take_names(self, source: SourceRead) -> None:
        """Takes the tests that the box has in place of those that the desk could only read."""
        self._is_named = True
        asked, drills = self.plan.tests, dict(self.meta.drills)
        tests, places = [], dict(self.defined_at)
        found: dict[int, list[int]] = {number: [] for number in range(len(asked))}
        for index in range(source.tests):
            named = self.timeline.planned[index]
            number = named.read_as if named.read_as in found else None
            if number is None:
                continue
            found[number].append(index)
            is_same = self._nodeids[number] == named.nodeid
            tests.append(asked[number] if is_same else replace(asked[number], nodeid=named.nodeid))
            if number in places:
                self.defined_at[index] = places[number]
            if asked[number].nodeid in drills:
                drills[tests[-1].nodeid] = drills[asked[number].nodeid]
        self.stands_for = {number: tuple(indexes) for number, indexes in found.items()}
        self._nodeids = [self.timeline.planned[index].nodeid for index in range(source.tests)]
        self._receipt_names = receipt_names(self._nodeids)
        self.meta = replace(self.meta, plan=replace(self.plan, tests=tuple(tests)), drills=drills)
        self._transport.plan, self._transport.nodeids = self.plan, self._nodeids
        self._show([Line(line) for line in source_lines(source, self.meta.box.title)])

    def _announce(self, event: Event, collected: bool) -> None:
        """Reports progress on another machine: what precedes the first test can take minutes. So can copying data, and
        keeping a seed.
        """
        elsewhere = is_remote(self.plan.surface)
        if isinstance(event.fact, Progress) and (elsewhere or event.fact.phase in (BoxStep.DATA, BoxStep.SEED)):
            self.on_progress(event.fact)
        elif elsewhere and self.timeline.tests and not collected:
            self.on_progress(Progress(BoxStep.COLLECTION, f"done {event.time_s:.1f} s after the box began"))

    def _judge(self, index: int) -> TestResult:
        if index not in self.judged:
            result = judge_test(self.timeline, index)
            self.amend(index, result if result.nodeid else replace(result, nodeid=self._nodeids[index]))
        return self.judged[index]

    def amend(self, index: int, result: TestResult) -> None:
        """Takes this as the test's result, in place of an earlier one (a drill's), and reports it."""
        self.judged[index] = result
        results = self.results()
        self._report(lambda reporter: reporter.tested(results, index))

    def stop(self, reason: RunEnd, why: str = "") -> None:
        """Asks the box to end; what it still says is read by `finish`. `why`: what the desk was interrupted by."""
        self._transport.stop(reason, why)

    # -- how it ends -----------------------------------------------------------------------------------------

    def finish(self, *, interrupted: bool = False) -> None:
        """Ends the box, reads its last events, judges what is left and has the end reported."""
        if self._is_finishing:
            return
        self._is_finishing = True
        try:
            tests = range(len(self.plan.tests))
            if not interrupted and all(map(self._orders.is_done, tests)):
                self._let_the_box_end()
            self._transport.end()
            if interrupted:
                self._transport.read_again()
            self._redact_logs()
            for index in filter(self._orders.have_ended, tests):
                self._judge(index)
        finally:
            self._status = self._final_status(interrupted)
            self.meta = replace(self.meta, finished_at=iso(utc_now()))
            self._report(lambda reporter: reporter.ended(self.results()))
            self.directory.close()

    def _let_the_box_end(self) -> None:
        """One that has run everything may end by itself, once it has kept what was compiled. An interrupt ends only
        that wait, since the results are there.
        """
        deadline = time.monotonic() + DONE_S
        if self._transport.has_box:
            with suppress(KeyboardInterrupt):
                self._wait_until(lambda: self._transport.is_over or time.monotonic() > deadline)

    def _redact_logs(self) -> None:
        if self._transport.has_box:
            problem = clean(self.directory.path, self.redactor, cut_off=self.timeline.finished is None)
            if problem:
                self._artefacts.note(problem)

    def _final_status(self, interrupted: bool) -> RunStatus:
        if self.left or (self.stays and self.timeline.finished is None and not self.timeline.problems):
            return RunStatus.DETACHED
        return RunStatus.INTERRUPTED if interrupted else self._status_by_results()

    def _status_by_results(self) -> RunStatus:
        everything = judge_run(self.timeline).tests if self.timeline.planned else ()
        results = {r.index: r for r in everything} | self.judged
        status = run_status(results[i] for i in sorted(results)) if results else RunStatus.ERROR
        return RunStatus.FAILED if status is RunStatus.PASSED and self.meta.session_failed else status

    # -- what is reported of it ------------------------------------------------------------------------------

    def results(self) -> RunResults:
        """All that is known by now, for reporters."""
        return RunResults(
            meta=self._meta_now(),
            status=self._status,
            nodeids=self._nodeids,
            receipt_names=self._receipt_names,
            judged=MappingProxyType(self.judged),
            timeline=self.timeline,
            redact=self.redactor.text,
            reported=self.reported,
            written=self._artefacts.written,
            unwritten=self.unwritten,
            defined_at=MappingProxyType(self.defined_at),
            directory=self.directory.path,
        )

    def properties(self, index: int) -> dict[str, object]:
        """What reporters want pytest's reports of a test to have as properties."""
        return self._artefacts.properties(self.results(), index)

    def _meta_now(self) -> RunMeta:
        address = self._transport.address
        ids = Ids(address.app, address.sandbox) if address is not None else self.meta.ids
        return replace(self.meta, cost=cost(self.timeline.last_s, self.meta.rate), ids=ids)

    def _report(self, moment: Moment) -> None:
        shown = self._artefacts.ask(moment)
        if shown:
            self._show(shown)

    def _write(self, path: str, content: Content) -> None:
        self.directory.write(path, encoded(content, self.directory.path / path))
