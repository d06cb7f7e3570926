"""What ranks were in when the first one gave up, whatever they, or their devices, came to later."""

from collections.abc import Callable

import pytest

from pytest_megacpp.judge.arbiter import judge_test
from pytest_megacpp.judge.causes import VerdictCause
from pytest_megacpp.judge.verdicts import Certainty, Code, Verdict
from pytest_megacpp.recording import events as ev
from pytest_megacpp.recording.vocabulary import ActReason
from tests.scenario import TIMED_OUT, USER_FILE, FakeBox, timed_devices

WATCHDOG = (
    "Watchdog caught collective operation timeout: WorkNCCL(SeqNum=2, OpType=ALLREDUCE, Timeout(ms)=6000) ran for 6001 "
    "milliseconds before timing out."
)
IMPORTS_INDUCTOR = (
    ("<frozen importlib._bootstrap>", 1, "_find_and_load"),
    ("/usr/lib/python3.11/site-packages/torch/_inductor/graph.py", 1, "<module>"),
    ("/usr/lib/python3.11/site-packages/torch/_dynamo/eval_frame.py", 5, "compile_wrapper"),
    (USER_FILE, 88, "step"),
)


def verdict(box: FakeBox, why: ActReason = ActReason.FAILURE_STUCK, compiling: tuple[int, ...] = ()) -> Verdict:
    return judge_test(box.acts(why, compiling=compiling).aborts(str(why)).done().timeline(), 0).verdict


def test_a_rank_that_gave_up_was_in_what_its_device_had_begun() -> None:
    """Rank 0 had queued one more; rank 2 had just begun to wait for rank 3."""
    box = timed_devices().announces("1", (0, 1)).announces("2", (2, 3))
    box.enters(0, "nccl:all_reduce", 1, group="1", started=True).enters(0, "nccl:all_reduce", 2, group="1")
    box.after(3).at(1).after(2.7).enters(2, "nccl:all_reduce", 7, group="2", started=True).after(0.3)
    found = verdict(box.raises(0, "DistBackendError", WATCHDOG).after(0.3).at((1, 3)))
    assert (found.code, found.blamed_ranks, found.certainty) == (Code.STRAGGLER, (1,), Certainty.CERTAIN)


def test_victims_have_no_vote_in_a_mismatch() -> None:
    """Ranks 0,1,5 lost rank 4 and go on to their teardown; of the others rank 3 differs."""
    box = FakeBox(6).begins().announces("1", (0, 1, 4, 5)).enters((0, 1, 5), seq=1, group="1").after(6).at(4)
    box.loses_peer((0, 1, 5), TIMED_OUT).phase("teardown", (0, 1, 5)).after(0.2)
    box.enters((0, 1, 5), "gloo:barrier", 1, numel=0).enters((2, 4)).enters(3, "gloo:broadcast", 1).after(0.3)
    found = verdict(box, ActReason.MISMATCH)
    assert (found.code, found.blamed_ranks, found.certainty) == (Code.COLLECTIVE_MISMATCH, (3,), Certainty.LIKELY)


def waits_in_a_group_of_its_own(box: FakeBox) -> FakeBox:
    """Rank 3 names itself a member of group 1, waits there in vain, and goes on to its teardown."""
    for rank in range(4):
        box.rank(ev.GroupCreated(rank, 0, "1", (0, 1, 2, 3) if rank == 3 else (0, 1, 2), "gloo"))
    box.enters(3, seq=1, group="1").after(6).loses_peer(3, TIMED_OUT).phase("teardown", 3).after(0.2)
    return box


def test_members_differ_although_what_is_issued_later_is_explained() -> None:
    box = waits_in_a_group_of_its_own(FakeBox(4).begins())
    found = verdict(box.enters(3, "gloo:barrier", 1).enters((0, 1, 2)).after(0.3), ActReason.MISMATCH)
    assert (found.code, found.cause, found.blamed_ranks) == (Code.COLLECTIVE_MISMATCH, VerdictCause.MEMBERS, (3,))


def compiled_around(box: FakeBox) -> FakeBox:
    """A part of the model before the others gave up, and another one after."""
    box.after(0.5).samples(2, compiling=("dynamo",), compile_s=1).after(5.4).samples(2, compile_s=5.4).after(0.1)
    return box.loses_peer((0, 1, 3), TIMED_OUT).after(0.2).samples(2, compiling=("dynamo",), compile_s=5.5)


