"""What is said about ranks that issued different collectives."""

import pytest

from pytest_megacpp.judge.arbiter import judge_test
from pytest_megacpp.judge.verdicts import Certainty, Code, Verdict
from pytest_megacpp.recording import events as ev
from pytest_megacpp.recording.agreement import Aspect
from pytest_megacpp.recording.vocabulary import ActReason
from tests.scenario import PEER_CLOSED, TIMED_OUT, FakeBox

BEFORE = "less certain: rank 0 had failed before, and may be why"


def verdict(box: FakeBox) -> Verdict:
    return judge_test(box.done().timeline(), 0).verdict


def places(found: Verdict) -> dict[int | None, str]:
    return {e.rank: e.text for e in found.evidence if "is called at" in e.text}


def test_where_each_kind_is_called_is_seen_in_stacks() -> None:
    box = FakeBox(4).begins().enters((0, 1, 3), seq=2).enters(2, "gloo:broadcast", 2).after(0.5)
    box.acts(ActReason.MISMATCH, "operation differs")
    box.blocked(0, "all_reduce").blocked(2, "broadcast")
    found = verdict(box.aborts("mismatch"))
    assert (found.code, found.blamed_ranks) == (Code.COLLECTIVE_MISMATCH, (2,))
    assert places(found) == {
        0: "all_reduce #2 is called at train.py:52 (exchange)",
        2: "broadcast #2 is called at train.py:52 (exchange)",
    }


def test_what_the_recorder_calls_otherwise_has_both_names() -> None:
    box = FakeBox(2).begins().enters(0, "gloo:all_gather", 2).enters(1, "gloo:all_reduce", 2).after(0.5)
    box.acts(ActReason.MISMATCH, "operation differs").blocked(1, "reduce_scatter_tensor")
    found = verdict(box.aborts("mismatch"))
    assert places(found) == {1: "all_reduce #2 is called at train.py:52 (exchange) by reduce_scatter_tensor"}


def test_where_a_rank_failed_in_it_its_report_tells() -> None:
    box = FakeBox(3).begins().enters((0, 1), seq=2).enters(2, seq=2, numel=12).after(0.1)
    found = verdict(box.loses_peer(2, PEER_CLOSED).acts(ActReason.MISMATCH, "size differs").aborts("mismatch"))
    assert places(found) == {2: "all_reduce #2 is called at train.py:40"}


def test_who_went_on_is_not_said_to_be_there() -> None:
    box = FakeBox(4).begins().enters((0, 1, 3), seq=2).enters(2, "gloo:broadcast", 2).after(0.1).completes(2)
    found = verdict(box.after(0.4).acts(ActReason.MISMATCH, "operation differs").at(2).aborts("mismatch"))
    assert places(found) == {}


def after_a_failure(box: FakeBox, in_barrier: tuple[int, ...], in_all_reduce: tuple[int, ...], group: str) -> Verdict:
    """Rank 0 failed a second ago, in a subtest or before its teardown."""
    box.raises(0, "AssertionError", "assert 1 == 2").after(1.2)
    box.enters(in_barrier, "gloo:barrier", 2, group=group).enters(in_all_reduce, seq=2, group=group).after(0.4)
    return verdict(box.acts(ActReason.MISMATCH, "operation differs").aborts("mismatch"))


def test_a_failure_of_a_rank_that_goes_along_with_most_does_not_hide_the_mismatch() -> None:
    found = after_a_failure(FakeBox(4).begins(), (0, 1, 3), (2,), "0")
    assert (found.code, found.blamed_ranks, found.certainty) == (Code.COLLECTIVE_MISMATCH, (2,), Certainty.LIKELY)
    assert BEFORE in [e.text for e in found.evidence]
    assert "rank 0 raised AssertionError: assert 1 == 2 (train.py:31), before that" in found.summary
    assert (0, "exception") in [(c.rank, c.cause) for c in found.consequences]
    assert any("raised AssertionError" in e.text for e in found.evidence if e.rank == 0)


def test_nor_does_that_of_one_that_has_no_part_in_it() -> None:
    found = after_a_failure(FakeBox(4).begins().announces("rest", (1, 2, 3)), (1, 3), (2,), "rest")
    assert (found.code, found.blamed_ranks, found.certainty) == (Code.COLLECTIVE_MISMATCH, (2,), Certainty.LIKELY)


