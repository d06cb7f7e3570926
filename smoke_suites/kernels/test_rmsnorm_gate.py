"""The fused kernel against its reference: compiled on CUDA, by Triton's interpreter on a dry run."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from torch import Tensor

    from pytest_megacpp.rank.lane import Lane

TOLERANCE = {"float32": 1e-5, "float16": 2e-3, "bfloat16": 1.6e-2}
"""Absolute and relative; two units in the last place for the half-width types."""


@pytest.fixture
def lane(modal_h200x8: Lane) -> Lane:
    """The lane, once Triton can run on its device; every rank skips alike when Triton isn't installed."""
    pytest.importorskip("triton", reason="these suites need triton and, in a dry run, numpy")
    if modal_h200x8.device.type != "cuda":
        assert os.environ.get("TRITON_INTERPRET") == "1", (
            "without CUDA set TRITON_INTERPRET=1 before Python starts: triton reads it when it is imported"
        )
    return modal_h200x8


def random_inputs(lane: Lane, shape: tuple[int, ...], dtype: str) -> tuple[Tensor, Tensor, Tensor]:
    """Hidden, gate and weight, equal on every rank."""
    import torch

    generator = torch.Generator().manual_seed(0)
    hidden, gate = (torch.randn(shape, generator=generator) for _ in range(2))
    weight = 1 + 0.1 * torch.randn(shape[-1:], generator=generator)
    kind = getattr(torch, dtype)
    return hidden.to(lane.device, kind), gate.to(lane.device, kind), weight.to(lane.device, kind)


def by_size(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))


@pytest.mark.parametrize("dtype", sorted(TOLERANCE))
@pytest.mark.parametrize("shape", [(4, 64), (3, 100), (2, 5, 257), (1, 1)], ids=by_size)
def test_kernel_equals_the_reference(lane: Lane, shape: tuple[int, ...], dtype: str) -> None:
    import torch

    from .rmsnorm_gate import reference, rmsnorm_gate

    inputs = random_inputs(lane, shape, dtype)
    with lane.phase("kernel"):
        fused = rmsnorm_gate(*inputs)
    assert (fused.shape, fused.dtype) == (torch.Size(shape), getattr(torch, dtype))
    torch.testing.assert_close(fused, reference(*inputs), rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])
    lane.assert_same(fused)


def test_neighbouring_rows_do_not_mix(lane: Lane) -> None:
    """The masked columns of a 256-wide block belong to the next row of 200: they must not count."""
    import torch

    from .rmsnorm_gate import rmsnorm_gate

    hidden, gate, weight = random_inputs(lane, (6, 200), "float32")
    together = rmsnorm_gate(hidden, gate, weight)
    one_by_one = [rmsnorm_gate(hidden[row], gate[row], weight) for row in range(6)]
    assert torch.equal(together, torch.stack(one_by_one))


def test_rows_split_over_the_ranks_give_the_whole(lane: Lane) -> None:
    import torch
    import torch.distributed as dist

    from .rmsnorm_gate import rmsnorm_gate

    each, width = lane.pick(full=(8, 2048), diagnostic=(2, 96))
    hidden, gate, weight = random_inputs(lane, (each * lane.ranks, width), "float32")
    rows = slice(each * lane.rank, each * (lane.rank + 1))
    mine = rmsnorm_gate(hidden[rows], gate[rows], weight)
    parts = [torch.empty_like(mine) for _ in range(lane.ranks)]
    dist.all_gather(parts, mine)
    assert torch.equal(torch.cat(parts), rmsnorm_gate(hidden, gate, weight))


def test_wrong_shapes_are_refused(lane: Lane) -> None:
    from .rmsnorm_gate import rmsnorm_gate

    hidden, gate, weight = random_inputs(lane, (2, 8), "float32")
    with pytest.raises(ValueError, match="shapes don't fit"):
        rmsnorm_gate(hidden, gate[:, :4], weight)
