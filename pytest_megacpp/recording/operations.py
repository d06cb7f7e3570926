"""Owns what the name of a collective operation says, and what members of its group must agree on; must not know
recorders or ranks.
"""

from typing import TypeAlias

from pytest_megacpp.recording.events import Collective

Signature: TypeAlias = tuple[str, str, int]

# Operations whose ranks must agree on the element count of their input; others may differ by design
# (all_to_all with splits, coalesced and v-variants).
_SAME_INPUT = {
    "all_reduce",
    "allreduce",
    "broadcast",
    "reduce",
    "gather",
    "all_gather",
    "allgather",
    "_all_gather_base",
    "all_gather_into_tensor",
    "reduce_scatter",
    "_reduce_scatter_base",
    "reduce_scatter_tensor",
}
BY_OUTPUT = "gloo:scatter"
"""Only its root has an input, and gloo records none for the others, so neither their dtype. Each rank has an output, of
the same size. NCCL's recorder was not measured: its scatter is compared by name.
"""
ROOTED = frozenset({"broadcast", "reduce", "gather", "scatter"})
"""Those with a root. Some ranks are through before others came, and nothing that is recorded names the root."""


def bare_op(op: str) -> str:
    """`gloo:all_reduce` → `all_reduce`."""
    return op.rsplit(":", 1)[-1]


def signature(op: str, dtype: str, numel: int) -> Signature:
    """What members of a group must agree on: operation, and for most of them dtype and elements. `numel`: of the input;
    of the output where ranks are compared `BY_OUTPUT`.
    """
    bare = bare_op(op)
    return (bare, dtype, numel) if bare in _SAME_INPUT else (bare, "", numel if op == BY_OUTPUT else 0)


def signature_of(entry: Collective) -> Signature:
    """The signature of an entry."""
    return signature(entry.op, entry.dtype, entry.numel_out if entry.op == BY_OUTPUT else entry.numel_in)


def describe(entry: Collective) -> str:
    """`all_reduce(Float [[8]])`; `scatter(2 elements each)`."""
    if entry.op == BY_OUTPUT:
        return f"{bare_op(entry.op)}({entry.numel_out} element{'s' * (entry.numel_out != 1)} each)"
    inner = " ".join(part for part in (entry.dtype, entry.sizes) if part)
    return f"{bare_op(entry.op)}({inner})"
