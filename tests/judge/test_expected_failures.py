"""A failure as expected passes only where the others waited for the rank that failed."""

import pytest

from pytest_megacpp.judge.arbiter import judge_test
from pytest_megacpp.judge.verdicts import Certainty, Code, Verdict
from pytest_megacpp.recording import events as ev
from pytest_megacpp.recording.vocabulary import ActReason, ReportOutcome, TestPhase
from tests.scenario import TIMED_OUT, FakeBox


def failing(box: FakeBox) -> FakeBox:
    """Rank 0 fails as expected in its call."""
    return box.reports(TestPhase.CALL, 0, ReportOutcome.SKIPPED, xfail="issue 7")


def stalled(box: FakeBox, waiting: tuple[int, ...], missing: tuple[int, ...] = ()) -> FakeBox:
    return box.after(31).acts(ActReason.STALL, "waits", waiting, missing, (), 31.0)


def verdict(box: FakeBox) -> Verdict:
    return judge_test(box.done().timeline(), 0).verdict


def test_others_that_wait_behind_others_for_it() -> None:
    box = failing(FakeBox(4).begins().announces("a", (0, 1)).announces("b", (1, 2, 3))).finishes(0)
    box.enters(1, seq=1, group="a").enters((2, 3), "gloo:barrier", 1, group="b")
    found = verdict(stalled(box, (1, 2, 3), (0,)).aborts("stall"))
    assert (found.code, found.certainty) == (Code.XFAILED, Certainty.CERTAIN)


def test_others_that_hang_without_it() -> None:
    box = failing(FakeBox(4).begins().announces("rest", (1, 2, 3))).finishes(0)
    box.enters((1, 2, 3), "gloo:broadcast", 1, group="rest")
    found = verdict(stalled(box, (1, 2, 3)).aborts("stall"))
    assert (found.code, found.blamed_ranks) == (Code.HANG, (1, 2, 3))


ABSENT = "[Rank 0]: Rank {} failed to pass monitoredBarrier in 2000 ms"
REACHED = "Rank 1 successfully reached monitoredBarrier, but received errors while waiting for send/recv from rank 0."


def barrier_without_it(number: int, members: tuple[int, ...]) -> Verdict:
    """Ranks 1 and 2 give up on a monitored barrier, which names the rank of this number in its group."""
    box = failing(FakeBox(4).begins().announces("g", members)).finishes(0).at(3).after(2)
    box.loses_peer(1, ABSENT.format(number)).loses_peer(2, REACHED)
    return verdict(box.after(3).passes(3).finishes((1, 2)).ends())


def test_others_whose_barrier_names_a_rank_that_did_not_fail() -> None:
    found = barrier_without_it(2, (1, 2, 3))
    assert (found.code, found.blamed_ranks) == (Code.STRAGGLER, (3,))


def test_others_whose_barrier_names_it() -> None:
    assert barrier_without_it(2, (1, 2, 0)).code is Code.XFAILED


def not_joined(members: tuple[int, ...]) -> Verdict:
    """Ranks 1 and 2 give up on making a group."""
    box = failing(FakeBox(4).begins()).finishes(0)
    for rank in (1, 2):
        box.rank(ev.GroupBegun(rank, box.index, "g", members, len(members), True, number=members.index(rank)))
    box.after(2).loses_peer((1, 2), f"wait timeout after 2000ms, keys: /default_pg/0//g//cpu//0/{len(members) - 1}")
    for rank in (1, 2):
        box.rank(ev.GroupCreated(rank, box.index, "g", members, failed=True))
    return verdict(box.at(3).after(1).passes(3).finishes((1, 2)).ends())


def test_others_that_could_not_join_a_group_without_it() -> None:
    found = not_joined((1, 2, 3))
    assert (found.code, found.blamed_ranks) == (Code.STARTUP_FAILURE, (3,))


def test_others_that_could_not_join_a_group_with_it() -> None:
    assert not_joined((1, 2, 0)).code is Code.XFAILED


def test_others_that_use_groups_in_different_orders() -> None:
    box = failing(FakeBox(4).begins().announces("1", (1, 2)).announces("2", (1, 2))).finishes(0).passes(3)
    box.enters(1, seq=1, group="1").enters(2, seq=1, group="2")
    found = verdict(stalled(box, (1, 2)).aborts("stall"))
    assert (found.code, found.cause) == (Code.COLLECTIVE_MISMATCH, "group-order")


