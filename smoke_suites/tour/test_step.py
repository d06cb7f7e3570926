"""Drills to read: each breaks one rank on purpose and passes when its verdict is reached. `-rP` prints the verdict."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from torch import Tensor

    from pytest_megacpp.rank.lane import Lane


def all_reduce(lane: Lane, *shape: int) -> Tensor:
    import torch
    import torch.distributed as dist

    tensor = torch.ones(shape, device=lane.device)
    dist.all_reduce(tensor)
    return tensor


@pytest.mark.h200x8
@pytest.mark.expect_verdict("rank-death", ranks=[3], cause="signal:SIGKILL")
def test_checkpoint_shards(modal_h200x8: Lane) -> None:
    """Rank 3 is killed while the others wait for it."""
    lane = modal_h200x8
    all_reduce(lane, 8)
    if lane.rank == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    all_reduce(lane, 8)


@pytest.mark.h200x8(skew=3)
@pytest.mark.expect_verdict("compile-skew", ranks=[1])
def test_first_forward(modal_h200x8: Lane) -> None:
    """Rank 1 meets new shapes and compiles, again and again, while the others wait."""
    import torch

    lane = modal_h200x8
    all_reduce(lane, 8)
    if lane.rank == 1:
        for size in range(4, 64):
            step = torch.compile(lambda x, size=size: torch.softmax(x.sin() * size, -1).sum(), dynamic=False)
            step(torch.ones(size, size, device=lane.device))
    all_reduce(lane, 8)


@pytest.mark.h200x8(ranks=4)
@pytest.mark.expect_verdict("collective-mismatch", ranks=[2], cause="operation")
def test_expert_exchange(modal_h200x8: Lane) -> None:
    """Rank 2 takes another branch, and calls another collective than its peers."""
    import torch
    import torch.distributed as dist

    lane = modal_h200x8
    all_reduce(lane, 64, 128)
    if lane.rank == 2:
        dist.broadcast(torch.ones(32, 128, device=lane.device), src=0)
    else:
        all_reduce(lane, 64, 128)
