"""A rank raises, exits or is killed; and failures for which nobody waits.

Each drill passes when the run is judged exactly as its marker says. Limits are short, so that a drill costs
seconds. ``line_up`` brings the ranks together first: what is measured is the fault and not somebody's slow start.
"""

from __future__ import annotations

import atexit
import os
import sys
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from . import faults

if TYPE_CHECKING:
    from pathlib import Path

    from pytest_megacpp.rank.lane import Lane


# Exceptions while others wait.


@pytest.mark.h200x8(test=60)
@pytest.mark.expect_verdict("rank-death", ranks=[1], cause="exception")
def test_raise_before_a_collective(modal_h200x8: Lane) -> None:
    if modal_h200x8.rank == 1:
        raise ValueError("rank 1 breaks on purpose")
    faults.wait_for_everyone(modal_h200x8)


@pytest.mark.h200x8(ranks=2, test=60)
@pytest.mark.expect_verdict("rank-death", ranks=[1], cause="exception")
def test_system_exit_before_a_collective(modal_h200x8: Lane) -> None:
    faults.line_up(modal_h200x8)
    if modal_h200x8.rank == 1:
        raise SystemExit(3)
    faults.wait_for_everyone(modal_h200x8)


@pytest.mark.h200x8(ranks=2, test=60)
@pytest.mark.expect_verdict("rank-death", ranks=[0], cause="exception")
def test_exit_with_success_inside_the_test(modal_h200x8: Lane) -> None:
    """``sys.exit(0)`` is an exception as any other: the test did not end well."""
    faults.line_up(modal_h200x8)
    if modal_h200x8.rank == 0:
        sys.exit(0)
    faults.wait_for_everyone(modal_h200x8)


@pytest.fixture
def broken_set_up_on_rank_1(modal_h200x8: Lane) -> Lane:
    if modal_h200x8.rank == 1:
        raise OSError("the data set of rank 1 is missing on purpose")
    return modal_h200x8


@pytest.mark.h200x8(ranks=2, test=60)
@pytest.mark.expect_verdict("rank-death", ranks=[1], cause="exception")
def test_set_up_fails_while_others_wait(broken_set_up_on_rank_1: Lane) -> None:
    faults.wait_for_everyone(broken_set_up_on_rank_1)


@pytest.fixture
def broken_before_the_group_on_rank_2() -> None:
    if faults.world_and_rank()[1] == 2:
        raise OSError("rank 2 breaks before it has joined the process group, on purpose")


@pytest.mark.h200x8(ranks=4, test=60)
@pytest.mark.expect_verdict("rank-death", ranks=[2], cause="exception")
def test_set_up_fails_before_the_group_exists(broken_before_the_group_on_rank_2: None, modal_h200x8: Lane) -> None:
    """The others wait for it in the rendezvous."""
    faults.wait_for_everyone(modal_h200x8)


@pytest.fixture
def barrier_in_teardown(modal_h200x8: Lane) -> Iterator[Lane]:
    import torch.distributed as dist

    yield modal_h200x8
    dist.barrier()


@pytest.mark.h200x8(ranks=4, test=60)
@pytest.mark.expect_verdict("rank-death", ranks=[1], cause="exception")
def test_raise_and_meet_the_others_in_teardown(barrier_in_teardown: Lane) -> None:
    """The barrier of the rank that failed meets what the others still do in the test: that follows from it."""
    faults.line_up(barrier_in_teardown)
    if barrier_in_teardown.rank == 1:
        raise ValueError("rank 1 breaks on purpose, and then tidies up")
    faults.wait_for_everyone(barrier_in_teardown)


@pytest.mark.h200x8(ranks=4, test=60)
@pytest.mark.expect_verdict("rank-death", ranks=[3], cause="exception")
def test_connection_of_the_rank_s_own(modal_h200x8: Lane) -> None:
    """It sounds like a lost peer, but the other end is no rank."""
    faults.line_up(modal_h200x8)
    if modal_h200x8.rank == 3:
        raise RuntimeError("the data server says: Connection closed by peer, on purpose")
    faults.wait_for_everyone(modal_h200x8)


@pytest.fixture
def teardown_together(modal_h200x8: Lane) -> Iterator[Lane]:
    yield modal_h200x8
    if modal_h200x8.rank == 0:
        raise OSError("rank 0 can't write its results, on purpose")
    faults.wait_for_everyone(modal_h200x8)


@pytest.mark.h200x8(ranks=2, test=60)
@pytest.mark.expect_verdict("rank-death", ranks=[0], cause="exception")
def test_teardown_fails_while_others_wait(teardown_together: Lane) -> None:
    faults.line_up(teardown_together)


