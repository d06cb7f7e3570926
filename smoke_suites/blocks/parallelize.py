"""How the model is spread over a mesh, in torchtitan's order: compile by region, shard bottom-up."""

from __future__ import annotations

from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard

from .model import Model


def parallelize(model: Model, mesh: DeviceMesh) -> Model:
    """Shard ``model`` in place over ``mesh``, every part of a block compiled but the experts.

    A block as a whole would break at its experts, in whose middle the shapes depend on the data; its parts are whole
    graphs. Equal parts of all blocks share theirs.
    """
    for block in model.blocks:
        for name, part in block.named_children():
            if name != "experts":
                part.compile(fullgraph=True)
        fully_shard(block.experts, mesh=mesh)
        fully_shard(block, mesh=mesh)
    fully_shard(model, mesh=mesh)
    return model
