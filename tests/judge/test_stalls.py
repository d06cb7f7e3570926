"""What is said about waiting: who waits where, what a late rank had done, what the recorder can't show."""

from copy import deepcopy

import pytest

from pytest_megacpp.judge.arbiter import judge_test
from pytest_megacpp.judge.case import Case
from pytest_megacpp.judge.verdicts import Certainty, Code, Verdict
from pytest_megacpp.recording import events as ev
from pytest_megacpp.recording.vocabulary import ActReason, FlightOrigin, SettingOrigin, TestPhase
from tests.scenario import C10D, PEER_CLOSED, TIMED_OUT, FakeBox

COMPILER = "/usr/lib/python3.11/site-packages/torch/_dynamo/utils.py"


def verdict(box: FakeBox) -> Verdict:
    return judge_test(box.done().timeline(), 0).verdict


def texts(found: Verdict, rank: int | None) -> list[str]:
    return [e.text for e in found.evidence if e.rank == rank]


def stalled(box: FakeBox, waiting: tuple[int, ...], missing: tuple[int, ...], **more: tuple[int, ...]) -> FakeBox:
    return box.acts(ActReason.STALL, "waits", waiting, missing, more.get("compiling", ()), 31.0)


def test_of_a_hang_it_says_who_waits_in_what() -> None:
    box = FakeBox(2).begins().enters(1, "gloo:barrier", 2).blocked(0).after(31)
    found = verdict(stalled(box, (0, 1), ()).blocked(0).aborts("stall"))
    assert (found.code, found.blamed_ranks) == (Code.HANG, (0, 1))
    assert "rank 0 waited 31 s in recv, rank 1 in barrier #2" in found.summary
    assert "waits in recv at train.py:52 (exchange)" in texts(found, 0)


RENDEZVOUS = C10D.replace("distributed_c10d", "rendezvous")
JOINS = (C10D, 1899, "init_process_group"), ("/repo/suite/train.py", 12, "setup")


def test_ranks_that_all_wait_to_be_joined_did_not_find_together() -> None:
    box = FakeBox(4).begins().blocked((0, 1, 2, 3), "init_process_group").after(31)
    found = verdict(stalled(box, (0, 1, 2, 3), ()).aborts("stall"))
    assert (found.code, found.cause, found.blamed_ranks) == (Code.STARTUP_FAILURE, "rendezvous", (0, 1, 2, 3))
    assert found.certainty is Certainty.LIKELY
    assert "ranks could not join the process group; ranks 0-3 waited 31 s in init_process_group" in found.summary


def test_who_looks_for_the_store_that_the_others_found_went_elsewhere() -> None:
    box = FakeBox(4).begins().blocked((0, 1, 3), "init_process_group")
    box.stack(2, (RENDEZVOUS, 190, "_create_c10d_store"), *JOINS).after(31)
    found = verdict(stalled(box, (0, 1, 2, 3), ()).aborts("stall"))
    assert (found.code, found.cause, found.blamed_ranks) == (Code.STARTUP_FAILURE, "rendezvous", (2,))
    assert found.summary.startswith("rank 2 did not reach the store that the other ranks found; ranks 0-3 waited 31 s")


def test_who_fails_to_join_a_second_group_waits_in_no_collective_of_the_first() -> None:
    box = FakeBox(4).begins().enters((0, 1, 2, 3), seq=1).completes().after(1)
    box.loses_peer(3, "Gloo connectFullMesh failed with [pair.cc:152] timed out connecting: SO_ERROR").after(3)
    box.blocked((0, 2), "init_process_group")
    found = verdict(stalled(box, (0, 2), (1,)).at(1).aborts("stall"))
    assert (found.code, found.blamed_ranks) == (Code.STRAGGLER, (1,))
    assert found.summary == (
        "rank 1 kept others waiting: it was in train.py:88 (load_batch); ranks 0,2 waited in init_process_group"
    )


@pytest.mark.parametrize(("missing", "blamed"), [((-1, 9), ()), ((1, 9), (1,))])
def test_a_box_that_names_ranks_of_no_world_is_not_believed(missing: tuple[int, ...], blamed: tuple[int, ...]) -> None:
    found = verdict(FakeBox(2).begins().after(9).acts(ActReason.COMPILE, "", (), missing).aborts("compile"))
    assert (found.code, found.blamed_ranks) == (Code.COMPILE_STALL, blamed)
    assert "compiled too long without a break" in found.summary


def test_each_waits_in_what_it_entered_itself() -> None:
    box = FakeBox(3).begins().enters(0, "gloo:barrier", 2).enters((1, 2), "gloo:all_reduce", 2).after(1)
    found = verdict(box.acts(ActReason.MISMATCH, "operation differs").aborts("mismatch"))
    assert (found.code, found.blamed_ranks) == (Code.COLLECTIVE_MISMATCH, (0,))
    assert [c.text for c in found.consequences] == ["waited 1.00 s in all_reduce #2"] * 2


def test_a_broadcast_that_all_entered_hints_at_its_root() -> None:
    box = FakeBox(4).begins().enters((0, 1, 2, 3), "gloo:broadcast", 2).after(0.1).completes((2, 3))
    box.enters((2, 3), "gloo:barrier", 3).after(31)
    found = verdict(stalled(box, (0, 1, 2, 3), ()).aborts("stall"))
    assert found.code is Code.HANG
    assert "ranks 0,1 waited 31 s in broadcast #2, ranks 2,3 in barrier #3" in found.summary
    assert "may disagree on its root" in found.summary


def test_who_waits_for_ranks_that_hang_in_a_group_of_theirs_is_not_blamed() -> None:
    box = FakeBox(4).begins().announces("1", (2, 3)).enters((2, 3), "gloo:broadcast", 5, group="1").after(1)
    box.enters((0, 1), "gloo:barrier", 1).after(31)
    found = verdict(stalled(box, (0, 1, 2, 3), ()).aborts("stall"))
    assert (found.code, found.blamed_ranks, found.certainty) == (Code.HANG, (2, 3), Certainty.CERTAIN)
    assert "ranks 2,3 waited 32 s in broadcast #5; ranks 0,1 then waited in barrier #1" in found.summary
    assert {c.rank for c in found.consequences} == {0, 1}