def loaded_the_compiler(box: FakeBox) -> FakeBox:
    box.after(5.5).stack(2, *IMPORTS_INDUCTOR).after(0.5).loses_peer((0, 1, 3), TIMED_OUT)
    return box.after(0.3).stack(2, *IMPORTS_INDUCTOR)


@pytest.mark.parametrize("scene", [compiled_around, loaded_the_compiler])
def test_who_was_about_to_compile_is_compiling(scene: Callable[[FakeBox], FakeBox]) -> None:
    found = verdict(scene(FakeBox(4).begins().enters((0, 1, 3))), compiling=(2,))
    assert (found.code, found.blamed_ranks, found.certainty) == (Code.COMPILE_SKEW, (2,), Certainty.CERTAIN)


def test_collectives_that_are_open_at_once_are_one_wait() -> None:
    """Rank 2 waits half a second for rank 3 with twenty buckets, and then both sleep."""
    box = FakeBox(4).begins().announces("1", (2, 3)).enters((0, 1))
    for seq in range(1, 21):
        box.enters(2, seq=seq, group="1")
    box.after(0.5)
    for seq in range(1, 21):
        box.enters(3, seq=seq, group="1")
    box.completes((2, 3)).after(3).at((2, 3)).after(2.5).loses_peer((0, 1), TIMED_OUT).after(0.3)
    found = verdict(box.at((2, 3)))
    assert (found.code, found.blamed_ranks, found.certainty) == (Code.STRAGGLER, (2, 3), Certainty.CERTAIN)


def test_one_look_out_of_two_at_a_call_is_no_wait_for_most_of_the_time() -> None:
    box = FakeBox(4).begins().enters((0, 1, 3)).after(0.1).blocked(2).after(2).at(2).after(3.9)
    found = verdict(box.loses_peer((0, 1, 3), TIMED_OUT).after(0.3).at(2))
    assert (found.code, found.blamed_ranks) == (Code.STRAGGLER, (2,))


def test_both_devices_of_a_pair_are_busy() -> None:
    box = timed_devices().announces("1", (0, 1)).enters((0, 1), "nccl:all_reduce", 1, group="1")
    box.enters((2, 3), "nccl:all_reduce", 1, started=True).after(31)
    found = verdict(box.at((0, 1)), ActReason.STALL)
    assert (found.code, found.cause, found.blamed_ranks) == (Code.STRAGGLER, VerdictCause.DEVICE_BUSY, (0, 1))


def test_hosts_that_have_queued_a_collective_count_among_those_that_issued_it() -> None:
    box = timed_devices().enters(0, "nccl:all_reduce", 1, started=True).enters((1, 2), "nccl:all_reduce", 1)
    found = verdict(box.after(0.1).passes(3).after(31).at((0, 1, 2)), ActReason.STALL)
    assert "less certain: no fewer ranks left than wait" not in " ".join(e.text for e in found.evidence)


def two_groups(box: FakeBox) -> FakeBox:
    """Rank 0 waits for rank 1, and then for rank 2 as well."""
    box.announces("1", (0, 1)).announces("2", (0, 2)).enters(0, "nccl:all_reduce", 1, group="1", started=True)
    box.after(3).at((1, 2)).after(2.8).enters(0, "nccl:all_reduce", 1, group="2", started=True).after(0.2)
    return box.raises(0, "DistBackendError", WATCHDOG).after(0.3)


def test_of_several_collectives_the_oldest_is_what_a_rank_gave_up_on() -> None:
    found = verdict(two_groups(timed_devices()).at((1, 2, 3)))
    assert (found.code, found.blamed_ranks, found.certainty) == (Code.STRAGGLER, (1,), Certainty.CERTAIN)


def test_what_a_rank_queues_after_the_first_gave_up_ends_no_wait() -> None:
    box = timed_devices().announces("1", (0, 1, 2)).announces("2", (2, 3))
    box.enters((0, 1), "nccl:all_reduce", 1, group="1", started=True)
    box.enters(2, "nccl:all_reduce", 1, group="2", started=True).after(3).at(3).after(3)
    box.raises(0, "DistBackendError", WATCHDOG).after(0.1).enters(2, "nccl:all_reduce", 2, group="2").after(0.9)
    found = verdict(box.raises(2, "DistBackendError", WATCHDOG).after(0.3).at((1, 3)))
    assert (found.code, found.blamed_ranks, found.certainty) == (Code.STRAGGLER, (3,), Certainty.CERTAIN)


