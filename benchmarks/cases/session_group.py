"""The same trivial tests for ``torchrun -m pytest``: one group for the session, nothing between the tests."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

TESTS = 5
STAMPS = ""


@pytest.fixture(scope="session")
def rank() -> Iterator[int]:
    dist.init_process_group("gloo")
    yield dist.get_rank()
    dist.destroy_process_group()


@pytest.mark.parametrize("number", range(TESTS))
def test_all_reduce(rank: int, number: int) -> None:
    if rank == 0:
        with Path(STAMPS).open("a") as file:
            file.write(f"{time.time()}\n")
    value = torch.ones(1)
    dist.all_reduce(value)
    assert value.item() == dist.get_world_size()
