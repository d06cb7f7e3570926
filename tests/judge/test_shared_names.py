"""Groups of different members that ranks give one name: `new_group([0, 1])` here and `new_group([2, 3])` there."""

import pytest

from pytest_megacpp.judge.arbiter import judge_test
from pytest_megacpp.judge.verdicts import Certainty, Code, Verdict
from pytest_megacpp.recording import events as ev
from pytest_megacpp.recording.groups import Groups, incarnation
from pytest_megacpp.recording.vocabulary import ActReason
from tests.scenario import ENFORCE, TIMED_OUT, FakeBox


def sharing(*lists: tuple[int, ...]) -> FakeBox:
    """Each list of ranks has made a group `1` of its own."""
    box = FakeBox(sum(map(len, lists))).begins()
    for members in lists:
        for rank in members:
            box.rank(ev.GroupCreated(rank, box.index, "1", members, "gloo"))
    return box


def verdict(box: FakeBox) -> Verdict:
    return judge_test(box.done().timeline(), 0).verdict


def stalled(box: FakeBox, waiting: tuple[int, ...], missing: tuple[int, ...] = ()) -> Verdict:
    return verdict(box.after(31).acts(ActReason.STALL, "waits", waiting, missing, (), 31.0).aborts("stall"))


def test_the_aborted_rank_of_a_pair_has_issued_its_own() -> None:
    box = sharing((0, 1), (2, 3)).enters(0, numel=12, group="1").enters(1, group="1").after(0.2)
    found = verdict(box.writes(1, ENFORCE).exits(1, None, "SIGABRT").after(0.2).acts(ActReason.EXIT).aborts("exit"))
    assert (found.code, found.blamed_ranks, found.certainty) == (Code.COLLECTIVE_MISMATCH, (), Certainty.CERTAIN)


def test_what_an_aborted_rank_issued_is_inferred_where_it_is_a_member() -> None:
    box = sharing((0, 1, 2), (3, 4, 5)).enters(0, numel=12, group="1").enters(1, group="1").after(0.2)
    for rank in (2, 5):
        box.writes(rank, ENFORCE).exits(rank, None, "SIGABRT")
    found = verdict(box.after(0.2).acts(ActReason.EXIT).aborts("exit"))
    assert (found.blamed_ranks, found.certainty) == ((0,), Certainty.LIKELY)
    assert "less certain: what rank 2 issued is inferred from the abort" in [e.text for e in found.evidence]


def test_an_abort_that_pairs_apart_from_each_other_do_not_explain() -> None:
    """No recorder kept what rank 1 issued, and the others issued the same in groups of two lists."""
    box = sharing((0, 1), (2, 3)).enters((0, 2, 3), group="1").after(0.2).writes(1, ENFORCE)
    found = verdict(box.exits(1, None, "SIGABRT").after(0.2).acts(ActReason.EXIT).aborts("exit"))
    assert (found.code, found.blamed_ranks) == (Code.COLLECTIVE_MISMATCH, ())


def test_a_mismatch_is_as_old_as_what_its_ranks_entered() -> None:
    box = sharing((0, 1), (2, 3)).enters(0, group="1").enters(1, "gloo:broadcast", group="1").after(2)
    found = verdict(box.raises(2, "KeyError", "7").after(1).acts(ActReason.MISMATCH, "differs").aborts("mismatch"))
    assert (found.code, found.certainty) == (Code.COLLECTIVE_MISMATCH, Certainty.CERTAIN)
    assert "KeyError" not in found.summary, "that came after it"


def test_who_raised_in_it_was_in_it() -> None:
    box = sharing((0, 1), (2, 3)).enters(0, group="1").enters(1, "gloo:broadcast", group="1").after(0.2)
    found = verdict(box.loses_peer(0).after(0.2).acts(ActReason.MISMATCH, "differs").aborts("mismatch"))
    assert "all_reduce #1 is called at train.py:40" in [e.text for e in found.evidence if e.rank == 0]


def test_who_came_too_late_has_come() -> None:
    box = sharing((0, 1), (2, 3)).enters(0, group="1").after(6).loses_peer(0, TIMED_OUT).after(2)
    box.enters(1, group="1").after(0.5).completes(1).passes((1, 2, 3)).finishes(0)
    found = verdict(box.ends())
    assert (found.code, found.cause, found.blamed_ranks) == (Code.STRAGGLER, None, (1,))
    assert "rank 1 entered all_reduce #1 too late: it arrived 8.0 s after the first rank" in found.summary


