"""Owns one lane's run at the desk: plan, surface, recording, judgement, artefacts; must not know pytest's hooks."""

import contextlib
import pickle
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

from pytest_megacpp.desk.run.directory import RunDirectory, iso, utc_now
from pytest_megacpp.desk.run.leftovers import clean
from pytest_megacpp.desk.run.runs import read_timeline
from pytest_megacpp.judge.arbiter import attempts_at, judge_run, judge_test
from pytest_megacpp.judge.escalation import next_purpose
from pytest_megacpp.judge.verdicts import Outcome, TestResult
from pytest_megacpp.recording.codec import CodecError
from pytest_megacpp.recording.events import (
    Event,
    Fact,
    ProblemFound,
    Progress,
    RunFinished,
    RunStarted,
    SeedChecked,
    TestEnded,
    TestPlanned,
)
from pytest_megacpp.recording.plan import Again, Enough, Plan
from pytest_megacpp.recording.redact import Redactor
from pytest_megacpp.recording.timeline import TestView, Timeline
from pytest_megacpp.recording.vocabulary import BoxStep, ProblemCause, ProblemCode, RunEnd
from pytest_megacpp.recording.wire import Decoder, encode
from pytest_megacpp.report.attempts import climbed
from pytest_megacpp.report.clean import one_line
from pytest_megacpp.report.flight_dump import flight_dumps, record_name
from pytest_megacpp.report.money import cost
from pytest_megacpp.report.receipt import receipt, receipt_names
from pytest_megacpp.report.run_json import Ids, RunMeta, RunStatus, cost_of_test, run_json, run_status
from pytest_megacpp.surfaces.protocol import Ended, RunningBox, Surface, SurfaceFailed
from pytest_megacpp.surfaces.registry import is_remote

POLL_S = 0.004
LAST_WORDS_S = 30.0
DONE_S = 600.0  # for a box that has run all tests: it may pack a large compile cache
UNCONFIRMED = ProblemFound(
    ProblemCode.BOX_LOST, ProblemCause.CONNECTION, "the box was asked to end, and nobody said that it did"
)


