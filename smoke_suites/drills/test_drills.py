"""Faults on purpose. Each drill passes when the run is judged exactly as its marker says.

Limits are short, so that a drill costs seconds. ``line_up`` brings the ranks together first: what is measured
is the fault and not somebody's slow start.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from . import faults

if TYPE_CHECKING:
    from pytest_megacpp.rank.lane import Lane


# A rank dies or raises while others wait, or simply dies.


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


@pytest.mark.h200x8(ranks=2, test=60)
@pytest.mark.expect_verdict("rank-death", ranks=[1], cause="signal:SIGSEGV")
def test_segmentation_fault(modal_h200x8: Lane) -> None:
    faults.line_up(modal_h200x8)
    if modal_h200x8.rank == 1:
        faults.read_null_pointer()
    faults.wait_for_everyone(modal_h200x8)


@pytest.mark.h200x8(ranks=2, test=60)
@pytest.mark.expect_verdict("rank-death", ranks=[1], cause="exit:0")
def test_process_ends_itself_with_success(modal_h200x8: Lane) -> None:
    faults.line_up(modal_h200x8)
    if modal_h200x8.rank == 1:
        os._exit(0)
    faults.wait_for_everyone(modal_h200x8)


@pytest.mark.h200x8(ranks=4, test=60)
@pytest.mark.expect_verdict("rank-death", ranks=[2], cause="exit:3")
def test_process_ends_itself_with_a_code(modal_h200x8: Lane) -> None:
    faults.line_up(modal_h200x8)
    if modal_h200x8.rank == 2:
        faults.let_peers_wait()
        os._exit(3)
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


@pytest.fixture
def broken_teardown_on_rank_1(modal_h200x8: Lane) -> Iterator[Lane]:
    yield modal_h200x8
    if modal_h200x8.rank == 1:
        raise OSError("rank 1 can't tidy up, on purpose")


@pytest.mark.h200x8(ranks=2, test=60)
@pytest.mark.expect_verdict("test-failed", ranks=[1])
def test_teardown_fails(broken_teardown_on_rank_1: Lane) -> None:
    faults.wait_for_everyone(broken_teardown_on_rank_1)


# Ranks wait for a living peer.


@pytest.mark.h200x8(stall=3, test=60)
@pytest.mark.expect_verdict("straggler", ranks=[1])
def test_sleep_before_a_collective(modal_h200x8: Lane) -> None:
    faults.line_up(modal_h200x8)
    if modal_h200x8.rank == 1:
        time.sleep(faults.LONG_S)
    faults.wait_for_everyone(modal_h200x8)


@pytest.mark.h200x8(ranks=4, stall=3, test=60)
@pytest.mark.expect_verdict("straggler", ranks=[3])
def test_frozen_process(modal_h200x8: Lane) -> None:
    faults.line_up(modal_h200x8)
    if modal_h200x8.rank == 3:
        faults.freeze()
    faults.wait_for_everyone(modal_h200x8)


@pytest.mark.h200x8(ranks=2, stall=3, test=60)
@pytest.mark.expect_verdict("straggler", ranks=[0])
def test_native_code_keeps_the_gil(modal_h200x8: Lane) -> None:
    faults.line_up(modal_h200x8)
    if modal_h200x8.rank == 0:
        faults.sleep_with_the_gil()
    faults.wait_for_everyone(modal_h200x8)


@pytest.mark.h200x8(ranks=4, stall=3, test=60)
@pytest.mark.expect_verdict("straggler", ranks=[2], cause="left-early")
def test_one_rank_returns_early(modal_h200x8: Lane) -> None:
    faults.line_up(modal_h200x8)
    if modal_h200x8.rank == 2:
        return
    faults.wait_for_everyone(modal_h200x8)


@pytest.mark.h200x8(ranks=4, stall=3, test=60)
@pytest.mark.expect_verdict("hang", ranks=[0, 1, 2, 3])
def test_everybody_receives_and_nobody_sends(modal_h200x8: Lane) -> None:
    faults.line_up(modal_h200x8)
    faults.receive_only(modal_h200x8)


# Ranks don't agree on what they communicate.


@pytest.mark.h200x8(ranks=4, stall=3, test=60)
@pytest.mark.expect_verdict("collective-mismatch", ranks=[2])
def test_wrong_operation(modal_h200x8: Lane) -> None:
    import torch
    import torch.distributed as dist

    faults.line_up(modal_h200x8)
    if modal_h200x8.rank == 2:
        values = torch.ones(8, device=modal_h200x8.device)
        dist.broadcast(values, src=2)
        values.tolist()
    faults.wait_for_everyone(modal_h200x8)


@pytest.mark.h200x8(ranks=4, stall=3, test=60)
@pytest.mark.expect_verdict("collective-mismatch", ranks=[3])
def test_wrong_size(modal_h200x8: Lane) -> None:
    faults.line_up(modal_h200x8)
    faults.reduce_elements(modal_h200x8, 12 if modal_h200x8.rank == 3 else 8)


@pytest.mark.h200x8(ranks=4, stall=3, test=60)
@pytest.mark.expect_verdict("collective-mismatch", ranks=[1])
def test_wrong_dtype_of_equal_width(modal_h200x8: Lane) -> None:
    """The transport moves as many bytes as it should, so no rank raises: only the numbers are wrong."""
    faults.line_up(modal_h200x8)
    faults.reduce_elements(modal_h200x8, 8, "int32" if modal_h200x8.rank == 1 else "float32")


@pytest.mark.h200x8(ranks=2, stall=3, test=60)
@pytest.mark.expect_verdict("collective-mismatch", ranks=[])
def test_two_ranks_disagree_on_the_size(modal_h200x8: Lane) -> None:
    faults.line_up(modal_h200x8)
    faults.reduce_elements(modal_h200x8, 12 if modal_h200x8.rank == 1 else 8)


@pytest.mark.h200x8(ranks=4, stall=3, test=60)
@pytest.mark.expect_verdict("collective-mismatch", ranks=[3])
def test_groups_in_another_order(modal_h200x8: Lane) -> None:
    import torch
    import torch.distributed as dist

    lane = modal_h200x8
    everyone = list(range(lane.ranks))
    groups = [dist.new_group(everyone), dist.new_group(everyone)]
    faults.line_up(lane)
    if lane.rank == 3:
        groups.reverse()
    for group in groups:
        values = torch.ones(8, device=lane.device)
        dist.all_reduce(values, group=group)
        values.tolist()


# Compiling.


@pytest.mark.h200x8(ranks=4, skew=3, stall=60, test=120)
@pytest.mark.expect_verdict("compile-skew", ranks=[2])
def test_one_rank_compiles_what_the_others_do_not(modal_h200x8: Lane) -> None:
    faults.line_up(modal_h200x8)
    if modal_h200x8.rank == 2:
        faults.compile_and_run(modal_h200x8, times=8, salt=faults.new_salt())
    faults.wait_for_everyone(modal_h200x8)


@pytest.mark.h200x8(ranks=2, skew=2, stall=60, test=180)
@pytest.mark.expect_verdict("compile-skew", ranks=[1])
def test_one_rank_has_a_cold_cache(modal_h200x8: Lane) -> None:
    """Both compile the same; then rank 0 finds it in the cache and rank 1 has lost its cache."""
    faults.compile_and_run(modal_h200x8)
    faults.forget_compiled_code()
    if modal_h200x8.rank == 1:
        faults.compile_with_a_cold_cache(modal_h200x8)
    else:
        faults.compile_and_run(modal_h200x8)
    faults.wait_for_everyone(modal_h200x8)


@pytest.mark.h200x8(ranks=2, compile=5, stall=60, test=120)
@pytest.mark.expect_verdict("compile-stall", ranks=[1])
def test_compiling_without_end(modal_h200x8: Lane) -> None:
    faults.line_up(modal_h200x8)
    if modal_h200x8.rank == 1:
        faults.compile_and_run(modal_h200x8, times=8, salt=faults.new_salt())


# The test's own limit.


@pytest.mark.h200x8(ranks=2, stall=3, test=6)
@pytest.mark.expect_verdict("overtime", ranks=[])
def test_busy_beyond_the_limit(modal_h200x8: Lane) -> None:
    faults.spin()


@pytest.mark.h200x8(ranks=2, stall=3, test=8)
@pytest.mark.expect_verdict("hang")
def test_everybody_sleeps(modal_h200x8: Lane) -> None:
    time.sleep(faults.LONG_S)


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


@pytest.mark.h200x8(ranks=2, stall=2, test=60)
def test_slow_alike_is_no_fault(modal_h200x8: Lane) -> None:
    """Longer than ``stall``, but nobody waits for anybody."""
    faults.line_up(modal_h200x8)
    time.sleep(3)
    faults.wait_for_everyone(modal_h200x8)
