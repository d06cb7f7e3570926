"""Tests that expect a verdict, and what follows a fault: the next test never pays for it."""

import pytest

from tests.plugin.project import LANE, Project, Ran

DRILLS = """
    import os
    import signal
    import pytest
    import torch
    import torch.distributed as dist

    pytestmark = pytest.mark.h200x8(ranks=2, test=60, stall=20)
    expect = pytest.mark.expect_verdict

    def die_on_rank_1():
        if os.environ["RANK"] == "1":
            os.kill(os.getpid(), signal.SIGKILL)

    @expect("rank-death", ranks=[1])
    def test_as_expected(modal_h200x8):
        die_on_rank_1()
        dist.barrier()

    @expect("rank-death", ranks=[1], cause="signal:SIGKILL")
    def test_with_its_cause(modal_h200x8):
        die_on_rank_1()
        dist.barrier()

    @expect("straggler")
    def test_wrong_code(modal_h200x8):
        die_on_rank_1()
        dist.barrier()

    @expect("rank-death", ranks=[0])
    def test_wrong_ranks(modal_h200x8):
        die_on_rank_1()
        dist.barrier()

    @expect("rank-death", ranks=[1], cause="oom-killed")
    def test_wrong_cause(modal_h200x8):
        die_on_rank_1()
        dist.barrier()

    @expect("rank-death", ranks=[1])
    def test_nothing_happens(modal_h200x8):
        dist.barrier()

    @expect("passed")
    def test_expects_to_pass(modal_h200x8):
        dist.barrier()

    @expect("test-failed", ranks=[0, 1])
    @pytest.mark.xfail(reason="a drill all the same", run=False)
    def test_never_run(): pass

    def test_healthy(modal_h200x8):
        ones = torch.ones(1)
        dist.all_reduce(ones)
        assert ones.item() == 2
"""
AFTERMATH = """
    import os
    import time
    import pytest
    import torch
    import torch.distributed as dist

    pytestmark = pytest.mark.h200x8(ranks=4, test=60, stall=20)
    RANK = int(os.environ.get("RANK", -1))

    def total():
        ones = torch.ones(1)
        dist.all_reduce(ones)
        return ones.item()

    def test_rank_3_raises_before_the_all_reduce(modal_h200x8):
        if RANK == 3:
            raise ValueError("true cause")
        assert total() == 4

    def test_next_one_is_not_paired_with_it(modal_h200x8):
        ten = torch.full((1,), 10.0)
        dist.all_reduce(ten)
        assert ten.item() == 40

    def test_a_rank_leaves_early(modal_h200x8):
        if RANK == 2:
            return
        assert total() == 4

    def test_all_is_well_again(modal_h200x8):
        assert total() == 4
"""


@pytest.fixture(scope="module")
def drills(tmp_path_factory: pytest.TempPathFactory) -> Ran:
    project = Project(tmp_path_factory.mktemp("drills"))
    project.write("test_drills.py", DRILLS)
    return project.pytest(*LANE, "-rP")


@pytest.mark.parametrize(
    ("name", "outcome", "why"),
    [
        ("test_as_expected", "passed", ""),
        ("test_with_its_cause", "passed", ""),
        ("test_wrong_code", "failed", "expected verdict straggler, got rank-death"),
        ("test_wrong_ranks", "failed", "expected blamed ranks [0], got [1]"),
        ("test_wrong_cause", "failed", "expected cause 'oom-killed', got 'signal:SIGKILL'"),
        ("test_nothing_happens", "failed", "expected verdict rank-death, got passed"),
        ("test_expects_to_pass", "passed", ""),
        ("test_never_run", "failed", "expected verdict test-failed, got xfailed"),
        ("test_healthy", "passed", ""),
    ],
)
def test_a_drill_passes_when_exactly_its_verdict_is_reached(drills: Ran, name: str, outcome: str, why: str) -> None:
    assert drills.outcome(name) == outcome
    if why:
        assert drills.failure(name).startswith(why)
        assert why in drills.text


def test_a_drill_that_passed_shows_its_verdict_on_request(drills: Ran) -> None:
    _, _, passes = drills.text.partition("= PASSES =")
    _, _, shown = passes.partition(" test_with_its_cause _")
    shown, _, _ = shown.partition("____ test_")
    assert "- Verdict -" in shown
    assert "rank-death · rank 1 was killed by SIGKILL" in shown
    _, _, healthy = passes.partition(" test_healthy _")
    assert "- Verdict -" not in healthy


def test_artefacts_keep_the_verdict_and_have_the_drill_s_outcome(drills: Ran) -> None:
    assert (drills.test("test_as_expected")["outcome"], drills.test("test_as_expected")["verdict"]) == (
        "passed",
        "rank-death",
    )
    assert drills.receipt("test_as_expected")["outcome"] == "passed"
    assert drills.verdict("test_as_expected")["blamed_ranks"] == [1]
    assert drills.test("test_nothing_happens")["outcome"] == "failed"
    assert drills.run is not None
    assert drills.run["status"] == "failed"


@pytest.fixture(scope="module")
def aftermath(tmp_path_factory: pytest.TempPathFactory) -> Ran:
    project = Project(tmp_path_factory.mktemp("aftermath"))
    project.write("test_aftermath.py", AFTERMATH)
    return project.pytest(*LANE)


def test_the_rank_that_raised_is_blamed_at_once(aftermath: Ran) -> None:
    verdict = aftermath.verdict("test_rank_3_raises_before_the_all_reduce")
    assert (verdict["code"], verdict["cause"], verdict["blamed_ranks"]) == ("rank-death", "exception", [3])
    text = aftermath.failure("test_rank_3_raises_before_the_all_reduce")
    assert "true cause" in text.splitlines()[0]
    assert "ranks 0-2" in text


def test_the_next_test_is_not_corrupted(aftermath: Ran) -> None:
    assert aftermath.outcome("test_next_one_is_not_paired_with_it") == "passed"


def test_a_rank_that_left_early_is_found(aftermath: Ran) -> None:
    verdict = aftermath.verdict("test_a_rank_leaves_early")
    assert (verdict["code"], verdict["cause"], verdict["blamed_ranks"]) == ("straggler", "left-early", [2])


def test_the_session_goes_on_in_a_new_world(aftermath: Ran) -> None:
    assert aftermath.outcome("test_all_is_well_again") == "passed"
    assert aftermath.directory is not None
    assert len(list((aftermath.directory / "ranks").iterdir())) == 3
