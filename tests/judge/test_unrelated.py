"""Waits that no failure explains, and those that one does."""

from pytest_megacpp.judge.arbiter import judge_test
from pytest_megacpp.judge.verdicts import Certainty, Code, Verdict
from pytest_megacpp.recording.vocabulary import ActReason, TestPhase
from tests.scenario import C10D, FakeBox


def verdict(box: FakeBox) -> Verdict:
    return judge_test(box.done().timeline(), 0).verdict


def stalled(box: FakeBox, waiting: tuple[int, ...], missing: tuple[int, ...] = ()) -> FakeBox:
    return box.after(31).acts(ActReason.STALL, "waits", waiting, missing, (), 31.0)


def parts(found: Verdict) -> list[tuple[int, str, str | None]]:
    return [(c.rank, c.text, c.cause) for c in found.consequences]


def doubts(found: Verdict) -> list[str]:
    return [e.text.removeprefix("less certain: ") for e in found.evidence if e.text.startswith("less certain")]


def test_a_hang_of_others_is_no_consequence() -> None:
    box = FakeBox(4).begins().announces("rest", (1, 2, 3)).raises(0).after(0.1)
    found = verdict(stalled(box.enters((1, 2, 3), "gloo:broadcast", 1, group="rest"), (1, 2, 3)).aborts("stall"))
    assert (found.code, found.blamed_ranks, found.certainty) == (Code.TEST_FAILED, (0,), Certainty.LIKELY)
    assert found.summary.startswith("rank 0 raised ValueError: no shards (train.py:31); no rank is missing, but")
    assert "ranks 1-3 waited 31 s in broadcast #1" in found.summary
    assert parts(found) == [(r, "waited 31 s in broadcast #1", Code.HANG) for r in (1, 2, 3)]
    assert doubts(found) == ["ranks 1-3 waited, and for no rank that had failed"]


def test_groups_that_others_used_in_different_orders_are_no_consequence() -> None:
    box = FakeBox(4).begins().announces("1", (1, 2)).announces("2", (1, 2)).raises(0).passes(3)
    box.enters(1, seq=1, group="1").enters(2, seq=1, group="2").after(0.6)
    found = verdict(box.acts(ActReason.FAILURE_STUCK, "", (1, 2), ()).aborts("failure-stuck"))
    assert (found.code, found.blamed_ranks, found.certainty) == (Code.TEST_FAILED, (0,), Certainty.LIKELY)
    assert "ranks used the groups in different orders" in found.summary
    assert [c.rank for c in found.consequences] == [1, 2]


def test_only_those_whose_waits_lead_to_it_are_consequences() -> None:
    """Rank 1 waits for rank 0, which raised; rank 2 waits for rank 3, which computes."""
    box = FakeBox(4).begins().announces("a", (0, 1)).announces("b", (2, 3)).raises(0).at(3)
    box.enters(1, "gloo:barrier", 1, group="a").enters(2, "gloo:barrier", 1, group="b")
    found = verdict(stalled(box, (1,), (0,)).at(3).aborts("stall"))
    assert (found.code, found.blamed_ranks, found.certainty) == (Code.RANK_DEATH, (0,), Certainty.LIKELY)
    assert "; rank 1 then waited in barrier #1; rank 3 never entered barrier #1" in found.summary
    assert [(r, cause) for r, _, cause in parts(found)] == [(1, None), (2, None), (3, Code.STRAGGLER)]
    assert doubts(found) == ["rank 3 kept others waiting, and had not failed"]


ABSENT = "[Rank 0]: Rank {} failed to pass monitoredBarrier in 2000 ms"


def test_a_barrier_that_names_absent_ranks_hides_no_other_wait() -> None:
    """Rank 0 names rank 1 in its teardown; rank 2 waits for rank 3, on which the box acted."""
    box = FakeBox(4).begins().announces("g", (0, 1)).announces("h", (2, 3)).raises(0).after(0.1)
    box.raises(0, "RuntimeError", ABSENT.format(1), when=TestPhase.TEARDOWN, raised_in=C10D)
    found = verdict(stalled(box.enters(2, "gloo:barrier", 1, group="h"), (2,), (3,)).at((1, 3)).aborts("stall"))
    assert (found.code, found.blamed_ranks, found.certainty) == (Code.TEST_FAILED, (0,), Certainty.LIKELY)
    assert [(r, cause) for r, _, cause in parts(found)][-3:] == [(1, Code.STRAGGLER), (2, None), (3, Code.STRAGGLER)]
    assert (3, "kept others waiting in barrier #1", Code.STRAGGLER) in parts(found)


