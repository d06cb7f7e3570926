"""Whose failure began it, where several ranks failed by themselves."""

import pytest

from pytest_megacpp.judge.arbiter import judge_test
from pytest_megacpp.judge.verdicts import Certainty, Code, Verdict
from pytest_megacpp.recording.vocabulary import ActReason, TestPhase
from tests.scenario import C10D, PEER_CLOSED, TIMED_OUT, FakeBox

UNAWAITED = "rank 0 had failed before, but no rank is recorded to have waited for that"


def verdict(box: FakeBox) -> Verdict:
    return judge_test(box.done().timeline(), 0).verdict


def stuck(box: FakeBox, waiting: tuple[int, ...], missing: tuple[int, ...]) -> Verdict:
    return verdict(box.after(0.6).acts(ActReason.FAILURE_STUCK, "", waiting, missing).aborts("failure-stuck"))


def doubts(found: Verdict) -> list[str]:
    return [e.text.removeprefix("less certain: ") for e in found.evidence if e.text.startswith("less certain")]


def others(found: Verdict) -> list[tuple[int, str | None]]:
    return [(c.rank, c.cause) for c in found.consequences if c.cause]


def test_who_raised_and_came_to_the_barrier_is_not_whom_the_others_wait_for() -> None:
    """Rank 0's call failed; rank 2 raises in the teardown in which all others meet."""
    box = FakeBox(4).begins().raises(0, "AssertionError", "assert 1 == 2").after(1.5)
    box.enters((0, 1, 3), "gloo:barrier", 1).raises(2, when=TestPhase.TEARDOWN)
    found = stuck(box, (1, 3), (2,))
    assert (found.code, found.blamed_ranks, found.certainty) == (Code.RANK_DEATH, (2,), Certainty.LIKELY)
    assert found.summary == "rank 2 raised ValueError: no shards (train.py:31); ranks 1,3 then waited in barrier #1"
    assert found.phase is TestPhase.CALL, "it has not passed"
    assert (doubts(found), others(found)) == ([UNAWAITED], [(0, "exception")])


def test_a_call_that_failed_is_no_error_for_another_rank_s_set_up() -> None:
    """Rank 0 failed in set-up, and came to the barrier of the teardown."""
    box = FakeBox(4).begins().raises(0, when=TestPhase.SETUP).after(1.5)
    found = stuck(box.enters((0, 1, 3), "gloo:barrier", 1).raises(2, "KeyError", "7"), (1, 3), (2,))
    assert (found.code, found.blamed_ranks, found.phase) == (Code.RANK_DEATH, (2,), TestPhase.CALL)


def test_a_set_up_that_failed_first_is_an_error_whatever_fails_later() -> None:
    box = FakeBox(4).begins().raises(0, when=TestPhase.SETUP).after(0.1).enters((1, 3), "gloo:barrier", 1)
    found = stuck(box.after(1.5).raises(2, "KeyError", "7"), (1, 3), (0, 2))
    assert (found.code, found.blamed_ranks, found.phase) == (Code.RANK_DEATH, (0,), TestPhase.SETUP)


def test_who_failed_with_its_own_collective_under_way_has_come() -> None:
    """Rank 0 asserts after an asynchronous all_reduce; rank 1 raises later and never issues it."""
    box = FakeBox(4).begins().enters(0, seq=1).raises(0, "AssertionError", "loss is nan").after(0.1)
    box.enters((2, 3), seq=1).after(2).raises(1, "FileNotFoundError", "shard-1.bin")
    found = stuck(box, (2, 3), (1,))
    assert (found.blamed_ranks, found.certainty, doubts(found)) == ((1,), Certainty.LIKELY, [UNAWAITED])


def test_of_two_that_did_not_come_the_earlier_one_is_blamed() -> None:
    box = FakeBox(4).begins().enters((0, 3), "gloo:barrier", 1).raises(1).after(2).raises(2, "KeyError", "7")
    found = stuck(box, (0, 3), (1, 2))
    assert (found.blamed_ranks, found.certainty, others(found)) == ((1,), Certainty.CERTAIN, [(2, "exception")])