def test_who_waits_behind_several_groups_for_ranks_that_hang_is_not_blamed() -> None:
    """Nor did anybody take the groups in another order: this chain has an end."""
    box = FakeBox(6).begins().announces("1", (2, 3)).announces("2", (0, 4, 5)).announces("3", (0, 1, 2, 3))
    box.enters((2, 3), "gloo:all_reduce", 5, group="1").enters((0, 1), "gloo:barrier", 1, group="3")
    box.enters((4, 5), "gloo:all_gather", 3, group="2").after(31)
    found = verdict(stalled(box, tuple(range(6)), ()).aborts("stall"))
    assert (found.code, found.blamed_ranks) == (Code.HANG, (2, 3))


def test_whom_a_rank_in_a_message_waits_for_beside_a_hang_is_not_known() -> None:
    box = (
        FakeBox(3).begins().announces("1", (1, 2)).enters((1, 2), "gloo:all_reduce", 5, group="1").blocked(0).after(31)
    )
    found = verdict(stalled(box, (0, 1, 2), ()).blocked(0).aborts("stall"))
    assert (found.code, found.blamed_ranks, found.certainty) == (Code.HANG, (1, 2), Certainty.LIKELY)


def test_at_the_tests_limit_too_only_those_that_hang_are_blamed() -> None:
    box = FakeBox(4).begins().announces("1", (2, 3)).enters((2, 3), "gloo:broadcast", 5, group="1").after(1)
    box.enters((0, 1), "gloo:barrier", 1).after(899)
    found = verdict(box.acts(ActReason.TEST_LIMIT, "").aborts("test-limit"))
    assert (found.code, found.blamed_ranks) == (Code.HANG, (2, 3))


def test_who_came_through_while_the_box_ended_the_test_did_not_hang() -> None:
    box = FakeBox(4).begins().enters((0, 1, 2, 3), "gloo:gather", 1).after(2)
    box.acts(ActReason.STALL, "", (0, 1, 2), ()).completes((1, 2, 3)).passes((1, 2, 3))
    found = verdict(box.aborts("stall"))
    assert (found.code, found.blamed_ranks, found.certainty) == (Code.HANG, (0,), Certainty.LIKELY)


def test_where_all_came_through_while_the_box_ended_the_test_nobody_is_blamed() -> None:
    box = FakeBox(2).begins().enters((0, 1), "gloo:all_reduce", 1).after(2)
    found = verdict(box.acts(ActReason.STALL, "", (0, 1), ()).completes().passes().aborts("stall"))
    assert (found.code, found.blamed_ranks, found.certainty) == (Code.UNCLEAR, (), Certainty.GUESS)


def test_a_rank_that_destroyed_its_group_is_said_so() -> None:
    box = FakeBox(2).begins().enters((0, 1), seq=1).completes()
    box.rank(ev.FlightRecorded(1, 0, FlightOrigin.DESTROY, (), ())).enters(0, seq=2).after(31)
    found = verdict(stalled(box, (0,), (1,)).at(1).aborts("stall"))
    assert (found.code, found.blamed_ranks) == (Code.STRAGGLER, (1,))
    assert "it had destroyed its process group and was in train.py:88 (load_batch)" in found.summary


def test_who_came_when_the_others_patience_was_over_is_late_though_they_said_so_later() -> None:
    """A busy machine: the time-out of 6 s ended before rank 2 came, the reports were made after it."""
    box = FakeBox(4).begins().enters((0, 1, 3), seq=2).after(6.4).enters(2, seq=2).after(0.3)
    found = verdict(box.loses_peer((0, 1, 3), TIMED_OUT).after(0.1).loses_peer(2).finishes().ends())
    assert (found.code, found.blamed_ranks) == (Code.STRAGGLER, (2,))
    assert "it arrived 6.4 s after the first rank" in found.summary


def test_victims_without_a_collective_gave_up() -> None:
    box = (
        FakeBox(3)
        .begins()
        .loses_peer((0, 2), "[/torch/c10d/ProcessGroupGloo.cpp:9] Rank 1 failed to pass monitoredBarrier")
    )
    found = verdict(stalled(box.finishes((0, 2)).after(31), (0, 2), (1,)).at(1).aborts("stall"))
    assert (found.code, found.blamed_ranks) == (Code.STRAGGLER, (1,))
    assert "ranks 0,2 gave up waiting" in found.summary


def test_loading_the_compiler_is_said_as_compiling() -> None:
    box = FakeBox(2).begins().enters(0, seq=2).after(130)
    box.stack(1, (COMPILER, 2874, "<module>"), ("/repo/suite/train.py", 5, "step"))
    found = verdict(box.acts(ActReason.SKEW, "waits", (0,), (1,), (1,), 130.0).aborts("skew"))
    assert (found.code, found.blamed_ranks) == (Code.COMPILE_SKEW, (1,))

    said = "rank 1 was still loading torch's compiler in train.py:5 (step) while rank 0 waited 130 s in all_reduce #2"
    assert said in found.summary
    assert "loads torch's compiler" in texts(found, 1)


def test_each_rank_has_waited_since_it_came() -> None:
    """Also where the box acted on the wait of the first ones."""
    box = FakeBox(4, limits=ev.Limits(stall=30)).begins().enters((0, 1)).after(29).enters(2).after(2)
    box.samples(range(4)).at(3)
    found = verdict(box.acts(ActReason.STALL, "waits", (0, 1, 2), (3,), (), 31.0).aborts("stall"))
    assert found.summary.endswith("; ranks 0-2 waited up to 31 s")
    assert [(c.rank, c.text) for c in found.consequences if c.rank != 1] == [
        (0, "waited 31 s in all_reduce #1"),
        (2, "waited 2.0 s in all_reduce #1"),
    ]


