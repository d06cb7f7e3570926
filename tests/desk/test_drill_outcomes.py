"""What a fault drill comes to where its verdict isn't the one that it expects."""

import pytest

from pytest_megacpp.desk.config.markers import Expectation
from pytest_megacpp.desk.hooks.reports import drill_result
from pytest_megacpp.judge.verdicts import Code, Outcome, TestResult, Verdict


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
    found, wrong = drill_result(result, Expectation(Code.RANK_DEATH))
    assert (found.outcome, wrong is None) == (outcome, outcome is Outcome.PASSED)