@pytest.mark.h200x8(ranks=4, test=60)
@pytest.mark.expect_verdict("rank-death", ranks=[2], cause="exception")
def test_gradient_hook_raises(modal_h200x8: Lane) -> None:
    faults.line_up(modal_h200x8)
    if modal_h200x8.rank == 2:
        faults.fail_in_backward(modal_h200x8)
    faults.wait_for_everyone(modal_h200x8)


@pytest.mark.h200x8(ranks=2, test=60)
@pytest.mark.expect_verdict("rank-death", ranks=[1], cause="exception")
@pytest.mark.parametrize("kills", [False, True], ids=["raises", "killed"])
def test_loader_worker_fails(modal_h200x8: Lane, kills: bool) -> None:
    """The reader process breaks or is gone; the rank itself raises because of it."""
    faults.line_up(modal_h200x8)
    if modal_h200x8.rank == 1:
        faults.read_everything(faults.BrokenShards(kills=kills))
    faults.wait_for_everyone(modal_h200x8)


@pytest.mark.h200x8(ranks=2, test=60)
@pytest.mark.expect_verdict("rank-death", ranks=[1], cause="exception")
def test_host_memory_error(modal_h200x8: Lane) -> None:
    faults.line_up(modal_h200x8)
    if modal_h200x8.rank == 1:
        raise MemoryError("no room for the optimizer's state on rank 1, on purpose")
    faults.wait_for_everyone(modal_h200x8)


@pytest.mark.h200x8(test=60)
@pytest.mark.expect_verdict("rank-death", ranks=[6], cause="cuda-oom")
def test_device_memory_is_full(modal_h200x8: Lane) -> None:
    faults.line_up(modal_h200x8)
    if modal_h200x8.rank == 6:
        faults.run_out_of_device_memory()
    faults.wait_for_everyone(modal_h200x8)


@pytest.mark.h200x8(test=60)
@pytest.mark.expect_verdict("rank-death", ranks=[5], cause="exception")
def test_raise_in_a_late_step(modal_h200x8: Lane) -> None:
    for step in range(200):
        if (modal_h200x8.rank, step) == (5, 150):
            raise FloatingPointError("the loss of step 150 is not finite, on purpose")
        faults.wait_for_everyone(modal_h200x8)


# More than one rank fails, one of them is the cause.


@pytest.fixture
def closes_its_group(modal_h200x8: Lane) -> Iterator[Lane]:
    """As tests do that own their group: peers in a collective then lose their connection."""
    import torch.distributed as dist

    yield modal_h200x8
    dist.destroy_process_group()


@pytest.mark.h200x8(ranks=4, test=60)
@pytest.mark.expect_verdict("rank-death", ranks=[3], cause="exception")
def test_peers_lose_their_connection(closes_its_group: Lane) -> None:
    """The others raise as well, but what they say is only that a peer is gone."""
    faults.line_up(closes_its_group)
    if closes_its_group.rank == 3:
        faults.let_peers_wait()
        raise KeyError("rank 3 lacks a parameter, on purpose")
    faults.wait_for_everyone(closes_its_group)


@pytest.mark.h200x8(ranks=4, test=60)
@pytest.mark.expect_verdict("rank-death", ranks=[2], cause="exception")
def test_second_failure_of_its_own(modal_h200x8: Lane) -> None:
    """Rank 0 fails too, a moment later and for another reason."""
    faults.line_up(modal_h200x8)
    if modal_h200x8.rank == 2:
        raise ValueError("rank 2 breaks first, on purpose")
    if modal_h200x8.rank == 0:
        time.sleep(0.3)
        raise KeyError("rank 0 breaks second, on purpose")
    faults.wait_for_everyone(modal_h200x8)


@pytest.mark.h200x8(ranks=4, test=60)
@pytest.mark.expect_verdict("rank-death", ranks=[1], cause="signal:SIGKILL")
def test_killed_and_another_fails_afterwards(modal_h200x8: Lane) -> None:
    faults.line_up(modal_h200x8)
    if modal_h200x8.rank == 1:
        faults.kill_self()
    if modal_h200x8.rank == 3:
        time.sleep(0.05)
        raise ValueError("rank 3 breaks second, on purpose")
    faults.wait_for_everyone(modal_h200x8)


@pytest.mark.h200x8(ranks=4, test=60)
@pytest.mark.expect_verdict("rank-death", ranks=[1, 2], cause="exception")
def test_the_same_failure_on_two_ranks(modal_h200x8: Lane) -> None:
    faults.line_up(modal_h200x8)
    if modal_h200x8.rank in (1, 2):
        raise ValueError("two ranks read the same broken shard, on purpose")
    faults.wait_for_everyone(modal_h200x8)