def test_seconds_of_loading_the_compiler_are_no_seconds_of_a_compile() -> None:
    box = FakeBox(2).begins().enters(0, seq=2).after(100)
    box.stack(1, (COMPILER, 2874, "<module>"), ("/repo/suite/train.py", 5, "step")).after(20)
    box.samples([1], compiling=("dynamo",)).after(10).samples([1], compiling=("dynamo",))
    found = verdict(box.acts(ActReason.SKEW, "waits", (0,), (1,), (1,), 130.0).aborts("skew"))
    assert "rank 1 was still compiling (10 s, after it had loaded torch's compiler)" in found.summary


def test_a_monitored_barrier_names_who_did_not_come() -> None:
    """Not rank 0, which the others name, nor those that came."""
    reached = (
        "Rank {} successfully reached monitoredBarrier, but received errors while waiting for send/recv from rank 0."
    )
    box = FakeBox(4).begins().at(2).after(2.0)
    box.loses_peer(0, "[Rank 0]: Rank 2 failed to pass monitoredBarrier in 2000 ms")
    for rank in (1, 3):
        box.loses_peer(rank, f"{reached.format(rank)}\n{PEER_CLOSED}")
    found = verdict(box.after(0.5).acts(ActReason.FAILURE_STUCK, "", (), ()).aborts("failure-stuck"))
    assert (found.code, found.blamed_ranks) == (Code.STRAGGLER, (2,))


def test_a_monitored_barrier_numbers_ranks_as_its_group_does() -> None:
    box = FakeBox(4).begins().announces("1", (1, 2, 3)).at((0, 3)).after(2.0)
    box.loses_peer(1, "[Rank 0]: Rank 2 failed to pass monitoredBarrier in 2000 ms")
    box.loses_peer(2, f"Rank 1 successfully reached monitoredBarrier, but received errors …\n{PEER_CLOSED}")
    found = verdict(box.after(0.5).acts(ActReason.FAILURE_STUCK, "", (), ()).aborts("failure-stuck"))
    assert (found.code, found.blamed_ranks) == (Code.STRAGGLER, (3,))


def test_who_waits_itself_is_followed_from_a_monitored_barrier() -> None:
    """It names only the first that did not come; that one waits for rank 3."""
    box = FakeBox(4).begins().announces("1", (1, 3)).enters(1, group="1", seq=1).at(3).after(2.0)
    box.loses_peer(0, "[Rank 0]: Rank 1 failed to pass monitoredBarrier in 2000 ms")
    box.loses_peer(2, PEER_CLOSED)
    found = verdict(box.after(0.5).acts(ActReason.FAILURE_STUCK, "", (1,), (3,)).aborts("failure-stuck"))
    assert (found.code, found.blamed_ranks) == (Code.STRAGGLER, (3,))


def compiling_alone(others_compile_s: float) -> Verdict:
    """In a second test of its world."""
    box = FakeBox(2, tests=("a.py::first", "a.py::second")).begins().samples((0, 1), compile_s=2.0).passes().ends()
    box.starts(1).samples(0, compile_s=2.0 + others_compile_s).enters(0, seq=2)
    box.samples(1, compiling=("dynamo_compile",)).stack(1, ("/repo/suite/train.py", 5, "step")).after(130)
    return judge_test(box.acts(ActReason.SKEW, "waits", (0,), (1,), (1,), 130.0).aborts("skew").timeline(), 1).verdict


def test_only_one_rank_compiles() -> None:
    """Seconds of earlier tests don't count."""
    found = compiling_alone(0.0)
    assert (found.code, found.blamed_ranks) == (Code.COMPILE_SKEW, (1,))
    assert "in train.py:5 (step) while" in found.summary
    assert found.summary.endswith("only rank 1 compiles: rank 0 compiled nothing in this test")
    assert "find out why only rank 1 compiles" in found.next_step
    assert "--cache-seed" not in found.next_step


def test_one_rank_compiles_longer_than_the_others() -> None:
    found = compiling_alone(0.4)
    assert "compiled nothing" not in found.summary
    assert "warm the cache" in found.next_step


def failed_beside(box: FakeBox, op: str = "gloo:barrier") -> Verdict:
    """Rank 0 raised and goes on to its teardown; rank 3 is in its own code."""
    box.raises(0, "AssertionError", "assert 1 == 2").after(0.05).phase("teardown", 0).enters(0, op, 2).enters(
        (1, 2), "gloo:barrier", 2
    )
    return verdict(stalled(box.after(31).at(3), (0, 1, 2), (3,)).at(3).aborts("stall"))


def test_a_wait_for_ranks_that_have_not_failed_is_no_consequence_of_a_failure() -> None:
    found = failed_beside(FakeBox(4).begins())
    assert (found.code, found.blamed_ranks, found.certainty) == (Code.TEST_FAILED, (0,), Certainty.LIKELY)
    assert "AssertionError: assert 1 == 2" in found.summary
    assert "rank 3 never entered barrier #2: it was in train.py:88 (load_batch)" in found.summary
    assert "ranks 1,2 entered barrier #2 of group 0, rank 3 did not" in texts(found, None)
    assert [(c.rank, c.cause) for c in found.consequences] == [(1, None), (2, None), (3, Code.STRAGGLER)]


def test_who_goes_on_to_something_else_has_not_come() -> None:
    found = failed_beside(FakeBox(4).begins(), "gloo:broadcast")
    assert (found.code, found.blamed_ranks, found.certainty) == (Code.RANK_DEATH, (0,), Certainty.CERTAIN)
    assert "ranks 1,2 then waited in barrier #2" in found.summary


