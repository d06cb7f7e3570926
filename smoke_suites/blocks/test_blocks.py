"""A state-space mixture of experts, compiled by region and sharded, trains as one eager process would."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from torch import Tensor

    from pytest_megacpp.rank.lane import Lane

    from .model import ModelConfig

STEPS = 3
SEQUENCES_PER_RANK = 2
TOKENS = 17

TOLERANCE = 1e-5
"""Of losses (relative) in float32: only the order of summation may differ."""


def chosen_config(lane: Lane) -> ModelConfig:
    from .model import ModelConfig

    return lane.pick(
        full=ModelConfig(blocks=3, width=64, experts=8),
        diagnostic=ModelConfig(blocks=1, width=16, experts=2, chosen=1),
    )


def global_batch(lane: Lane, config: ModelConfig) -> Tensor:
    from ..fsdp2.training import random_tokens

    return random_tokens(lane.ranks * SEQUENCES_PER_RANK, TOKENS, config.vocabulary, lane.device)


def mean_over_ranks(loss: Tensor) -> float:
    import torch.distributed as dist

    mean = loss.clone()
    dist.all_reduce(mean, dist.ReduceOp.AVG)
    return mean.item()


def test_training_equals_the_eager_reference(modal_h200x8: Lane) -> None:
    """Once warm nothing is compiled any more, whichever experts the tokens choose."""
    import torch

    from ..fsdp2.training import Trainer
    from .model import build
    from .parallelize import parallelize

    lane = modal_h200x8
    config = chosen_config(lane)
    batch = global_batch(lane, config)
    with lane.phase("reference"):
        reference = Trainer(build(config, lane.device), batch)
        expected = [reference.step().item() for _ in range(STEPS)]
        reference.tokens = batch.flip(-1)
        expected.append(reference.step().item())

    model = parallelize(build(config, lane.device), lane.mesh((lane.ranks,), ("shard",)))
    trainer = Trainer(model, batch.chunk(lane.ranks)[lane.rank])
    losses = [mean_over_ranks(lane.warmup(trainer.step))]
    with torch.compiler.set_stance("fail_on_recompile"):
        losses += [mean_over_ranks(trainer.step()) for _ in range(STEPS - 1)]
        trainer.tokens = trainer.tokens.flip(-1)
        losses.append(mean_over_ranks(trainer.step()))

    lane.record("losses", losses)
    lane.assert_same(torch.tensor(losses, device=lane.device))
    assert losses == pytest.approx(expected, rel=TOLERANCE)
    assert losses[STEPS - 1] < losses[0]


def test_experts_are_sharded_on_their_own(modal_h200x8: Lane) -> None:
    """Their parameters can be gathered without those of the block around them."""
    from torch.distributed.fsdp import FSDPModule
    from torch.distributed.tensor import DTensor

    from .model import build
    from .parallelize import parallelize

    lane = modal_h200x8
    model = parallelize(build(chosen_config(lane), lane.device), lane.mesh((lane.ranks,), ("shard",)))
    for block in model.blocks:
        assert isinstance(block.experts, FSDPModule)
        block.experts.unshard()
        assert not any(isinstance(parameter, DTensor) for parameter in block.experts.parameters())
        assert all(isinstance(parameter, DTensor) for parameter in block.mixer.parameters())


def test_the_recurrence_equals_a_loop(modal_h200x8: Lane) -> None:
    import torch

    from .model import recurrence

    lane = modal_h200x8
    generator = torch.Generator().manual_seed(2)
    value, decay = (torch.randn(2, TOKENS, 8, generator=generator).to(lane.device) for _ in range(2))
    kept, state, states = 0.5 + 0.5 * decay.sigmoid(), torch.zeros_like(value[:, 0]), []
    for now in range(TOKENS):
        state = kept[:, now] * state + (1 - kept[:, now]) * value[:, now]
        states.append(state)
    torch.testing.assert_close(recurrence(value, decay), torch.stack(states, dim=1), rtol=1e-4, atol=1e-5)
