"""Ranks that issued different collectives are never green, also when the box sees nothing of it: each rank counts."""

import json

import pytest

from tests.plugin.project import LANE, Project, Ran

TESTS = """
    import os, tempfile
    import pytest, torch, torch.distributed as dist

    pytestmark = pytest.mark.h200x8(ranks=4)
    RANK = int(os.environ.get("RANK", "-1"))

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
        for _ in range(1 + RANK):
            dist.all_reduce(torch.ones(3))

    def test_a_world_after_another():
        # subgroups of other members under the same names, and the last world is left up
        place = f"{tempfile.gettempdir()}/{os.environ['MASTER_PORT']}-{os.environ['TORCHELASTIC_RUN_ID']}"
        for number, members in enumerate(([(0, 2), (1, 3)], [(0, 1), (2, 3)])):
            if number:
                dist.destroy_process_group()
            dist.init_process_group("gloo", init_method=f"file://{place}-{number}", rank=RANK, world_size=4)
            for ranks in members:
                group = dist.new_group(ranks)
                if RANK in ranks:
                    for _ in range(3 - number):
                        dist.all_reduce(torch.ones(1 + ranks[0] + number), group=group)
            dist.barrier()

    def test_one_rank_skips_in_the_middle(modal_h200x8):
        dist.all_reduce(torch.ones(3))
        if RANK == 0:
            pytest.skip("nothing to do here")
        work = dist.broadcast(torch.ones(3), src=1, async_op=True)

    @pytest.mark.xfail(strict=False)
    def test_one_rank_is_expected_to_fail(modal_h200x8):
        dist.all_reduce(torch.ones(3))
        assert RANK
        work = dist.broadcast(torch.ones(3), src=1, async_op=True)
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
    assert (verdict["code"], verdict["blamed_ranks"]) == ("collective-mismatch", [1])
    assert "no rank noticed, but the results can't be right" in verdict["summary"]


def test_what_need_not_be_the_same_is_none(ran: Ran) -> None:
    passed = {name for name, outcome in ran.outcomes().items() if outcome == "passed"}
    assert passed == {"test_the_same", "test_worlds_of_one", "test_a_world_after_another"}, ran.text
    assert ran.verdict("test_one_rank_skips_in_the_middle")["cause"] == "skipped-on-some-ranks"
    assert ran.verdict("test_one_rank_is_expected_to_fail")["code"] == "xfailed"


def test_only_what_is_left_of_the_last_world_is_counted(ran: Ran) -> None:
    assert ran.directory is not None
    lines = (ran.directory / "recording.jsonl").read_text(encoding="utf-8").splitlines()
    facts = [json.loads(line) for line in lines]
    number = {fact["nodeid"]: fact["test"] for fact in facts if fact["kind"] == "test-planned"}
    said = {
        fact["rank"]: fact["digests"]
        for fact in facts
        if fact["kind"] == "finished" and fact["test"] == number["test_a.py::test_a_world_after_another"]
    }
    assert [sorted(said[rank]) for rank in range(4)] == [["0", "1"], ["0", "1"], ["0", "2"], ["0", "2"]]


def test_such_a_run_keeps_no_seed(ran: Ran) -> None:
    assert ran.run is not None
    assert ran.run["status"] == "failed"
    assert ran.directory is not None
    facts = map(json.loads, (ran.directory / "recording.jsonl").read_text().splitlines())
    (kept,) = (fact for fact in facts if fact["kind"] == "seed-kept")
    assert kept["detail"].startswith("not kept: the run isn't green")