def test_a_failure_has_no_part_in_a_group_of_others() -> None:
    box = FakeBox(4).begins().announces("rest", (1, 2, 3)).raises(0, "AssertionError", "assert 1 == 2")
    box.enters((1, 2), "gloo:barrier", 1, group="rest").after(31).at(3)
    found = verdict(stalled(box, (1, 2), (3,)).at(3).aborts("stall"))
    assert (found.code, found.blamed_ranks, found.certainty) == (Code.TEST_FAILED, (0,), Certainty.LIKELY)
    assert "rank 3 never entered barrier #1" in found.summary


def test_where_a_rank_was_is_not_where_pytest_shows_its_failure() -> None:
    box = FakeBox(2).begins().at(1).after(1).raises(1).after(0.1).at(1, 50, "parse").after(1)
    timeline = stalled(box, (0,), (1,)).at(1, 50, "parse").aborts("stall").done().timeline()
    case = Case(timeline, timeline.tests[0], timeline.worlds["w1"])
    assert case.location(1) == "train.py:88 (load_batch)"


def test_a_young_wait_for_a_rank_that_failed_is_its_consequence() -> None:
    """Rank 1 has waited longer, for a rank that computes."""
    box = FakeBox(4).begins().announces("12", (1, 2)).announces("03", (0, 3)).enters(1, seq=1, group="12").after(4)
    box.raises(0).enters(3, seq=1, group="03").after(3).at(2)
    found = verdict(stalled(box, (1,), (2,)).at(2).aborts("stall"))
    assert (found.code, found.blamed_ranks) == (Code.RANK_DEATH, (0,))


def test_beside_a_wait_all_that_raised_are_blamed() -> None:
    box = FakeBox(5).begins().announces("rest", (2, 3, 4)).raises(0).after(2).raises(1, "KeyError", "7")
    box.enters((2, 3), "gloo:barrier", 1, group="rest").after(31).at(4)
    found = verdict(stalled(box, (2, 3), (4,)).at(4).aborts("stall"))
    assert (found.code, found.blamed_ranks) == (Code.TEST_FAILED, (0, 1))
    assert [c.rank for c in found.consequences] == [2, 3, 4]


def test_a_late_rank_that_lost_its_peers_afterwards_kept_them_waiting_before() -> None:
    box = FakeBox(4).begins().raises(0, "AssertionError", "assert 1 == 2").after(0.05)
    box.enters((0, 1, 2), "gloo:barrier", 2).after(3).at(3).after(3).raises((1, 2), "RuntimeError", TIMED_OUT).after(2)
    box.enters(3, "gloo:barrier", 2).raises(3, "RuntimeError", PEER_CLOSED).finishes().ends()
    found = verdict(box)
    assert (found.code, found.blamed_ranks, found.certainty) == (Code.TEST_FAILED, (0,), Certainty.LIKELY)
    assert "rank 3 entered barrier #2 too late" in found.summary
    assert [c.rank for c in found.consequences] == [1, 2, 3]


@pytest.mark.parametrize("with_rank_3", [0, 1])
def test_whose_number_comes_first_does_not_matter(with_rank_3: int) -> None:
    """Ranks 0 and 1 issue different operations; rank 3, which raised, the same as one of them, and has no vote."""
    box = FakeBox(4).begins().raises(3).after(0.05).enters((3, with_rank_3), "gloo:barrier", 2)
    box.enters(1 - with_rank_3, seq=2).after(31).at(2)
    timeline = stalled(box, (0, 1), (2,)).at(2).aborts("stall").done().timeline()
    assert Case(timeline, timeline.tests[0], timeline.worlds["w1"]).waits[0].missing == (2,)
    found = judge_test(timeline, 0).verdict
    assert (found.code, found.blamed_ranks) == (Code.COLLECTIVE_MISMATCH, ())


def test_what_all_entered_and_one_after_it_had_failed_is_a_consequence() -> None:
    box = FakeBox(4).begins().raises(0).after(0.05).enters(range(4), "gloo:broadcast", 2).after(60)
    found = verdict(box.acts(ActReason.TEST_LIMIT, "").aborts("test-limit"))
    assert (found.code, found.blamed_ranks) == (Code.RANK_DEATH, (0,))
    assert "ranks 1-3 then waited in broadcast #2" in found.summary


# -- chains ------------------------------------------------------------------------------------------------


def chain(younger_s: float, limits: ev.Limits | None = None) -> FakeBox:
    """Ranks 0 and 1 wait for rank 2, which waits so much shorter for rank 3 in another group; 40 s in all."""
    box = FakeBox(4, limits=limits).begins().announces("a", (0, 1, 2)).announces("b", (2, 3))
    box.enters((0, 1), "gloo:barrier", 1, group="a").after(younger_s).enters(2, seq=14, group="b")
    return box.after(40 - younger_s)


def behind(box: FakeBox, why: ActReason = ActReason.STALL, compiling: tuple[int, ...] = ()) -> Verdict:
    return verdict(box.acts(why, "waits", (0, 1), (2,), compiling, 40.0).at(3).aborts(why.value))


def test_it_is_said_what_the_blamed_rank_did_not_enter_not_where_the_chain_begins() -> None:
    found = behind(chain(1.0))
    assert (found.code, found.blamed_ranks, found.certainty) == (Code.STRAGGLER, (3,), Certainty.CERTAIN)
    assert found.summary.startswith("rank 3 never entered all_reduce #14: it was in train.py:88 (load_batch)")


def test_who_is_missing_in_no_single_call_kept_others_waiting() -> None:
    box = FakeBox(4).begins().announces("a", (0, 2)).announces("b", (1, 3))
    box.enters(0, "gloo:barrier", 1, group="a").enters(1, seq=4, group="b").after(40)
    found = verdict(box.acts(ActReason.STALL, "waits", (0,), (2,), (), 40.0).at((2, 3)).aborts("stall"))
    assert (found.code, found.blamed_ranks) == (Code.STRAGGLER, (2, 3))
    assert found.summary.startswith("ranks 2,3 kept others waiting: they were in train.py:88 (load_batch)")


