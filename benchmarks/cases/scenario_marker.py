"""A scenario for the lane and for ``torchrun -m pytest``: the tests call ``init_process_group()`` themselves."""

from collections.abc import Iterator
from datetime import timedelta

import pytest
import torch.distributed as dist
from scenarios import first_test, next_test

LIMIT_S = 0

pytestmark = pytest.mark.h200x8


@pytest.fixture(scope="module")
def rank() -> Iterator[int]:
    dist.init_process_group("gloo", timeout=timedelta(seconds=LIMIT_S))
    yield dist.get_rank()
    dist.destroy_process_group()


def test_first(rank: int) -> None:
    first_test(rank)


def test_next(rank: int) -> None:
    next_test(rank)
