"""What is said about ranks that called for their peers while they handled an exception."""

import pytest

from pytest_megacpp.judge.arbiter import judge_test
from pytest_megacpp.judge.verdicts import Certainty, Code, Verdict
from pytest_megacpp.judge.wait_roots import is_for_one
from pytest_megacpp.recording import events as ev
from pytest_megacpp.recording.vocabulary import ActReason
from tests.scenario import C10D, PEER_CLOSED, USER_FILE, FakeBox

RPC = C10D.replace("distributed_c10d", "rpc/api")


def verdict(box: FakeBox) -> Verdict:
    return judge_test(box.done().timeline(), 0).verdict


def apart(box: FakeBox, in_barrier: tuple[int, ...], seq: int = 2) -> Verdict:
    """The others are in an all_reduce of that number."""
    box.enters(box.others(*in_barrier), seq=seq).enters(in_barrier, "gloo:barrier", seq).after(0.4)
    return verdict(box.acts(ActReason.MISMATCH, "operation differs").aborts("mismatch"))


def test_the_majority_that_raised_is_the_cause() -> None:
    found = apart(FakeBox(4).begins().handles((1, 2, 3)), (1, 2, 3))
    assert (found.code, found.cause, found.blamed_ranks) == (Code.RANK_DEATH, "exception", (1, 2, 3))
    assert found.certainty is Certainty.LIKELY
    assert "ValueError: bad shard" in found.summary
    assert "rank 0 then waited in all_reduce #2" in found.summary


def test_only_who_had_another_exception_behind_it_is_said_to() -> None:
    box = FakeBox(4).begins().handles((2, 3))
    cause = ev.Cause("KeyError", "7", USER_FILE, True)
    box.rank(ev.Handles(1, 0, ev.Error("ValueError", "bad shard", USER_FILE, 38, "", (), USER_FILE, (cause,)), True))
    found = apart(box, (1, 2, 3))
    what = "ranks 1-3 raised ValueError: bad shard (train.py:38), on rank 1 from KeyError: 7"
    assert found.summary.startswith(what)


def test_one_that_raised_is_the_cause_and_its_exception_is_said() -> None:
    found = apart(FakeBox(4).begins().handles(1), (1,))
    assert (found.code, found.blamed_ranks, found.certainty) == (Code.RANK_DEATH, (1,), Certainty.LIKELY)
    assert "rank 1 raised ValueError: bad shard" in found.summary
    assert found.next_step.startswith("fix what rank 1 raised")


def test_what_all_ranks_handle_is_how_the_test_goes() -> None:
    found = apart(FakeBox(4).begins().handles((0, 1, 2, 3), "queue.Empty", ""), (1,))
    assert (found.code, found.blamed_ranks, found.certainty) == (Code.COLLECTIVE_MISMATCH, (1,), Certainty.CERTAIN)


def test_exceptions_that_fit_no_side_leave_a_doubt() -> None:
    found = apart(FakeBox(4).begins().handles((2, 3)), (1,))
    assert (found.code, found.blamed_ranks, found.certainty) == (Code.COLLECTIVE_MISMATCH, (1,), Certainty.LIKELY)
    assert any("ranks 2,3 handled an exception" in e.text for e in found.evidence)


def test_what_was_handled_before_is_over() -> None:
    box = FakeBox(4).begins().handles(1).enters(1, seq=2).after(0.1).rank(ev.Handles(1, 0, None))
    found = apart(box.enters((0, 2, 3), seq=2).after(0.1).completes((0, 1, 2, 3)), (1,), 3)
    assert (found.code, found.blamed_ranks, found.certainty) == (Code.COLLECTIVE_MISMATCH, (1,), Certainty.CERTAIN)


def test_a_handler_that_went_on_without_another_word_is_not_blamed_for_it() -> None:
    """Collectives that C++ issues aren't noticed: the rank's last word is old."""
    box = FakeBox(4).begins().handles(1).after(0.1).enters(1, seq=2).enters((0, 2, 3), seq=2).after(0.1)
    found = apart(box.completes((0, 1, 2, 3)).after(0.1), (1,), 3)
    assert (found.code, found.certainty) == (Code.COLLECTIVE_MISMATCH, Certainty.CERTAIN)


