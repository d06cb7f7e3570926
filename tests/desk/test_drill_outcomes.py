"""What a fault drill comes to where its verdict isn't the one that it expects."""

from dataclasses import replace
from pathlib import Path

import pytest

from pytest_megacpp.desk.config.markers import Expectation
from pytest_megacpp.desk.hooks.announcer import Annotations, Repository
from pytest_megacpp.desk.hooks.reports import drill_result
from pytest_megacpp.desk.hooks.summary import TerminalSummary, failure_lines, failures
from pytest_megacpp.judge.arbiter import judge_run
from pytest_megacpp.judge.verdicts import Code, Outcome, TestResult, Verdict
from pytest_megacpp.recording.events import Limits
from pytest_megacpp.recording.plan import PlannedTest
from pytest_megacpp.recording.vocabulary import Preset
from pytest_megacpp.report.annotations import summary
from pytest_megacpp.report.reporter import Line, SessionResults
from pytest_megacpp.report.run_json import RunStatus
from pytest_megacpp.report.text import Whereabouts, failure_text, said
from tests.report.pages import results
from tests.scenario import FakeBox

IDS = ("test_a.py::test_a", "test_a.py::test_b")
MISSED = "expected verdict rank-death, got passed"


@pytest.mark.parametrize(
    ("code", "judged", "outcome"),
    [
        (Code.RANK_DEATH, Outcome.FAILED, Outcome.PASSED),
        (Code.PASSED, Outcome.PASSED, Outcome.FAILED),
        (Code.HANG, Outcome.FAILED, Outcome.FAILED),
        (Code.BLOCKED, Outcome.ERROR, Outcome.ERROR),
    ],
)
def test_what_kept_a_drill_from_being_tested_is_an_error(code: Code, judged: Outcome, outcome: Outcome) -> None:
    result = TestResult(0, "test_a.py::test_a", judged, Verdict(code, "as it was"))
    found = drill_result(result, Expectation(Code.RANK_DEATH))
    assert (found.outcome, not found.missed) == (outcome, outcome is Outcome.PASSED)


def test_what_a_drill_missed_is_in_every_text_of_it() -> None:
    box = FakeBox(ranks=2).begins().passes().ends().done()
    timeline = box.timeline()
    (judged,) = judge_run(timeline).tests
    result = drill_result(judged, Expectation(Code.RANK_DEATH))
    assert (result.missed, said(result)) == (MISSED, MISSED)
    first, _, second, *_ = failure_text(result, timeline, Whereabouts("lane")).split("\n")
    assert (first, second) == (MISSED, "passed · passed on all 2 ranks")
    assert MISSED in summary("lane", [result], timeline)
    assert said(judged) == "passed · passed on all 2 ranks"


def test_every_report_says_what_a_drill_missed_and_counts_it_apart() -> None:
    run = results(FakeBox(2, IDS).begins().passes().ends().begins(1).passes().ends().done().timeline())
    expected = dict(zip(IDS, (Code.RANK_DEATH, Code.PASSED), strict=True))
    judged = {i: drill_result(r, Expectation(expected[r.nodeid])) for i, r in run.judged.items()}
    plan = replace(run.plan, tests=tuple(PlannedTest(i, 2, Preset.FULL, Limits(), drill=True) for i in IDS))
    at = dict.fromkeys(judged, ("test_a.py", 1))
    meta = replace(run.meta, plan=plan)
    run = replace(run, meta=meta, judged=judged, reported=[*judged], defined_at=at, status=RunStatus.FAILED)
    session = SessionResults([run])
    lines = [line.text for line in TerminalSummary().closing(session) if isinstance(line, Line)]
    assert "test_a.py: 1 drill as expected (1 passed), 1 drill not as expected (1 passed)" in lines
    (command,) = Annotations(Repository(Path("/"), Path("/"), {})).closing(session)
    assert MISSED in command.text
    assert [*failures(run, 0)] == [(IDS[0], MISSED)]
    assert [line.text for line in failure_lines(run)] == [f"FAILED {IDS[0]} - {MISSED}"]
