"""Tests that start their own process group, and ranks that don't find together."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from . import faults

PATIENCE = timedelta(seconds=2)

pytestmark = pytest.mark.h200x8(ranks=2, stall=20, test=60)


@pytest.fixture
def left_to_the_test() -> Iterator[None]:
    """Destroys whatever group there is afterwards."""
    import torch.distributed as dist

    yield
    if dist.is_initialized():
        dist.destroy_process_group()


def joins(**options: object) -> None:
    import torch.distributed as dist

    dist.init_process_group("gloo", timeout=PATIENCE, **options)  # type: ignore[arg-type]


def add_up() -> float:
    import torch
    import torch.distributed as dist

    ones = torch.ones(1)
    dist.all_reduce(ones)
    return float(ones)


@pytest.mark.expect_verdict("startup-failure", ranks=[0, 1], cause="rendezvous")
def test_group_is_larger_than_the_world(left_to_the_test: None) -> None:
    joins(world_size=3, rank=faults.world_and_rank()[1])


@pytest.mark.expect_verdict("startup-failure", ranks=[1], cause="rendezvous")
def test_number_is_used_twice(left_to_the_test: None) -> None:
    joins(world_size=2, rank=0)


@pytest.mark.expect_verdict("startup-failure", ranks=[1], cause="rendezvous")
def test_one_rank_comes_when_the_others_gave_up(left_to_the_test: None) -> None:
    if faults.world_and_rank()[1] == 1:
        time.sleep(3)
    joins()


@pytest.mark.expect_verdict("rank-death", ranks=[1], cause="exception")
def test_backend_does_not_exist_on_one_rank(left_to_the_test: None) -> None:
    import torch.distributed as dist

    dist.init_process_group("glue" if faults.world_and_rank()[1] == 1 else "gloo")


@pytest.mark.expect_verdict("rank-death", ranks=[1], cause="exception")
def test_raise_where_the_others_wait_for_it_to_join(left_to_the_test: None) -> None:
    if faults.world_and_rank()[1] == 1:
        raise ImportError("rank 1 lacks a kernel, on purpose")
    joins()


@pytest.mark.h200x8(ranks=4, stall=3, test=60)
@pytest.mark.expect_verdict("startup-failure", ranks=[1], cause="rendezvous")
def test_one_rank_goes_to_another_address(left_to_the_test: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody's patience ends within the limits."""
    import torch.distributed as dist

    if faults.world_and_rank()[1] == 1:
        monkeypatch.setenv("MASTER_PORT", "1")  # nobody listens there
    dist.init_process_group("gloo")


@pytest.mark.h200x8(ranks=4, stall=3, test=60)
@pytest.mark.expect_verdict("straggler", ranks=[1])
def test_one_rank_does_not_come_to_the_second_group(left_to_the_test: None) -> None:
    import torch.distributed as dist

    dist.init_process_group("gloo")
    assert add_up() == 4
    dist.destroy_process_group()
    if faults.world_and_rank()[1] == 1:
        time.sleep(faults.LONG_S)
    dist.init_process_group("gloo")


def test_by_address(left_to_the_test: None) -> None:
    address = f"tcp://127.0.0.1:{os.environ['MASTER_PORT']}"
    world, rank = faults.world_and_rank()
    joins(init_method=address, world_size=world, rank=rank)
    assert add_up() == world


def test_by_file(left_to_the_test: None, tmp_path_factory: pytest.TempPathFactory) -> None:
    shared = Path(tmp_path_factory.getbasetemp()).parent / f"rendezvous-{os.environ['MASTER_PORT']}"
    world, rank = faults.world_and_rank()
    joins(init_method=f"file://{shared}", world_size=world, rank=rank)
    assert add_up() == world
