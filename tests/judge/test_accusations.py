"""Errors by which several ranks name the rank at fault."""

import pytest

from pytest_megacpp.judge.arbiter import judge_test
from pytest_megacpp.judge.verdicts import Certainty, Code, Verdict
from pytest_megacpp.recording.vocabulary import ActReason
from tests.judge.test_messages import CHECKPOINT
from tests.scenario import FakeBox

DIFFER = "DDP expects same model across all ranks, but Rank {} has {} params, while rank {} has inconsistent {} params."


def judged(box: FakeBox) -> Verdict:
    return judge_test(box.finishes().ends().done().timeline(), 0).verdict


def raising(messages: dict[int, str], type_name: str = "RuntimeError", ranks: int = 4) -> FakeBox:
    box = FakeBox(ranks).begins().enters(tuple(messages), "gloo:gather", 1).completes()
    for rank, message in messages.items():
        box.raises(rank, type_name, message)
    return box


def test_a_rank_that_could_not_write_its_part_of_a_checkpoint() -> None:
    found = judged(raising(dict.fromkeys(range(4), CHECKPOINT), "CheckpointException"))
    assert (found.code, found.blamed_ranks, found.certainty) == (Code.TEST_FAILED, (2,), Certainty.CERTAIN)
    assert found.summary.startswith("rank 2 raised OSError: [Errno 28] No space left on device (test_writer.py:17)")
    assert {c.rank for c in found.consequences} == {0, 1, 3}


def test_one_word_alone_blames_nobody_else() -> None:
    """Without communication a reader calls itself rank 0."""
    found = judged(raising({1: CHECKPOINT.replace("RANK 2", "RANK 0")}, "CheckpointException"))
    assert found.blamed_ranks == (1,)
    assert "No space left on device" in found.summary


OF_ITSELF = CHECKPOINT.replace("RANK 2", "RANK 0")


def test_who_passed_is_not_accused() -> None:
    """Three read their checkpoints without communication, each as rank 0, and rank 0 has none to read."""
    found = judged(raising(dict.fromkeys((1, 2, 3), OF_ITSELF), "CheckpointException").passes(0))
    assert found.blamed_ranks == (1, 2, 3)


@pytest.mark.parametrize(("op", "later_s"), [("gloo:barrier", 0.05), ("gloo:broadcast", 3.0)])
def test_all_fail_each_by_itself(op: str, later_s: float) -> None:
    box = FakeBox(4).begins().enters((0, 1, 2, 3), op, 1).completes().after(later_s)
    found = judged(box.raises((0, 1, 2, 3), "CheckpointException", OF_ITSELF))
    assert (found.code, found.blamed_ranks) == (Code.TEST_FAILED, (0, 1, 2, 3))


def test_what_rank_0_could_not_write_is_passed_on_by_a_collective() -> None:
    box = FakeBox(4).begins().enters((0, 1, 2, 3), "gloo:broadcast", 9).completes().after(0.1)
    found = judged(box.raises((0, 1, 2, 3), "CheckpointException", OF_ITSELF))
    assert (found.blamed_ranks, found.certainty) == ((0,), Certainty.LIKELY)


def subgroup(members: tuple[int, ...], ranks: int = 4) -> FakeBox:
    box = FakeBox(ranks).begins().announces("1", members)
    return box.enters(members, "gloo:gather", 1, group="1").completes()


def test_numbers_are_those_of_the_group() -> None:
    box = subgroup((1, 2, 3))
    for rank in (1, 2, 3):
        box.raises(rank, "CheckpointException", CHECKPOINT)  # its rank 2 is the third
    found = judged(box)
    assert (found.code, found.blamed_ranks, found.certainty) == (Code.TEST_FAILED, (3,), Certainty.LIKELY)


def test_groups_that_number_alike_name_nobody_else() -> None:
    """Both have a rank 0 that failed, and their words are the same."""
    box = FakeBox(4).begins().announces("1", (0, 1)).announces("2", (2, 3))
    box.enters((0, 1), "gloo:gather", 1, group="1").enters((2, 3), "gloo:gather", 1, group="2").completes()
    for rank in range(4):
        box.raises(rank, "CheckpointException", CHECKPOINT.replace("RANK 2", "RANK 0"))
    assert judged(box).blamed_ranks == (0, 1, 2, 3)