def test_a_failure_explains_that_its_rank_issues_something_else() -> None:
    found = after_a_failure(FakeBox(4).begins(), (0,), (1, 2, 3), "0")
    assert (found.code, found.blamed_ranks, found.certainty) == (Code.RANK_DEATH, (0,), Certainty.CERTAIN)


def test_a_rank_that_failed_has_no_vote_on_what_is_right() -> None:
    found = after_a_failure(FakeBox(3).begins(), (0, 1), (2,), "0")
    assert (found.code, found.blamed_ranks) == (Code.COLLECTIVE_MISMATCH, ())


def test_a_rank_that_failed_is_not_blamed_for_a_mismatch_of_others() -> None:
    box = FakeBox(5).begins().raises(0).after(1.2).enters(0, "gloo:barrier", 2).enters(1, "gloo:broadcast", 2)
    found = verdict(box.enters((2, 3, 4), seq=2).after(0.4).acts(ActReason.MISMATCH, "differs").aborts("mismatch"))
    assert (found.code, found.blamed_ranks) == (Code.COLLECTIVE_MISMATCH, (1,))


def test_what_ranks_do_after_a_death_is_because_of_it() -> None:
    box = FakeBox(4).begins().exits(0, signal="SIGSEGV").after(0.05).enters((1, 3), seq=2)
    found = verdict(box.enters(2, "gloo:barrier", 2).after(0.1).acts(ActReason.EXIT, "").aborts("exit"))
    assert (found.code, found.blamed_ranks) == (Code.RANK_DEATH, (0,))
    evidence = [e.text for e in found.evidence]
    assert "ranks 1,3 entered all_reduce #2 of group 0, rank 2 barrier #2, rank 0 did not" in evidence


def differing(box: FakeBox) -> Verdict:
    return verdict(box.after(0.4).acts(ActReason.MISMATCH, "operation differs").aborts("mismatch"))


@pytest.mark.parametrize("fails", ["before", "meanwhile"])
def test_who_lost_a_failed_peer_and_went_another_way_did_so_because_of_it(fails: str) -> None:
    """Rank 1 caught the time-out of their pair, and entered its fallback."""
    box = FakeBox(4).begins().announces("pair", (0, 1))
    box = box.raises(0).after(0.1) if fails == "before" else box
    box.enters(1, group="pair").after(0.1)
    box = box.raises(0) if fails == "meanwhile" else box
    box.after(2).completes(1)
    found = differing(box.enters(1, "gloo:broadcast", 1).enters((2, 3), seq=1))
    assert (found.code, found.blamed_ranks, found.certainty) == (Code.RANK_DEATH, (0,), Certainty.CERTAIN)


def test_so_did_who_waited_for_such_a_rank() -> None:
    box = FakeBox(5).begins().announces("a", (0, 1)).announces("b", (1, 2)).raises(0).after(0.1)
    box.enters(1, group="a").after(2).enters(2, group="b").after(0.1).completes((1, 2))
    found = differing(box.enters(2, "gloo:broadcast", 1).enters((3, 4), seq=1))
    assert (found.code, found.blamed_ranks) == (Code.RANK_DEATH, (0,))


def test_so_did_who_waits_for_its_message() -> None:
    box = FakeBox(4).begins().raises(0).after(0.1).enters(1, "nccl:recv 1<-0", 7).after(2)
    found = differing(box.enters(1, "nccl:broadcast", 1).enters((2, 3), "nccl:all_reduce", 1))
    assert (found.code, found.blamed_ranks) == (Code.RANK_DEATH, (0,))


@pytest.mark.parametrize("over", [False, True])
def test_so_did_who_handles_that_a_peer_is_gone(over: bool) -> None:
    """The message that rank 1 lost is not recorded. What it had handled before its last call explains nothing."""
    box = FakeBox(4).begins().raises(0).after(0.1).handles(1, "RuntimeError", PEER_CLOSED, propagates=False).after(0.1)
    if over:
        box.rank(ev.Handles(1, box.test, None))
    found = differing(box.enters(1, "gloo:broadcast", 1).enters((2, 3), seq=1))
    assert found.blamed_ranks == ((1,) if over else (0,))
    assert found.code is (Code.COLLECTIVE_MISMATCH if over else Code.RANK_DEATH)


def test_who_met_the_failed_peer_went_another_way_by_itself() -> None:
    """Rank 0 came to their pair's collective, be it after a subtest that failed."""
    box = FakeBox(4).begins().announces("pair", (0, 1)).raises(0).after(0.1).enters((0, 1), group="pair").completes()
    found = differing(box.after(2).enters(1, "gloo:broadcast", 1).enters((2, 3), seq=1))
    assert (found.code, found.blamed_ranks, found.certainty) == (Code.COLLECTIVE_MISMATCH, (1,), Certainty.LIKELY)


