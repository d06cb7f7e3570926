"""How a decoder is spread over a mesh, in torchtitan's order: compile, shard each block, shard the rest."""

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
