"""Errors about a peer: no cause where another rank has trouble of its own or is missing, else all there is."""

import pytest

from pytest_megacpp.judge.arbiter import judge_test
from pytest_megacpp.judge.verdicts import Certainty, Code, Verdict
from pytest_megacpp.recording.events import Cause
from pytest_megacpp.recording.vocabulary import ActReason
from tests.scenario import C10D, PEER_CLOSED, TIMED_OUT, FakeBox

MINE = "/repo/suite/data.py"
ABORTED = "NCCL communicator was aborted on rank 1"


def judged(box: FakeBox) -> Verdict:
    return judge_test(box.done().timeline(), 0).verdict


def stuck(box: FakeBox, waiting: tuple[int, ...], missing: tuple[int, ...]) -> FakeBox:
    return box.after(1).acts(ActReason.FAILURE_STUCK, "", waiting, missing).aborts("failure-stuck")


def in_barrier(*ranks: int, size: int = 4) -> FakeBox:
    return FakeBox(size).begins().enters(ranks, "gloo:barrier", 1).after(0.1)


def test_words_of_a_peer_are_the_cause_where_nobody_else_failed_or_is_missing() -> None:
    box = in_barrier(0, 2, 3).raises(1, "RuntimeError", ABORTED, raised_in="/repo/suite/pynccl.py").finishes(1)
    found = judged(stuck(box, (0, 2, 3), (1,)))
    assert (found.code, found.blamed_ranks, found.certainty) == (Code.RANK_DEATH, (1,), Certainty.LIKELY)
    assert found.summary.startswith(f"rank 1 raised RuntimeError: {ABORTED} (train.py:31)")


def test_words_of_a_peer_are_secondary_where_another_rank_failed_by_itself() -> None:
    box = in_barrier(0, 3).raises(1, "RuntimeError", ABORTED, raised_in="/repo/suite/pynccl.py").after(0.1)
    found = judged(stuck(box.raises(2, raised_in=MINE).finishes((1, 2)), (0, 3), (1, 2)))
    assert (found.code, found.blamed_ranks) == (Code.RANK_DEATH, (2,))


@pytest.mark.parametrize("seen", [True, False])
def test_words_of_a_peer_are_secondary_where_another_rank_is_missing(seen: bool) -> None:
    box = in_barrier(0, 3).raises(1, "RuntimeError", ABORTED, raised_in="/repo/suite/pynccl.py").finishes(1)
    found = judged(stuck(box.at(2) if seen else box, (0, 3), (1, 2)))
    assert (found.code, found.blamed_ranks) == (Code.STRAGGLER, (2,))


def test_a_time_out_whose_sender_waits_elsewhere() -> None:
    box = FakeBox(3).begins().enters((0, 2), "gloo:barrier", 1).after(6).raises(1, "RuntimeError", TIMED_OUT)
    found = judged(stuck(box.finishes(1), (0, 2), (1,)))
    assert (found.code, found.blamed_ranks, found.certainty) == (Code.RANK_DEATH, (1,), Certainty.LIKELY)
    assert "Timed out waiting 6000ms for recv" in found.summary


def test_who_loses_its_peer_later_than_those_it_kept_waiting_is_late() -> None:
    box = in_barrier(0, 2, 3).after(6).loses_peer((0, 2, 3), TIMED_OUT).after(0.1)
    found = judged(box.raises(1, "RuntimeError", ABORTED).finishes().ends())
    assert (found.code, found.blamed_ranks) == (Code.STRAGGLER, (1,))


def test_an_exit_is_said_though_its_last_words_are_of_a_peer() -> None:
    box = in_barrier(0, 2, 3).exits(1, 3).after(0.2).acts(ActReason.EXIT, "a rank's process ended")
    found = judged(box.writes(1, f"RuntimeError: {PEER_CLOSED}\n").aborts("exit"))
    assert (found.code, found.cause, found.blamed_ranks) == (Code.RANK_DEATH, "exit:3", (1,))
    assert found.certainty is Certainty.LIKELY


