"""A fused Triton kernel, RMSNorm times a SiLU gate, and the PyTorch expression it must equal."""

from __future__ import annotations

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor


@triton.jit  # type: ignore[untyped-decorator]
def _rmsnorm_gate_row(  # type: ignore[no-untyped-def]
    hidden_ptr,
    gate_ptr,
    weight_ptr,
    out_ptr,
    width,
    epsilon,
    BLOCK: tl.constexpr,
):
    columns = tl.arange(0, BLOCK)
    inside = columns < width
    offsets = tl.program_id(0).to(tl.int64) * width + columns
    hidden = tl.load(hidden_ptr + offsets, mask=inside, other=0.0).to(tl.float32)
    gate = tl.load(gate_ptr + offsets, mask=inside, other=0.0).to(tl.float32)
    weight = tl.load(weight_ptr + columns, mask=inside, other=0.0).to(tl.float32)
    inverse_rms = tl.rsqrt(tl.sum(hidden * hidden, axis=0) / width + epsilon)
    out = hidden * inverse_rms * weight * gate * tl.sigmoid(gate)
    tl.store(out_ptr + offsets, out.to(out_ptr.dtype.element_ty), mask=inside)


def rmsnorm_gate(hidden: Tensor, gate: Tensor, weight: Tensor, epsilon: float = 1e-6) -> Tensor:
    """``rmsnorm(hidden) * weight * silu(gate)`` in one pass over memory.

    ``hidden`` and ``gate``: (..., width), equal in shape, dtype and device; ``weight``: (width,).
    Computes in float32 and returns the dtype of ``hidden``. Raises ValueError on other shapes.
    """
    if hidden.shape != gate.shape or weight.shape != hidden.shape[-1:]:
        raise ValueError(f"shapes don't fit: {hidden.shape}, {gate.shape}, {weight.shape}")
    width = hidden.shape[-1]
    rows, gates = hidden.reshape(-1, width).contiguous(), gate.reshape(-1, width).contiguous()
    out = torch.empty_like(rows)
    block = triton.next_power_of_2(width)
    _rmsnorm_gate_row[(len(rows),)](rows, gates, weight.contiguous(), out, width, epsilon, BLOCK=block)
    return out.view(hidden.shape)


def reference(hidden: Tensor, gate: Tensor, weight: Tensor, epsilon: float = 1e-6) -> Tensor:
    """The same in plain PyTorch, one operation after another."""
    wide, wide_gate = hidden.float(), gate.float()
    normed = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + epsilon)
    return (normed * weight.float() * F.silu(wide_gate)).to(hidden.dtype)
