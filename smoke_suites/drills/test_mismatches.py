"""Ranks don't agree on what they communicate. The majority is right; on a tie nobody is blamed."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import pytest

from . import faults

if TYPE_CHECKING:
    from pytest_megacpp.rank.lane import Lane


# Another operation.


@pytest.mark.h200x8(ranks=4, stall=3, test=60)
@pytest.mark.expect_verdict("collective-mismatch", ranks=[2], cause="operation")
def test_wrong_operation(modal_h200x8: Lane) -> None:
    faults.line_up(modal_h200x8)
    if modal_h200x8.rank == 2:
        faults.broadcast_from(modal_h200x8, source=2)
    faults.wait_for_everyone(modal_h200x8)


@pytest.mark.h200x8(stall=3, test=60)
@pytest.mark.expect_verdict("collective-mismatch", ranks=[6], cause="operation")
def test_wrong_operation_among_eight(modal_h200x8: Lane) -> None:
    import torch
    import torch.distributed as dist

    lane = modal_h200x8
    faults.line_up(lane)
    if lane.rank == 6:
        gathered = [torch.zeros(8, device=lane.device) for _ in range(lane.ranks)]
        dist.all_gather(gathered, torch.ones(8, device=lane.device))
    faults.wait_for_everyone(lane)


@pytest.mark.h200x8(ranks=3, stall=3, test=60)
@pytest.mark.expect_verdict("collective-mismatch", ranks=[0], cause="operation")
def test_rank_zero_broadcasts_first(modal_h200x8: Lane) -> None:
    """A collective behind ``if rank == 0``: from then on rank 0 is one ahead of the others."""
    faults.line_up(modal_h200x8)
    if modal_h200x8.rank == 0:
        faults.broadcast_from(modal_h200x8, source=0)
    for _ in range(3):
        faults.wait_for_everyone(modal_h200x8)


@pytest.mark.h200x8(ranks=4, stall=3, test=60)
@pytest.mark.expect_verdict("collective-mismatch", ranks=[1], cause="operation")
def test_culprit_returns_normally(modal_h200x8: Lane) -> None:
    """The root of a broadcast waits for nobody, so rank 1 is through while the others wait."""
    faults.line_up(modal_h200x8)
    if modal_h200x8.rank == 1:
        faults.broadcast_from(modal_h200x8, source=1)
        return
    faults.wait_for_everyone(modal_h200x8)


@pytest.mark.h200x8(ranks=4, stall=3, test=60)
@pytest.mark.expect_verdict("collective-mismatch", ranks=[3], cause="operation")
def test_one_step_more_than_the_barrier(modal_h200x8: Lane) -> None:
    import torch.distributed as dist

    for _ in range(6 if modal_h200x8.rank == 3 else 5):
        faults.broadcast_from(modal_h200x8, source=0)
    dist.barrier()


@pytest.mark.h200x8(ranks=2, stall=3, test=60)
@pytest.mark.expect_verdict("collective-mismatch", ranks=[], cause="operation")
def test_two_ranks_disagree_on_the_operation(modal_h200x8: Lane) -> None:
    faults.line_up(modal_h200x8)
    if modal_h200x8.rank == 0:
        faults.broadcast_from(modal_h200x8, source=0)
    faults.wait_for_everyone(modal_h200x8)


@pytest.mark.h200x8(ranks=4, stall=3, test=60)
@pytest.mark.expect_verdict("collective-mismatch", ranks=[], cause="operation")
def test_two_halves_disagree(modal_h200x8: Lane) -> None:
    faults.line_up(modal_h200x8)
    if modal_h200x8.rank < 2:
        faults.broadcast_from(modal_h200x8, source=0)
    faults.wait_for_everyone(modal_h200x8)


@pytest.mark.h200x8(stall=3, test=60)
@pytest.mark.expect_verdict("collective-mismatch", ranks=[1, 2, 6], cause="operation")
def test_three_of_eight_broadcast(modal_h200x8: Lane) -> None:
    faults.line_up(modal_h200x8)
    if modal_h200x8.rank in (1, 2, 6):
        faults.broadcast_from(modal_h200x8, source=1)
    faults.wait_for_everyone(modal_h200x8)


@pytest.mark.h200x8(ranks=4, stall=3, test=60)
@pytest.mark.expect_verdict("collective-mismatch", ranks=[2], cause="operation")
def test_one_rank_leaves_a_collective_out(modal_h200x8: Lane) -> None:
    """From then on it is one behind the others."""
    import torch.distributed as dist

    if modal_h200x8.rank != 2:
        faults.wait_for_everyone(modal_h200x8)
    faults.broadcast_from(modal_h200x8, source=0)
    dist.barrier()


@pytest.mark.h200x8(ranks=4, stall=3, test=120)
@pytest.mark.expect_verdict("collective-mismatch", ranks=[3], cause="operation")
def test_wrong_operation_after_thousands(modal_h200x8: Lane) -> None:
    """Far more than the recorder holds."""
    import torch
    import torch.distributed as dist

    values = torch.ones(8, device=modal_h200x8.device)
    for _ in range(2000):
        dist.all_reduce(values, op=dist.ReduceOp.MAX)
    if modal_h200x8.rank == 3:
        faults.broadcast_from(modal_h200x8, source=3)
    faults.wait_for_everyone(modal_h200x8)


@pytest.mark.h200x8(ranks=2, stall=3, test=60)
@pytest.mark.expect_verdict("collective-mismatch", ranks=[], cause="operation")
def test_one_rank_skips_the_backward_of_a_sharded_model(modal_h200x8: Lane) -> None:
    """It goes on to the next forward, which gathers, where its peer scatters."""
    import torch
    from torch.distributed.fsdp import fully_shard

    lane = modal_h200x8
    layers = torch.nn.Sequential(*(torch.nn.Linear(16, 16, device=lane.device) for _ in range(2)))
    mesh = lane.mesh((lane.ranks,), ("data",))
    for layer in layers:
        fully_shard(layer, mesh=mesh)
    fully_shard(layers, mesh=mesh)
    for step in range(4):
        loss = layers(torch.ones(4, 16, device=lane.device)).sum()
        if (lane.rank, step) != (1, 2):
            loss.backward()


# Another size.


@pytest.mark.h200x8(ranks=4, stall=3, test=60)
@pytest.mark.expect_verdict("collective-mismatch", ranks=[3], cause="size")
def test_wrong_size(modal_h200x8: Lane) -> None:
    faults.line_up(modal_h200x8)
    faults.reduce_elements(modal_h200x8, 12 if modal_h200x8.rank == 3 else 8)


@pytest.mark.h200x8(ranks=3, stall=3, test=60)
@pytest.mark.expect_verdict("collective-mismatch", ranks=[1], cause="size")
@pytest.mark.parametrize("elements", [5, 12], ids=["smaller", "larger"])
def test_wrong_size_among_three(modal_h200x8: Lane, elements: int) -> None:
    """Transports differ in what they make of it: they abort a rank, raise on the culprit, or notice nothing."""
    faults.line_up(modal_h200x8)
    faults.reduce_elements(modal_h200x8, elements if modal_h200x8.rank == 1 else 8)


@pytest.mark.h200x8(ranks=4, stall=3, test=60)
@pytest.mark.expect_verdict("collective-mismatch", ranks=[1], cause="size")
def test_wrong_size_whose_error_nobody_minds(modal_h200x8: Lane) -> None:
    faults.line_up(modal_h200x8)
    with contextlib.suppress(RuntimeError):
        faults.reduce_elements(modal_h200x8, 12 if modal_h200x8.rank == 1 else 8)


@pytest.mark.h200x8(stall=3, test=60)
@pytest.mark.expect_verdict("collective-mismatch", ranks=[4], cause="size")
def test_wrong_size_in_a_late_step(modal_h200x8: Lane) -> None:
    for step in range(100):
        faults.reduce_elements(modal_h200x8, 9 if (modal_h200x8.rank, step) == (4, 80) else 8)


@pytest.mark.h200x8(ranks=4, stall=3, test=60)
@pytest.mark.expect_verdict("collective-mismatch", ranks=[2], cause="size")
def test_wrong_size_of_what_is_gathered(modal_h200x8: Lane) -> None:
    import torch
    import torch.distributed as dist

    lane = modal_h200x8
    faults.line_up(lane)
    elements = 6 if lane.rank == 2 else 4
    gathered = [torch.zeros(elements, device=lane.device) for _ in range(lane.ranks)]
    dist.all_gather(gathered, torch.ones(elements, device=lane.device))
    faults.wait_for_everyone(lane)


@pytest.mark.h200x8(ranks=4, stall=3, test=60)
@pytest.mark.expect_verdict("collective-mismatch", ranks=[3], cause="size")
def test_wrong_size_in_a_subgroup(modal_h200x8: Lane) -> None:
    import torch.distributed as dist

    lane = modal_h200x8
    group = dist.new_group([1, 2, 3])
    faults.line_up(lane)
    if lane.rank > 0:
        faults.reduce_elements(lane, 16 if lane.rank == 3 else 8, group=group)
    faults.wait_for_everyone(lane)


@pytest.mark.h200x8(ranks=4, stall=3, test=60)
@pytest.mark.expect_verdict("collective-mismatch")  # gloo aborts receivers before the first look, often the wrong ones
def test_buckets_in_another_order(modal_h200x8: Lane) -> None:
    """Gradient buckets that become ready in another order, reduced without waiting."""
    import torch
    import torch.distributed as dist

    lane = modal_h200x8
    faults.line_up(lane)
    buckets = [torch.ones(size, device=lane.device) for size in (8, 16)]
    works = [dist.all_reduce(b, async_op=True) for b in (buckets[::-1] if lane.rank == 0 else buckets)]
    for work in works:
        work.wait()
    faults.wait_for_everyone(lane)


@pytest.mark.h200x8(ranks=2, stall=3, test=60)
@pytest.mark.expect_verdict("collective-mismatch", ranks=[], cause="size")
def test_two_ranks_disagree_on_the_size(modal_h200x8: Lane) -> None:
    faults.line_up(modal_h200x8)
    faults.reduce_elements(modal_h200x8, 12 if modal_h200x8.rank == 1 else 8)


# Another dtype.


@pytest.mark.h200x8(ranks=4, stall=3, test=60)
@pytest.mark.expect_verdict("collective-mismatch", ranks=[1], cause="dtype")
def test_wrong_dtype_of_equal_width(modal_h200x8: Lane) -> None:
    """The transport moves as many bytes as it should, so no rank raises: only the numbers are wrong."""
    faults.line_up(modal_h200x8)
    faults.reduce_elements(modal_h200x8, 8, "int32" if modal_h200x8.rank == 1 else "float32")


@pytest.mark.h200x8(ranks=4, stall=3, test=60)
@pytest.mark.expect_verdict("collective-mismatch")  # as above: an aborted rank's recorder may be gone unread
@pytest.mark.parametrize("dtype", ["float64", "bfloat16"])
def test_wrong_dtype_of_another_width(modal_h200x8: Lane, dtype: str) -> None:
    faults.line_up(modal_h200x8)
    faults.reduce_elements(modal_h200x8, 8, dtype if modal_h200x8.rank == 1 else "float32")


@pytest.mark.h200x8(ranks=2, stall=3, test=60)
@pytest.mark.expect_verdict("collective-mismatch", ranks=[], cause="dtype")
def test_two_ranks_disagree_on_the_dtype(modal_h200x8: Lane) -> None:
    faults.line_up(modal_h200x8)
    faults.reduce_elements(modal_h200x8, 8, "int32" if modal_h200x8.rank == 1 else "float32")


# Groups in another order.


def reduce_in_two_groups(lane: Lane, *, reverse: bool) -> None:
    import torch.distributed as dist

    everyone = list(range(lane.ranks))
    groups = [dist.new_group(everyone), dist.new_group(everyone)]
    faults.line_up(lane)
    for group in reversed(groups) if reverse else groups:
        faults.wait_for(lane, group)


@pytest.mark.h200x8(ranks=4, stall=2, test=60)
@pytest.mark.expect_verdict("collective-mismatch", ranks=[3], cause="group-order")
def test_groups_in_another_order(modal_h200x8: Lane) -> None:
    reduce_in_two_groups(modal_h200x8, reverse=modal_h200x8.rank == 3)


@pytest.mark.h200x8(ranks=2, stall=2, test=60)
@pytest.mark.expect_verdict("collective-mismatch", ranks=[], cause="group-order")
def test_two_ranks_take_groups_in_different_orders(modal_h200x8: Lane) -> None:
    reduce_in_two_groups(modal_h200x8, reverse=modal_h200x8.rank == 1)


@pytest.mark.h200x8(ranks=4, stall=2, test=60)
@pytest.mark.expect_verdict("collective-mismatch", ranks=[2], cause="group-order")
def test_a_member_goes_to_the_whole_world_first(modal_h200x8: Lane) -> None:
    """Members 0 and 1 of the subgroup wait for 2, which waits for everyone: a deadlock of two groups."""
    import torch.distributed as dist

    lane = modal_h200x8
    group = dist.new_group([0, 1, 2])
    faults.line_up(lane)
    if lane.rank in (0, 1):
        faults.wait_for(lane, group)
    faults.wait_for_everyone(lane)
    if lane.rank == 2:
        faults.wait_for(lane, group)


# In a process group of the test's own.


@pytest.mark.h200x8(ranks=4, stall=3, test=60)
@pytest.mark.expect_verdict("collective-mismatch", ranks=[2], cause="operation")
def test_wrong_operation_in_a_group_of_the_test() -> None:
    import torch
    import torch.distributed as dist

    dist.init_process_group("gloo")
    try:
        dist.all_reduce(torch.ones(4))
        if dist.get_rank() == 2:
            dist.broadcast(torch.ones(4), src=2)
        dist.all_reduce(torch.ones(4))
    finally:
        dist.destroy_process_group()