def test_a_victim_that_torch_names_in_a_mismatch_is_none_of_its_causes() -> None:
    box = FakeBox(4).begins().announces("1", (0, 3)).enters(0, seq=1, group="1").after(5).at(3).after(1)
    box.loses_peer(0, TIMED_OUT).phase("teardown", 0).after(0.2).enters(0, "gloo:barrier", 1)
    box.enters((1, 2, 3)).after(0.1)
    for rank in (1, 2):
        said = (
            f"Detected mismatch between collectives on ranks. Rank {rank} is running collective: CollectiveFingerPrint("
            "SequenceNumber=1, OpType=ALLREDUCE), but Rank 0 is running collective: CollectiveFingerPrint("
            "SequenceNumber=1, OpType=BARRIER)."
        )
        box.raises(rank, "RuntimeError", said)
    found = verdict(box.after(0.3))
    assert (found.code, found.blamed_ranks) == (Code.STRAGGLER, (3,))


@pytest.mark.parametrize("slept", [True, False])
def test_a_compile_that_began_after_the_others_gave_up_is_no_skew(slept: bool) -> None:
    box = FakeBox(4).begins().enters((0, 1, 3)).after(5.9).samples(2).at(2).after(0.1)
    box.loses_peer((0, 1, 3), TIMED_OUT).after(0.2)
    box = box.samples(2, compiling=("dynamo",), compile_s=0.1) if slept else box.after(1).stack(2, *IMPORTS_INDUCTOR)
    found = verdict(box, compiling=(2,))
    assert (found.code, found.blamed_ranks) == (Code.STRAGGLER, (2,))


def test_looks_count_by_the_time_until_the_next_one() -> None:
    """Rank 3 is in a call for rank 2 from its second look on."""
    box = FakeBox(4).begins().enters((0, 1)).after(0.1).at((2, 3)).after(0.4).blocked(3).after(5.5)
    found = verdict(box.loses_peer((0, 1), TIMED_OUT).after(0.3).at((2, 3)))
    assert (found.code, found.blamed_ranks, found.certainty) == (Code.STRAGGLER, (2,), Certainty.CERTAIN)


def test_members_that_differ_come_before_what_others_issue_later() -> None:
    box = waits_in_a_group_of_its_own(FakeBox(5).begins())
    box.enters(3, "gloo:barrier", 1).enters((0, 1, 2)).enters(4, "gloo:broadcast", 1).after(0.3)
    found = verdict(box, ActReason.MISMATCH)
    assert (found.cause, found.blamed_ranks, found.certainty) == (VerdictCause.MEMBERS, (3,), Certainty.CERTAIN)


def test_what_a_host_queues_later_says_nothing_about_its_device_before() -> None:
    box = (
        timed_devices()
        .announces("1", (2, 3))
        .enters((0, 1, 3), "nccl:all_reduce", 1, started=True)
        .after(5)
        .at(2)
        .after(1)
    )
    for rank in (0, 1, 3):
        box.raises(rank, "DistBackendError", WATCHDOG)
    found = verdict(box.after(0.2).enters(2, "nccl:all_reduce", 1, group="1").after(0.3).at(2))
    assert (found.code, found.cause, found.blamed_ranks) == (Code.STRAGGLER, None, (2,))


# -- what was open then, and is over by the end --------------------------------------------------------------


def gave_up(box: FakeBox, *ranks: int) -> FakeBox:
    return box.raises(ranks, "DistBackendError", WATCHDOG)


def blamed(found: Verdict) -> tuple[Code, str | None, tuple[int, ...], Certainty]:
    return found.code, found.cause, found.blamed_ranks, found.certainty


def test_a_message_that_came_after_others_gave_up_had_held_its_receiver_up() -> None:
    """Rank 1 receives from rank 3, which sleeps; ranks 0,2 give up; then rank 3 sends."""
    box = timed_devices().enters((0, 2), "nccl:all_reduce", 1, started=True)
    box.enters(1, "nccl:recv 1<-3", 8, started=True).after(3).at((1, 3)).after(3)
    gave_up(box, 0, 2).after(0.5).enters(3, "nccl:send 3->1", 8, started=True).after(0.1).completes((1, 3))
    box.enters((1, 3), "nccl:all_reduce", 1, started=True).after(6)
    found = judge_test(gave_up(box, 1, 3).finishes().ends().done().timeline(), 0).verdict
    assert blamed(found) == (Code.STRAGGLER, None, (3,), Certainty.CERTAIN)


def behind_a_kernel() -> FakeBox:
    """The kernel of rank 2 ends one second after the others gave up."""
    box = timed_devices().enters((0, 1, 3), "nccl:all_reduce", 1, started=True).enters(2, "nccl:all_reduce", 1)
    return gave_up(box.after(3).at(2).after(3), 0, 1, 3).after(1).device_begins(2)