@pytest.mark.h200x8(ranks=4, stall=10, test=60)
@pytest.mark.expect_verdict("rank-death", ranks=[1], cause="exception")
def test_cause_is_raised_after_others_timed_out(modal_h200x8: Lane) -> None:
    faults.line_up(modal_h200x8)
    faults.shorten_patience(1)
    if modal_h200x8.rank == 1:
        time.sleep(3)
        raise ValueError("rank 1 was slow, and then it broke, on purpose")
    faults.wait_for_everyone(modal_h200x8)


@pytest.mark.h200x8(ranks=2, stall=10, test=60)
@pytest.mark.expect_verdict("rank-death", ranks=[0], cause="exception")
def test_cause_is_raised_late_in_a_group_of_the_test() -> None:
    from datetime import timedelta

    import torch
    import torch.distributed as dist

    dist.init_process_group("gloo", timeout=timedelta(seconds=1))
    try:
        dist.barrier()
        if dist.get_rank() == 0:
            time.sleep(2.5)
            raise ValueError("rank 0 was slow, and then it broke, on purpose")
        dist.all_reduce(torch.ones(1))
    finally:
        dist.destroy_process_group()


# Signals and exits.


@pytest.mark.h200x8(test=60)
@pytest.mark.expect_verdict("rank-death", ranks=[0], cause="signal:SIGKILL")
def test_rank_zero_is_killed_while_others_wait(modal_h200x8: Lane) -> None:
    faults.line_up(modal_h200x8)
    if modal_h200x8.rank == 0:
        faults.let_peers_wait()
        faults.kill_self()
    faults.wait_for_everyone(modal_h200x8)


@pytest.mark.h200x8(ranks=2, test=60)
@pytest.mark.expect_verdict("rank-death", ranks=[1], cause="signal:SIGKILL")
def test_killed_with_nobody_waiting(modal_h200x8: Lane) -> None:
    if modal_h200x8.rank == 1:
        faults.kill_self()


@pytest.mark.h200x8(ranks=4, test=60)
@pytest.mark.expect_verdict("rank-death", ranks=[0, 3], cause="signal:SIGKILL")
def test_two_ranks_are_killed(modal_h200x8: Lane) -> None:
    faults.line_up(modal_h200x8)
    if modal_h200x8.rank in (0, 3):
        faults.kill_self()
    faults.wait_for_everyone(modal_h200x8)


@pytest.fixture
def killed_before_the_group_on_rank_1() -> None:
    if faults.world_and_rank()[1] == 1:
        faults.kill_self()


@pytest.mark.h200x8(ranks=2, test=60)
@pytest.mark.expect_verdict("rank-death", ranks=[1], cause="signal:SIGKILL")
def test_killed_before_the_group_exists(killed_before_the_group_on_rank_1: None, modal_h200x8: Lane) -> None:
    faults.wait_for_everyone(modal_h200x8)


@pytest.fixture
def killed_in_teardown_on_rank_1(modal_h200x8: Lane) -> Iterator[Lane]:
    yield modal_h200x8
    if modal_h200x8.rank == 1:
        faults.kill_self()


@pytest.mark.h200x8(ranks=2, test=60)
@pytest.mark.expect_verdict("rank-death", ranks=[1], cause="signal:SIGKILL")
def test_killed_in_teardown(killed_in_teardown_on_rank_1: Lane) -> None:
    faults.wait_for_everyone(killed_in_teardown_on_rank_1)


@pytest.mark.h200x8(ranks=2, test=60)
@pytest.mark.expect_verdict("rank-death", ranks=[1], cause="signal:SIGSEGV")
def test_segmentation_fault(modal_h200x8: Lane) -> None:
    faults.line_up(modal_h200x8)
    if modal_h200x8.rank == 1:
        faults.read_null_pointer()
    faults.wait_for_everyone(modal_h200x8)


@pytest.mark.h200x8(ranks=4, test=60)
@pytest.mark.expect_verdict("rank-death", ranks=[3], cause="signal:SIGABRT")
def test_native_code_aborts(modal_h200x8: Lane) -> None:
    faults.line_up(modal_h200x8)
    if modal_h200x8.rank == 3:
        faults.let_peers_wait()
        faults.abort_natively()
    faults.wait_for_everyone(modal_h200x8)