SHARD = (Cause("ValueError", "bad shard", MINE, False),)


def test_an_error_in_whose_handling_a_collective_lost_its_peers() -> None:
    """`except ValueError: dist.barrier()`, and the others have passed."""
    box = FakeBox(4).begins().passes((0, 2, 3)).enters(1, "gloo:barrier", 1).after(6)
    found = judged(box.raises(1, "RuntimeError", TIMED_OUT, raised_in=C10D, causes=SHARD).finishes(1).ends())
    assert (found.code, found.blamed_ranks, found.certainty) == (Code.TEST_FAILED, (1,), Certainty.LIKELY)
    assert found.summary == (
        "rank 1 raised ValueError: bad shard; rank 1 then lost its peer while handling this error (train.py:31)"
    )


def test_the_same_while_the_others_receive_and_lose_it_too() -> None:
    box = FakeBox(3).begins().enters(1, "gloo:barrier", 1).after(6)
    box.raises(1, "RuntimeError", TIMED_OUT, raised_in=C10D, causes=SHARD).after(0.1).loses_peer((0, 2))
    found = judged(box.finishes().ends())
    assert (found.code, found.blamed_ranks, found.certainty) == (Code.RANK_DEATH, (1,), Certainty.LIKELY)
    assert "rank 1 raised ValueError: bad shard" in found.summary


def test_the_same_while_most_are_elsewhere() -> None:
    box = FakeBox(4).begins().enters(1, "gloo:barrier", 1).at((0, 2, 3)).after(6)
    box.raises(1, "RuntimeError", TIMED_OUT, raised_in=C10D, causes=SHARD).finishes(1)
    found = judged(stuck(box, (), (0, 2, 3)))
    assert (found.blamed_ranks, found.certainty) == ((1,), Certainty.LIKELY)


def test_who_is_late_where_all_others_handle_an_error_together() -> None:
    """`except FileNotFoundError: build_if_first(); dist.barrier()`, and rank 0 builds for a long time."""
    absent = (Cause("FileNotFoundError", "no cache", MINE, False),)
    box = FakeBox(4).begins().enters((1, 2, 3), "gloo:barrier", 1).at(0).after(6)
    box.raises((1, 2, 3), "RuntimeError", TIMED_OUT, raised_in=C10D, causes=absent).finishes((1, 2, 3))
    found = judged(stuck(box, (), (0,)))
    assert (found.code, found.blamed_ranks, found.certainty) == (Code.STRAGGLER, (0,), Certainty.LIKELY)
    assert any("rank 1 began to wait while it handled FileNotFoundError: no cache" in e.text for e in found.evidence)


def test_an_own_error_elsewhere_comes_before_what_was_being_handled() -> None:
    box = FakeBox(3).begins().enters(1, "gloo:barrier", 1).after(1).raises(2, raised_in=MINE).after(0.1)
    box.raises(1, "RuntimeError", PEER_CLOSED, raised_in=C10D, causes=SHARD).finishes((1, 2))
    assert judged(stuck(box, (0,), (2,))).blamed_ranks == (2,)


def test_who_had_another_exception_behind_it_says_why_all_raised() -> None:
    """Rank 1 told the others, which raised the same."""
    cause = (Cause("ValueError", "shard 7 is bad", "/repo/suite/train.py", True),)
    box = FakeBox(4).begins().raises((0, 2, 3), "RuntimeError", "a rank failed to load")
    found = judged(box.raises(1, "RuntimeError", "a rank failed to load", causes=cause).finishes().ends())
    what = "ranks 0-3 raised RuntimeError: a rank failed to load (train.py:31)"
    assert found.summary == f"{what}, on rank 1 from ValueError: shard 7 is bad"


def test_words_of_a_message_are_no_exception_behind_it() -> None:
    box = FakeBox(2).begins().raises(0, message="got 3 tokens, from shard 1").raises(1, message="empty")
    assert "on rank 0 from" not in judged(box.finishes().ends()).summary