def test_who_failed_because_an_earlier_one_did_not_come_is_not_blamed() -> None:
    """Rank 2 gave up on rank 0 in words of its own, and ranks 1 and 3 wait for rank 2."""
    box = FakeBox(4).begins().announces("pair", (0, 2)).announces("rest", (1, 2, 3)).raises(0)
    box.enters(2, seq=1, group="pair").enters((1, 3), "gloo:barrier", 1, group="rest").after(5).raises(2, "Gone", "?")
    found = stuck(box, (1, 3), (2,))
    assert (found.blamed_ranks, others(found)) == ((0,), [(2, "exception")])


@pytest.mark.parametrize("died", [False, True])
def test_who_gave_up_waited_for_the_one_that_had_not_come(died: bool) -> None:
    box = FakeBox(4).begins().raises(0, "AssertionError", "assert 1 == 2").after(0.1)
    box.enters((0, 1, 2), "gloo:barrier", 1).after(6).loses_peer((1, 2), TIMED_OUT).after(1)
    if died:
        found = verdict(box.exits(3, None, "SIGSEGV").after(0.2).acts(ActReason.EXIT).aborts("exit"))
    else:
        found = verdict(box.raises(3).finishes().ends())
    assert (found.code, found.blamed_ranks, found.certainty) == (Code.RANK_DEATH, (3,), Certainty.LIKELY)
    assert (doubts(found), others(found)) == ([UNAWAITED], [(0, "exception")])


def test_a_death_comes_before_a_failure_whose_rank_went_on_with_the_others() -> None:
    """Rank 0 failed a subtest and came to all that the others came to; all connections broke with rank 2."""
    box = FakeBox(4).begins().raises(0, "AssertionError", "assert 1 == 2").enters((0, 1, 2, 3), seq=1).completes()
    box.after(1.2).enters((0, 1, 3), seq=2).completes((0, 1, 3)).exits(2, 4).after(0.2)
    found = verdict(box.acts(ActReason.EXIT).aborts("exit"))
    assert (found.code, found.cause, found.blamed_ranks) == (Code.RANK_DEATH, "exit:4", (2,))
    assert (found.certainty, doubts(found)) == (Certainty.LIKELY, [UNAWAITED])


@pytest.mark.parametrize("last", [0, 1])
def test_a_death_comes_after_a_failure_whose_rank_did_not_go_on_to_the_last(last: int) -> None:
    box = FakeBox(4).begins().raises(0).after(0.1)
    for seq in range(1, last + 1):
        box.enters((0, 1, 2, 3), seq=seq).completes()
    box.enters((1, 3), seq=last + 1).completes((1, 3)).after(1).exits(2, 4).after(0.2)
    assert verdict(box.acts(ActReason.EXIT).aborts("exit")).blamed_ranks == (0,)


def test_a_death_cannot_be_waited_for_and_stays_the_first() -> None:
    """Rank 0 had issued it and was killed; rank 1 aborts for lack of it."""
    box = FakeBox(4).begins().enters((0, 2, 3), seq=1).after(1).exits(0, None, "SIGKILL").after(0.1)
    box.exits(1, None, "SIGABRT").after(0.1)
    found = verdict(box.acts(ActReason.EXIT).aborts("exit"))
    assert (found.cause, found.blamed_ranks) == ("signal:SIGKILL", (0,))


def test_who_went_on_and_then_stays_away_is_shown_where_it_is_now() -> None:
    """A failed subtest, a barrier with the others, and then a long computation."""
    box = FakeBox(4).begins().raises(0, "AssertionError", "assert 1 == 2").after(0.1)
    box.enters((0, 1, 2, 3), "gloo:barrier", 1).completes().after(0.1).enters((1, 2, 3), "gloo:barrier", 2)
    box.after(31).acts(ActReason.STALL, "waits", (1, 2, 3), (0,), (), 31.0).at(0)
    found = verdict(box.aborts("stall"))
    assert (found.code, found.blamed_ranks, found.certainty) == (Code.RANK_DEATH, (0,), Certainty.LIKELY)
    assert "rank 0 was then in train.py:88 (load_batch); ranks 1-3 then waited in barrier #2" in found.summary
    assert doubts(found) == ["rank 0 went on to barrier #1 after that, as others did"]
    assert "is in train.py:88 (load_batch)" in [e.text for e in found.evidence if e.rank == 0]


