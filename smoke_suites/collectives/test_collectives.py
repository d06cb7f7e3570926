"""The collectives a training step leans on, each with the exact values it must return on every rank."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pytest_megacpp.rank.lane import Lane

DTYPES = ("float32", "float64", "float16", "bfloat16", "int64")


@pytest.mark.parametrize("dtype", DTYPES)
def test_all_reduce_sums_the_ranks(modal_h200x8: Lane, dtype: str) -> None:
    import torch
    import torch.distributed as dist

    lane = modal_h200x8
    values = torch.full((3, 5), lane.rank + 1, dtype=getattr(torch, dtype), device=lane.device)
    dist.all_reduce(values)
    assert torch.equal(values, torch.full_like(values, lane.ranks * (lane.ranks + 1) // 2))


@pytest.mark.parametrize("operation", ["SUM", "AVG", "MIN", "MAX", "PRODUCT"])
def test_all_reduce_operation(modal_h200x8: Lane, operation: str) -> None:
    import torch
    import torch.distributed as dist

    lane = modal_h200x8
    one_each = torch.arange(1, lane.ranks + 1, dtype=torch.float64)
    expected = {
        "SUM": one_each.sum(),
        "AVG": one_each.mean(),
        "MIN": one_each.min(),
        "MAX": one_each.max(),
        "PRODUCT": one_each.prod(),
    }[operation]
    value = torch.tensor(lane.rank + 1, dtype=torch.float64, device=lane.device)
    dist.all_reduce(value, getattr(dist.ReduceOp, operation))
    assert value.item() == expected.item()


@pytest.mark.filterwarnings("ignore:.*all_gather_into_tensor.* is deprecated:FutureWarning")
@pytest.mark.parametrize("dtype", DTYPES)
def test_all_gather_into_tensor_keeps_rank_order(modal_h200x8: Lane, dtype: str) -> None:
    import torch
    import torch.distributed as dist

    lane = modal_h200x8
    mine = torch.full((2,), lane.rank, dtype=getattr(torch, dtype), device=lane.device)
    everyone = torch.empty(2 * lane.ranks, dtype=mine.dtype, device=lane.device)
    dist.all_gather_into_tensor(everyone, mine)
    assert everyone.tolist() == [rank for rank in range(lane.ranks) for _ in range(2)]
    lane.assert_same(everyone)


@pytest.mark.filterwarnings("ignore:.*reduce_scatter_tensor.* is deprecated:FutureWarning")
@pytest.mark.parametrize("dtype", DTYPES)
def test_reduce_scatter_gives_each_rank_its_slice(modal_h200x8: Lane, dtype: str) -> None:
    import torch
    import torch.distributed as dist

    lane = modal_h200x8
    contribution = torch.arange(lane.ranks, dtype=getattr(torch, dtype), device=lane.device) + lane.rank
    mine = torch.empty(1, dtype=contribution.dtype, device=lane.device)
    dist.reduce_scatter_tensor(mine, contribution)
    assert mine.item() == lane.ranks * lane.rank + sum(range(lane.ranks))


@pytest.mark.parametrize("source", ["first", "last"])
def test_broadcast_overwrites_everyone_else(modal_h200x8: Lane, source: str) -> None:
    import torch
    import torch.distributed as dist

    lane = modal_h200x8
    src = 0 if source == "first" else lane.ranks - 1
    values = torch.arange(4, device=lane.device) + 100 * lane.rank
    dist.broadcast(values, src=src)
    assert values.tolist() == [100 * src + i for i in range(4)]
    lane.assert_same(values)


def test_all_to_all_single_transposes(modal_h200x8: Lane) -> None:
    import torch
    import torch.distributed as dist

    lane = modal_h200x8
    row = torch.arange(lane.ranks, device=lane.device) + lane.rank * lane.ranks
    column = torch.empty_like(row)
    dist.all_to_all_single(column, row)
    assert column.tolist() == [lane.ranks * peer + lane.rank for peer in range(lane.ranks)]


def test_all_to_all_single_with_uneven_splits(modal_h200x8: Lane) -> None:
    """Rank r sends p + 1 copies of its number to each peer p, as an expert router does."""
    import torch
    import torch.distributed as dist

    lane = modal_h200x8
    sends = [peer + 1 for peer in range(lane.ranks)]
    receives = [lane.rank + 1] * lane.ranks
    routed = torch.full((sum(sends),), lane.rank, device=lane.device)
    arrived = torch.empty(sum(receives), dtype=routed.dtype, device=lane.device)
    dist.all_to_all_single(arrived, routed, receives, sends)
    assert arrived.tolist() == [peer for peer in range(lane.ranks) for _ in range(lane.rank + 1)]


def test_barrier_lets_nobody_out_before_the_last_is_in(modal_h200x8: Lane) -> None:
    import torch
    import torch.distributed as dist

    lane = modal_h200x8
    if lane.rank == lane.ranks - 1:
        time.sleep(0.2)
    entered_ns = time.monotonic_ns()
    dist.barrier()
    left_ns = time.monotonic_ns()
    last_in = torch.tensor(entered_ns, device=lane.device)
    first_out = torch.tensor(left_ns, device=lane.device)
    dist.all_reduce(last_in, dist.ReduceOp.MAX)
    dist.all_reduce(first_out, dist.ReduceOp.MIN)
    lane.record("barrier_wait_s", (left_ns - entered_ns) / 1e9)
    assert first_out.item() >= last_in.item()


def test_send_and_receive_round_the_ring(modal_h200x8: Lane) -> None:
    """After one lap of single hops each rank holds its own number again."""
    import torch
    import torch.distributed as dist

    lane = modal_h200x8
    if lane.ranks == 1:
        pytest.skip("a ring needs two ranks")
    token = torch.tensor([lane.rank], device=lane.device)
    after, before = (lane.rank + 1) % lane.ranks, (lane.rank - 1) % lane.ranks
    with lane.phase("ring"):
        for hop in range(1, lane.ranks + 1):
            arrived = torch.empty_like(token)
            hops = [dist.P2POp(dist.isend, token, after), dist.P2POp(dist.irecv, arrived, before)]
            for work in dist.batch_isend_irecv(hops):
                work.wait()
            assert arrived.item() == (lane.rank - hop) % lane.ranks
            token = arrived


def test_mesh_dimensions_reduce_separately(modal_h200x8: Lane) -> None:
    import torch
    import torch.distributed as dist

    lane = modal_h200x8
    if lane.ranks % 2:
        pytest.skip("a (2, n/2) mesh needs an even world")
    width = lane.ranks // 2
    mesh = lane.mesh((2, width), ("dp", "tp"))
    row, column = divmod(lane.rank, width)
    assert (mesh.get_local_rank("dp"), mesh.get_local_rank("tp")) == (row, column)

    within_row = torch.tensor(lane.rank, device=lane.device)
    dist.all_reduce(within_row, group=mesh.get_group("tp"))
    assert within_row.item() == sum(range(row * width, (row + 1) * width))

    across_rows = torch.tensor(lane.rank, device=lane.device)
    dist.all_reduce(across_rows, group=mesh.get_group("dp"))
    assert across_rows.item() == column + (column + width)


def test_subgroup_leaves_the_others_alone(modal_h200x8: Lane) -> None:
    import torch
    import torch.distributed as dist

    lane = modal_h200x8
    members = list(range(0, lane.ranks, 2))
    group = dist.new_group(members)
    value = torch.tensor(lane.rank, device=lane.device)
    if lane.rank in members:
        dist.all_reduce(value, group=group)
    assert value.item() == (sum(members) if lane.rank in members else lane.rank)


def test_objects_travel_too(modal_h200x8: Lane) -> None:
    import torch.distributed as dist

    lane = modal_h200x8
    gathered: list[dict[str, int]] = [{} for _ in range(lane.ranks)]
    dist.all_gather_object(gathered, {"rank": lane.rank, "square": lane.rank**2})
    assert gathered == [{"rank": rank, "square": rank**2} for rank in range(lane.ranks)]


def test_many_collectives_keep_an_exact_value(modal_h200x8: Lane) -> None:
    import torch
    import torch.distributed as dist

    lane = modal_h200x8
    rounds, elements = lane.pick(full=(100, 1 << 16), diagnostic=(10, 1 << 10))
    values = torch.ones(elements, device=lane.device)
    started = time.perf_counter()
    for _ in range(rounds):
        dist.all_reduce(values)
        values /= lane.ranks
    total = values.sum().item()
    lane.record("all_reduce_us", round((time.perf_counter() - started) / rounds * 1e6, 1))
    assert total == elements
    lane.assert_same(values)


def test_assert_same_notices_a_difference(modal_h200x8: Lane) -> None:
    import torch

    lane = modal_h200x8
    if lane.ranks == 1:
        pytest.skip("one rank cannot differ from itself")
    lane.assert_same(torch.arange(3, device=lane.device))
    with pytest.raises(AssertionError):
        lane.assert_same(torch.tensor([lane.rank], device=lane.device))