def test_who_waits_for_a_short_time_only_is_on_its_way_and_nobody_behind_it_is_blamed() -> None:
    """It goes through one collective after another, which is why the others wait."""
    found = behind(chain(30.0))
    assert (found.code, found.blamed_ranks, found.certainty) == (Code.STRAGGLER, (2,), Certainty.LIKELY)
    assert found.summary.startswith("rank 2 never entered barrier #1: it was waiting in all_reduce #14 for rank 3")
    assert "rank 2 entered all_reduce #14 of group b, rank 3 did not" in texts(found, None)
    assert [c.rank for c in found.consequences] == [0, 1, 3]
    assert found.consequences[-1].text == "kept rank 2 waiting in all_reduce #14"
    assert found.consequences[-1].cause is None
    assert texts(found, 3) == ["is in train.py:88 (load_batch)"]


def test_who_is_behind_several_on_their_way_is_in_the_evidence() -> None:
    box = FakeBox(5).begins().announces("w", (0, 1, 2)).announces("p", (2, 3)).announces("q", (3, 4))
    box.enters((0, 1), "gloo:barrier", 1, group="w").after(22)
    box.enters(2, seq=1, group="p").enters(3, seq=1, group="q").after(9)
    found = verdict(stalled(box, (0, 1, 2, 3), (4,)).at(4).aborts("stall"))
    assert (found.code, found.blamed_ranks, found.certainty) == (Code.STRAGGLER, (2,), Certainty.LIKELY)
    assert "rank 3 entered all_reduce #1 of group q, rank 4 did not" in texts(found, None)
    assert texts(found, 4) == ["is in train.py:88 (load_batch)"]
    assert [(c.rank, c.text) for c in found.consequences][-1] == (4, "kept rank 3 waiting in all_reduce #1")


def test_who_is_on_its_way_behind_a_rank_that_is_missing_itself_is_not_blamed() -> None:
    box = FakeBox(4).begins().announces("p", (2, 3)).enters((0, 1), "gloo:barrier", 1).after(22)
    box.enters(2, seq=1, group="p").after(9)
    found = verdict(stalled(box, (0, 1, 2), (3,)).at((2, 3)).aborts("stall"))
    assert (found.code, found.blamed_ranks, found.certainty) == (Code.STRAGGLER, (3,), Certainty.LIKELY)
    assert len(texts(found, 2)) == 1
    assert (2, "waited 9.0 s in all_reduce #1") in [(c.rank, c.text) for c in found.consequences]


def test_but_who_is_on_its_way_also_for_somebody_else_is() -> None:
    """Rank 2 waits for rank 4 too, which is no member of the barrier."""
    box = FakeBox(5).begins().announces("w", (0, 1, 2, 3)).announces("p", (2, 3, 4))
    box.enters((0, 1), "gloo:barrier", 1, group="w").after(22).enters(2, seq=1, group="p").after(9)
    found = verdict(stalled(box, (0, 1, 2), (3,)).at((3, 4)).aborts("stall"))
    assert (found.code, found.blamed_ranks, found.certainty) == (Code.STRAGGLER, (2, 3), Certainty.LIKELY)


def test_the_end_of_what_is_recorded_is_blamed_not_whoever_is_elsewhere() -> None:
    """Rank 3 is no member of the group, and whether it was to set that key is not recorded."""
    box = FakeBox(4).begins().announces("1", (0, 1, 2)).enters((0, 1), seq=1, group="1").blocked(2, "get").after(31)
    found = verdict(stalled(box, (0, 1, 2), (3,)).blocked(2, "get").at(3).aborts("stall"))
    assert (found.code, found.blamed_ranks, found.certainty) == (Code.STRAGGLER, (2,), Certainty.GUESS)
    text = "never entered all_reduce #1: it was waiting in get at train.py:52 (exchange), for whom isn't recorded"
    assert text in found.summary
    assert "less certain: whom rank 2 waited for is not recorded; it may be rank 3" in texts(found, None)
    assert texts(found, 3) == ["is in train.py:88 (load_batch)"]
    assert [c.rank for c in found.consequences] == [0, 1]


def test_who_came_late_because_of_another_is_not_blamed_though_it_came_in_the_end() -> None:
    """When ranks 0 and 1 gave up, rank 2 had waited for rank 3 for most of that time, be it over by now."""
    box = FakeBox(4).begins().announces("p", (2, 3)).enters((0, 1), "gloo:barrier", 1).after(2)
    box.enters(2, seq=1, group="p").after(4).loses_peer((0, 1), TIMED_OUT).finishes((0, 1)).at(3).after(6)
    box.enters(3, seq=1, group="p").after(0.1).completes((2, 3)).enters((2, 3), "gloo:barrier", 1).after(0.1)
    lost = deepcopy(box).loses_peer((2, 3), PEER_CLOSED).finishes((2, 3)).ends()
    for found in map(verdict, (lost, box.completes((2, 3)).passes((2, 3)).ends())):
        assert (found.code, found.blamed_ranks, found.certainty) == (Code.STRAGGLER, (3,), Certainty.CERTAIN)
        assert found.summary.startswith("rank 3 entered barrier #1 too late")
        assert "rank 2 entered all_reduce #1 of group p, rank 3 did not" in texts(found, None)


def test_who_came_through_one_with_a_root_had_not_waited_in_it() -> None:
    box = FakeBox(4).begins().announces("p", (2, 3)).enters((0, 1), "gloo:barrier", 1).after(2)
    box.enters(2, "gloo:broadcast", 1, group="p").completes(2).at(2).after(4).loses_peer((0, 1), TIMED_OUT)
    box.enters(3, "gloo:broadcast", 1, group="p").completes(3).enters((2, 3), "gloo:barrier", 1).after(0.1)
    found = verdict(box.completes((2, 3)).passes((2, 3)).finishes((0, 1)).ends())
    assert (found.code, found.blamed_ranks) == (Code.STRAGGLER, (2, 3))