def test_who_went_on_and_finished_left_the_others_waiting_for_certain() -> None:
    box = FakeBox(4).begins().raises(0).after(0.1).enters((0, 1, 2, 3), "gloo:barrier", 1).completes().after(0.1)
    found = stuck(box.finishes(0).enters((1, 2, 3), "gloo:barrier", 2), (1, 2, 3), (0,))
    assert (found.blamed_ranks, found.certainty) == ((0,), Certainty.CERTAIN)


def test_peers_that_were_lost_by_words_alone_leave_the_earliest_failure() -> None:
    box = FakeBox(4).begins().raises(0).after(0.1).loses_peer((1, 3), PEER_CLOSED).after(1).raises(2, "KeyError", "7")
    found = verdict(box.finishes().ends())
    assert (found.code, found.blamed_ranks) == (Code.RANK_DEATH, (0,))


def test_who_lost_a_peer_after_its_own_failure_may_not_be_whom_the_others_waited_for() -> None:
    """In words that don't say which, of calls that nothing records."""
    box = FakeBox(4).begins().raises(0).after(2.5).loses_peer((1, 2), TIMED_OUT)
    box.raises(0, "RuntimeError", TIMED_OUT, when=TestPhase.TEARDOWN, raised_in=C10D)
    found = verdict(box.after(4).loses_peer(3).finishes().ends())
    assert (found.code, found.blamed_ranks, found.certainty) == (Code.RANK_DEATH, (0,), Certainty.LIKELY)
    assert doubts(found) == ["rank 0 lost a peer as well after that"]


def test_who_failed_after_others_had_given_up_on_another_is_not_blamed_for_a_moment_s_wait() -> None:
    """Rank 1 lost rank 0 in a message that nothing records, while rank 3 was about to come to rank 2."""
    box = FakeBox(4).begins().announces("b", (2, 3)).raises(0).after(0.1).enters(2, seq=1, group="b").after(0.02)
    found = stuck(box.loses_peer(1).after(1).raises(3, "KeyError", "7"), (2,), (3,))
    assert (found.code, found.blamed_ranks, others(found)) == (Code.RANK_DEATH, (0,), [(3, "exception")])


def test_a_group_of_unknown_members_may_wait_for_the_earliest_one() -> None:
    """Nobody announced it, and rank 0 had not used it before it failed."""
    box = FakeBox(4).begins().enters((1, 2, 3), seq=1, group="x").completes((1, 2, 3)).raises(0).after(1)
    found = stuck(box.raises(2, "KeyError", "7").enters((1, 3), seq=2, group="x"), (1, 3), (2,))
    assert (found.blamed_ranks, others(found)) == ((0,), [(2, "exception")])
    assert "ranks 1,3 then waited in all_reduce #2" in found.summary


def test_what_happened_to_another_rank_long_before_is_not_the_same() -> None:
    box = FakeBox(4).begins().raises(0).after(5).enters((0, 1, 3), "gloo:barrier", 1).raises(2)
    found = stuck(box, (1, 3), (2,))
    assert (found.blamed_ranks, others(found)) == ((2,), [(0, "exception")])


def test_who_went_on_is_no_doubt_where_another_to_which_the_same_happened_did_not() -> None:
    box = FakeBox(4).begins().raises((0, 2)).after(0.1).enters((0, 1, 3), "gloo:barrier", 1)
    found = stuck(box, (1, 3), (2,))
    assert (found.blamed_ranks, found.certainty) == ((0, 2), Certainty.CERTAIN)
