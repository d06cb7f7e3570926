"""Owns runs that others made: a recording as a run of its own, a run elsewhere to listen to; must not judge."""

import os
import re
import time
from collections import defaultdict
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeAlias

import pytest

from pytest_megacpp.desk.config.options import Options
from pytest_megacpp.desk.run.artefacts import Reporting
from pytest_megacpp.desk.run.directory import RunDirectory
from pytest_megacpp.desk.run.launch import rate_of
from pytest_megacpp.desk.run.reattach import Asked, Recollection
from pytest_megacpp.desk.run.runs import RunNotFound, find_recording, find_run, first_damage, read_timeline
from pytest_megacpp.desk.run.session import LaneRun
from pytest_megacpp.desk.run.transport import POLL_S
from pytest_megacpp.judge.causes import VerdictCause
from pytest_megacpp.judge.verdicts import Code, Outcome, TestResult, Verdict
from pytest_megacpp.recording.events import Limits, Progress, RunStarted
from pytest_megacpp.recording.naming import is_case_of
from pytest_megacpp.recording.plan import MAX_TESTS, Plan, PlannedTest
from pytest_megacpp.recording.redact import Redactor, number_of
from pytest_megacpp.recording.timeline import Timeline
from pytest_megacpp.recording.vocabulary import Preset, TestPhase
from pytest_megacpp.recording.wire import Decoder
from pytest_megacpp.report.money import Rate
from pytest_megacpp.report.run_json import RunMeta
from pytest_megacpp.surfaces.protocol import Attaching, Place, RunningBox, SurfaceProvider
from pytest_megacpp.surfaces.registry import attachable, is_known, provider
from pytest_megacpp.surfaces.replay import ReplaySurface

_RUN_ID = re.compile(r"\d{8}-\d{6}-[0-9a-f]{4}")


Found: TypeAlias = tuple[LaneRun, dict[str, tuple[int, ...]]]


class Recorded:
    """The recording that `--replay` names. Raises UsageError if there is none, or it has nothing readable."""

    def __init__(self, options: Options, name: str, reporting: Reporting) -> None:
        self._options = options
        self._reporting = reporting
        try:
            self.path = find_recording(options.lane_dir, name)
            self._timeline = read_timeline(self.path)
        except RunNotFound as e:
            raise pytest.UsageError(f"--replay {name}: {e}") from None
        except OSError as e:
            raise pytest.UsageError(f"--replay {name} cannot be read: {e.strerror or e}") from None
        if self._timeline.started is None:
            why = first_damage(self._timeline)
            raise pytest.UsageError(
                f"--replay {name}: not a run recording (no run header){why}; pass a run's recording.jsonl"
            )
        self._started = self._timeline.started

    @property
    def notice(self) -> str:
        path = self.path
        where = path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
        return f"replay of {self._options.replay} ({where})"

    def run(self, nodeids: Sequence[str], opened: Collection[str], progress: Callable[[Progress], object]) -> Found:
        """Returns the run and the indexes of each node id, several for one of `opened`. A test that is not in the
        recording gets its result here.
        """
        directory = RunDirectory.create(self._options.lane_dir)
        return _recorded_run(
            self._timeline,
            self._options,
            directory,
            nodeids,
            opened,
            self._reporting,
            lambda run: run.start(ReplaySurface(self.path)),
            read_before=self._timeline,
        )


