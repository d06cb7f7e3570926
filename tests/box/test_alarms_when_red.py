"""When a box ends a test in which a rank failed on its own: at once where the others wait in vain, whatever else their
hosts have queued. The same where a rank only left, and the test may still pass: not before `stall`.
"""

import pytest

from pytest_megacpp.box.alarms import STUCK_BY_STACK_S, Clocks, alarm
from pytest_megacpp.recording.events import Error
from pytest_megacpp.recording.vocabulary import ActReason, ReportOutcome, TestPhase
from tests.recording.telling import LIMITS
from tests.scenario import FakeBox

TICK_S, SLACK_S = 0.1, 0.7
AT_ONCE_S = STUCK_BY_STACK_S + SLACK_S


def ended(box: FakeBox, until_s: float = 3 * LIMITS.stall) -> tuple[ActReason, float] | None:
    """Why and after how many seconds the test is ended while nothing new is seen."""
    view, clocks, spent_s = box.timeline().tests[0], Clocks(), 0.0
    while (spent_s := spent_s + TICK_S) < until_s:
        acted = alarm(view, clocks, box.now_s + spent_s)
        if acted is not None:
            return acted.why, spent_s
    return None


def at_once(box: FakeBox) -> bool:
    found = ended(box)
    assert found is not None
    return found[0] is ActReason.FAILURE_STUCK and found[1] <= AT_ONCE_S


def goes(box: FakeBox, fails: bool, rank: int = 1) -> FakeBox:
    """The rank fails, or is through with the test."""
    box.after(0.2)
    return box.raises(rank).finishes(rank) if fails else box.passes(rank)


def ranks(count: int) -> FakeBox:
    return FakeBox(count, limits=LIMITS).begins()


def in_two_dimensions() -> FakeBox:
    """Rank 0's device waits for rank 1, rank 2's for rank 0, and rank 3's for rank 1."""
    box = ranks(4).announces("1", (0, 1)).announces("2", (2, 3)).announces("3", (0, 2)).announces("4", (1, 3))
    box.enters(0, "nccl:all_gather", 7, group="1", started=True)
    box.enters((2, 3), "nccl:all_gather", 7, group="2", done=True, started=True)
    return box.enters(2, "nccl:all_reduce", 3, group="3", started=True).enters(
        3, "nccl:all_reduce", 3, group="4", started=True
    )


def test_what_a_host_queued_behind_its_wait_holds_nothing_up() -> None:
    queued = in_two_dimensions().enters(0, "nccl:all_reduce", 3, group="3")
    assert at_once(goes(queued, fails=True))
    assert at_once(goes(in_two_dimensions(), fails=True))
    everywhere = ranks(4).enters((0, 2, 3), "nccl:all_gather", 7, started=True).enters((0, 2, 3), "nccl:all_gather", 8)
    assert at_once(goes(everywhere, fails=True))


def test_a_collective_that_all_members_queued_behind_their_waits_holds_nothing_up() -> None:
    box = ranks(4).announces("1", (0, 2)).enters((0, 2, 3), "nccl:all_gather", 7, started=True)
    assert at_once(goes(box.enters((0, 2), "nccl:all_reduce", 3, group="1"), fails=True))


@pytest.mark.parametrize("op", ["gloo:all_reduce", "nccl:all_reduce"])
def test_a_collective_that_all_members_are_in_may_end_beside_a_wait_in_vain(op: str) -> None:
    backend = op.partition(":")[0]
    box = ranks(3).announces("1", (0, 2)).enters((0, 2), f"{backend}:all_gather", 7, started=backend == "nccl")
    box.enters((0, 2), op, 3, group="1", started=backend == "nccl")
    assert not at_once(goes(box, fails=True))


def test_a_rank_whose_device_has_begun_nothing_may_still_compute() -> None:
    """The others wait for it, and it for nobody: its queue is no wait."""
    box = ranks(3).announces("1", (0, 2)).enters(2, "nccl:all_reduce", 3, group="1", started=True)
    assert not at_once(goes(box.enters(0, "nccl:all_reduce", 3, group="1"), fails=True))


