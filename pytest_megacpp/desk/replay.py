"""Owns a recording as a run of its own: a plan with the recording's numbers; must not start anything or judge."""

import os
from collections.abc import Sequence

import pytest

from pytest_megacpp.desk.options import Options
from pytest_megacpp.desk.rundir import RunDirectory
from pytest_megacpp.desk.runs import RunNotFound, find_recording, read_timeline
from pytest_megacpp.desk.session import LaneRun
from pytest_megacpp.judge.verdicts import Code, Outcome, TestResult, Verdict
from pytest_megacpp.recording.events import Limits, RunStarted
from pytest_megacpp.recording.plan import Plan, PlannedTest
from pytest_megacpp.recording.redact import Redactor
from pytest_megacpp.recording.timeline import Timeline
from pytest_megacpp.report.run_json import RunMeta
from pytest_megacpp.surfaces.replay import ReplaySurface

MAX_TESTS = 100_000


class Recorded:
    """A recording that `--replay` named. Raises UsageError when there is none, or nothing readable in it."""

    def __init__(self, options: Options, name: str) -> None:
        self._options = options
        try:
            self.path = find_recording(options.lane_dir, name)
            self._timeline = read_timeline(self.path)
        except RunNotFound as e:
            raise pytest.UsageError(f"--replay {name}: {e}") from None
        except OSError as e:
            raise pytest.UsageError(f"--replay {name} can't be read: {e.strerror or e}") from None
        if self._timeline.started is None:
            raise pytest.UsageError(f"--replay {name}: no beginning of a run in it; it takes a run's recording.jsonl")
        self._started = self._timeline.started

    def run(self, directory: RunDirectory, nodeids: Sequence[str]) -> tuple[LaneRun, dict[str, int]]:
        """The run and the index of each node id. A test that isn't on record gets its result here."""
        recorded = _tests(self._timeline)
        index_of = {test.nodeid: index for index, test in enumerate(recorded)}
        unknown = [nodeid for nodeid in nodeids if nodeid not in index_of]
        index_of |= {nodeid: len(recorded) + n for n, nodeid in enumerate(unknown)}
        missing = [PlannedTest(nodeid, self._started.ranks, "full", Limits()) for nodeid in unknown]
        lane = self._options.lanes.get(self._started.lane)
        gpu = lane.gpu if lane else ""
        plan = _plan(directory.run_id, self._started, gpu, (*recorded, *missing))
        run = LaneRun(plan, directory, Redactor(os.environ), _meta(plan, self._started))
        run.start(ReplaySurface(self.path))
        for nodeid in unknown:
            run.amend(index_of[nodeid], _not_recorded(index_of[nodeid], nodeid))
        return run, index_of


def _tests(timeline: Timeline) -> list[PlannedTest]:
    """The recorded tests in their order; damage may have taken a name."""
    numbers = [n for n in (*timeline.planned, *timeline.tests) if n < MAX_TESTS]
    return [_test(timeline, n) for n in range(max(numbers, default=-1) + 1)]


def _test(timeline: Timeline, number: int) -> PlannedTest:
    planned, seen = timeline.planned.get(number), timeline.tests.get(number)
    nodeid = planned.nodeid if planned else seen.nodeid if seen else f"(test {number}, its name is lost)"
    ranks = planned.ranks if planned else seen.size if seen else 1
    return PlannedTest(nodeid, ranks, seen.preset if seen else "full", seen.limits if seen else Limits())


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
        cache_dir="",
    )


def _meta(plan: Plan, started: RunStarted) -> RunMeta:
    return RunMeta(
        run_id=plan.run_id,
        lane=plan.lane,
        surface=plan.surface,
        dry_run=plan.dry_run,
        ranks=plan.ranks,
        requested_gpu=plan.gpu,
        started_at=started.started_at,
    )


def _not_recorded(index: int, nodeid: str) -> TestResult:
    next_step = "run it without --replay, or select only tests that the recording has (-k, -m, node ids)"
    summary = "this test is not in the recording"
    verdict = Verdict(Code.NOT_RUN, summary, cause="not-recorded", next_step=next_step, phase="setup")
    return TestResult(index, nodeid, Outcome.ERROR, verdict)