def test_the_stack_of_a_blamed_rank_that_waits_is_shown_once() -> None:
    found = verdict(stalled(chain(30.0), (0, 1), (2,)).at((2, 3)).aborts("stall"))
    assert found.blamed_ranks == (2,)
    assert len(texts(found, 2)) == 1


@pytest.mark.parametrize("members", [(0, 1, 2, 3), (0, 1, 2)])
def test_a_chain_that_compiling_holds_up_is_followed_whoever_ended_the_wait(members: tuple[int, ...]) -> None:
    """The rest of the delay of the rank before it may have had another reason."""
    box = FakeBox(4).begins().announces("w", members).announces("p", (2, 3))
    box.enters((0, 1), "gloo:barrier", 1, group="w").after(4).samples(3, compiling=("inductor",)).after(0.1)
    box.enters(2, seq=1, group="p").after(1.9)
    gave_up = deepcopy(box).loses_peer((0, 1), TIMED_OUT).after(1).finishes((0, 1)).after(0.1).ends()
    acted = box.acts(ActReason.STALL, "waits", (0, 1, 2), (3,), (3,), 6.0).aborts("stall")
    for found in map(verdict, (gave_up, acted)):
        assert (found.code, found.blamed_ranks, found.certainty) == (Code.COMPILE_SKEW, (3,), Certainty.LIKELY)


def test_a_wait_beyond_its_limit_is_no_progress() -> None:
    found = behind(chain(30.0, ev.Limits(stall=9)))
    assert (found.code, found.blamed_ranks, found.certainty) == (Code.STRAGGLER, (3,), Certainty.CERTAIN)


def test_a_chain_that_compiling_holds_up_is_followed_however_young_it_is() -> None:
    found = behind(chain(30.0).samples(3, compiling=("dynamo_compile",)), ActReason.SKEW, (3,))
    assert (found.code, found.blamed_ranks) == (Code.COMPILE_SKEW, (3,))


def test_a_chain_that_nothing_can_free_is_followed_however_young_it_is() -> None:
    found = behind(chain(30.0), ActReason.FAILURE_STUCK)
    assert (found.code, found.blamed_ranks) == (Code.STRAGGLER, (3,))


def test_nor_is_it_progress_to_wait_for_a_rank_that_has_left() -> None:
    found = behind(chain(30.0).passes(3))
    assert (found.code, found.cause, found.blamed_ranks) == (Code.STRAGGLER, "left-early", (3,))


def test_nor_to_wait_for_each_other() -> None:
    """Rank 2 waits for rank 3 in one group, rank 3 for rank 2 in another."""
    box = FakeBox(4).begins().announces("a", (0, 1, 2)).announces("b", (2, 3)).announces("c", (2, 3))
    box.enters((0, 1), "gloo:barrier", 1, group="a").after(30).enters(2, seq=1, group="b").enters(3, seq=1, group="c")
    found = verdict(stalled(box.after(10), (0, 1), (2,)).aborts("stall"))
    assert (found.code, found.cause) == (Code.COLLECTIVE_MISMATCH, "group-order")


def test_ranks_that_just_met_do_not_hang() -> None:
    box = FakeBox(4).begins().announces("a", (0, 1, 2)).announces("b", (2, 3))
    box.enters((0, 1), "gloo:barrier", 1, group="a").after(39.8).enters((2, 3), seq=14, group="b").after(0.2)
    found = verdict(stalled(box, (0, 1), (2,)).aborts("stall"))
    assert (found.code, found.blamed_ranks, found.certainty) == (Code.STRAGGLER, (2,), Certainty.LIKELY)


def test_nor_is_whoever_is_elsewhere_blamed_for_a_rank_that_has_just_begun_to_receive() -> None:
    box = FakeBox(4).begins().announces("a", (0, 1, 2)).enters((0, 1), "gloo:barrier", 1, group="a").after(39.5)
    box.rank(ev.Sampled(2, 0, True, "R", (), 0.0, 9.0, 9.0, main_runs=7)).blocked(2).after(0.3).at(3)
    found = verdict(stalled(box, (0, 1), (2,)).blocked(2).at(3).aborts("stall"))
    assert (found.code, found.blamed_ranks, found.certainty) == (Code.STRAGGLER, (2,), Certainty.LIKELY)
    assert "rank 2 never entered barrier #1: it was waiting in recv" in found.summary


def test_what_no_device_has_begun_is_no_wait_of_ranks_that_queued_it() -> None:
    """Rank 2's device is in an endless kernel; all hosts have queued a second collective behind the first."""
    box = FakeBox(4, dry_run=False).begins()
    box.box(ev.EnvironmentSet("TORCH_NCCL_ENABLE_TIMING", "1", SettingOrigin.PLUGIN, "who began"))
    box.enters((0, 1, 3), "nccl:all_reduce", 1, started=True).enters(2, "nccl:all_reduce", 1)
    box.enters(range(4), "nccl:barrier", 2).after(31)
    found = verdict(stalled(box, (0, 1, 3), (2,)).aborts("stall"))
    assert (found.code, found.cause, found.blamed_ranks) == (Code.STRAGGLER, "device-busy", (2,))
    assert found.summary.startswith("rank 2 never started all_reduce #1: it queued this collective behind a kernel")


# -- what ranks did after others had given up ---------------------------------------------------------------


def gave_up_on_1(box: FakeBox) -> FakeBox:
    """Ranks 2-3 gave up on rank 2, which waits for rank 1 in another group."""
    box.announces("left", (0, 1, 2)).announces("right", (2, 3))
    box.enters((0, 2), seq=1, group="left").enters(3, seq=1, group="right").after(1).at(1).after(1)
    return box.loses_peer(3, TIMED_OUT).finishes(3)