def test_others_that_wait_with_it_for_one_that_receives() -> None:
    box = failing(FakeBox(4).begins()).after(0.1).enters((0, 1, 2), "gloo:barrier", 1).blocked(3)
    found = verdict(stalled(box, (0, 1, 2, 3), ()).blocked(3).aborts("stall"))
    assert (found.code, found.blamed_ranks, found.certainty) == (Code.STRAGGLER, (3,), Certainty.LIKELY)


def test_others_of_which_only_stacks_show_that_they_wait() -> None:
    box = failing(FakeBox(3).begins()).finishes(0).blocked((1, 2))
    found = verdict(stalled(box, (1, 2), ()).blocked((1, 2)).aborts("stall"))
    assert (found.code, found.certainty) == (Code.XFAILED, Certainty.LIKELY)


def test_one_that_waits_for_others_which_may_wait_for_each_other() -> None:
    """Rank 0 is no member of that group, so it is no more than a guess that they wait for it."""
    box = failing(FakeBox(4).begins().announces("rest", (1, 2, 3))).finishes(0)
    box.enters(1, seq=1, group="rest").blocked((2, 3))
    found = verdict(stalled(box, (1, 2, 3), ()).blocked((2, 3)).aborts("stall"))
    assert not found.code.is_green
    assert found.certainty is Certainty.GUESS


def test_others_that_gave_up_on_it() -> None:
    box = failing(FakeBox(3).begins()).finishes(0).enters((1, 2), seq=1).after(6).loses_peer((1, 2), TIMED_OUT)
    found = verdict(box.finishes((1, 2)).ends())
    assert (found.code, found.certainty) == (Code.XFAILED, Certainty.CERTAIN)


def test_others_that_gave_up_on_one_that_came_too_late() -> None:
    """Rank 0 came to the barrier of the teardown in time."""
    box = failing(FakeBox(4).begins()).enters((0, 1, 2), "gloo:barrier", 1).after(6)
    box.loses_peer((1, 2), TIMED_OUT).after(1).enters(3, "gloo:barrier", 1).completes((0, 3))
    found = verdict(box.finishes((0, 1, 2)).passes(3).ends())
    assert (found.code, found.blamed_ranks) == (Code.STRAGGLER, (3,))


def test_others_that_lost_a_peer_without_a_record_of_which() -> None:
    box = failing(FakeBox(3).begins()).finishes(0).after(6).loses_peer((1, 2), TIMED_OUT)
    found = verdict(box.finishes((1, 2)).ends())
    assert (found.code, found.certainty) == (Code.XFAILED, Certainty.LIKELY)


def test_others_that_lost_a_peer_after_a_collective_that_all_came_to() -> None:
    box = FakeBox(3).begins().enters((0, 1, 2), seq=1).completes()
    found = verdict(failing(box).finishes(0).after(6).loses_peer((1, 2), TIMED_OUT).finishes((1, 2)).ends())
    assert (found.code, found.certainty) == (Code.XFAILED, Certainty.LIKELY)


def test_others_that_wait_in_a_group_of_unknown_members() -> None:
    box = FakeBox(4).begins().enters((1, 2, 3), seq=1, group="x").completes((1, 2, 3))
    box = failing(box).finishes(0).enters((1, 2), seq=2, group="x").passes(3)
    found = verdict(stalled(box, (1, 2), (3,)).aborts("stall"))
    assert (found.code, found.certainty) == (Code.XFAILED, Certainty.LIKELY)


def leaving(box: FakeBox) -> FakeBox:
    """Rank 0 fails as expected, and goes on to its teardown."""
    return failing(box).phase("teardown", 0)


def mismatched(box: FakeBox) -> Verdict:
    return verdict(box.after(0.3).acts(ActReason.MISMATCH, "operation differs").aborts("mismatch"))


def test_one_that_comes_to_its_teardown_where_the_others_are_in_the_call() -> None:
    box = (
        failing(FakeBox(4).begins())
        .phase("teardown", 0)
        .after(0.1)
        .enters((1, 2, 3), seq=1)
        .enters(0, "gloo:barrier", 1)
    )
    assert mismatched(box).code is Code.XFAILED


