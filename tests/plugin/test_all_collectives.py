"""Ranks that issued different collectives are never green with the recorder as short as lanes have it."""

import pytest

from tests.plugin.project import LANE, Project, Ran

TESTS = """
    import datetime, os, tempfile, time
    import pytest, torch, torch.distributed as dist
    import torch.distributed._functional_collectives as funcol

    pytestmark = pytest.mark.h200x8(ranks=2)
    RANK = int(os.environ.get("RANK", "-1"))

    def issue_odd_one():
        dist.all_reduce(torch.ones(8))
        dist.all_reduce(torch.ones(8, dtype=torch.int32 if RANK == 1 else torch.float32))

    def train(steps):
        torch.manual_seed(0)
        layers = [torch.nn.Linear(4, 4) for _ in range(8)]
        model = torch.nn.parallel.DistributedDataParallel(torch.nn.Sequential(*layers), bucket_cap_mb=0.00001)
        for _ in range(steps):
            model(torch.ones(2, 4)).sum().backward()

    def test_long_ago(modal_h200x8):
        issue_odd_one()
        for _ in range(300):
            dist.all_reduce(torch.ones(8))

    def test_behind_a_burst(modal_h200x8):
        issue_odd_one()
        for work in [dist.all_reduce(torch.ones(8), async_op=True) for _ in range(300)]:
            work.wait()

    def test_behind_ddp(modal_h200x8):
        issue_odd_one()
        train(steps=40)

    def test_in_a_group_that_is_gone(modal_h200x8):
        group = dist.new_group([0, 1])
        for odd in (True, False):
            dist.all_reduce(torch.ones(8, dtype=torch.int32 if odd and RANK else torch.float32), group=group)
        for _ in range(200):
            dist.all_reduce(torch.ones(8), group=group)
        dist.destroy_process_group(group)
        dist.barrier()

    def test_in_a_world_that_is_gone():
        dist.init_process_group("gloo")
        issue_odd_one()
        for _ in range(200):
            dist.all_reduce(torch.ones(8))
        dist.destroy_process_group()

    def test_one_left_open(modal_h200x8):
        dist.barrier()
        if RANK == 1:
            dist.all_reduce(torch.ones(8), async_op=True)

    def test_given_up(modal_h200x8):
        dist.barrier()
        if RANK == 1:
            with pytest.raises(RuntimeError):
                dist.all_reduce(torch.ones(8), async_op=True).wait(datetime.timedelta(seconds=1))
        else:
            time.sleep(3)

    def test_smaller_part(modal_h200x8):
        parts = [torch.ones(2)] * 2 if RANK == 0 else None
        dist.scatter(torch.empty(3 if RANK == 1 else 2), parts, src=0)

    def test_smaller_share(modal_h200x8):
        dist.gather(torch.ones(1 if RANK == 1 else 2), [torch.ones(2) for _ in range(2)] if RANK == 0 else None, dst=0)

    def test_healthy(modal_h200x8):
        train(steps=20)
        for n in range(3000):
            dist.all_reduce(torch.ones(1 + n % 3))
        for n in range(100):
            size = 1 + n % 3
            dist.scatter(torch.empty(size), [torch.ones(size)] * 2 if RANK == 0 else None, src=0)
            dist.gather(torch.ones(size), [torch.ones(size) for _ in range(2)] if RANK == 1 else None, dst=1)
        dist.all_reduce(torch.ones(8), async_op=True)
        train(steps=20)

    def test_healthy_worlds():
        place = f"{tempfile.gettempdir()}/{os.environ['MASTER_PORT']}-{os.environ['TORCHELASTIC_RUN_ID']}"
        for number in range(2):  # each with a store of its own: gloo finds the addresses of the first in an old one
            dist.init_process_group("gloo", init_method=f"file://{place}-{number}", rank=RANK, world_size=2)
            group = dist.new_group([0, 1])
            for n in range(150):
                dist.all_reduce(torch.ones(1 + n % 3), group=group if n % 2 else None)
            dist.barrier()
            dist.destroy_process_group()

    def test_too_many_for_the_recorder(modal_h200x8):
        for _ in range(300):
            funcol.wait_tensor(funcol.all_reduce(torch.ones(8), "sum", dist.group.WORLD))
"""
ODD = (
    "one_left_open",
    "smaller_part",
    "smaller_share",
    "long_ago",
    "behind_a_burst",
    "behind_ddp",
    "in_a_group_that_is_gone",
    "in_a_world_that_is_gone",
)


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Ran:
    project = Project(tmp_path_factory.mktemp("collectives"))
    project.write("test_a.py", TESTS)
    return project.pytest(*LANE, "-p", "no:randomly")


@pytest.mark.parametrize("name", ODD)
def test_one_that_differs_is_a_mismatch(ran: Ran, name: str) -> None:
    assert ran.outcome(f"test_{name}") == "failed"
    assert ran.verdict(f"test_{name}")["code"] == "collective-mismatch"


@pytest.mark.parametrize("name", ["test_healthy", "test_healthy_worlds"])
def test_a_healthy_test_is_certain_however_much_it_issues(ran: Ran, name: str) -> None:
    verdict = ran.verdict(name)
    assert (verdict["code"], verdict["certainty"]) == ("passed", "certain")


def test_a_collective_that_a_test_gives_up_on_is_a_doubt(ran: Ran) -> None:
    verdict = ran.verdict("test_given_up")
    assert (verdict["code"], verdict["certainty"]) == ("passed", "likely")


def test_what_nobody_could_compare_is_said(ran: Ran) -> None:
    verdict = ran.verdict("test_too_many_for_the_recorder")
    assert (verdict["code"], verdict["certainty"]) == ("passed", "likely")