def test_who_lost_it_later_had_gone_another_way_by_itself() -> None:
    box = FakeBox(4).begins().announces("pair", (0, 1)).raises(0).after(0.1)
    box.enters(1, "gloo:broadcast", 1).enters((2, 3), seq=1).completes().after(0.1).enters(1, group="pair")
    found = differing(box)
    assert (found.code, found.blamed_ranks) == (Code.COLLECTIVE_MISMATCH, (1,))


def test_a_rank_whose_failure_came_after_it_did_not_cause_it() -> None:
    box = FakeBox(4).begins().announces("pair", (0, 1)).enters(1, group="pair").after(0.1)
    box.enters(1, "gloo:broadcast", 1).enters((2, 3), seq=1).after(0.2).raises(0)
    found = differing(box)
    assert (found.code, found.blamed_ranks, found.certainty) == (Code.COLLECTIVE_MISMATCH, (1,), Certainty.CERTAIN)


def test_what_the_others_differ_in_is_looked_at_without_the_one_that_failed() -> None:
    """It issued another operation, they other sizes."""
    box = FakeBox(4).begins().raises(0).after(0.1).enters(0, "gloo:barrier", 2).enters(1, seq=2, numel=8)
    found = differing(box.enters((2, 3), seq=2, numel=12))
    assert (found.code, found.cause, found.blamed_ranks) == (Code.COLLECTIVE_MISMATCH, Aspect.SIZE, (1,))


def test_a_failure_after_it_does_not_hide_one_before_it() -> None:
    """Rank 0 failed a subtest; rank 2 raises because of what it received."""
    box = FakeBox(4).begins().raises(0).after(0.1).enters((0, 2, 3), seq=1).enters(1, "gloo:broadcast", 1).after(0.1)
    box.completes().enters((0, 3), "gloo:barrier", 2).raises(2, "KeyError", "7")
    found = verdict(box.after(0.6).acts(ActReason.FAILURE_STUCK, "", (0, 3), (2,)).aborts("failure-stuck"))
    assert (found.code, found.blamed_ranks, found.certainty) == (Code.COLLECTIVE_MISMATCH, (1,), Certainty.LIKELY)
    assert BEFORE in [e.text for e in found.evidence]


def test_a_later_failure_that_others_wait_for_is_blamed_where_an_earlier_one_explains_that_ranks_differ() -> None:
    box = FakeBox(4).begins().raises(0).after(0.1).enters(0, "gloo:barrier", 1).enters((1, 2, 3), seq=1).after(0.1)
    box.completes().enters((0, 1, 3), "gloo:barrier", 2).raises(2, "KeyError", "7")
    found = verdict(box.after(0.6).acts(ActReason.FAILURE_STUCK, "", (0, 1, 3), (2,)).aborts("failure-stuck"))
    assert (found.code, found.blamed_ranks, found.certainty) == (Code.RANK_DEATH, (2,), Certainty.LIKELY)


@pytest.mark.parametrize(("come", "certainty"), [((0, 1, 3), Certainty.CERTAIN), ((0, 1), Certainty.LIKELY)])
def test_a_majority_of_those_that_came_may_be_none_of_all(come: tuple[int, ...], certainty: Certainty) -> None:
    found = differing(FakeBox(4).begins().enters(come, seq=1).enters(2, "gloo:broadcast", 1).at(3))
    assert (found.code, found.blamed_ranks, found.certainty) == (Code.COLLECTIVE_MISMATCH, (2,), certainty)
    text = "less certain: rank 3 had not come to it, and may make another majority"
    assert (text in [e.text for e in found.evidence]) == (certainty is Certainty.LIKELY)


def test_what_a_rank_issued_because_it_had_lost_its_peer_is_no_mismatch_of_its_own() -> None:
    """Rank 2 waited in vain for a message of rank 3, which no recorder shows, and went on to its teardown."""
    box = FakeBox(4).begins().enters((0, 1), seq=1).blocked(2, "recv").after(2).at(3)
    box.raises(2, "RuntimeError", TIMED_OUT).enters(2, "gloo:barrier", 1).after(0.5)
    found = verdict(box.acts(ActReason.MISMATCH, "operation differs").at(3).aborts("mismatch"))
    assert (found.code, found.blamed_ranks) == (Code.STRAGGLER, (3,))