def test_one_that_does_so_while_others_are_on_their_way() -> None:
    """Whether they would have got through isn't known."""
    box = leaving(FakeBox(4).begins()).after(0.1).enters((1, 2), seq=1).enters(0, "gloo:barrier", 1)
    found = mismatched(box)
    assert (found.code, found.blamed_ranks) == (Code.UNCLEAR, ())
    assert "rank 0 had skipped or failed as expected, and then differed in operation" in found.summary


def test_a_skip_of_one_that_does_the_same() -> None:
    box = (
        FakeBox(4)
        .begins()
        .skips(0)
        .phase("teardown", 0)
        .after(0.1)
        .enters((1, 2, 3), seq=1)
        .enters(0, "gloo:barrier", 1)
    )
    found = mismatched(box)
    assert (found.code, found.cause, found.blamed_ranks) == (Code.TEST_FAILED, "skipped-on-some-ranks", (0,))


def test_others_that_differ_without_it() -> None:
    box = (
        failing(FakeBox(4).begins())
        .phase("teardown", 0)
        .after(0.1)
        .enters((1, 2), seq=1)
        .enters((0, 3), "gloo:barrier", 1)
    )
    found = mismatched(box)
    assert (found.code, found.blamed_ranks, found.certainty) == (Code.COLLECTIVE_MISMATCH, (3,), Certainty.LIKELY)
    doubt = "less certain: rank 0 had skipped or failed as expected before, and may be why"
    assert doubt in [e.text for e in found.evidence]


def test_others_that_differ_under_a_later_number() -> None:
    box = leaving(FakeBox(4).begins().announces("rest", (1, 2, 3))).after(0.1)
    box.enters((1, 2, 3), seq=1).enters(0, "gloo:barrier", 1).after(0.1)
    found = mismatched(box.enters((1, 2), seq=1, group="rest").enters(3, "gloo:barrier", 1, group="rest"))
    assert (found.code, found.blamed_ranks) == (Code.COLLECTIVE_MISMATCH, (3,))


def test_one_that_differs_before_its_failure() -> None:
    box = FakeBox(4).begins().enters((1, 2, 3), seq=1).enters(0, "gloo:barrier", 1).after(0.1)
    found = mismatched(failing(box))
    assert (found.code, found.blamed_ranks, found.certainty) == (Code.COLLECTIVE_MISMATCH, (0,), Certainty.CERTAIN)


def test_ranks_that_all_failed_and_differ_then() -> None:
    box = FakeBox(4).begins().reports(TestPhase.CALL, None, ReportOutcome.SKIPPED, xfail="issue 7").after(0.1)
    found = mismatched(box.enters((1, 2, 3), seq=1).enters(0, "gloo:barrier", 1))
    assert (found.code, found.blamed_ranks, found.certainty) == (Code.COLLECTIVE_MISMATCH, (0,), Certainty.CERTAIN)


def test_a_skip_in_a_subtest_ends_nothing() -> None:
    """Ranks 1-3 skip what is for rank 0 alone, and are still in the call of the test."""
    box = FakeBox(4).begins().skips((1, 2, 3)).after(0.1).enters((1, 2, 3)).enters(0, numel=9)
    found = mismatched(box)
    assert (found.code, found.blamed_ranks) == (Code.COLLECTIVE_MISMATCH, (0,))


def test_who_left_without_what_the_others_wait_in_may_be_why_they_wait() -> None:
    box = failing(FakeBox(4).begins()).finishes(0).passes(3).after(0.1).enters((1, 2), seq=1)
    found = verdict(stalled(box, (1, 2), (0, 3)).aborts("stall"))
    assert (found.code, found.certainty) == (Code.XFAILED, Certainty.LIKELY)
    text = "less certain: rank 3 left the test without what others wait in"
    assert text in [e.text for e in found.evidence]


def test_ranks_that_wait_for_each_other_as_well_as_for_the_expected_failure() -> None:
    """Ranks 2-3 use two groups in different orders; rank 2 would also wait for rank 0."""
    box = failing(FakeBox(4).begins().announces("a", (0, 2, 3)).announces("b", (0, 2, 3))).finishes(0).passes(1)
    box.enters(2, seq=1, group="a").enters(3, seq=1, group="b")
    found = verdict(stalled(box, (2, 3), (0,)).aborts("stall"))
    assert (found.code, found.certainty) == (Code.XFAILED, Certainty.LIKELY)
    assert "less certain: ranks that had not failed wait for each other as well" in [e.text for e in found.evidence]