@pytest.mark.h200x8(ranks=2, test=60)
@pytest.mark.expect_verdict("rank-death", ranks=[1], cause="signal:SIGABRT")
def test_native_exception_that_nobody_catches(modal_h200x8: Lane) -> None:
    faults.line_up(modal_h200x8)
    if modal_h200x8.rank == 1:
        faults.terminate_natively()
    faults.wait_for_everyone(modal_h200x8)


@pytest.mark.h200x8(ranks=2, test=60)
@pytest.mark.skipif(not faults.can_confine_memory(), reason="no cgroup of this machine lets itself be limited")
@pytest.mark.expect_verdict("rank-death", ranks=[1], cause="oom-killed")
def test_killed_for_memory(modal_h200x8: Lane) -> None:
    faults.line_up(modal_h200x8)
    if modal_h200x8.rank == 1:
        faults.run_out_of_host_memory()
    faults.wait_for_everyone(modal_h200x8)


SIGNALS = (
    *("SIGTERM", "SIGFPE", "SIGBUS", "SIGILL", "SIGHUP", "SIGQUIT", "SIGSYS", "SIGTRAP"),
    *("SIGALRM", "SIGUSR2", "SIGXCPU"),
)


def deadly(name: str) -> object:
    """One drill per signal, with the verdict that names it."""
    verdict = pytest.mark.expect_verdict("rank-death", ranks=[1], cause=f"signal:{name}")
    return pytest.param(name, marks=verdict, id=name)


@pytest.mark.h200x8(ranks=2, test=60)
@pytest.mark.parametrize("name", [deadly(n) for n in SIGNALS])
def test_signal_is_named(modal_h200x8: Lane, name: str) -> None:
    import signal

    faults.line_up(modal_h200x8)
    if modal_h200x8.rank == 1:
        faults.kill_self(signal.Signals[name])
    faults.wait_for_everyone(modal_h200x8)


@pytest.mark.h200x8(ranks=2, test=60)
@pytest.mark.expect_verdict("rank-death", ranks=[1], cause="exit:0")
def test_process_ends_itself_with_success(modal_h200x8: Lane) -> None:
    faults.line_up(modal_h200x8)
    if modal_h200x8.rank == 1:
        os._exit(0)
    faults.wait_for_everyone(modal_h200x8)


@pytest.mark.h200x8(ranks=2, test=60)
@pytest.mark.expect_verdict("rank-death", ranks=[0], cause="exit:1")
def test_process_ends_itself_with_nobody_waiting(modal_h200x8: Lane) -> None:
    faults.line_up(modal_h200x8)
    if modal_h200x8.rank == 0:
        os._exit(1)


@pytest.mark.h200x8(ranks=4, test=60)
@pytest.mark.expect_verdict("rank-death", ranks=[2], cause="exit:3")
def test_process_ends_itself_with_a_code(modal_h200x8: Lane) -> None:
    faults.line_up(modal_h200x8)
    if modal_h200x8.rank == 2:
        faults.let_peers_wait()
        os._exit(3)
    faults.wait_for_everyone(modal_h200x8)


@pytest.mark.h200x8(ranks=2, test=60)
@pytest.mark.expect_verdict("rank-death", ranks=[1], cause="exception")
def test_one_rank_ends_its_pytest_session(modal_h200x8: Lane) -> None:
    faults.line_up(modal_h200x8)
    if modal_h200x8.rank == 1:
        pytest.exit("rank 1 has seen enough, on purpose")
    faults.wait_for_everyone(modal_h200x8)


@pytest.mark.h200x8(ranks=1, test=60)
@pytest.mark.expect_verdict("rank-death", ranks=[0], cause="signal:SIGSEGV")
def test_a_world_of_one_crashes(modal_h200x8: Lane) -> None:
    faults.read_null_pointer()


# Nobody waits for the rank that fails.


@pytest.mark.h200x8(ranks=4, test=60)
@pytest.mark.expect_verdict("test-failed", ranks=[2])
def test_raise_with_nobody_waiting(modal_h200x8: Lane) -> None:
    faults.line_up(modal_h200x8)
    assert modal_h200x8.rank != 2


@pytest.mark.h200x8(ranks=2, test=60)
@pytest.mark.expect_verdict("test-failed", ranks=[0, 1])
def test_every_rank_raises(modal_h200x8: Lane) -> None:
    assert modal_h200x8.ranks == 3


@pytest.mark.h200x8(ranks=2, test=60)
@pytest.mark.expect_verdict("test-failed", ranks=[1], cause="skipped-on-some-ranks")
def test_skip_on_one_rank(modal_h200x8: Lane) -> None:
    if modal_h200x8.rank == 1:
        pytest.skip("only rank 1 skips, on purpose")