def test_a_straggler_in_its_error_handling_raised() -> None:
    box = FakeBox(4).begins().enters((0, 2, 3), seq=2).handles(1).after(6)
    box.acts(ActReason.STALL, "waiting", (0, 2, 3), (1,), waited_s=6.0).blocked(1, "Store.get")
    found = verdict(box.aborts("stall"))
    assert (found.code, found.blamed_ranks) == (Code.RANK_DEATH, (1,))
    assert found.certainty is not Certainty.CERTAIN
    assert "ValueError: bad shard" in found.summary


def test_those_who_wait_in_their_error_handling_are_no_cause() -> None:
    box = FakeBox(4).begins().handles((0, 2, 3), "queue.Empty", "", propagates=False).enters((0, 2, 3), seq=2).after(6)
    found = verdict(box.acts(ActReason.STALL, "waiting", (0, 2, 3), (1,), waited_s=6.0).aborts("stall"))
    assert (found.code, found.blamed_ranks) == (Code.STRAGGLER, (1,))


def test_an_exception_about_a_peer_is_nobody_s_own() -> None:
    assert apart(FakeBox(4).begins().handles(1, "RuntimeError", PEER_CLOSED), (1,)).code is Code.COLLECTIVE_MISMATCH


def test_most_ranks_that_caught_an_exception_leave_it_undecided() -> None:
    """Either they took the wrong way, or the one that had none to catch did."""
    found = apart(FakeBox(4).begins().handles((1, 2, 3), "KeyError", "cache", propagates=False), (1, 2, 3))
    assert (found.code, found.blamed_ranks, found.certainty) == (Code.COLLECTIVE_MISMATCH, (), Certainty.GUESS)
    assert "ranks 1-3 raised KeyError: cache" in found.summary


def test_one_that_caught_an_exception_and_differs_is_blamed_for_the_difference() -> None:
    found = apart(FakeBox(4).begins().handles(1, propagates=False), (1,))
    assert (found.code, found.blamed_ranks, found.certainty) == (Code.COLLECTIVE_MISMATCH, (1,), Certainty.LIKELY)
    assert any("raised ValueError: bad shard" in e.text for e in found.evidence)


def test_more_exceptions_than_are_recorded_are_a_doubt() -> None:
    box = FakeBox(4).begins()
    for rank in (1, 2, 3):
        box.rank(ev.Handles(rank, 0, None, is_known=False))
    found = apart(box, (1, 2, 3))
    assert (found.code, found.blamed_ranks, found.certainty) == (Code.COLLECTIVE_MISMATCH, (0,), Certainty.LIKELY)


def test_a_rank_that_is_waited_for_and_raised_is_the_cause_not_who_waits_for_it() -> None:
    box = FakeBox(4).begins().announces("pair", (0, 1)).enters(0, seq=1, group="pair").handles(1).after(6)
    box.acts(ActReason.STALL, "waiting", (0,), (1,), waited_s=6.0).blocked((1, 2, 3), "recv")
    found = verdict(box.aborts("stall"))
    assert (found.code, found.blamed_ranks) == (Code.RANK_DEATH, (1,))
    assert found.certainty is not Certainty.CERTAIN


def test_ranks_that_left_are_not_blamed_for_one_that_raised_and_waits() -> None:
    box = FakeBox(4).begins().handles(1).passes((0, 2, 3)).after(6)
    box.acts(ActReason.STALL, "waiting", (1,), (), waited_s=6.0).blocked(1, "recv")
    found = verdict(box.aborts("stall"))
    assert (found.code, found.blamed_ranks) == (Code.RANK_DEATH, (1,))
    assert found.certainty is not Certainty.CERTAIN


def test_ranks_that_disagree_among_themselves_are_no_rest() -> None:
    box = FakeBox(4).begins().handles(1).enters((0, 3), seq=2).enters(2, seq=2, numel=16)
    box.enters(1, "gloo:barrier", 2).after(0.4)
    found = verdict(box.acts(ActReason.MISMATCH, "operation differs").aborts("mismatch"))
    assert found.code is Code.COLLECTIVE_MISMATCH
    assert found.certainty is not Certainty.CERTAIN


def left_by(box: FakeBox, *left: int) -> Verdict:
    """These are through; the others wait in a barrier."""
    waiting = box.others(*left)
    box.passes(left).enters(waiting, "gloo:barrier", 2).after(0.4)
    return verdict(box.acts(ActReason.STALL, "waiting", waiting, left, waited_s=0.4).aborts("stall"))