def as_expected(box: FakeBox, ranks: tuple[int, ...], error: ev.Error | None) -> FakeBox:
    return box.reports(TestPhase.CALL, ranks, ReportOutcome.SKIPPED, xfail="issue 7", error=error)


PATIENCE = ev.Error("RuntimeError", "Operation timed out!", "train.py", 31, "", raised_in="/repo/suite/train.py")
OWN = ev.Error("ValueError", "no shards", "train.py", 31, "", raised_in="/repo/suite/train.py")


@pytest.mark.parametrize(
    ("error", "certainty"),
    [(PATIENCE, Certainty.LIKELY), (None, Certainty.LIKELY), (OWN, Certainty.LIKELY)],
    ids=["it says so", "older recordings", "in words of its own"],
)
def test_ranks_that_gave_up_on_a_late_one_may_not_have_failed_as_expected(
    error: ev.Error | None, certainty: Certainty
) -> None:
    box = as_expected(FakeBox(3).begins().enters((0, 1)).after(2).at(2), (0, 1), error).finishes((0, 1)).after(5)
    found = verdict(box.reports(TestPhase.CALL, 2, xfail="issue 7").finishes(2).ends())
    assert (found.code, found.certainty) == (Code.XFAILED, certainty)
    assert any("failed because a peer did not come" in e.text for e in found.evidence)


def test_a_rank_that_fails_by_itself_as_expected_is_why_the_others_did() -> None:
    box = FakeBox(3).begins().enters((0, 1)).after(0.2)
    as_expected(box, (2,), OWN).after(2)
    found = verdict(as_expected(box, (0, 1), PATIENCE).finishes().ends())
    assert (found.code, found.certainty) == (Code.XFAILED, Certainty.CERTAIN)


@pytest.mark.parametrize("error", [OWN, PATIENCE], ids=["of its own", "for lack of the others"])
def test_a_late_rank_that_fails_after_who_gave_up_on_it(error: ev.Error) -> None:
    """What rank 2 fails in is either why the test fails, or the others had left it alone by then."""
    deadline = ev.Error("AssertionError", "not done yet", "train.py", 31, "", raised_in="/repo/suite/train.py")
    box = as_expected(FakeBox(3).begins().enters((0, 1)).after(2).at(2), (0, 1), deadline).finishes((0, 1)).after(1)
    box.enters(2).completes()
    if error is PATIENCE:
        box.enters(2, "gloo:barrier", 2).after(2)
    found = verdict(as_expected(box, (2,), error).finishes(2).ends())
    certainty = Certainty.LIKELY if error is PATIENCE else Certainty.CERTAIN
    assert (found.code, found.certainty) == (Code.XFAILED, certainty)


@pytest.mark.parametrize("op", ["gloo:all_reduce", "gloo:broadcast"])
def test_so_may_ranks_whose_root_was_late(op: str) -> None:
    own_words = ev.Error("TimeoutError", "", "train.py", 31, "", raised_in="/repo/suite/train.py")
    box = FakeBox(3).begins().enters((0, 1), op, 1).after(2).at(2)
    as_expected(box, (0, 1), own_words).finishes((0, 1)).after(2)
    found = verdict(box.enters(2, op, 1).completes().reports(TestPhase.CALL, 2, xfail="issue 7").finishes(2).ends())
    assert (found.code, found.certainty) == (Code.XFAILED, Certainty.LIKELY)


def test_the_barrier_of_an_expected_failure_says_nothing_of_what_others_wait_for_later() -> None:
    """Rank 2 came a second later and passed; rank 1 waits for rank 3."""
    said = ev.Error("RuntimeError", ABSENT.format(2), "train.py", 31, "")
    box = as_expected(FakeBox(4).begins().announces("g", (1, 3)).after(2), (0,), said).finishes(0).after(1).passes(2)
    found = verdict(stalled(box.enters(1, seq=1, group="g").at(3), (1,), (3,)).at(3).aborts("stall"))
    assert (found.code, found.blamed_ranks) == (Code.STRAGGLER, (3,))
