"""FSDP2 with regional compile trains exactly as one eager process would on the batch of all ranks."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from torch import Tensor

    from pytest_megacpp.rank.lane import Lane

    from .model import Decoder, ModelConfig

STEPS = 3
SEQUENCES_PER_RANK = 2
TOKENS = 33

TOLERANCE = 1e-5
"""Of losses (relative) and parameters (both ways) in float32: only the order of summation may differ."""


def chosen_config(lane: Lane) -> ModelConfig:
    from .model import ModelConfig

    return lane.pick(
        full=ModelConfig(blocks=4, width=128, heads=4),
        diagnostic=ModelConfig(blocks=1, width=32, heads=2),
    )


def global_batch(lane: Lane, config: ModelConfig) -> Tensor:
    from .training import random_tokens

    return random_tokens(lane.ranks * SEQUENCES_PER_RANK, TOKENS, config.vocabulary, lane.device)


def mean_over_ranks(loss: Tensor) -> float:
    import torch.distributed as dist

    mean = loss.clone()
    dist.all_reduce(mean, dist.ReduceOp.AVG)
    return mean.item()


def train_eagerly(lane: Lane, config: ModelConfig) -> tuple[Decoder, list[float]]:
    """The reference: one process, nothing compiled, the global batch."""
    from .model import build
    from .training import Trainer

    model = build(config, lane.device)
    trainer = Trainer(model, global_batch(lane, config))
    return model, [trainer.step().item() for _ in range(STEPS)]


def test_training_equals_the_eager_reference(modal_h200x8: Lane) -> None:
    import torch
    from torch.distributed.tensor import DTensor

    from .model import build
    from .parallelize import parallelize
    from .training import Trainer

    lane = modal_h200x8
    config = chosen_config(lane)
    with lane.phase("reference"):
        reference, expected = train_eagerly(lane, config)

    model = parallelize(build(config, lane.device), lane.mesh((lane.ranks,), ("shard",)), compiled=True)
    trainer = Trainer(model, global_batch(lane, config).chunk(lane.ranks)[lane.rank])
    with lane.first_forward("forward"):
        loss = trainer.loss()
    losses = [mean_over_ranks(trainer.learn(loss))]
    losses += [mean_over_ranks(trainer.step()) for _ in range(STEPS - 1)]

    lane.record("losses", losses)
    lane.assert_same(torch.tensor(losses, device=lane.device))
    assert losses == pytest.approx(expected, rel=TOLERANCE)
    assert losses[-1] < losses[0]
    for (name, parameter), wanted in zip(model.named_parameters(), reference.parameters(), strict=True):
        assert isinstance(parameter, DTensor), name
        distance = (parameter.full_tensor() - wanted.detach()).abs()
        assert bool((distance <= TOLERANCE * (1 + wanted.abs())).all()), f"{name} is off by {distance.max()}"


def test_warm_up_leaves_nothing_to_compile(modal_h200x8: Lane) -> None:
    import torch

    from .model import build
    from .parallelize import parallelize
    from .training import Trainer

    lane = modal_h200x8
    config = chosen_config(lane)
    model = parallelize(build(config, lane.device), lane.mesh((lane.ranks,), ("shard",)), compiled=True)
    trainer = Trainer(model, global_batch(lane, config).chunk(lane.ranks)[lane.rank])
    before = mean_over_ranks(lane.warmup(trainer.step))
    with torch.compiler.set_stance("fail_on_recompile"):
        after = mean_over_ranks(trainer.step())
    assert after < before


def test_every_rank_holds_its_shard_only(modal_h200x8: Lane) -> None:
    import torch
    from torch.distributed.tensor import DTensor, Shard

    from .model import build
    from .parallelize import parallelize

    lane = modal_h200x8
    config = chosen_config(lane)
    whole = build(config, lane.device)
    sharded = parallelize(build(config, lane.device), lane.mesh((lane.ranks,), ("shard",)), compiled=False)
    local_elements = 0
    for (name, parameter), full in zip(sharded.named_parameters(), whole.parameters(), strict=True):
        assert isinstance(parameter, DTensor), name
        assert tuple(parameter.placements) == (Shard(0),), name
        shares = full.detach().chunk(lane.ranks)
        mine = shares[lane.rank] if lane.rank < len(shares) else full.detach()[:0]
        assert torch.equal(parameter.to_local(), mine), name
        local_elements += mine.numel()
    lane.record("local_elements", local_elements)


def test_hybrid_sharding_equals_the_eager_reference(modal_h200x8: Lane) -> None:
    """Two replicas, each sharded over half of the ranks; eager, for the mesh is what is tested here."""
    from .model import build
    from .parallelize import parallelize
    from .training import Trainer

    lane = modal_h200x8
    if lane.ranks % 2:
        pytest.skip("two replicas need an even world")
    config = chosen_config(lane)
    _, expected = train_eagerly(lane, config)
    mesh = lane.mesh((2, lane.ranks // 2), ("replicate", "shard"))
    model = parallelize(build(config, lane.device), mesh, compiled=False)
    trainer = Trainer(model, global_batch(lane, config).chunk(lane.ranks)[lane.rank])
    losses = [mean_over_ranks(trainer.step()) for _ in range(STEPS)]
    assert losses == pytest.approx(expected, rel=TOLERANCE)