class Elsewhere:
    """The run on another machine that `--attach` names: what it has recorded, and what it will record. `lanes` are
    those of this session. Raises UsageError.
    """

    def __init__(self, options: Options, name: str, reporting: Reporting, lanes: Sequence[str] = ()) -> None:
        self._options = options
        self._reporting = reporting
        self._lanes = lanes
        self._run_id = name if _RUN_ID.fullmatch(name) else self._known_here(name)
        known = Recollection.of(options.lane_dir, self._run_id).surface
        self._surface = _surface_of(known or options.surface, attachable(options.tables))

    def _known_here(self, name: str) -> str:
        try:
            return find_run(self._options.lane_dir, name).name
        except RunNotFound as e:
            raise pytest.UsageError(
                f"--attach {name}: pass the whole run id, such as 20261122-214501-3f9a ({e})"
            ) from None

    @property
    def notice(self) -> str:
        return f"following run {self._run_id} on {self._surface.title}"

    def run(self, nodeids: Sequence[str], opened: Collection[str], progress: Callable[[Progress], object]) -> Found:
        """Returns the run and the indexes of each node id, several for one of `opened`, once the box has named its
        tests or turns out to be gone. Raises UsageError if there is no such run or its surface does not answer, and
        LaneDirError.
        """
        before, attaching = Recollection.of(self._options.lane_dir, self._run_id), self._surface.attaching
        if before.surface not in (None, self._surface.name) or attaching is None:
            raise pytest.UsageError(
                f"--attach {self._run_id}: it ran on {_title_of(before.surface, self._options)}, whose boxes end with "
                f"their desks; judge it again with --replay {self._run_id}"
            )
        directory = RunDirectory.reopen(self._options.lane_dir, self._run_id)
        before.put_aside()
        box = attaching.attach(self._options, self._run_id, directory.path)
        try:
            head, timeline = _beginning(box, progress)
            if timeline.started is None:
                return self._without_a_box(box, attaching, before, directory, nodeids, opened)
        except BaseException:
            box.end()
            before.put_back()
            directory.close()
            before.leave_no_trace()
            raise
        rate = rate_elsewhere(timeline.started, self._options)

        def follow(run: LaneRun) -> None:
            run.meta = replace(run.meta, rate=rate)
            run.follow(box, head, before.rejoin)

        return _recorded_run(timeline, self._options, directory, nodeids, opened, self._reporting, follow)

    def _without_a_box(
        self,
        box: RunningBox,
        attaching: Attaching,
        before: Recollection,
        directory: RunDirectory,
        nodeids: Sequence[str],
        opened: Collection[str],
    ) -> Found:
        """Returns a run whose sandbox left nothing, from what this desk remembers of it, else from what it requests."""
        ended = box.ended()
        problem = ended.problem if ended is not None else None
        if problem is None or not (attaching.is_an_end(problem) or before.was_there(problem)):
            why = problem.detail if problem is not None else "no sandbox and no stored records were found for this run"
            remedy = f": {problem.remedy}" if problem is not None and problem.remedy else ""
            raise pytest.UsageError(f"--attach {self._run_id}: {why}{remedy}")
        box.end()
        before.put_back()
        lane, ids = self._lanes[0] if self._lanes else "", Redactor(os.environ).ids(nodeids)
        asked = Asked(self._surface.name, attaching.nothing_left(), lane, self._options, ids)
        known = before.account(asked, problem)

        def lose(run: LaneRun) -> None:
            run.meta = replace(run.meta, ids=before.ids, git=before.git)
            run.lose(known.problem, known.own_facts)

        timeline = known.timeline
        return _recorded_run(
            timeline, self._options, directory, nodeids, opened, self._reporting, lose, read_before=timeline
        )


def _surface_of(name: str, able: Sequence[SurfaceProvider]) -> SurfaceProvider:
    """Returns the surface to ask for a run: `name`, recorded by this desk or given by the user. If boxes there end with
    their desks, it is the first whose boxes do not.
    """
    return next((one for one in able if one.name == name), able[0])


def _title_of(name: str | None, options: Options) -> str:
    """Returns what texts call a surface; its bare name where it isn't configured here."""
    known = name is not None and is_known(name, options.tables)
    return provider(name, options.tables).title if known and name is not None else f"the surface {name}"


def rate_elsewhere(started: RunStarted, options: Options) -> Rate:
    """Returns what the box costs at today's prices; unknown for a lane that is not configured here, or if the box
    claims to run on an unknown surface.
    """
    if started.lane not in options.lanes or not is_known(started.surface, options.tables):
        return Rate()
    return rate_of(Place(started.surface, started.dry_run, ""), options, started.lane, started.ranks)


def _beginning(box: RunningBox, progress: Callable[[Progress], object]) -> tuple[bytes, Timeline]:
    """Returns what was read until all tests are named or the box has ended."""
    head, decoder, timeline = b"", Decoder(), Timeline()
    while not timeline.are_named:
        ended = box.ended()
        data = box.read()
        for event in decoder.feed(data):
            timeline.add(event)
            if isinstance(event.fact, Progress) and event.source == "surface":
                progress(event.fact)
        head += data
        if ended is not None and not data:
            break
        if not data:
            time.sleep(POLL_S)
    return head, timeline


