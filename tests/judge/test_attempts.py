"""What all attempts at a test come to: a failure stays one until a measured attempt passed."""

import itertools

import pytest

from pytest_megacpp.judge.arbiter import judge_run
from pytest_megacpp.judge.attempts import settle
from pytest_megacpp.judge.next_steps import Commands
from pytest_megacpp.judge.verdicts import Attempt, Certainty, Code, Outcome, TestResult, Verdict
from pytest_megacpp.recording import events as ev
from pytest_megacpp.recording.events import Limits
from pytest_megacpp.recording.timeline import Timeline
from pytest_megacpp.recording.vocabulary import ActReason, Purpose
from tests.scenario import NODEID, FakeBox

COMMANDS = Commands("run-1", "h200x8", "t", "local", True, 2, Limits())
CODES = (Code.PASSED, Code.COMPILE_SKEW, Code.NOT_RUN)
MEASURED, WARM_UP, DIAGNOSTIC, DETAIL = Purpose.MEASURED, Purpose.WARM_UP, Purpose.DIAGNOSTIC, Purpose.DETAIL
Tried = tuple[Purpose, Code]


def settled(*tried: Tried, certainty: Certainty = Certainty.CERTAIN) -> TestResult:
    verdicts = [Verdict(code, f"{purpose} {code}", (n,), None, certainty) for n, (purpose, code) in enumerate(tried)]
    outcomes = [Outcome.PASSED if code.is_green else Outcome.FAILED for _, code in tried]
    pairs = list(zip(outcomes, verdicts, strict=True))
    results = [TestResult(n, "t", outcome, verdict) for n, (outcome, verdict) in enumerate(pairs)]
    attempts = [Attempt(n, tried[n][0], outcome, verdict) for n, (outcome, verdict) in enumerate(pairs)]
    return settle(results, attempts, Timeline(), COMMANDS)


def is_green(result: TestResult) -> bool:
    assert (result.outcome is Outcome.PASSED) == result.verdict.code.is_green
    return result.verdict.code.is_green


@pytest.mark.parametrize("first", list(itertools.product((MEASURED, WARM_UP), CODES)), ids="-".join)
def test_only_a_measured_attempt_that_passes_ends_a_failure(first: Tried) -> None:
    """Every ladder of four."""
    further = list(itertools.product((MEASURED, WARM_UP, DIAGNOSTIC, DETAIL), CODES))
    for rest in itertools.chain.from_iterable(itertools.product(further, repeat=n) for n in (1, 2, 3)):
        counting = [(purpose, code) for purpose, code in (first, *rest) if purpose in (MEASURED, WARM_UP)]
        failures = [n for n, (_, code) in enumerate(counting) if not code.is_green]
        healed = (MEASURED, Code.PASSED) in counting[failures[-1] + 1 :] if failures else True
        if is_green(settled(first, *rest)):
            assert healed, rest


@pytest.mark.parametrize("code", [Code.NOT_RUN, Code.BOX_LOST, Code.STARTUP_FAILURE, Code.BLOCKED, Code.SKIPPED])
def test_what_was_not_tested_takes_no_verdict_away(code: Code) -> None:
    for purpose in (MEASURED, WARM_UP, DIAGNOSTIC, DETAIL):
        result = settled((MEASURED, Code.COMPILE_SKEW), (purpose, code))
        assert (result.verdict.code, result.verdict.cause, result.number) == (Code.COMPILE_SKEW, None, 0)


def test_another_failure_of_a_later_attempt_is_the_verdict() -> None:
    result = settled((MEASURED, Code.COMPILE_SKEW), (WARM_UP, Code.PASSED), (MEASURED, Code.RANK_DEATH))
    assert (result.verdict.code, result.number, result.index) == (Code.RANK_DEATH, 2, 0)


@pytest.mark.parametrize("code", [Code.HANG, Code.UNCLEAR, Code.COMPILE_SKEW])
@pytest.mark.parametrize("again", [Code.HANG, Code.UNCLEAR])
def test_what_hangs_at_any_size_is_infrastructure(code: Code, again: Code) -> None:
    verdict = settled((MEASURED, code), (DIAGNOSTIC, again)).verdict
    assert (verdict.code, verdict.cause) == (code, "infrastructure")
    assert verdict.certainty is Certainty.GUESS  # nothing shows that the preset made a difference


@pytest.mark.parametrize("again", [Code.PASSED, Code.RANK_DEATH, Code.TEST_FAILED, Code.NOT_RUN, Code.COMPILE_SKEW])
def test_what_ends_otherwise_at_another_size_is_not(again: Code) -> None:
    verdict = settled((MEASURED, Code.HANG), (DIAGNOSTIC, again)).verdict
    assert (verdict.code, verdict.cause) == (Code.HANG, None)
    assert ("not the machine" in str(verdict.evidence)) == (again is Code.PASSED)


@pytest.mark.parametrize(
    ("said", "before", "after"),
    [
        (Code.COLLECTIVE_MISMATCH, Certainty.GUESS, Certainty.GUESS),  # it blames another rank
        (Code.PASSED, Certainty.CERTAIN, Certainty.LIKELY),
        (Code.RANK_DEATH, Certainty.LIKELY, Certainty.LIKELY),
        (Code.NOT_RUN, Certainty.CERTAIN, Certainty.CERTAIN),
    ],
)
def test_torch_s_own_comparison_weighs(said: Code, before: Certainty, after: Certainty) -> None:
    verdict = settled((MEASURED, Code.COLLECTIVE_MISMATCH), (DETAIL, said), certainty=before).verdict
    assert (verdict.code, verdict.certainty) == (Code.COLLECTIVE_MISMATCH, after)


@pytest.mark.parametrize("purpose", [DETAIL, DIAGNOSTIC, Purpose.FIRST])
def test_a_damaged_recording_has_a_first_attempt_that_counts(purpose: Purpose) -> None:
    box = FakeBox(2).box(ev.TestPlanned(0, NODEID, 2, purpose=purpose)).begins().enters(0).after(31.0)
    box.acts(ActReason.STALL, "", (0,), (1,), (), 31.0).aborts("stall").tries(purpose).passes().ends().done()
    (result,) = judge_run(box.timeline()).tests
    assert not is_green(result)
    assert [attempt.purpose for attempt in result.attempts] == [MEASURED, purpose]


def test_an_attempt_on_fewer_ranks_is_none_at_the_test() -> None:
    box = FakeBox(2).world_ready().begins().enters(0).after(31.0)
    box.acts(ActReason.STALL, "", (0,), (1,), (), 31.0).aborts("stall")
    box.starts_world(1).readies().collects()
    box.plans(MEASURED).begins(1).passes().ends().done()
    assert [is_green(result) for result in judge_run(box.timeline()).tests if result.index == 0] == [False]