def test_who_stopped_in_it_has_come() -> None:
    box = sharing((0, 1), (2, 3)).enters((0, 1), group="1").samples(1, state="T").passes((2, 3))
    found = stalled(box, (0,), (1,))
    assert (found.code, found.blamed_ranks) == (Code.STRAGGLER, (1,))
    assert "rank 1 stopped in all_reduce #1" in found.summary


def test_who_only_queued_it_is_behind_a_kernel() -> None:
    box = sharing((0, 1), (2, 3)).enters(0, "nccl:all_reduce", group="1", started=True)
    found = stalled(box.enters(1, "nccl:all_reduce", group="1").passes((2, 3)), (0,), (1,))
    assert (found.code, found.cause, found.blamed_ranks) == (Code.STRAGGLER, "device-busy", (1,))


def test_a_wait_has_the_name_by_which_its_rank_entered_it() -> None:
    box = sharing((0, 1, 2), (3, 4, 5)).enters(0, "gloo:all_reduce", group="1")
    box.enters(1, "gloo:barrier", group="1").at(2).raises(2)
    found = verdict(box.after(0.6).acts(ActReason.FAILURE_STUCK, "", (0, 1), (2,)).aborts("failure-stuck"))
    assert [(c.rank, c.text) for c in found.consequences if c.rank < 2] == [
        (0, "waited 0.60 s in all_reduce #1"),
        (1, "waited 0.60 s in barrier #1"),
    ]


def test_who_failed_and_came_to_what_all_entered_may_be_why() -> None:
    """A broadcast of which ranks may have named different roots."""
    box = sharing((0, 1), (2, 3)).raises(0).after(0.1).enters((0, 1), "gloo:broadcast", group="1").passes((2, 3))
    found = stalled(box, (0, 1))
    assert (found.code, found.blamed_ranks) == (Code.RANK_DEATH, (0,))


def test_what_others_issue_in_theirs_is_not_the_same() -> None:
    """Rank 0 raised and waits alone in its pair; all connections of the others break later."""
    box = sharing((0, 1), (2, 3)).raises(0).after(0.1).enters(0, group="1").enters((2, 3), group="1").completes((2, 3))
    found = verdict(box.after(1).exits(3, 4).after(0.2).acts(ActReason.EXIT).aborts("exit"))
    assert (found.code, found.blamed_ranks) == (Code.RANK_DEATH, (0,))


def test_who_issued_less_than_others_in_theirs_does_not_lag() -> None:
    box = sharing((2, 3), (0, 1)).raises(0).after(0.1).enters((0, 1), group="1").completes((0, 1))
    for seq in (1, 2):
        box.enters((2, 3), seq=seq, group="1").completes((2, 3))
    found = verdict(box.after(1).exits(3, 4).after(0.2).acts(ActReason.EXIT).aborts("exit"))
    assert (found.cause, found.blamed_ranks) == ("exit:4", (3,))


def test_the_name_that_a_rank_knows() -> None:
    groups = Groups(4)
    for rank, members in ((0, (0, 1)), (1, (0, 1)), (2, (2, 3))):
        groups.announce("1@2", members, rank)
    named = [groups.name_to(rank, "1@2[0,1]") for rank in range(4)]
    assert named == ["1@2", "1@2", None, None]
    assert [groups.name_to(rank, "1@2") for rank in range(4)] == [None, None, None, "1@2"]
    assert groups.name_to(0, "mesh[0]") == "mesh[0]", "a name like that is not of two lists"
    assert incarnation("1@2[0,1]") == 2


ABORTED_IN = """Fatal Python error: Aborted

Thread 0x00007f059d433b80 (most recent call first):
  File "/x/site-packages/torch/distributed/distributed_c10d.py", line 2799 in {call}
  File "/x/site-packages/torch/distributed/c10d_logger.py", line 83 in wrapper
  File "/repo/suite/train.py", line 88 in exchange
"""


@pytest.mark.parametrize(
    ("call", "blamed"), [("recv", ()), ("batch_isend_irecv", ()), ("all_to_all_single", ()), ("all_reduce", (1,))]
)
def test_who_is_aborted_by_what_one_peer_sent_is_not_the_odd_one(call: str, blamed: tuple[int, ...]) -> None:
    """The others went on to a barrier, to which it didn't come."""
    box = FakeBox(4).begins().enters((0, 2, 3), "gloo:barrier", 1).after(0.2)
    box.writes(1, ENFORCE + ABORTED_IN.format(call=call)).exits(1, None, "SIGABRT").after(0.2)
    found = verdict(box.acts(ActReason.EXIT).aborts("exit"))
    assert (found.code, found.blamed_ranks) == (Code.COLLECTIVE_MISMATCH, blamed)
    assert (f"rank 1 got more than it expects in {call}" in found.summary) == (not blamed)
