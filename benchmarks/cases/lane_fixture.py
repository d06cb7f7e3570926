"""Trivial lane tests that get a ready process group from the lane's fixture; rank 0 stamps each start."""

import time
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

TESTS = 5
STAMPS = ""


@pytest.mark.parametrize("number", range(TESTS))
def test_all_reduce(modal_h200x8: object, number: int) -> None:
    if dist.get_rank() == 0:
        with Path(STAMPS).open("a") as file:
            file.write(f"{time.time()}\n")
    value = torch.ones(1)
    dist.all_reduce(value)
    assert value.item() == dist.get_world_size()
