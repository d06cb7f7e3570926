"""The cause is there, but victims hide it: they fail by words of their own, skip, retry, or die of it."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

import pytest

from . import faults

if TYPE_CHECKING:
    from pytest_megacpp.rank.lane import Lane

LOST_BY_NCCL = (
    "NCCL error in: ProcessGroupNCCL.cpp:3353, unhandled system error (run with NCCL_DEBUG=INFO for details),"
    " NCCL version 2.27.5\nncclSystemError: System call (e.g. socket, malloc) or external library call failed or device"
    " error.\nLast error:\nsocketStartConnect: Connect to 127.0.0.1<45069> failed : Connection refused"
)


# Victims with words of their own.


@pytest.mark.h200x8(ranks=4, test=60)
@pytest.mark.expect_verdict("rank-death", ranks=[2], cause="signal:SIGKILL")
def test_victims_assert_something_else(modal_h200x8: Lane) -> None:
    faults.line_up(modal_h200x8)
    if modal_h200x8.rank == 2:
        faults.kill_self()
    try:
        faults.wait_for_everyone(modal_h200x8)
    except RuntimeError:
        raise AssertionError("the loss didn't fall") from None


@pytest.mark.h200x8(ranks=4, test=60)
@pytest.mark.expect_verdict("rank-death", ranks=[2], cause="signal:SIGKILL")
def test_victims_skip(modal_h200x8: Lane) -> None:
    faults.line_up(modal_h200x8)
    if modal_h200x8.rank == 2:
        faults.kill_self()
    try:
        faults.wait_for_everyone(modal_h200x8)
    except RuntimeError:
        pytest.skip("the network is flaky today")


@pytest.mark.h200x8(ranks=4, test=60)
@pytest.mark.expect_verdict("rank-death", ranks=[2], cause="signal:SIGKILL")
def test_victims_return(modal_h200x8: Lane) -> None:
    faults.line_up(modal_h200x8)
    if modal_h200x8.rank == 2:
        faults.kill_self()
    try:
        faults.wait_for_everyone(modal_h200x8)
    except RuntimeError:
        return


@pytest.mark.h200x8(ranks=4, test=60)
@pytest.mark.expect_verdict("rank-death", ranks=[2], cause="signal:SIGKILL")
def test_victims_try_again(modal_h200x8: Lane) -> None:
    faults.line_up(modal_h200x8)
    if modal_h200x8.rank == 2:
        faults.kill_self()
    for _ in range(1_000):
        try:
            faults.wait_for_everyone(modal_h200x8)
        except RuntimeError:
            time.sleep(0.05)


@pytest.mark.h200x8(ranks=4, test=60)
@pytest.mark.expect_verdict("rank-death", ranks=[2], cause="signal:SIGKILL")
def test_victims_end_their_process(modal_h200x8: Lane) -> None:
    faults.line_up(modal_h200x8)
    if modal_h200x8.rank == 2:
        faults.kill_self()
    try:
        faults.wait_for_everyone(modal_h200x8)
    except RuntimeError:
        time.sleep(0.05)
        os._exit(1)


@pytest.mark.h200x8(ranks=4, test=60)
@pytest.mark.expect_verdict("rank-death", ranks=[3], cause="exception")
def test_victims_quote_nccl_before_the_cause_is_known(modal_h200x8: Lane) -> None:
    import torch.distributed as dist

    faults.line_up(modal_h200x8)
    if modal_h200x8.rank == 3:
        faults.let_peers_wait()
        raise ValueError("the cause comes last, on purpose")
    raise dist.DistBackendError(LOST_BY_NCCL)


# One cause among several failures.


@pytest.mark.h200x8(ranks=4, test=60)
@pytest.mark.expect_verdict("rank-death", ranks=[2], cause="exception")
def test_one_skips_and_another_raises(modal_h200x8: Lane) -> None:
    if modal_h200x8.rank == 1:
        pytest.skip("not on rank 1, on purpose")
    if modal_h200x8.rank == 2:
        raise ValueError("rank 2 breaks, on purpose")
    faults.wait_for_everyone(modal_h200x8)


@pytest.mark.h200x8(ranks=4, test=60)
@pytest.mark.expect_verdict("rank-death", ranks=[1], cause="exception")
def test_raise_and_another_is_killed_afterwards(modal_h200x8: Lane) -> None:
    faults.line_up(modal_h200x8)
    if modal_h200x8.rank == 1:
        raise KeyError("rank 1 breaks first, on purpose")
    if modal_h200x8.rank == 3:
        time.sleep(0.2)
        faults.kill_self()
    faults.wait_for_everyone(modal_h200x8)


@pytest.mark.h200x8(ranks=4, test=60)
@pytest.mark.expect_verdict("rank-death", ranks=[2], cause="signal:SIGKILL")
def test_killed_by_another_rank(modal_h200x8: Lane) -> None:
    """Who was killed is seen; by whom isn't."""
    import signal

    import torch.distributed as dist

    pids: list[int] = [0] * modal_h200x8.ranks
    dist.all_gather_object(pids, os.getpid())
    if modal_h200x8.rank == 0:
        os.kill(pids[2], signal.SIGKILL)
    for _ in range(2):
        faults.wait_for_everyone(modal_h200x8)


