"""What one rank's reports come to, what is said of a run besides its tests, and rules that golden cases don't show."""

from typing import Any

import pytest

from pytest_megacpp.judge.arbiter import judge_run, judge_test
from pytest_megacpp.judge.verdicts import Certainty, Code, Outcome, Verdict
from pytest_megacpp.recording import events as ev
from pytest_megacpp.recording.reports import RankOutcome, rank_outcome
from pytest_megacpp.recording.views import RankView
from pytest_megacpp.recording.vocabulary import ActReason, FlightOrigin, NotRun, ReportOutcome, TestPhase
from tests.golden.build import in_step
from tests.scenario import NODEID, PEER_CLOSED, FakeBox


def reported(**outcomes: str) -> RankView:
    view = RankView(0, finished_s=1.0)
    for when, outcome in outcomes.items():
        word, _, xfail = outcome.partition("/")
        phase = TestPhase(when)
        view.reports[phase] = (0.5, ev.Reported(0, 0, phase, ReportOutcome(word), 0.1, xfail=xfail or None))
    return view


def judged(box: FakeBox) -> Verdict:
    return judge_test(box.timeline(), 0).verdict


@pytest.mark.parametrize(
    ("view", "outcome"),
    [
        (reported(setup="passed", call="passed", teardown="passed"), RankOutcome.PASSED),
        (reported(setup="passed", call="failed", teardown="passed"), RankOutcome.FAILED),
        (reported(setup="passed", call="passed", teardown="failed"), RankOutcome.FAILED),
        (reported(setup="failed", teardown="passed"), RankOutcome.FAILED),
        (reported(setup="skipped", teardown="passed"), RankOutcome.SKIPPED),
        (reported(setup="passed", call="skipped", teardown="passed"), RankOutcome.SKIPPED),
        (reported(setup="passed", call="skipped/why", teardown="passed"), RankOutcome.XFAILED),
        (reported(setup="skipped/NOTRUN", teardown="passed"), RankOutcome.XFAILED),
        (reported(setup="passed", call="passed/why", teardown="passed"), RankOutcome.XPASSED),
        (reported(setup="passed", teardown="passed"), RankOutcome.NOTHING),
        (reported(setup="passed", call="passed"), RankOutcome.NOTHING),
        (reported(call="passed", teardown="passed"), RankOutcome.NOTHING),
        (reported(setup="passed", call="other", teardown="passed"), RankOutcome.NOTHING),
        (reported(), RankOutcome.NOTHING),
    ],
)
def test_one_rank(view: RankView, outcome: RankOutcome) -> None:
    assert rank_outcome(view) is outcome


def test_a_rank_that_never_said_it_was_through() -> None:
    view = reported(setup="passed", call="passed", teardown="passed")
    view.finished_s = None
    assert rank_outcome(view) is RankOutcome.NOTHING


def test_a_failure_is_not_undone_by_a_later_report() -> None:
    box = in_step().raises(1).reports(TestPhase.CALL).finishes().ends().done()
    assert judged(box).blamed_ranks == (1,)


def test_a_rerun_that_passes_counts() -> None:
    box = in_step().reports(TestPhase.CALL, 1, ReportOutcome.OTHER).passes().ends().done()
    assert judged(box).code == Code.PASSED


@pytest.mark.parametrize("outcome", ["passed", "xfailed", "xpassed", "skipped"])
def test_an_unexpected_exit_is_never_green(outcome: str) -> None:
    more: dict[str, dict[str, Any]] = {"passed": {}, "xpassed": {"xfail": "why"}}
    more["xfailed"] = {"outcome": ReportOutcome.SKIPPED, "xfail": "why"}
    box = in_step().skips() if outcome == "skipped" else in_step().reports(TestPhase.CALL, None, **more[outcome])
    assert judged(box.finishes().exits(2, 1).ends().done()).code == Code.RANK_DEATH


def test_a_world_of_one_has_no_peers_to_blame() -> None:
    box = FakeBox(1).begins().raises(0, "RuntimeError", PEER_CLOSED).finishes().ends().done()
    assert (judged(box).code, judged(box).blamed_ranks) == (Code.TEST_FAILED, (0,))


def test_errors_that_are_only_about_peers_blame_somebody_at_last() -> None:
    """All say that a peer is gone, and none is: there is nothing more to show."""
    box = in_step(2).loses_peer((0, 1)).finishes().ends().done()
    assert (judged(box).code, judged(box).blamed_ranks) == (Code.TEST_FAILED, (0, 1))


