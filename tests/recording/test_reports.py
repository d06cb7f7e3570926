"""What is green: the box, which keeps seeds by it, never calls a test so that the desk calls red."""

from collections.abc import Callable
from pathlib import Path

import pytest

from pytest_megacpp.box.seed.keeping import keep
from pytest_megacpp.box.seed.loading import load
from pytest_megacpp.box.seed.working_copy import WorkingCopy
from pytest_megacpp.judge.arbiter import judge_run, judge_test
from pytest_megacpp.judge.causes import VerdictCause
from pytest_megacpp.judge.verdicts import Code
from pytest_megacpp.recording import events as ev
from pytest_megacpp.recording.plan import Plan, PlannedTest, SeedPlan
from pytest_megacpp.recording.reports import green_attempt, is_green
from pytest_megacpp.recording.timeline import Timeline, fold
from pytest_megacpp.recording.vocabulary import (
    ActReason,
    Lost,
    Preset,
    Purpose,
    ReportOutcome,
    RunEnd,
    SeedMode,
    TestPhase,
)
from pytest_megacpp.recording.wire import read_all
from tests.box.seeding import SHAPE
from tests.scenario import NODEID, FakeBox

GOLDEN = Path(__file__).parent.parent / "golden"
RECORDED = sorted(str(path.relative_to(GOLDEN)) for path in GOLDEN.glob("**/*.jsonl"))


def two(**more: bool) -> FakeBox:
    return FakeBox(2, **more).begins()  # type: ignore[arg-type]


def _reruns() -> FakeBox:
    return two().reports(TestPhase.CALL, 0, ReportOutcome.OTHER).reports(TestPhase.CALL, 1).finishes()


def _unrun(must_run: bool) -> FakeBox:
    box, reason = FakeBox(2, must_run=must_run).starts(), "reason: [NOTRUN] hangs"
    return box.reports(TestPhase.SETUP, None, ReportOutcome.SKIPPED, xfail=reason).finishes()


RED: dict[str, Callable[[], FakeBox]] = {
    "only one rank skips": lambda: two().skips(0).reports(TestPhase.CALL, 1).finishes(),
    "a rank has no call": lambda: two().reports(TestPhase.CALL, 1).finishes(),
    "no rank has a call": lambda: two().finishes(),
    "a rank was rerun": _reruns,
    "a rank is muted": lambda: two().passes().box(ev.Muted(0, Lost.REPORTS, 0)),
    "a rank is not through": lambda: two().passes(0).reports(TestPhase.CALL, 1),
    "a gate takes no skip": lambda: two(must_run=True).skips().finishes(),
    "a gate takes no xfail that doesn't run": lambda: _unrun(True),
    "a process ends after its last report": lambda: two().passes().exits(1, None, "SIGSEGV"),
    "a rank raises": lambda: two().raises(0).reports(TestPhase.CALL, 1).finishes(),
    "digests differ": lambda: two().reports(TestPhase.CALL).finishes(digests={0: "1-9:aa", 1: "1-9:bb"}),
    "too few ranks": lambda: FakeBox(2, sizes=[4]).begins().passes(),
}
WELL: dict[str, Callable[[], FakeBox]] = {
    "passed": lambda: two().passes(),
    "skipped": lambda: two().skips().finishes(),
    "xfailed on one rank": lambda: (
        two()
        .reports(TestPhase.CALL, 0, ReportOutcome.SKIPPED, xfail="why")
        .reports(TestPhase.CALL, 1, xfail="why")
        .finishes()
    ),
    "xpassed": lambda: two().reports(TestPhase.CALL, None, xfail="why").finishes(),
    "xfail that doesn't run": lambda: _unrun(False),
}


def why_not_kept(timeline: Timeline, tmp_path: Path, must_run: bool = False) -> str:
    test = PlannedTest(NODEID, 2, Preset.FULL, ev.Limits(), must_run=must_run)
    seed = SeedPlan(SeedMode.AUTO, (str(tmp_path / "seeds"),))
    plan = Plan("r1", "h200x8", "local", "H200:8", 2, 2, True, False, (test,), (), ".", seed)
    return keep(load(WorkingCopy(plan, SHAPE, tmp_path)), timeline, RunEnd.COMPLETED).detail


@pytest.mark.parametrize("name", RED)
def test_a_red_run_keeps_no_seed(name: str, tmp_path: Path) -> None:
    timeline = RED[name]().ends().done().timeline()
    assert not judge_test(timeline, 0).verdict.code.is_green
    assert not is_green(timeline, timeline.tests[0])
    assert why_not_kept(timeline, tmp_path) == f"not kept: the run isn't green ({NODEID})"


@pytest.mark.parametrize("name", WELL)
def test_a_green_run_does(name: str, tmp_path: Path) -> None:
    timeline = WELL[name]().ends().done().timeline()
    assert judge_test(timeline, 0).verdict.code.is_green
    assert is_green(timeline, timeline.tests[0])
    assert "green" not in why_not_kept(timeline, tmp_path)


def test_what_has_not_ended_is_not_green() -> None:
    timeline = two().passes().timeline()
    assert not is_green(timeline, timeline.tests[0])


@pytest.mark.parametrize("name", ["passed", "skipped", "xpassed", "xfail that doesn't run"])
def test_a_test_whose_line_of_the_plan_is_lost_is_not_green(name: str) -> None:
    """On how many ranks it was to run, and whether it had to, isn't known."""
    events = [e for e in WELL[name]().ends().done().events if not isinstance(e.fact, ev.TestPlanned)]
    timeline = fold(events)
    verdict = judge_test(timeline, 0).verdict
    assert (verdict.code, verdict.cause, verdict.blamed_ranks) == (Code.NOT_RUN, VerdictCause.PLAN_LOST, ())
    assert not is_green(timeline, timeline.tests[0])


def test_a_failure_as_expected_that_leaves_others_waiting_is_not_green_without_a_plan() -> None:
    box = FakeBox(4).begins().enters((0, 1, 2), seq=2)
    box.reports(TestPhase.CALL, 3, ReportOutcome.SKIPPED, xfail="why").finishes(3)
    box.after(6.0).acts(ActReason.STALL, "", (0, 1, 2), (3,), (), 6.0).aborts("stall").done()
    assert judge_test(box.timeline(), 0).verdict.code is Code.XFAILED
    lost = fold([e for e in box.events if not isinstance(e.fact, ev.TestPlanned)])
    assert not judge_test(lost, 0).verdict.code.is_green


@pytest.mark.parametrize(
    ("skips", "purpose", "green"),
    [(False, Purpose.MEASURED, True), (True, Purpose.MEASURED, False), (False, Purpose.WARM_UP, False)],
    ids=["measured", "measured-skipped", "warm-up"],
)
def test_only_a_measured_attempt_takes_a_failure_away(skips: bool, purpose: Purpose, green: bool) -> None:
    box = two().raises((0, 1)).finishes().ends().tries(purpose)
    timeline = (box.skips().finishes() if skips else box.passes()).ends().done().timeline()
    assert (green_attempt(timeline, 0) is not None) == green
    assert judge_test(timeline, 0).verdict.code.is_green == green


@pytest.mark.parametrize("name", RECORDED)
def test_in_all_that_is_recorded_the_desk_agrees(name: str) -> None:
    timeline = fold(read_all((GOLDEN / name).read_bytes()))
    for result in judge_run(timeline).tests:
        attempt = green_attempt(timeline, result.index)
        assert attempt is None or result.verdict.code.is_green