def test_a_device_that_begins_after_others_gave_up_was_busy_then() -> None:
    found = verdict(behind_a_kernel().after(31).at(2), ActReason.STALL)
    assert blamed(found) == (Code.STRAGGLER, "device-busy", (2,), Certainty.CERTAIN)


def test_so_it_was_when_its_rank_gives_up_as_well() -> None:
    found = judge_test(gave_up(behind_a_kernel().after(6), 2).finishes().ends().done().timeline(), 0).verdict
    assert blamed(found) == (Code.STRAGGLER, "device-busy", (2,), Certainty.CERTAIN)


def test_a_pair_that_one_device_held_up_until_others_gave_up() -> None:
    box = timed_devices().announces("1", (0, 2)).enters(0, "nccl:all_reduce", 1, group="1", started=True)
    box.enters(2, "nccl:all_reduce", 1, group="1").enters((1, 3), "nccl:all_reduce", 1, started=True)
    gave_up(box.after(3).at((0, 2)).after(3), 1, 3).after(0.5).device_begins(2).completes((0, 2)).after(0.2)
    box.enters((0, 2), "nccl:all_reduce", 1, started=True).after(6)
    found = judge_test(gave_up(box, 0, 2).finishes().ends().done().timeline(), 0).verdict
    assert blamed(found) == (Code.STRAGGLER, "device-busy", (2,), Certainty.CERTAIN)


def test_who_received_until_just_before_the_box_acted_was_held_up() -> None:
    """Stacks show rank 0 in a call for rank 1, which sleeps; both come back a second before."""
    box = FakeBox(3).begins().enters(2).after(0.3)
    for _ in range(9):
        box.samples((0, 1, 2)).blocked(0).at(1).after(3)
    box.samples((0, 1), cpu_s=3.0).after(1).samples((0, 1), cpu_s=4.0)
    found = verdict(box.at((0, 1)), ActReason.STALL)
    assert blamed(found) == (Code.STRAGGLER, None, (1,), Certainty.CERTAIN)


def test_a_hang_of_what_a_rank_left_without_its_end_is_in_doubt() -> None:
    """It caught its time-out, and passed; the rank that kept it waiting came later."""
    box = timed_devices(3).enters((0, 1), "nccl:all_reduce", 1, started=True).after(6).at(2).passes(0).after(0.5)
    found = verdict(box.enters(2, "nccl:all_reduce", 1, started=True).after(31), ActReason.STALL)
    assert blamed(found) == (Code.HANG, None, (1, 2), Certainty.LIKELY)
    assert any("rank 0 left the test while what the others wait in had not completed" in e.text for e in found.evidence)


@pytest.mark.parametrize("why", [ActReason.STALL, ActReason.TEST_LIMIT])
def test_a_hang_of_ranks_that_issued_different_operations_is_in_doubt_at_any_limit(why: ActReason) -> None:
    """The members of their group aren't known, so it is no mismatch."""
    box = timed_devices(2).enters(0, "nccl:all_reduce", 2, group="7", started=True)
    box.enters(1, "nccl:broadcast", 2, group="7", started=True).after(601).at((0, 1))
    found = verdict(box, why)
    assert (found.code, found.certainty) == (Code.HANG, Certainty.GUESS)
    assert any("rank 1 issued something else than all_reduce #2" in e.text for e in found.evidence)


@pytest.mark.parametrize("ranks", [2, 3])
def test_a_host_in_a_call_is_where_its_device_is(ranks: int) -> None:
    """An endless kernel runs before the barrier that rank 0 has called, as its stack shows."""
    others = tuple(range(1, ranks))
    box = timed_devices(ranks).enters(others, "nccl:barrier", 1, started=True).enters(0, "nccl:barrier", 1)
    found = verdict(box.after(31).blocked(range(ranks), "barrier"), ActReason.STALL)
    assert blamed(found) == (Code.STRAGGLER, "device-busy", (0,), Certainty.CERTAIN)


def test_what_a_host_has_just_queued_shows_no_kernel() -> None:
    """It slept until then."""
    box = timed_devices().enters((0, 1, 2), "nccl:all_reduce", 1, started=True).after(20).at(3).after(10.9)
    found = verdict(box.enters(3, "nccl:all_reduce", 1).after(0.1).at(3), ActReason.STALL)
    assert blamed(found) == (Code.STRAGGLER, None, (3,), Certainty.LIKELY)
    assert found.summary.startswith("rank 3 came to all_reduce #1 too late")