def test_a_barrier_that_names_the_rank_that_skipped_is_a_consequence_of_that() -> None:
    box = FakeBox(3).begins().skips(2).finishes(2).after(2).loses_peer(0, ABSENT.format(2))
    box.loses_peer(1, "Rank 1 successfully reached monitoredBarrier, but received errors while waiting for send/recv")
    found = verdict(box.finishes((0, 1)).ends())
    assert (found.code, found.blamed_ranks, found.certainty) == (Code.TEST_FAILED, (2,), Certainty.CERTAIN)
    assert [(r, cause) for r, _, cause in parts(found)] == [(0, None), (1, None)]


def test_who_waits_behind_others_for_a_rank_that_failed_is_a_consequence() -> None:
    box = FakeBox(4).begins().announces("a", (0, 1)).announces("b", (1, 2, 3)).raises(0).after(0.1)
    box.enters(1, seq=1, group="a").enters((2, 3), "gloo:barrier", 1, group="b")
    found = verdict(stalled(box, (1, 2, 3), (0,)).aborts("stall"))
    assert (found.code, found.blamed_ranks, found.certainty) == (Code.RANK_DEATH, (0,), Certainty.CERTAIN)
    assert [c.rank for c in found.consequences] == [1, 2, 3]


def test_who_waits_for_a_moment_when_a_process_dies_is_no_consequence() -> None:
    box = FakeBox(4).begins().announces("b", (2, 3)).enters(2, seq=1, group="b").after(0.1).exits(0, 3).after(0.2)
    found = verdict(box.acts(ActReason.EXIT).aborts("exit"))
    assert (found.summary, found.certainty) == ("rank 0 exited with code 3", Certainty.CERTAIN)
    assert not found.consequences


def test_where_only_a_stack_shows_a_wait_it_may_be_for_the_rank_that_failed() -> None:
    box = FakeBox(4).begins().announces("b", (2, 3)).raises(0).blocked(3).enters(2, seq=1, group="b").passes(1)
    found = verdict(stalled(box, (2, 3), ()).blocked(3).aborts("stall"))
    assert (found.code, found.blamed_ranks) == (Code.RANK_DEATH, (0,))
    assert found.summary.endswith("; rank 2 then waited in all_reduce #1 and rank 3 then waited in recv")
    assert found.certainty is Certainty.CERTAIN


def test_a_wait_beside_a_skip_is_reported_with_it() -> None:
    """Rank 0 skipped and came to the barrier of the teardown, where rank 3 is missing."""
    box = FakeBox(4).begins().skips(0).enters((0, 1, 2), "gloo:barrier", 1)
    found = verdict(stalled(box, (0, 1, 2), (3,)).at(3).aborts("stall"))
    assert (found.cause, found.blamed_ranks, found.certainty) == ("skipped-on-some-ranks", (0,), Certainty.LIKELY)
    assert found.summary.startswith("only rank 0 skipped the test (needs NVLink); rank 3 never entered barrier #1")
    assert [(r, cause) for r, _, cause in parts(found)] == [(1, None), (2, None), (3, Code.STRAGGLER)]


def test_who_waits_for_the_rank_that_skipped_is_a_consequence_of_that() -> None:
    box = FakeBox(4).begins().skips(0).finishes(0).enters((1, 2, 3), "gloo:barrier", 1)
    found = verdict(stalled(box, (1, 2, 3), (0,)).aborts("stall"))
    assert (found.cause, found.certainty) == ("skipped-on-some-ranks", Certainty.CERTAIN)
    assert found.summary == "only rank 0 skipped the test (needs NVLink); ranks 1-3 then waited in barrier #1"