def test_replicas_that_differ_in_two_groups() -> None:
    """Evens and odds; each counts its own, whatever number the group gives it."""
    box = FakeBox(8).begins().announces("1", (0, 2, 4, 6)).announces("2", (1, 3, 5, 7))
    for first in (0, 1):
        box.enters(tuple(range(first, 8, 2)), "gloo:all_gather", 1, group=str(first + 1)).completes()
    for rank in range(8):
        own, first = (6, 4) if rank in (6, 7) else (4, 6)
        box.raises(rank, "RuntimeError", DIFFER.format(rank // 2, own, 0 if rank in (6, 7) else 3, first))
    found = judged(box)
    assert (found.blamed_ranks, found.certainty) == ((6, 7), Certainty.CERTAIN)


def two_models_in_two_groups(*, entered: bool) -> Verdict:
    """4, 4, 6 parameters, and 6, 6, 6, 6, 4: each is odd in its own group only."""
    box, counts = FakeBox(8).begins(), (4, 4, 6, 6, 6, 6, 6, 4)
    for name, members in ("1", (0, 1, 2)), ("2", (3, 4, 5, 6, 7)):
        box.announces(name, members)
        if entered:
            box.enters(members, "gloo:all_gather", 1, group=name).completes()
    for rank, count in enumerate(counts):
        box.raises(rank, "RuntimeError", DIFFER.format(rank if rank < 3 else rank - 3, count, 0, 10 - count))
    return judged(box)


def test_counts_of_different_groups_are_not_added_up() -> None:
    found = two_models_in_two_groups(entered=True)
    assert (found.blamed_ranks, found.certainty) == ((2, 7), Certainty.CERTAIN)
    assert (
        "other ranks: 6 params instead of 4 params (ranks 0,1); 4 params instead of 6 params (ranks 3-6)"
        in found.summary
    )


def test_where_the_group_is_not_known_nobody_is_odd() -> None:
    assert two_models_in_two_groups(entered=False).blamed_ranks == tuple(range(8))


def test_a_model_that_differs() -> None:
    messages = {rank: DIFFER.format(rank, 4, 2, 6) for rank in (0, 1, 3)} | {2: DIFFER.format(2, 6, 0, 4)}
    found = judged(raising(messages))
    assert (found.code, found.blamed_ranks) == (Code.TEST_FAILED, (2,))
    assert "6 params" in found.summary


def test_two_models_without_a_majority() -> None:
    messages = {0: DIFFER.format(0, 4, 1, 6), 1: DIFFER.format(1, 6, 0, 4)}
    assert judged(raising(messages, ranks=2)).blamed_ranks == (0, 1)


def test_what_failed_before_was_first() -> None:
    box = FakeBox(4).begins().raises(1, "ValueError", "no shards").after(3.0)
    for rank in (0, 2, 3):
        box.raises(rank, "CheckpointException", CHECKPOINT)
    assert 1 in judged(box).blamed_ranks


UNLIKE_FIRST = (
    "[{}]: params[0] in this process with sizes [8, 8] appears not to match sizes of the same param in process 0."
)


def unlike_first(accusers: tuple[int, ...], ranks: int = 4) -> FakeBox:
    """The others go on, to a broadcast of parameters."""
    everyone = tuple(range(ranks))
    box = FakeBox(ranks).begins().announces("0", everyone).enters(everyone, "gloo:all_gather", 1).completes()
    others = tuple(r for r in everyone if r not in accusers)
    for rank in accusers:
        box.raises(rank, "RuntimeError", UNLIKE_FIRST.format(rank))
    return box.enters(others, "gloo:broadcast", 9).after(1.0)


@pytest.mark.parametrize(
    ("ranks", "accusers", "blamed", "certainty"),
    [
        (4, (1, 2, 3), (0,), Certainty.CERTAIN),
        (5, (1, 2, 4), (0, 3), Certainty.CERTAIN),
        (4, (2, 3), (2, 3), Certainty.LIKELY),
        (2, (1,), (1,), Certainty.LIKELY),
        (4, (3,), (3,), Certainty.CERTAIN),
    ],
)
def test_who_is_compared_with_the_first_rank(
    ranks: int, accusers: tuple[int, ...], blamed: tuple[int, ...], certainty: Certainty
) -> None:
    """It can't raise: where it is the odd one, all others do."""
    box = unlike_first(accusers, ranks)
    waiting = tuple(r for r in range(ranks) if r not in accusers)
    found = judge_test(box.acts(ActReason.FAILURE_STUCK, waiting=waiting).ends().done().timeline(), 0).verdict
    assert (found.blamed_ranks, found.certainty) == (blamed, certainty)


def test_each_with_a_model_of_its_own_is_no_majority() -> None:
    everyone = (0, 1, 2, 3)
    box = FakeBox(4).begins().announces("0", everyone).enters(everyone, "gloo:all_gather", 1).completes()
    for rank in (1, 2, 3):
        box.raises(rank, "RuntimeError", UNLIKE_FIRST.format(rank).replace("[8, 8]", f"[8, {rank}]"))
    box.enters(0, "gloo:broadcast", 9).after(1.0)
    found = judge_test(box.acts(ActReason.FAILURE_STUCK, waiting=(0,)).ends().done().timeline(), 0).verdict
    assert found.blamed_ranks == (1, 2, 3)


@pytest.mark.parametrize(("odd", "blamed"), [("on ranks [2]", (2,)), ("between ranks", (0, 1, 2, 3))])
def test_whom_the_lane_names(odd: str, blamed: tuple[int, ...]) -> None:
    lines = "\n".join(f"  rank {rank}: f32 [3] {rank == 2}" for rank in range(4))
    found = judged(raising(dict.fromkeys(range(4), f"tensor differs {odd}:\n{lines}"), "AssertionError"))
    assert (found.code, found.blamed_ranks) == (Code.TEST_FAILED, blamed)