def test_what_a_stack_shows_at_the_end_is_not_where_a_rank_was_when_others_gave_up() -> None:
    """Rank 1 comes later to what rank 2 waited in, and then waits for those that failed."""
    box = gave_up_on_1(FakeBox(4).begins()).after(1).enters(1, seq=1, group="left").completes((0, 1, 2)).after(0.1)
    box.enters((0, 1), "gloo:barrier", 1).loses_peer(2).finishes(2).after(1)
    box.acts(ActReason.FAILURE_STUCK, "", (0, 1), (2, 3)).blocked((0, 1), "barrier")
    found = verdict(box.aborts("failure-stuck"))
    assert (found.code, found.blamed_ranks, found.certainty) == (Code.STRAGGLER, (1,), Certainty.CERTAIN)
    assert found.summary.startswith("rank 1 entered all_reduce #1 too late: it arrived 3.0 s after the first rank")


def test_who_compiled_when_others_gave_up_is_no_straggler_though_its_compile_is_over() -> None:
    box = FakeBox(4).begins().enters((0, 2, 3), seq=1).after(0.5).samples(1, compiling=("inductor",)).after(1.5)
    box.loses_peer((0, 2, 3), TIMED_OUT).after(1).samples(1, compile_s=2.5).enters(1, seq=1).loses_peer(1)
    found = verdict(box.finishes().ends())
    assert (found.code, found.blamed_ranks, found.certainty) == (Code.COMPILE_SKEW, (1,), Certainty.CERTAIN)
    assert "rank 1 was still compiling (1.5 s) while ranks 0,2,3 waited 2.0 s in all_reduce #1" in found.summary
    assert "compiled without a break for 2.5 s: inductor" in [e.text for e in found.evidence if e.rank == 1]


def late_together(box: FakeBox) -> FakeBox:
    """Ranks 0-1 give up on ranks 2-3 just when these have met."""
    box.announces("pair", (2, 3)).enters((0, 1), "gloo:barrier", 1).enters(2, seq=1, group="pair").after(1)
    box.at(3).after(0.9).enters(3, seq=1, group="pair").completes((2, 3)).after(0.1).loses_peer((0, 1), TIMED_OUT)
    return box.after(0.1).enters((2, 3), "gloo:barrier", 1).loses_peer((2, 3))


def test_who_met_another_one_just_before_the_others_gave_up_is_not_blamed_beside_it() -> None:
    found = verdict(late_together(FakeBox(4).begins()).finishes().ends())
    assert (found.code, found.blamed_ranks, found.certainty) == (Code.STRAGGLER, (3,), Certainty.CERTAIN)


def test_whom_a_stack_shows_waiting_before_it_came_is_not_blamed_beside_whom_none_does() -> None:
    box = FakeBox(4).begins().enters((0, 1), "gloo:barrier", 1).after(1.5).blocked(2, "recv").at(3).after(0.5)
    box.loses_peer((0, 1), TIMED_OUT).after(1).enters((2, 3), "gloo:barrier", 1).loses_peer((2, 3))
    found = verdict(box.finishes().ends())
    assert (found.code, found.blamed_ranks) == (Code.STRAGGLER, (3,))


def test_who_lost_a_peer_without_coming_to_what_the_others_wait_in_may_have_waited_itself() -> None:
    box = FakeBox(4).begins().enters((0, 1, 2), "gloo:barrier", 1).after(2).loses_peer((0, 1, 2), TIMED_OUT)
    found = verdict(box.after(1).loses_peer(3).finishes().ends())
    assert (found.code, found.blamed_ranks, found.certainty) == (Code.STRAGGLER, (3,), Certainty.LIKELY)
    text = "less certain: rank 3 had lost a peer in something else that is not recorded"
    assert text in [e.text for e in found.evidence]


@pytest.mark.parametrize(("waiting", "certainty"), [((0, 1, 2), "certain"), ((0, 1), "likely"), ((0,), "likely")])
def test_where_no_fewer_leave_than_wait_only_the_data_can_tell_who_is_right(
    waiting: tuple[int, ...], certainty: str
) -> None:
    left = tuple(r for r in range(4) if r not in waiting)
    box = FakeBox(4).begins().enters(range(4), seq=1).completes().passes(left).after(0.1).enters(waiting, seq=2)
    found = verdict(box.after(0.5).acts(ActReason.FAILURE_STUCK, "", waiting, left).aborts("failure-stuck"))
    assert (found.cause, found.blamed_ranks, found.certainty) == ("left-early", left, certainty)


# -- beside failures ---------------------------------------------------------------------------------------


def test_whom_a_monitored_barrier_in_a_teardown_names_is_named_beside_the_failure() -> None:
    box = FakeBox(4).begins().raises(0, "AssertionError", "assert 1 == 2").at(3).after(2.0)
    late = "[Rank 0]: Rank 3 failed to pass monitoredBarrier in 2000 ms"
    box.raises(0, "RuntimeError", late, 12, when=TestPhase.TEARDOWN).after(0.01)
    for rank in (1, 2):
        box.loses_peer(rank, f"Rank {rank} successfully reached monitoredBarrier, but received errors …\n{PEER_CLOSED}")
    found = verdict(box.after(4.0).loses_peer(3).finishes().ends())
    assert (found.code, found.blamed_ranks, found.certainty) == (Code.TEST_FAILED, (0,), Certainty.LIKELY)
    assert "rank 3 never entered monitored_barrier: it was in train.py:88 (load_batch)" in found.summary
    assert (3, Code.STRAGGLER) in [(c.rank, c.cause) for c in found.consequences]


@pytest.mark.parametrize(("idle", "certainty"), [((), Certainty.CERTAIN), ((3,), Certainty.LIKELY)])
def test_a_wait_that_only_stacks_show_may_be_for_a_rank_that_did_not_fail(
    idle: tuple[int, ...], certainty: Certainty
) -> None:
    waiting = tuple(r for r in (1, 2, 3) if r not in idle)
    box = FakeBox(4).begins().raises(0).blocked(waiting, "get").at(idle).after(31)
    found = verdict(stalled(box, waiting, idle).blocked(waiting, "get").at(idle).aborts("stall"))
    assert (found.code, found.blamed_ranks, found.certainty) == (Code.RANK_DEATH, (0,), certainty)