def test_what_the_failed_rank_entered_too_may_not_hang_because_of_it() -> None:
    box = FakeBox(4).begins().raises(0).after(0.1).enters((0, 1, 2, 3), "gloo:broadcast", 1).completes((2, 3))
    found = verdict(stalled(box.passes((2, 3)), (1,)).blocked(0, "broadcast").aborts("stall"))
    assert (found.code, found.blamed_ranks, found.certainty) == (Code.RANK_DEATH, (0,), Certainty.LIKELY)
    assert found.summary.endswith("(train.py:31); rank 1 then waited in broadcast #1")
    assert doubts(found) == ["rank 0 went on to broadcast #1 after that, as others did"]


def test_a_collective_on_its_way_at_the_limit_is_no_hang() -> None:
    box = FakeBox(4).begins().announces("b", (2, 3)).raises(0).finishes(0).passes(1).after(899)
    box.enters((2, 3), seq=1, group="b").after(0.01)
    found = verdict(box.acts(ActReason.TEST_LIMIT).aborts("test-limit"))
    assert (found.code, found.blamed_ranks, found.certainty) == (Code.TEST_FAILED, (0,), Certainty.CERTAIN)
    assert found.summary == "rank 0 raised ValueError: no shards (train.py:31)"


def test_a_moment_s_wait_when_a_process_ends_is_not_reported_beside_a_failure() -> None:
    box = FakeBox(5).begins().announces("a", (0, 1)).announces("b", (2, 3)).raises(0).after(0.1)
    box.enters(1, seq=1, group="a").enters(2, seq=1, group="b").after(0.1).exits(4, 3).after(0.1)
    found = verdict(box.acts(ActReason.EXIT).aborts("exit"))
    assert found.summary == "rank 0 raised ValueError: no shards (train.py:31); rank 1 then waited in all_reduce #1"


def test_who_waits_for_one_that_lost_a_peer_is_a_consequence() -> None:
    """Nothing records for whom rank 1 waited."""
    box = FakeBox(4).begins().announces("b", (1, 2)).raises(0).after(0.1).enters(2, seq=1, group="b").loses_peer(1)
    found = verdict(box.after(0.6).acts(ActReason.FAILURE_STUCK, "", (2,), (1,)).aborts("failure-stuck"))
    assert (found.code, found.blamed_ranks) == (Code.RANK_DEATH, (0,))
    assert "rank 2 then waited in all_reduce #1" in found.summary


def test_a_wait_in_a_group_of_unknown_members_may_be_for_the_rank_that_failed() -> None:
    box = FakeBox(4).begins().enters((1, 2, 3), seq=1, group="x").completes((1, 2, 3)).raises(0)
    found = verdict(stalled(box.enters((1, 2), seq=2, group="x"), (1, 2), (3,)).at(3).aborts("stall"))
    assert (found.code, found.blamed_ranks) == (Code.RANK_DEATH, (0,))
    assert found.summary.endswith("; ranks 1,2 then waited in all_reduce #2")


def test_of_two_that_failed_each_keeps_its_own_waiting() -> None:
    box = (
        FakeBox(4).begins().announces("a", (0, 1)).announces("b", (2, 3)).raises(0).after(2).raises(2, "KeyError", "7")
    )
    box.enters(1, "gloo:barrier", 1, group="a").enters(3, seq=1, group="b").after(0.6)
    found = verdict(box.acts(ActReason.FAILURE_STUCK, "", (1, 3), (0, 2)).aborts("failure-stuck"))
    assert found.summary == "rank 0 raised ValueError: no shards (train.py:31); rank 1 then waited in barrier #1"
    assert [(r, cause) for r, _, cause in parts(found)] == [(1, None), (2, "exception"), (3, None)]


def test_one_doubt_about_waits_counts_once() -> None:
    """Only a stack shows that rank 1 waits; ranks 2 and 3 are recorded to wait for another one."""
    box = FakeBox(5).begins().announces("rest", (2, 3, 4)).raises(0).after(0.1)
    box.enters((2, 3), "gloo:barrier", 1, group="rest").blocked(1)
    found = verdict(stalled(box, (1, 2, 3), (4,)).blocked(1).at(4).aborts("stall"))
    assert (found.code, found.blamed_ranks, found.certainty) == (Code.RANK_DEATH, (0,), Certainty.LIKELY)
    assert doubts(found) == ["the recording doesn't show which ranks the others waited for"]