@dataclass
class LaneRun:
    """One box and what comes of it. `judged` and `receipts` go by the plan's index, `flights` (directories with flight
    records) by an attempt's number; `unwritten` says which artefacts failed, and why.

    `left`: the box works on without this desk. `stays`: it would, if this desk ended now. `on_progress` hears of each
    step on the way to a box elsewhere. `earlier` adds to the recording, once the box has ended, what an earlier one of
    this run has beyond it.
    """

    plan: Plan
    directory: RunDirectory
    redactor: Redactor
    meta: RunMeta
    timeline: Timeline = field(default_factory=Timeline)
    judged: dict[int, TestResult] = field(default_factory=dict)
    receipts: dict[int, str] = field(default_factory=dict)
    flights: dict[int, str] = field(default_factory=dict)
    unwritten: list[str] = field(default_factory=list)
    left: bool = False
    stays: bool = False
    on_progress: Callable[[Progress | SeedChecked], object] = lambda progress: None
    earlier: Callable[[], bytes] = bytes
    _box: RunningBox | None = None
    _decoder: Decoder = field(default_factory=Decoder)
    _settled: set[int] = field(default_factory=set)  # tests at which no further attempt is wanted
    _told: int = 0
    _over: bool = False
    _finished: bool = False

    @cached_property
    def _ids(self) -> list[str]:
        """The tests' node ids as they are recorded."""
        return self.redactor.ids(test.nodeid for test in self.plan.tests)

    @cached_property
    def _names(self) -> list[str]:
        return receipt_names(self._ids)

    def start(self, surface: Surface) -> None:
        """Writes `run.json` as running, then starts the box. A surface that fails ends the run with its words."""
        self._write_run_json(RunStatus.RUNNING)
        try:
            self._box = surface.start(self.plan, self.directory.path)
        except SurfaceFailed as e:
            self._over = True
            self._tell(ProblemFound(ProblemCode.ENVIRONMENT, "surface", self.redactor.text(str(e))))

    def refuse(self, problem: ProblemFound) -> None:
        """Ends the run before it began: every test gets this problem's verdict, and nothing is spent."""
        self._write_run_json(RunStatus.RUNNING)
        self._over = True
        self._introduce()
        self._tell(problem)
        self._tell(RunFinished(RunEnd.REFUSED))

    def lose(self, problem: ProblemFound | None, told: int) -> None:
        """Ends a run of which nothing more can come: every test is judged by what is known, and by `problem`. `told` is
        how many words of a desk the recording has already.
        """
        self._write_run_json(RunStatus.RUNNING)
        self._over, self._told = True, told
        if problem is not None:
            self._tell(problem)
        for index in range(len(self.plan.tests)):
            self._judge(index)

    def is_through(self, index: int) -> bool:
        """Whether `wait_for` would answer at once."""
        while not self._over and self._read():
            pass
        return self._over or self._is_through(index)

    def follow(self, box: RunningBox, head: bytes) -> None:
        """Listens to a box that somebody started before; `head` was read from it already."""
        self.stays = True
        self._write_run_json(RunStatus.RUNNING)
        self._box = box
        self._take(head)

    def leave(self) -> None:
        """Waits until the box is on its own; a launch that failed ends the run instead."""
        while not self._over:
            if not self._read():
                time.sleep(POLL_S)
        self.left = self.stays = not self.timeline.problems

    def wait_for(self, index: int) -> TestResult:
        """The result of a test, judged as soon as the box is through with it; writes its receipt."""
        while not self._over and not self._is_through(index):
            if not self._read():
                time.sleep(POLL_S)
        return self._judge(index)

    def _is_through(self, index: int) -> bool:
        """The ladder of attempts that is climbed with `--triage` may go on after each of them."""
        return self._have_ended(index) and (index in self._settled or not self.plan.triage)

    def _have_ended(self, index: int) -> bool:
        """All attempts so far; one that the box itself adds is planned before the one from which it follows ends."""
        return all(map(self.timeline.has_ended, self.timeline.attempts(index)))

    def _read(self) -> bool:
        """Takes in what came; True when something did. The end of the box ends the run."""
        assert self._box is not None
        ended = self._box.ended()
        got = self._take(self._box.read())
        if ended is not None and not got:
            self._end_of_recording(ended)
        return got

    def _take(self, data: bytes) -> bool:
        ended: list[int] = []
        for event in self._decoder.feed(data):
            collected = bool(self.timeline.tests)
            self.timeline.add(event)
            if isinstance(event.fact, SeedChecked):
                self.on_progress(event.fact)
            if isinstance(event.fact, TestEnded):
                ended.append(self.timeline.test_of(event.fact.test))
            self._announce(event, collected)
        for index in ended if self.plan.triage else ():
            self._climb(index)
        return bool(data)

    def _climb(self, index: int) -> None:
        """Orders the next attempt at a test, or says that it needs none. A drill fails on purpose."""
        assert self._box is not None
        if index in self._settled or index >= len(self.plan.tests) or not self._have_ended(index):
            return
        attempts, test = attempts_at(self.timeline, index), self.plan.tests[index]
        purpose = None if test.drill else next_purpose(attempts, test.preset)
        if purpose is None:
            self._settled.add(index)
        self._box.say(Enough(index) if purpose is None else Again(index, purpose, attempts[-1].number))

    def _announce(self, event: Event, collected: bool) -> None:
        """What happens elsewhere before the first test can take minutes, and nobody sees it; so can copying data, and
        keeping a seed.
        """
        elsewhere = is_remote(self.plan.surface)
        if isinstance(event.fact, Progress) and (elsewhere or event.fact.phase in (BoxStep.DATA, BoxStep.SEED)):
            self.on_progress(event.fact)
        elif elsewhere and self.timeline.tests and not collected:
            self.on_progress(Progress(BoxStep.COLLECTION, f"done {event.time_s:.1f} s after the box began"))

    def _end_of_recording(self, ended: Ended) -> None:
        if more := self.earlier():
            self._take(b"\n" + more)
        for event in self._decoder.close():
            self.timeline.add(event)
        self._over = True
        if ended.problem is not None and self.timeline.finished is None:
            if self.timeline.started is None:
                self._introduce()
            self._tell(replace(ended.problem, detail=self.redactor.text(ended.problem.detail)))

    def _introduce(self) -> None:
        """The beginning of a recording, in place of a box that never spoke."""
        plan, meta = self.plan, self.meta
        started = (plan.run_id, meta.started_at, plan.lane, plan.surface, plan.dry_run, plan.ranks, len(plan.tests))
        self._tell(RunStarted(*started, cwd=plan.cwd, revision=plan.revision))
        for index, test in enumerate(plan.tests):
            self._tell(TestPlanned(index, self._ids[index], test.ranks, test.must_run, preset=test.preset))

    def _tell(self, fact: Fact) -> None:
        """What only the desk knows goes where everything else is, behind a line that may be torn."""
        event = Event(self.plan.run_id, "", "desk", self._told, self.timeline.last_s, fact)
        self._told += 1
        self.timeline.add(event)
        with contextlib.suppress(OSError, CodecError), self.directory.recording.open("ab") as recording:
            recording.write(b"\n" + encode(event))

    def _judge(self, index: int) -> TestResult:
        if index not in self.judged:
            result = judge_test(self.timeline, index)
            if result.nodeid == "":
                result = replace(result, nodeid=self._ids[index])
            self.judged[index] = result
            self._write_flight_records(result)
            self._write_receipt(index, result)
        return self.judged[index]

    def amend(self, index: int, result: TestResult) -> None:
        """Puts another outcome in place of the judged one (a drill's)."""
        self.judged[index] = result
        self._write_receipt(index, result)

    def stop(self, reason: RunEnd) -> None:
        """Asks the box to end; what it still says is read by `finish`."""
        if self._box is not None and not self._over:
            self._box.stop(reason)

    def finish(self, *, interrupted: bool = False) -> None:
        """Ends the box, reads its last events, judges what is left and writes the final `run.json`."""
        if self._finished:
            return
        self._finished = True
        try:
            self._end_box(interrupted=interrupted)
            if interrupted:
                self._read_again()
            self._redact_logs()
            for index in range(len(self.plan.tests)):
                if self._have_ended(index):
                    self._judge(index)
            self._tell_the_seed_s_end()
        finally:
            self._write_run_json(self._final_status(interrupted))
            self.directory.close()

    def _end_box(self, *, interrupted: bool) -> None:
        """One that is through with everything ends by itself, once it has kept what was compiled. Whoever doesn't want
        to wait for that interrupts: the results are there.
        """
        if self._box is None:
            return
        with contextlib.suppress(KeyboardInterrupt):
            if not interrupted and all(map(self._is_through, range(len(self.plan.tests)))):
                self._hear_the_end(DONE_S)
        self._box.end()
        self._hear_the_end(LAST_WORDS_S)
        if not self._over:
            self._end_of_recording(Ended(UNCONFIRMED))

    def _read_again(self) -> None:
        """An interrupt may have come while lines were taken in; the file has all of them."""
        if self.directory.recording.exists():
            self.timeline = read_timeline(self.directory.recording)

    def _hear_the_end(self, limit_s: float) -> None:
        """The last words and logs of a box that has nothing left to do, or was ended; not for ever."""
        deadline = time.monotonic() + limit_s
        while not self._over and time.monotonic() < deadline:
            if not self._read():
                time.sleep(POLL_S)

    def _redact_logs(self) -> None:
        if self._box is not None:
            problem = clean(self.directory.path, self.redactor, cut_off=self.timeline.finished is None)
            self.unwritten += [problem] if problem else []

    def _tell_the_seed_s_end(self) -> None:
        """A receipt tells of the cache at the end of the run, which comes after its test."""
        if self.timeline.kept is not None:
            for index in self.receipts:
                self._write_receipt(index, self.judged[index])

    def _final_status(self, interrupted: bool) -> RunStatus:
        if self.left or (self.stays and self.timeline.finished is None and not self.timeline.problems):
            return RunStatus.DETACHED
        return RunStatus.INTERRUPTED if interrupted else self._status()

    def _status(self) -> RunStatus:
        everything = judge_run(self.timeline).tests if self.timeline.planned else ()
        results = {r.index: r for r in everything} | self.judged
        status = run_status(results[i] for i in sorted(results)) if results else RunStatus.ERROR
        return RunStatus.FAILED if status is RunStatus.PASSED and self.meta.session_failed else status

    def _write_flight_records(self, result: TestResult) -> None:
        """What ranks did together in each attempt that isn't green, a file per rank, as torch itself would dump it."""
        codes = {attempt.number: attempt.verdict.code for attempt in result.attempts}
        for number, code in (codes or {result.number: result.verdict.code}).items():
            test = self.timeline.tests.get(number)
            if test is not None and not code.is_green:
                self._write_flight_record(number, test, record_name(self._receipt_name(result.index), result, number))

    def _write_flight_record(self, number: int, test: TestView, name: str) -> None:
        try:
            for rank, dump in enumerate(flight_dumps(test, self.timeline, self.redactor.text)):
                self.directory.write(f"{name}/rank_{rank}", pickle.dumps(dump))
        except OSError as e:
            self.unwritten.append(f"{name} could not be written: {e.strerror or e}")
        else:
            self.flights[number] = name

    def _write_receipt(self, index: int, result: TestResult) -> None:
        name = f"receipts/{self._receipt_name(index)}"
        document = receipt(result, self.timeline, self._meta_now(), self.flights, redact=self.redactor.text)
        if self._write(name, document):
            self.receipts[index] = name

    def _receipt_name(self, index: int) -> str:
        return self._names[index]

    def receipt_path(self, index: int, relative_to: Path) -> str | None:
        """Where the user finds the receipt."""
        return self._shown(self.receipts.get(index), relative_to)

    def flight_path(self, index: int, relative_to: Path) -> str | None:
        """Where the user finds the flight records of the test's ranks."""
        return self._shown(self.flights.get(self.judged[index].number), relative_to)

    def known(self, index: int, relative_to: Path) -> dict[str, str]:
        """What a support ticket needs beside the recording."""
        ids, result = self._meta_now().ids, self.judged[index]
        numbers = [attempt.number for attempt in result.attempts] or [result.number]
        paths = [self.flights[number] for number in numbers if number in self.flights]
        told = {
            "app": ids.app,
            "sandbox": ids.sandbox,
            "flight": ", ".join(self._path(path, relative_to) for path in paths),
            "recording": self._path("recording.jsonl", relative_to),
        }
        return {name: text for name, text in told.items() if text}

    def _shown(self, name: str | None, relative_to: Path) -> str | None:
        return None if name is None else self._path(name, relative_to)

    def _path(self, name: str, relative_to: Path) -> str:
        path = self.directory.path / name
        return str(path.relative_to(relative_to)) if path.is_relative_to(relative_to) else str(path)

    def properties(self, index: int) -> dict[str, object]:
        """What JUnit keeps of a test's run, its share of the cost included."""
        spent = cost_of_test(self.meta, self.timeline, index)
        told = {"run": self.plan.run_id, "seconds": spent.seconds, "gpu_seconds": spent.gpu_seconds, "usd": spent.usd}
        told |= {"dry_run": "true"} if self.plan.dry_run else {}
        return {name: value for name, value in told.items() if value is not None}

    def _meta_now(self) -> RunMeta:
        address = self._box.address() if self._box is not None else None
        ids = Ids(address.app, address.sandbox) if address is not None else self.meta.ids
        return replace(self.meta, cost=cost(self.timeline.last_s, self.meta.rate), ids=ids)

    def _write_run_json(self, status: RunStatus) -> None:
        meta = self._meta_now()
        if status is not RunStatus.RUNNING:
            meta = replace(meta, finished_at=iso(utc_now()))
        document = run_json(
            meta, status, self._ids, self.judged, self.receipts, self.timeline, redact=self.redactor.text
        )
        self._write("run.json", document)

    def _write(self, name: str, document: Mapping[str, object]) -> bool:
        """An artefact that can't be written costs no result; the summary tells, and the session isn't green."""
        try:
            self.directory.write_json(name, document)
        except OSError as e:
            self.unwritten.append(f"{name} could not be written: {e.strerror or e}")
            return False
        return True


def summary_lines(run: LaneRun) -> list[str]:
    """A line per test file: verdict codes counted, drills apart, since theirs are wanted."""
    files: dict[str, tuple[Counter[str], Counter[str]]] = {}
    for index, result in sorted(run.judged.items()):
        plain, drills = files.setdefault(result.nodeid.partition("::")[0], (Counter(), Counter()))
        reached = run.plan.tests[index].drill and result.outcome is Outcome.PASSED
        (drills if reached else plain)[str(result.verdict.code)] += 1
    return [f"{file}: {_counted(plain, drills)}" for file, (plain, drills) in files.items()]


def climbed_lines(run: LaneRun) -> list[str]:
    """A line per test at which there was more to try."""
    told = ((result.nodeid, climbed(result)) for _, result in sorted(run.judged.items()))
    return [f"{one_line(nodeid)}: {steps}" for nodeid, steps in told if steps is not None]


def _counted(plain: Counter[str], drills: Counter[str]) -> str:
    parts = [f"{n} {code}" for code, n in sorted(plain.items())]
    if drills:
        parts.append(
            f"{drills.total()} drills as expected ({', '.join(f'{n} {c}' for c, n in sorted(drills.items()))})"
        )
    return ", ".join(parts)
