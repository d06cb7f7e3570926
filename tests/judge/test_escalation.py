"""Which attempt comes next, by what was tried and what came of it."""

import pytest

from pytest_megacpp.judge.escalation import next_purpose
from pytest_megacpp.judge.verdicts import Attempt, Code, Outcome, Verdict
from pytest_megacpp.recording.vocabulary import Preset, Purpose

MEASURED, WARM_UP, DIAGNOSTIC, DETAIL = Purpose.MEASURED, Purpose.WARM_UP, Purpose.DIAGNOSTIC, Purpose.DETAIL
SKEW, MISMATCH, HANG, UNCLEAR = Code.COMPILE_SKEW, Code.COLLECTIVE_MISMATCH, Code.HANG, Code.UNCLEAR
PASSED, DEATH, NOT_RUN = Code.PASSED, Code.RANK_DEATH, Code.NOT_RUN
CLEAR = sorted(set(Code) - {SKEW, MISMATCH, HANG, UNCLEAR})

Tried = tuple[tuple[Purpose, Code], ...]


def after(*tried: tuple[Purpose, Code], preset: Preset = Preset.FULL) -> Purpose | None:
    outcome = {PASSED: Outcome.PASSED}
    attempts = [Attempt(n, p, outcome.get(c, Outcome.FAILED), Verdict(c, "")) for n, (p, c) in enumerate(tried)]
    return next_purpose(attempts, preset)


@pytest.mark.parametrize("purpose", [MEASURED, WARM_UP])
@pytest.mark.parametrize("code", CLEAR)
def test_what_is_clear_is_never_tried_again(purpose: Purpose, code: Code) -> None:
    assert after((purpose, code)) is None


@pytest.mark.parametrize(
    ("tried", "then"),
    [
        (((MEASURED, SKEW),), WARM_UP),
        (((MEASURED, SKEW), (WARM_UP, PASSED)), MEASURED),  # it compiled nothing, or the box had gone on by itself
        (((MEASURED, SKEW), (WARM_UP, PASSED), (MEASURED, PASSED)), None),
        (((MEASURED, SKEW), (WARM_UP, PASSED), (MEASURED, SKEW)), DIAGNOSTIC),
        (((MEASURED, SKEW), (WARM_UP, SKEW)), DIAGNOSTIC),
        (((MEASURED, SKEW), (WARM_UP, HANG)), DIAGNOSTIC),
        (((MEASURED, SKEW), (WARM_UP, DEATH)), None),
        (((MEASURED, SKEW), (WARM_UP, NOT_RUN)), None),
        (((MEASURED, SKEW), (WARM_UP, MISMATCH)), DETAIL),
        (((WARM_UP, SKEW),), DIAGNOSTIC),
        (((WARM_UP, PASSED), (MEASURED, SKEW)), DIAGNOSTIC),
        (((MEASURED, HANG),), DIAGNOSTIC),
        (((MEASURED, UNCLEAR),), DIAGNOSTIC),
        (((MEASURED, MISMATCH),), DETAIL),
    ],
)
def test_the_order_of_diagnosis(tried: Tried, then: str | None) -> None:
    assert after(*tried) == then


@pytest.mark.parametrize("purpose", [DIAGNOSTIC, DETAIL])
@pytest.mark.parametrize("code", sorted(Code))
def test_what_looks_for_a_cause_is_the_last(purpose: Purpose, code: Code) -> None:
    assert after((MEASURED, HANG), (purpose, code)) is None


@pytest.mark.parametrize("code", [HANG, UNCLEAR])
def test_the_diagnostic_preset_is_not_tried_on_itself(code: Code) -> None:
    assert after((MEASURED, code), preset=Preset.DIAGNOSTIC) is None
    assert after((MEASURED, SKEW), preset=Preset.DIAGNOSTIC) == WARM_UP