def _recorded_run(
    timeline: Timeline,
    options: Options,
    directory: RunDirectory,
    nodeids: Sequence[str],
    opened: Collection[str],
    reporting: Reporting,
    begin: Callable[[LaneRun], object],
    read_before: Timeline | None = None,
) -> Found:
    """A run with the recording's numbers, begun, and the indexes of each node id. `read_before` is what need not be
    read again.
    """
    started = timeline.started
    assert started is not None
    recorded = _tests(timeline)
    redactor = Redactor(os.environ)
    index_of = recorded_as(nodeids, [test.nodeid for test in recorded], redactor.text)
    cases = _cases(opened, [test.nodeid for test in recorded], frozenset(index_of.values()))
    unknown = [nodeid for nodeid in nodeids if nodeid not in index_of and nodeid not in cases]
    index_of |= {nodeid: len(recorded) + n for n, nodeid in enumerate(unknown)}
    missing = [PlannedTest(nodeid, started.ranks, Preset.FULL, Limits()) for nodeid in unknown]
    lane = options.lanes.get(started.lane)
    plan = _plan(directory.run_id, started, lane.gpu if lane else "", (*recorded, *missing))
    run = LaneRun(directory, redactor, RunMeta(plan, started.started_at), reporting, read_before)
    begin(run)
    similar = {number_of(redactor.text(test.nodeid))[0] for test in recorded}
    for nodeid in unknown:
        ambiguous = redactor.text(nodeid) in similar
        run.amend(index_of[nodeid], _not_recorded(index_of[nodeid], nodeid, ambiguous=ambiguous))
    return run, {nodeid: cases.get(nodeid) or (index_of[nodeid],) for nodeid in nodeids}


def _cases(opened: Collection[str], recorded: Sequence[str], taken: Collection[int]) -> dict[str, tuple[int, ...]]:
    """Returns the recorded tests that each open one has as cases, without those that were asked for by name."""
    found: dict[str, list[int]] = defaultdict(list)
    for index, nodeid in enumerate(recorded):
        if index not in taken:
            for name in (one for one in opened if is_case_of(nodeid, one)):
                found[name].append(index)
    return {name: tuple(indexes) for name, indexes in found.items()}


def recorded_as(nodeids: Sequence[str], recorded: Sequence[str], redact: Callable[[str], str]) -> dict[str, int]:
    """Returns the position in a recording of each node id that is found there. Ids with secrets are recorded without
    them, and numbered in their order where that makes them equal: they are found if session and recording have all.
    """
    found = {nodeid: index for index, nodeid in enumerate(recorded)}
    there: dict[str, dict[int, int]] = defaultdict(dict)
    for index, nodeid in enumerate(recorded):
        text, number = number_of(redact(nodeid))
        there[text][number] = index
    here: dict[str, list[str]] = defaultdict(list)
    for nodeid in sorted(set(nodeids)):
        here[redact(nodeid)].append(nodeid)
    for text, alike in here.items():
        places = there[text]
        if sorted(places) == list(range(1, len(alike) + 1)):
            found |= {nodeid: places[number] for number, nodeid in enumerate(alike, 1) if nodeid not in found}
    return {nodeid: found[nodeid] for nodeid in nodeids if nodeid in found}


def _tests(timeline: Timeline) -> list[PlannedTest]:
    """Returns the recorded tests in their order; a damaged recording may lack a name."""
    further = {number for numbers in timeline.further.values() for number in numbers}
    numbers = [n for n in (*timeline.planned, *timeline.tests) if n < MAX_TESTS and n not in further]
    return [_test(timeline, n) for n in range(max(numbers, default=-1) + 1)]


def _test(timeline: Timeline, number: int) -> PlannedTest:
    planned, seen = timeline.planned.get(number), timeline.tests.get(number)
    nodeid = planned.nodeid if planned else seen.nodeid if seen else f"(test {number}, its name is lost)"
    ranks = planned.ranks if planned else seen.size if seen else 1
    preset = seen.preset if seen else planned.preset if planned else Preset.FULL
    return PlannedTest(nodeid, ranks, preset, seen.limits if seen else Limits())


def _plan(run_id: str, started: RunStarted, gpu: str, tests: tuple[PlannedTest, ...]) -> Plan:
    return Plan(
        run_id=run_id,
        lane=started.lane,
        surface=started.surface,
        gpu=gpu,
        devices=0 if started.dry_run else started.ranks,
        ranks=started.ranks,
        dry_run=started.dry_run,
        fsdp=False,
        tests=tests,
        args=(),
        cwd=started.cwd,
    )


def _not_recorded(index: int, nodeid: str, *, ambiguous: bool) -> TestResult:
    next_step = "run the test, or select only tests of the recording (-k, -m, node ids)"
    summary = "this test is not in the recording"
    if ambiguous:
        summary = "ambiguous test: its id contained a secret, so several tests of the recording match"
        next_step = "run the test, or select all tests whose ids differ only in the secret, as the run did"
    verdict = Verdict(
        Code.NOT_RUN, summary, cause=VerdictCause.NOT_RECORDED, next_step=next_step, phase=TestPhase.SETUP
    )
    return TestResult(index, nodeid, Outcome.ERROR, verdict)