def test_who_left_is_late_where_ranks_without_an_exception_wait_as_well() -> None:
    """pytest.raises around a `finally` with a barrier, on one rank: it came to where the others are."""
    found = left_by(FakeBox(4).begins().handles(0), 3)
    assert (found.code, found.cause, found.blamed_ranks) == (Code.STRAGGLER, "left-early", (3,))
    assert found.certainty is Certainty.LIKELY
    assert any("raised ValueError: bad shard" in e.text for e in found.evidence)


def test_who_left_is_late_where_most_ranks_raised() -> None:
    found = left_by(FakeBox(4).begins().handles((0, 1, 2)), 3)
    assert (found.code, found.blamed_ranks, found.certainty) == (Code.STRAGGLER, (3,), Certainty.LIKELY)


def test_who_raised_is_the_cause_where_only_it_is_left() -> None:
    found = left_by(FakeBox(4).begins().handles((0, 1)), 2, 3)
    assert (found.code, found.blamed_ranks, found.certainty) == (Code.RANK_DEATH, (0, 1), Certainty.LIKELY)


def test_who_left_a_rank_of_another_group_is_late() -> None:
    box = FakeBox(4).begins().announces("pair", (2, 3)).handles(1).passes(3)
    box.enters((0, 1), "gloo:barrier", 2).enters(2, seq=1, group="pair").after(0.4)
    found = verdict(box.acts(ActReason.STALL, "waiting", (0, 1, 2), (3,), waited_s=0.4).aborts("stall"))
    assert (found.code, found.blamed_ranks, found.certainty) == (Code.STRAGGLER, (3,), Certainty.LIKELY)


def test_who_waits_for_a_message_of_the_rank_that_raised_is_left_alone_with_it() -> None:
    """A context manager has a barrier for the ranks whose block raised; rank 2 waits for what rank 0 never sent."""
    box = FakeBox(4).begins().handles(0).passes((1, 3)).enters(0, "gloo:barrier", 2).after(0.5).blocked(2).after(1)
    found = verdict(box.acts(ActReason.FAILURE_STUCK, "", (0, 2), (1, 3), waited_s=0.9).aborts("failure-stuck"))
    assert (found.code, found.blamed_ranks, found.certainty) == (Code.RANK_DEATH, (0,), Certainty.LIKELY)


def test_nor_does_who_waits_for_its_key() -> None:
    box = FakeBox(4).begins().handles(1).passes((2, 3)).enters(1, "gloo:barrier", 1).after(0.5)
    box.stack(0, ("/venv/pytest_megacpp/rank/native_calls.py", 30, "get"), (USER_FILE, 52, "fetch")).after(6)
    found = verdict(box.acts(ActReason.STALL, "", (0, 1), (2, 3), waited_s=5.9).aborts("stall"))
    assert (found.code, found.blamed_ranks) == (Code.RANK_DEATH, (1,))


def test_who_is_seen_in_a_collective_without_an_exception_is_not() -> None:
    box = FakeBox(4).begins().handles(0).passes((1, 3)).blocked((0, 2), "barrier").after(6)
    found = verdict(box.acts(ActReason.STALL, "", (0, 2), (1, 3), waited_s=5.9).aborts("stall"))
    assert (found.code, found.blamed_ranks) == (Code.STRAGGLER, (1, 3))


@pytest.mark.parametrize("call", ["recv", "get", "shutdown"])
def test_who_left_is_late_where_ranks_without_an_exception_wait_in_the_same_call(call: str) -> None:
    """All of them get the key, or receive the message, of the one that left; one does so in a `finally`."""
    box = FakeBox(4).begins().handles(1).passes(3).after(0.5)
    files = {"recv": C10D, "get": "/venv/pytest_megacpp/rank/native_calls.py", "shutdown": RPC}
    for rank in (0, 1, 2):
        box.stack(rank, (files[call], 30, call), (USER_FILE, 52, "fetch"))
    found = verdict(box.after(6).acts(ActReason.STALL, "", (0, 1, 2), (3,), waited_s=5.9).aborts("stall"))
    assert (found.code, found.cause, found.blamed_ranks) == (Code.STRAGGLER, "left-early", (3,))
    assert any("raised ValueError: bad shard" in e.text for e in found.evidence)


@pytest.mark.parametrize(("call", "expected"), [("rpc.rpc_sync", True), ("rpc.shutdown", False)])
def test_shutting_rpc_down_is_for_all(call: str, expected: bool) -> None:
    assert is_for_one(call) is expected
    assert is_for_one(call.replace("shutdown", "init_rpc")) is expected