def test_ranks_that_wait_themselves_are_nobodys_culprits() -> None:
    """One rank's connection broke while all others were still connecting."""
    box = FakeBox().begins().blocked((1, 2, 3), "_new_process_group_helper").after(1.0).loses_peer(0).finishes(0)
    box.after(1.0).acts(ActReason.FAILURE_STUCK, "", (1, 2, 3), (0,), (), 2.0).blocked(
        (1, 2, 3), "_new_process_group_helper"
    )
    found = judged(box.aborts("failure-stuck").done())
    assert (found.code, found.blamed_ranks) == (Code.RANK_DEATH, (0,))
    assert found.certainty != "certain"


def test_the_same_failure_much_later_is_another_one() -> None:
    box = in_step().enters((0, 3), seq=2).raises(1).after(5.0).raises(2).after(0.4)
    found = judged(box.acts(ActReason.FAILURE_STUCK, "", (0, 3), (1, 2)).aborts("failure-stuck").done())
    assert found.blamed_ranks == (1,)
    assert [(c.rank, c.cause) for c in found.consequences if c.cause] == [(2, "exception")]


@pytest.mark.parametrize("collected", [False, True])
def test_ranks_that_fail_alike_before_the_first_test_are_all_blamed(collected: bool) -> None:
    """They have no group yet, so none fails because another did, however far apart they are."""
    box = FakeBox().starts_world().readies().collects((0, 1, 2) if collected else ())
    for rank in range(3):
        box.exits(rank, 3).after(1.2)
    found = judged(box.exits(3, 4).after(0.2).gives_up(NotRun.EXIT).done())
    assert (found.code, found.cause, found.blamed_ranks) == (Code.STARTUP_FAILURE, "exit:3", (0, 1, 2))
    assert [(c.rank, c.cause) for c in found.consequences] == [(3, "exit:4")]


def test_a_skip_before_the_failure_of_a_victim_is_the_cause() -> None:
    box = in_step().skips(2).finishes(2).after(0.1).enters((0, 1, 3), seq=2).after(0.1).loses_peer((0, 1, 3))
    found = judged(box.finishes((0, 1, 3)).ends().done())
    assert (found.cause, found.blamed_ranks) == ("skipped-on-some-ranks", (2,))


def test_durations_are_the_slowest_ranks() -> None:
    box = in_step()
    for rank in range(4):
        box.rank(ev.Reported(rank, 0, TestPhase.CALL, ReportOutcome.PASSED, 1.0 + rank))
    durations = judge_test(box.finishes().ends().done().timeline(), 0).durations
    assert durations == {"setup": 0.05, "call": 4.0, "teardown": 0.05}


def test_all_tests_of_the_plan_are_judged_in_its_order() -> None:
    box = FakeBox(tests=(NODEID, NODEID + "_2", NODEID + "_3")).begins(1).passes().ends()
    result = judge_run(box.timeline())
    assert [t.index for t in result.tests] == [0, 1, 2]
    assert [t.outcome for t in result.tests] == [Outcome.ERROR, Outcome.PASSED, Outcome.ERROR]
    assert (result.run_id, result.finished) == ("run-1", False)


def test_what_is_wrong_beside_the_tests() -> None:
    box = FakeBox(tests=(NODEID, NODEID + "_2")).begins().passes().ends().after(1.0).exits(3, -11, "SIGSEGV")
    box.starts_world().readies().collects().begins(1).passes().ends().done()
    assert judge_run(box.timeline()).problems == ("rank 3 of world w1 ended with SIGSEGV between tests",)


def test_a_failure_outlives_a_lost_box() -> None:
    assert judged(in_step().enters((0, 1, 2), seq=2).after(1.0).raises(3)).code == Code.RANK_DEATH


def test_what_nobody_could_compare_makes_green_less_certain() -> None:
    box = in_step().reports(TestPhase.CALL).finishes(missed={2: 300}).ends().done()
    verdict = judged(box)
    assert (verdict.code, verdict.certainty) == (Code.PASSED, "likely")
    said = "less certain: rank 2 issued collectives that could not be compared with other ranks'"
    assert [e.text for e in verdict.evidence] == [said]


def test_a_group_that_was_destroyed_is_compared_as_well() -> None:
    box = in_step().reports(TestPhase.CALL)
    for rank in range(4):
        odd = "1-300:b" if rank == 2 else "1-300:a"
        box.rank(ev.FlightRecorded(rank, 0, FlightOrigin.DESTROY, (), (), (("0", odd),)))
    verdict = judged(box.finishes().ends().done())
    assert (verdict.code, verdict.blamed_ranks) == (Code.COLLECTIVE_MISMATCH, (2,))


def test_a_rank_that_the_box_saw_finish_has_reported_though_the_recording_lost_it() -> None:
    box = FakeBox(2).begins().passes(0)
    box.phase("teardown", 1).reports(TestPhase.CALL, 1).reports(TestPhase.TEARDOWN, 1)
    found = judged(box.ends().done())
    assert (found.code, found.blamed_ranks, found.certainty) == (Code.NOT_RUN, (1,), Certainty.LIKELY)
