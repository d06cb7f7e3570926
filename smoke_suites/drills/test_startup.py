"""Ranks that never reach their test. Each fault has a world size of its own, so that no other drill meets it."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from . import faults

if TYPE_CHECKING:
    from pytest_megacpp.rank.lane import Lane

BUSY_PORT = 29_777

if faults.world_and_rank() == (6, 2):
    faults.kill_self()
if faults.world_and_rank() == (7, 4):
    time.sleep(faults.LONG_S)


@pytest.mark.h200x8(ranks=5, test=60)
@pytest.mark.expect_verdict("startup-failure", ranks=[3], cause="conftest")
def test_conftest_fails_on_one_rank(modal_h200x8: Lane) -> None:
    pytest.fail("no rank may run what not every rank has collected")


@pytest.mark.h200x8(ranks=6, test=60)
@pytest.mark.expect_verdict("startup-failure", ranks=[2], cause="signal:SIGKILL")
def test_killed_while_collecting(modal_h200x8: Lane) -> None:
    pytest.fail("no rank may run what not every rank has collected")


@pytest.mark.h200x8(ranks=7, startup=8, test=60)
@pytest.mark.expect_verdict("startup-failure", ranks=[4], cause="startup-limit")
def test_import_does_not_end_on_one_rank(modal_h200x8: Lane) -> None:
    pytest.fail("no rank may run what not every rank has collected")


@pytest.fixture
def group_on_a_busy_port(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Rank 0 can't host the store there, the others find somebody else."""
    import torch.distributed as dist

    world, rank = faults.world_and_rank()
    with socket.socket() as somebody:
        if rank == 0:
            somebody.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            somebody.bind(("127.0.0.1", BUSY_PORT))
            somebody.listen()
        monkeypatch.delenv("TORCHELASTIC_USE_AGENT_STORE")
        address = f"tcp://127.0.0.1:{BUSY_PORT}"
        dist.init_process_group("gloo", init_method=address, rank=rank, world_size=world)
        yield
        dist.destroy_process_group()


@pytest.mark.h200x8(ranks=2, stall=5, test=60)
@pytest.mark.expect_verdict("startup-failure", ranks=[0], cause="rendezvous")
def test_port_of_the_rendezvous_is_busy(group_on_a_busy_port: None) -> None:
    pytest.fail("there is no process group to test with")
