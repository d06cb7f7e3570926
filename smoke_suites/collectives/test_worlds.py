"""Worlds of several sizes in one box, and tests that bring their own process group as under torchrun."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    import torch

    from pytest_megacpp.rank.lane import Lane


def torchrun_device() -> torch.device:
    """The device a torchrun script would take; on CUDA it becomes the current one."""
    import torch

    if not torch.cuda.is_available():
        return torch.device("cpu")
    device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
    torch.cuda.set_device(device)
    return device


@pytest.mark.h200x8
def test_a_torchrun_script_runs_unchanged() -> None:
    import torch
    import torch.distributed as dist

    device = torchrun_device()
    dist.init_process_group()
    try:
        assert dist.get_rank() == int(os.environ["RANK"])
        assert dist.get_world_size() == int(os.environ["WORLD_SIZE"])
        value = torch.tensor(float(dist.get_rank()), device=device)
        dist.all_reduce(value)
        assert value.item() == sum(range(dist.get_world_size()))
    finally:
        dist.destroy_process_group()


@pytest.mark.h200x8
def test_every_rank_sees_the_torchrun_environment() -> None:
    rank, world_size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    assert 0 <= rank < world_size
    assert os.environ["LOCAL_RANK"] == os.environ["RANK"], "one host: local and global rank agree"
    assert os.environ["LOCAL_WORLD_SIZE"] == os.environ["WORLD_SIZE"]
    assert os.environ["MASTER_ADDR"]
    assert int(os.environ["MASTER_PORT"]) > 0


@pytest.mark.h200x8(ranks=2)
class TestTwoRanks:
    def test_pair_swaps_numbers(self, modal_h200x8: Lane) -> None:
        import torch
        import torch.distributed as dist

        lane = modal_h200x8
        assert lane.ranks == dist.get_world_size() == 2
        mine = torch.tensor([lane.rank], device=lane.device)
        theirs = torch.empty_like(mine)
        peer = 1 - lane.rank
        swap = [dist.P2POp(dist.isend, mine, peer), dist.P2POp(dist.irecv, theirs, peer)]
        for work in dist.batch_isend_irecv(swap):
            work.wait()
        assert theirs.item() == peer

    def test_process_group_starts_afresh(self, modal_h200x8: Lane) -> None:
        """A collective here must never pair with one of the test before."""
        import torch
        import torch.distributed as dist

        value = torch.tensor(modal_h200x8.rank + 1, device=modal_h200x8.device)
        dist.all_reduce(value)
        assert value.item() == 3

    def test_own_process_group_without_the_fixture(self) -> None:
        import torch
        import torch.distributed as dist

        device = torchrun_device()
        dist.init_process_group()
        try:
            value = torch.ones(1, device=device)
            dist.all_reduce(value)
            assert value.item() == 2
        finally:
            dist.destroy_process_group()


@pytest.mark.h200x8(ranks=4)
def test_four_ranks_form_a_square_mesh(modal_h200x8: Lane) -> None:
    import torch
    import torch.distributed as dist

    lane = modal_h200x8
    assert lane.ranks == 4
    mesh = lane.mesh((2, 2), ("dp", "tp"))
    value = torch.tensor(10**lane.rank, device=lane.device)
    dist.all_reduce(value, group=mesh.get_group("tp"))
    dist.all_reduce(value, group=mesh.get_group("dp"))
    assert value.item() == 1111


@pytest.mark.h200x8(ranks=1)
def test_one_rank_is_a_world(modal_h200x8: Lane) -> None:
    import torch
    import torch.distributed as dist

    lane = modal_h200x8
    assert (lane.rank, lane.ranks) == (0, 1)
    value = torch.tensor([7], device=lane.device)
    dist.all_reduce(value)
    assert value.item() == 7


@pytest.mark.h200x8(ranks=1)
def test_a_test_may_launch_its_own_ranks() -> None:
    script = Path(__file__).with_name("own_ranks.py")
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run([*launcher, str(script)], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert sorted(done.stdout.split("\n")) == ["", "rank 0 of 2: 3", "rank 1 of 2: 3"]