def test_a_message_queued_behind_another_holds_nothing_up() -> None:
    box = ranks(3).enters(0, "nccl:send 0->1", 3, started=True)
    assert at_once(goes(box.enters(2, "nccl:recv 2<-1", 3, started=True).enters(2, "nccl:recv 2<-1", 4), fails=True))


def test_the_next_stage_of_a_pipeline_waits_for_what_is_queued() -> None:
    """Rank 2 sends what it computes of what it receives."""
    box = ranks(4).enters(2, "nccl:recv 2<-1", 3, started=True).enters(2, "nccl:send 2->3", 4)
    box.enters(3, "nccl:recv 3<-2", 4, started=True).enters(0, "nccl:send 0->1", 3, started=True)
    assert at_once(goes(box, fails=True))


@pytest.mark.parametrize("fails", [True, False])
def test_a_message_that_both_devices_have_begun_may_arrive(fails: bool) -> None:
    """Also from a rank that has left: its device goes on."""
    box = ranks(2).enters(0, "nccl:recv 0<-1", 1, started=True).enters(1, "nccl:send 1->0", 1, started=True)
    assert not at_once(goes(box, fails))


def test_a_message_may_arrive_from_a_rank_whose_device_still_computes_when_it_has_left() -> None:
    box = ranks(2).enters(0, "nccl:recv 0<-1", 1, started=True).enters(1, "nccl:send 1->0", 1)
    assert not at_once(goes(box, fails=False))
    alone = ranks(2).enters(0, "nccl:recv 0<-1", 1, started=True)
    assert at_once(goes(alone, fails=False))


def in_a_group(name: str, users: tuple[int, ...]) -> FakeBox:
    return ranks(3).enters(users, "gloo:all_reduce", 2, group=name)


@pytest.mark.parametrize("name", ["", "somebody's"])
@pytest.mark.parametrize("users", [(0,), (0, 2)])
def test_a_group_of_unknown_members_is_no_better_than_a_stack(name: str, users: tuple[int, ...]) -> None:
    box = goes(in_a_group(name, users), fails=True).after(0.2)
    assert at_once((box if 2 in users else box.passes(2)).blocked(users, "wait"))


@pytest.mark.parametrize("name", ["", "somebody's"])
def test_a_group_of_unknown_members_may_be_complete_where_nobody_failed(name: str) -> None:
    box = goes(in_a_group(name, (0, 2)), fails=False).after(0.2).blocked((0, 2), "wait")
    assert not at_once(box)


@pytest.mark.parametrize("call", ["get", "recv", "send", "new_group", "shutdown"])
def test_only_a_failure_makes_a_stack_enough(call: str) -> None:
    for fails in (True, False):
        box = goes(ranks(3), fails).passes(2).after(0.2).blocked(0, call)
        assert at_once(box) == fails


def test_a_rank_that_lacked_a_peer_did_not_fail_on_its_own() -> None:
    box = ranks(3).after(0.2).loses_peer(1, "wait timeout after 1000ms, keys: /k").finishes(1).passes(2)
    assert not at_once(box.after(0.2).blocked(0, "recv"))


def test_who_leaves_frees_no_device_from_what_it_queued() -> None:
    """Where the test may still pass, all that a rank has open must be known to lack somebody."""
    assert not at_once(goes(in_two_dimensions().enters(0, "nccl:all_reduce", 3, group="3"), fails=False))


def test_an_unexpected_pass_is_no_failure_that_ends_others_waits() -> None:
    """A strict xpass is reported as failed; a message of the rank that left may be on its way."""
    error = Error("", "[XPASS(strict)] bug 12", "", 0, "")
    box = ranks(3).reports(TestPhase.CALL, (0, 2), ReportOutcome.FAILED, error=error).finishes((0, 2))
    found = ended(box.blocked(1, "recv").after(0.2))
    assert found is not None
    assert found[0] is ActReason.STALL
