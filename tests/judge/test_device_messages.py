"""Messages of NCCL, which devices send and receive in their order: who is behind is whose device has not begun."""

from pytest_megacpp.judge.arbiter import judge_test
from pytest_megacpp.judge.causes import VerdictCause
from pytest_megacpp.judge.verdicts import Certainty, Code, Verdict
from pytest_megacpp.recording.vocabulary import ActReason
from tests.scenario import FakeBox, timed_devices


def verdict(box: FakeBox) -> Verdict:
    return judge_test(box.aborts("stall").done().timeline(), 0).verdict


def test_who_has_begun_a_message_waits_for_whose_device_has_not() -> None:
    """A kernel of rank 2 does not end, so that rank 0 can't send, and both come to nothing that the others are in."""
    box = timed_devices().enters(0, "nccl:send 0->2", 8, started=True).enters(2, "nccl:recv 2<-0", 8)
    box.enters((0, 2), "nccl:all_reduce", 1).enters((1, 3), "nccl:all_reduce", 1, started=True).after(31)
    found = verdict(box.acts(ActReason.STALL, "", (1, 3), (0, 2)).at((0, 2)))
    assert (found.code, found.blamed_ranks) == (Code.STRAGGLER, (2,))
    assert (found.cause, found.certainty) == (VerdictCause.DEVICE_BUSY, Certainty.CERTAIN)


def test_whose_device_has_not_begun_a_message_is_behind() -> None:
    box = timed_devices().enters(0, "nccl:send 0->2", 8, started=True).enters(2, "nccl:recv 2<-0", 8).after(31)
    found = verdict(box.acts(ActReason.STALL, "", (0,), (2,)).at(range(4)))
    assert (found.code, found.blamed_ranks, found.cause) == (Code.STRAGGLER, (2,), VerdictCause.DEVICE_BUSY)
    assert "it queued this message behind a kernel that is still running on its GPU" in found.summary


def test_a_message_that_is_only_queued_is_no_wait_for_who_sent_it() -> None:
    """Rank 0 has sent it, and rank 2 has not begun to receive it."""
    box = timed_devices().enters(2, "nccl:recv 2<-0", 8).enters((0, 2), "nccl:all_reduce", 1)
    box.enters(0, "nccl:all_reduce", 1, started=True).enters((1, 3), "nccl:all_reduce", 1, started=True).after(31)
    found = verdict(box.acts(ActReason.STALL, "", (0, 1, 3), (2,)).at(range(4)))
    assert (found.code, found.blamed_ranks, found.cause) == (Code.STRAGGLER, (2,), VerdictCause.DEVICE_BUSY)


def test_of_several_messages_the_oldest_is_waited_in() -> None:
    """Rank 0 has queued two for rank 2, which receives the first one; the second one is nobody's fault."""
    box = timed_devices().enters(0, "nccl:send 0->2", 8, started=True).after(0.1).enters(0, "nccl:send 0->2", 9)
    box.enters(2, "nccl:recv 2<-0", 8, started=True).after(31)
    found = verdict(box.acts(ActReason.STALL, "", (0, 2)).at(range(4)))
    assert found.code is not Code.STRAGGLER


def test_whether_a_message_is_one_too_many_or_one_too_few_only_the_data_can_tell() -> None:
    box = timed_devices().passes((1, 2, 3)).enters(0, "nccl:recv 0<-2", 2, started=True).after(1)
    found = verdict(box.acts(ActReason.FAILURE_STUCK, "", (0,), (2,)).at(0))
    assert (found.code, found.blamed_ranks, found.certainty) == (Code.STRAGGLER, (2,), Certainty.LIKELY)
    text = "less certain: no fewer ranks left than wait, so rank 0 may have issued one message too many"
    assert text in [e.text for e in found.evidence]


def test_a_device_that_waits_in_a_message_when_its_rank_gives_up_is_not_behind_a_kernel() -> None:
    """Rank 2 receives from rank 3, which sleeps; rank 2's host and the others lose patience."""
    box = timed_devices().enters(2, "nccl:recv 2<-3", 8, started=True).enters(2, "nccl:all_reduce", 1)
    box.enters((0, 1), "nccl:all_reduce", 1, started=True).after(5).at(3).after(1)
    for rank in (0, 1, 2):
        box.raises(rank, "DistBackendError", "Watchdog caught collective operation timeout: Timeout(ms)=6000")
    found = verdict(box.after(0.3).acts(ActReason.FAILURE_STUCK).at(3))
    assert (found.code, found.cause, found.blamed_ranks) == (Code.STRAGGLER, None, (3,))
    assert found.certainty is Certainty.CERTAIN


def test_a_device_in_a_message_to_which_both_came_may_be_on_its_way() -> None:
    box = timed_devices().enters(2, "nccl:recv 2<-3", 8, started=True).enters(3, "nccl:send 3->2", 8, started=True)
    box.enters((2, 3), "nccl:all_reduce", 1).enters((0, 1), "nccl:all_reduce", 1, started=True).after(31)
    found = verdict(box.acts(ActReason.STALL, "", (0, 1), (2, 3)).at((2, 3)))
    assert (found.code, found.cause, found.certainty) == (Code.STRAGGLER, None, Certainty.LIKELY)
