"""Errors by which several ranks name the rank at fault."""

from pytest_megacpp.judge.arbiter import judge_test
from pytest_megacpp.judge.verdicts import Certainty, Code, Verdict
from tests.judge.test_messages import CHECKPOINT
from tests.scenario import FakeBox

DIFFER = "DDP expects same model across all ranks, but Rank {} has {} params, while rank {} has inconsistent {} params."


def judged(box: FakeBox) -> Verdict:
    return judge_test(box.finishes().ends().done().timeline(), 0).verdict


def raising(messages: dict[int, str], type_name: str = "RuntimeError", ranks: int = 4) -> FakeBox:
    box = FakeBox(ranks).begins()
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


def test_fewer_ranks_than_the_test_has_may_be_numbered_otherwise() -> None:
    found = judged(raising(dict.fromkeys((0, 2), CHECKPOINT), "CheckpointException"))
    assert (found.blamed_ranks, found.certainty) == ((2,), Certainty.LIKELY)


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
