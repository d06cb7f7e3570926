"""How a decoder is spread over a mesh: compile each block, shard it, then shard the whole (torchtitan's order)."""

from __future__ import annotations

from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard

from .model import Decoder


def parallelize(model: Decoder, mesh: DeviceMesh, *, compiled: bool) -> Decoder:
    """Shard ``model`` in place over ``mesh``: one dimension for FSDP, (replicate, shard) for HSDP.

    Equal blocks share one compiled graph, so compile time doesn't grow with depth. Compiling comes before
    sharding: FSDP's hooks then run outside the graph.
    """
    for block in model.blocks:
        if compiled:
            block.compile(fullgraph=True)
        fully_shard(block, mesh=mesh)
    fully_shard(model, mesh=mesh)
    return model