def test_who_came_through_without_what_the_others_lost_it_in_left_early() -> None:
    """It destroyed its process group and returned, a moment later than its peers noticed."""
    box = FakeBox(4).begins().enters(range(4), "gloo:barrier", 1).completes().after(0.1)
    box.enters((0, 2, 3), "gloo:barrier", 2).after(0.1).loses_peer((0, 2, 3)).after(0.02)
    found = verdict(box.passes(1).finishes((0, 2, 3)).ends())
    assert (found.code, found.cause, found.blamed_ranks) == (Code.STRAGGLER, "left-early", (1,))
    assert "rank 1 never entered barrier #2: it finished the test without it" in found.summary
    assert found.next_step.startswith("find the branch that lets rank 1 return")


def test_a_mismatch_before_a_failure_stays_though_that_rank_dies_later() -> None:
    box = FakeBox(4).begins().after(1).enters((0, 3)).after(0.1).enters(1, "gloo:broadcast").after(0.5)
    box.raises(2).after(0.1).enters(2, "gloo:barrier").after(0.5).exits(2, signal="SIGSEGV")
    found = verdict(box.after(0.1).aborts("exit"))
    assert found.code is Code.COLLECTIVE_MISMATCH
    assert 2 not in found.blamed_ranks


def made(box: FakeBox, rank: int, name: str, members: tuple[int, ...]) -> FakeBox:
    return box.rank(ev.GroupBegun(rank, 0, name, members, len(members), True, number=members.index(rank)))


def test_who_made_a_group_while_others_gave_up_on_it_is_not_blamed_beside_whom_it_waited_for() -> None:
    box = FakeBox(4).begins().enters(0, "gloo:barrier", 1)
    made(made(box, 1, "g", (1, 2, 3)), 2, "g", (1, 2, 3)).after(1.7).at(3).after(0.1)
    made(box, 3, "g", (1, 2, 3)).after(0.1)
    for rank in (1, 2, 3):
        box.rank(ev.GroupCreated(rank, 0, "g", (1, 2, 3), "gloo"))
    box.after(0.1).loses_peer(0, TIMED_OUT).after(0.1).enters((1, 2, 3), "gloo:barrier", 1).loses_peer((1, 2, 3))
    found = verdict(box.finishes().ends())
    assert (found.code, found.blamed_ranks, found.certainty) == (Code.STRAGGLER, (3,), Certainty.CERTAIN)


def test_who_waited_for_others_again_and_again_is_not_blamed_beside_these() -> None:
    box = FakeBox(4).begins().announces("pair", (2, 3)).enters((0, 1), "gloo:barrier", 1)
    for seq in (1, 2, 3):
        box.enters(2, seq=seq, group="pair").after(0.6).at(3).enters(3, seq=seq, group="pair").completes((2, 3))
    box.after(0.2).loses_peer((0, 1), TIMED_OUT).after(0.1).enters((2, 3), "gloo:barrier", 1).loses_peer((2, 3))
    found = verdict(box.finishes().ends())
    assert (found.code, found.blamed_ranks, found.certainty) == (Code.STRAGGLER, (3,), Certainty.CERTAIN)


def test_who_came_late_without_being_looked_at_may_have_waited_for_a_peer() -> None:
    box = FakeBox(4).begins().enters((0, 1, 2), "gloo:barrier", 1).after(2).loses_peer((0, 1, 2), TIMED_OUT)
    found = verdict(box.after(1).enters(3, "gloo:barrier", 1).loses_peer(3).after(0.1).at(3).finishes().ends())
    assert (found.code, found.blamed_ranks, found.certainty) == (Code.STRAGGLER, (3,), Certainty.LIKELY)
    text = "less certain: rank 3 may have waited for a peer before: no stack shows what else kept it"
    assert text in [e.text for e in found.evidence]


def test_recorded_waits_that_lead_to_one_of_which_only_a_stack_is_known_are_no_certain_deadlock() -> None:
    """Rank 3 receives from one of the others; nothing shows which of them did not send."""
    box = FakeBox(4).begins().announces("pair", (2, 3)).enters((0, 1), seq=1).enters(2, seq=1, group="pair")
    box.after(0.1).blocked(3, "recv").after(31)
    found = verdict(box.acts(ActReason.STALL, "everybody waits", range(4)).blocked(3, "recv").aborts("stall"))
    assert (found.code, found.certainty) == (Code.HANG, Certainty.LIKELY)
    assert "less certain: whom rank 3 waited for is not recorded" in [e.text for e in found.evidence]


def test_who_had_waited_for_another_one_for_most_of_the_time_is_not_blamed_for_certain() -> None:
    """Rank 1 met rank 2, which came late, and is on its way to what rank 0 waits in."""
    box = FakeBox(3).begins().announces("pair", (1, 2)).announces("next", (0, 1))
    box.enters(0, seq=1, group="next").enters(1, seq=1, group="pair").after(25).enters(2, seq=1, group="pair")
    box.completes((1, 2)).after(6).at(1)
    found = verdict(stalled(box, (0,), (1,)).at(1).aborts("stall"))
    assert (found.code, found.blamed_ranks, found.certainty) == (Code.STRAGGLER, (1,), Certainty.LIKELY)
    assert "less certain: rank 1 had waited for a peer itself for most of that time" in texts(found, None)


def test_a_pair_that_waits_for_each_other_hangs_and_not_who_waits_for_it() -> None:
    box = FakeBox(4).begins().enters((2, 3), "gloo:barrier", 1).after(0.3).blocked((0, 1), "recv")
    found = verdict(stalled(box, (0, 1, 2, 3), ()).blocked((0, 1), "recv").aborts("stall"))
    assert (found.code, found.blamed_ranks, found.certainty) == (Code.HANG, (0, 1), Certainty.LIKELY)
    assert [c.rank for c in found.consequences] == [2, 3]
