"""Ranks that issued different collectives are never green, also when the box sees nothing of it: each rank counts."""

import pytest

from tests.plugin.project import LANE, Project, Ran

TESTS = """
    import os
    import pytest, torch, torch.distributed as dist

    pytestmark = pytest.mark.h200x8(ranks=2)

    def issue(rank, odd):
        dist.all_reduce(torch.ones(8))
        dist.all_reduce(torch.ones(8, dtype=torch.int32 if rank == odd else torch.float32))
        for _ in range(200):
            dist.all_reduce(torch.ones(8))

    def test_longer_ago_than_the_box_reads(modal_h200x8):
        issue(modal_h200x8.rank, odd=1)

    def test_where_nobody_answers_the_box(modal_h200x8):
        os.unlink(os.environ["MEGACPP_WORKER"])
        issue(modal_h200x8.rank, odd=1)

    def test_the_same(modal_h200x8):
        issue(modal_h200x8.rank, odd=None)

    def test_worlds_of_one():
        dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
        for _ in range(1 + int(os.environ["RANK"])):
            dist.all_reduce(torch.ones(3))
        dist.destroy_process_group()

    def test_a_world_after_another():
        for number in range(2):
            dist.init_process_group("gloo")
            dist.all_reduce(torch.ones(3 + number))
            dist.destroy_process_group()
"""


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Ran:
    project = Project(tmp_path_factory.mktemp("digests"))
    project.write("test_a.py", TESTS)
    return project.pytest(*LANE, "-p", "no:randomly", env={"TORCH_FR_BUFFER_SIZE": "2000"})


@pytest.mark.parametrize("name", ["test_longer_ago_than_the_box_reads", "test_where_nobody_answers_the_box"])
def test_what_only_the_ranks_know_is_a_mismatch(ran: Ran, name: str) -> None:
    assert ran.outcome(name) == "failed"
    verdict = ran.verdict(name)
    assert (verdict["code"], verdict["blamed_ranks"]) == ("collective-mismatch", [])
    assert "no rank noticed, but the results can't be right" in verdict["summary"]


def test_what_need_not_be_the_same_is_none(ran: Ran) -> None:
    passed = {name for name, outcome in ran.outcomes().items() if outcome == "passed"}
    assert passed == {"test_the_same", "test_worlds_of_one", "test_a_world_after_another"}


def test_such_a_run_keeps_no_seed(ran: Ran) -> None:
    assert ran.run is not None
    assert ran.run["status"] == "failed"
    assert "not kept: the run isn't green" in ran.text
