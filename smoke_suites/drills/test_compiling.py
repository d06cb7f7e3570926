"""Ranks that compile while others wait, for too long, without progress, or in vain."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from . import faults

if TYPE_CHECKING:
    from pytest_megacpp.rank.lane import Lane


# Others wait for a rank that compiles.


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


@pytest.mark.h200x8(skew=2, stall=60, test=60)
@pytest.mark.expect_verdict("compile-skew", ranks=[5])
def test_first_forward_of_one_among_eight(modal_h200x8: Lane) -> None:
    faults.line_up(modal_h200x8)
    if modal_h200x8.rank == 5:
        faults.compile_with(faults.backend_that(faults.spin), modal_h200x8)
    faults.wait_for_everyone(modal_h200x8)


@pytest.mark.h200x8(ranks=4, skew=2, stall=60, test=60)
@pytest.mark.expect_verdict("compile-skew", ranks=[0, 1, 2])
def test_one_rank_does_not_need_to_compile(modal_h200x8: Lane) -> None:
    """Only the rank with a warm cache waits, for all the others."""
    faults.line_up(modal_h200x8)
    if modal_h200x8.rank != 3:
        faults.compile_with(faults.backend_that(faults.spin), modal_h200x8)
    faults.wait_for_everyone(modal_h200x8)


@pytest.mark.h200x8(ranks=2, skew=2, stall=60, test=60)
@pytest.mark.expect_verdict("compile-skew", ranks=[1])
def test_backward_compiles_late(modal_h200x8: Lane) -> None:
    """All have compiled the forward; the backward is compiled when a rank first asks for gradients."""
    loss = faults.forward_with_a_late_backward(modal_h200x8, faults.spin)
    faults.line_up(modal_h200x8)
    if modal_h200x8.rank == 1:
        loss.backward()
    faults.wait_for_everyone(modal_h200x8)


@pytest.mark.h200x8(ranks=4, skew=2, stall=60, test=60)
@pytest.mark.expect_verdict("compile-skew", ranks=[2])
def test_later_step_recompiles(modal_h200x8: Lane) -> None:
    """A batch of another shape on one rank, long after everybody had compiled."""
    import torch

    lane = modal_h200x8
    delays = iter([lambda: None, faults.spin])
    step = torch.compile(torch.sin, backend=faults.backend_that(lambda: next(delays)()), dynamic=False)
    for number in range(20):
        step(torch.ones(7 if (lane.rank, number) == (2, 15) else 8, device=lane.device))
        faults.wait_for_everyone(lane)


@pytest.mark.h200x8(ranks=2, skew=3, stall=20, test=120)
@pytest.mark.expect_verdict("compile-skew", ranks=[1])
def test_waiting_for_a_file_lock_of_inductor(modal_h200x8: Lane) -> None:
    faults.line_up(modal_h200x8)
    if modal_h200x8.rank == 1:
        faults.wait_for_a_lock_of_inductor()
    faults.wait_for_everyone(modal_h200x8)


@pytest.mark.h200x8(ranks=2, skew=50, stall=3, test=60)
@pytest.mark.expect_verdict("compile-skew", ranks=[0], cause="no-progress")
def test_compiler_process_is_stuck(modal_h200x8: Lane, tmp_path: Path) -> None:
    faults.line_up(modal_h200x8)
    if modal_h200x8.rank == 0:
        with faults.cpp_compiler(tmp_path, "exec sleep 600"):
            faults.compile_on_the_host()
    faults.wait_for_everyone(modal_h200x8)


@pytest.mark.h200x8(ranks=2, skew=50, stall=3, test=60)
@pytest.mark.expect_verdict("compile-skew", ranks=[1], cause="no-progress")
def test_compiler_pool_lost_its_worker(modal_h200x8: Lane) -> None:
    faults.line_up(modal_h200x8)
    if modal_h200x8.rank == 1:
        faults.compile_with(faults.backend_that(faults.wait_for_a_lost_result), modal_h200x8)
    faults.wait_for_everyone(modal_h200x8)


@pytest.mark.h200x8(ranks=2, skew=3, stall=60, test=60)
@pytest.mark.expect_verdict("compile-skew", ranks=[1])
def test_one_small_compile_after_the_other(modal_h200x8: Lane) -> None:
    """None takes as long as ``skew``, but it is one collective in which the peer waits for all of them."""
    faults.line_up(modal_h200x8)
    if modal_h200x8.rank == 1:
        faults.compile_one_after_the_other(modal_h200x8, lambda: time.sleep(0.7), graphs=60)
    faults.wait_for_everyone(modal_h200x8)


@pytest.mark.h200x8(ranks=2, skew=4, stall=2, test=60)
@pytest.mark.expect_verdict("compile-skew", ranks=[1])
def test_compiling_in_a_thread(modal_h200x8: Lane) -> None:
    """Loading the compiler may alone take longer than ``stall``."""
    faults.line_up(modal_h200x8)
    if modal_h200x8.rank == 1:
        backend = faults.backend_that(faults.spin)
        thread = threading.Thread(target=faults.compile_with, args=(backend, modal_h200x8))
        thread.start()
        thread.join()
    faults.wait_for_everyone(modal_h200x8)


@pytest.mark.h200x8(ranks=4, skew=50, stall=3, test=60)
@pytest.mark.expect_verdict("straggler", ranks=[3])
def test_one_compiles_and_another_sleeps(modal_h200x8: Lane) -> None:
    """The one that compiles is only slow."""
    faults.line_up(modal_h200x8)
    if modal_h200x8.rank == 1:
        faults.compile_with(faults.backend_that(faults.spin), modal_h200x8)
    if modal_h200x8.rank == 3:
        time.sleep(faults.LONG_S)
    faults.wait_for_everyone(modal_h200x8)


# Nobody waits.


@pytest.mark.h200x8(ranks=2, compile=4, stall=60, test=120)
@pytest.mark.expect_verdict("compile-stall", ranks=[1])
def test_compiling_without_end(modal_h200x8: Lane) -> None:
    faults.line_up(modal_h200x8)
    if modal_h200x8.rank == 1:
        faults.compile_and_run(modal_h200x8, times=8, salt=faults.new_salt())


@pytest.mark.h200x8(ranks=4, compile=3, stall=60, test=60)
@pytest.mark.expect_verdict("compile-stall", ranks=[0, 1, 2, 3])
def test_everybody_compiles_without_end(modal_h200x8: Lane) -> None:
    faults.line_up(modal_h200x8)
    faults.compile_with(faults.backend_that(faults.spin), modal_h200x8)
    faults.wait_for_everyone(modal_h200x8)


# The compiler fails.


@pytest.mark.h200x8(ranks=4, test=60)
@pytest.mark.expect_verdict("rank-death", ranks=[0], cause="exception")
def test_compiler_backend_gives_up(modal_h200x8: Lane) -> None:
    faults.line_up(modal_h200x8)
    if modal_h200x8.rank == 0:
        faults.compile_with(faults.backend_that(faults.give_up_on_the_graph), modal_h200x8)
    faults.wait_for_everyone(modal_h200x8)


@pytest.mark.h200x8(ranks=2, test=60)
@pytest.mark.expect_verdict("rank-death", ranks=[1], cause="exception")
def test_cpp_compiler_fails(modal_h200x8: Lane, tmp_path: Path) -> None:
    faults.line_up(modal_h200x8)
    if modal_h200x8.rank == 1:
        with faults.cpp_compiler(tmp_path, "echo internal compiler error >&2; exit 4"):
            faults.compile_on_the_host()
    faults.wait_for_everyone(modal_h200x8)


@pytest.mark.h200x8(ranks=2, skew=30, test=60)
@pytest.mark.expect_verdict("rank-death", ranks=[0], cause="signal:SIGKILL")
def test_killed_while_compiling(modal_h200x8: Lane) -> None:
    faults.line_up(modal_h200x8)
    if modal_h200x8.rank == 0:
        faults.compile_with(faults.backend_that(faults.kill_self), modal_h200x8)
    faults.wait_for_everyone(modal_h200x8)