@pytest.mark.h200x8(ranks=2, test=60)
@pytest.mark.xfail(reason="an exception is expected, a death is not", strict=True)
@pytest.mark.expect_verdict("rank-death", ranks=[1], cause="signal:SIGKILL")
def test_expected_to_fail_but_killed(modal_h200x8: Lane) -> None:
    faults.line_up(modal_h200x8)
    if modal_h200x8.rank == 1:
        faults.kill_self()
    faults.wait_for_everyone(modal_h200x8)


# Exceptions that are hard to tell.


@pytest.mark.h200x8(ranks=2, test=60)
@pytest.mark.expect_verdict("rank-death", ranks=[1], cause="exception")
def test_exception_that_can_not_be_shown(modal_h200x8: Lane) -> None:
    """pytest itself breaks on it."""
    faults.line_up(modal_h200x8)
    if modal_h200x8.rank == 1:
        raise faults.Unspeakable
    faults.wait_for_everyone(modal_h200x8)


@pytest.mark.h200x8(ranks=2, test=60)
@pytest.mark.expect_verdict("rank-death", ranks=[1], cause="exception")
def test_interrupted_on_one_rank(modal_h200x8: Lane) -> None:
    """pytest ends its session by it."""
    faults.line_up(modal_h200x8)
    if modal_h200x8.rank == 1:
        raise KeyboardInterrupt
    faults.wait_for_everyone(modal_h200x8)


@pytest.mark.h200x8(ranks=2, stall=2, test=60)
@pytest.mark.expect_verdict("straggler", ranks=[1])
def test_thread_that_is_waited_for_has_ended(modal_h200x8: Lane) -> None:
    """The rank's own code waits for good; what ended the thread is in the evidence."""
    faults.line_up(modal_h200x8)
    if modal_h200x8.rank == 1:
        faults.wait_for_a_result_of_a_broken_thread()
    faults.wait_for_everyone(modal_h200x8)


# What fixtures of a wider scope leave behind.


@pytest.mark.h200x8(ranks=2, test=60)
class TestBrokenClassFixture:
    """Each test that needs it gets its own world and the same verdict; one that doesn't is well."""

    @pytest.fixture(scope="class")
    def shards(self) -> None:
        if faults.world_and_rank() == (2, 1):
            raise FileNotFoundError("rank 1 lacks its shards, on purpose")

    @pytest.mark.expect_verdict("rank-death", ranks=[1], cause="exception")
    def test_a(self, shards: None, modal_h200x8: Lane) -> None:
        faults.wait_for_everyone(modal_h200x8)

    @pytest.mark.expect_verdict("rank-death", ranks=[1], cause="exception")
    def test_b(self, shards: None, modal_h200x8: Lane) -> None:
        faults.wait_for_everyone(modal_h200x8)

    def test_c_without(self, modal_h200x8: Lane) -> None:
        faults.wait_for_everyone(modal_h200x8)