@pytest.mark.h200x8(ranks=2, test=60)
@pytest.mark.expect_verdict("test-failed", ranks=[1])
def test_set_up_fails_with_nobody_waiting(broken_set_up_on_rank_1: Lane) -> None:
    time.sleep(0.2)


@pytest.fixture
def broken_teardown_on_rank_1(modal_h200x8: Lane) -> Iterator[Lane]:
    yield modal_h200x8
    if modal_h200x8.rank == 1:
        raise OSError("rank 1 can't tidy up, on purpose")


@pytest.mark.h200x8(ranks=2, test=60)
@pytest.mark.expect_verdict("test-failed", ranks=[1])
def test_teardown_fails(broken_teardown_on_rank_1: Lane) -> None:
    faults.wait_for_everyone(broken_teardown_on_rank_1)


@pytest.mark.h200x8(ranks=1, test=60)
@pytest.mark.expect_verdict("test-failed", ranks=[0], cause="exception")
def test_a_world_of_one_raises(modal_h200x8: Lane) -> None:
    raise ConnectionResetError("Connection reset by peer, says a download of this test's own, on purpose")


@pytest.mark.h200x8(ranks=2, test=60)
@pytest.mark.expect_verdict("test-failed", ranks=[0, 1], cause="cuda-oom")
def test_every_device_is_full(modal_h200x8: Lane) -> None:
    faults.run_out_of_device_memory()


# Life goes on.


@pytest.mark.h200x8(ranks=4, test=60)
class TestFailureAndRecovery:
    @pytest.mark.expect_verdict("rank-death", ranks=[3], cause="exception")
    def test_a_failure(self, modal_h200x8: Lane) -> None:
        faults.line_up(modal_h200x8)
        if modal_h200x8.rank == 3:
            raise RuntimeError("rank 3 breaks on purpose")
        faults.wait_for_everyone(modal_h200x8)

    def test_b_healthy_afterwards(self, modal_h200x8: Lane) -> None:
        """No collective left over from the failure may pair with these."""
        for _ in range(3):
            faults.wait_for_everyone(modal_h200x8)


# Errors by which every rank names one.


@pytest.mark.h200x8(ranks=4, test=60)
@pytest.mark.expect_verdict("test-failed", ranks=[2], cause="exception")
def test_one_rank_cannot_write_its_part_of_a_checkpoint(modal_h200x8: Lane, tmp_path: Path) -> None:
    import torch.distributed.checkpoint as dcp

    class FullDisk(dcp.FileSystemWriter):
        def write_data(self, plan: object, planner: object) -> object:
            if modal_h200x8.rank == 2:
                raise OSError(28, "No space left on device")
            return super().write_data(plan, planner)

    dcp.save({"step": 7}, storage_writer=FullDisk(tmp_path))


@pytest.mark.h200x8(ranks=4, test=60)
@pytest.mark.expect_verdict("test-failed", ranks=[2], cause="exception")
def test_one_rank_builds_another_model(modal_h200x8: Lane) -> None:
    import torch
    from torch.nn.parallel import DistributedDataParallel

    layers = [torch.nn.Linear(8, 8) for _ in range(3 if modal_h200x8.rank == 2 else 2)]
    DistributedDataParallel(torch.nn.Sequential(*layers).to(modal_h200x8.device))


@pytest.mark.h200x8(ranks=4, stall=20, test=60)
@pytest.mark.expect_verdict("rank-death", ranks=[1], cause="exception")
def test_a_download_fails(modal_h200x8: Lane) -> None:
    """Its words are those of a lost peer, and it has nothing to do with any."""
    faults.line_up(modal_h200x8)
    if modal_h200x8.rank == 1:
        try:
            raise ConnectionResetError(104, "Connection reset by peer")
        except OSError as e:
            raise RuntimeError("gave up on shard 3 after 3 attempts") from e
    faults.wait_for_everyone(modal_h200x8)


def broken_exit_handler() -> None:
    raise RuntimeError("an exit handler of rank 1 breaks, on purpose")


@pytest.mark.h200x8(ranks=2, test=60)
class TestBrokenExitHandler:
    """It breaks long after its test, when the world ends: no test is to blame for that, least of all a later one."""

    def test_a_leaves_it_behind(self, modal_h200x8: Lane) -> None:
        if modal_h200x8.rank == 1:
            atexit.register(broken_exit_handler)
        faults.wait_for_everyone(modal_h200x8)

    @pytest.mark.h200x8(fresh=True)
    def test_b_in_another_world(self, modal_h200x8: Lane) -> None:
        faults.wait_for_everyone(modal_h200x8)
