"""A small state-space model with experts in plain PyTorch: what is hard to compile in one piece. It knows no ranks."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class ModelConfig:
    """Sizes of a :class:`Model`; each token goes to ``chosen`` of ``experts``."""

    blocks: int
    width: int
    experts: int
    chosen: int = 2
    vocabulary: int = 64


class Mixer(nn.Module):
    """A selective state-space layer: each channel decays by what its token says. Keeps (batch, length, width)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.norm = nn.RMSNorm(config.width)
        self.inward = nn.Linear(config.width, 3 * config.width, bias=False)
        self.outward = nn.Linear(config.width, config.width, bias=False)

    def forward(self, hidden: Tensor) -> Tensor:
        value, decay, gate = self.inward(self.norm(hidden)).chunk(3, dim=-1)
        out: Tensor = self.outward(recurrence(value, decay) * F.silu(gate))
        return out


def recurrence(value: Tensor, decay: Tensor) -> Tensor:
    """``s[t] = k[t] * s[t-1] + (1 - k[t]) * value[t]`` along the second dimension, ``k = 0.5 + 0.5 * sigmoid(decay)``.

    All at once, by sums of logarithms: right as long as the product of all ``k`` doesn't vanish.
    """
    kept = 0.5 + 0.5 * torch.sigmoid(decay)
    since = kept.log().cumsum(dim=1)
    return since.exp() * ((1 - kept) * value * (-since).exp()).cumsum(dim=1)


class Router(nn.Module):
    """For each of (batch, length, width) tokens, normed and in one row: (tokens, width), the weights of the experts
    that it goes to, and these: (tokens, chosen).
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.chosen = config.chosen
        self.norm = nn.RMSNorm(config.width)
        self.scores = nn.Linear(config.width, config.experts, bias=False)

    def forward(self, hidden: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        tokens = self.norm(hidden).flatten(0, 1)
        weights, experts = self.scores(tokens).softmax(dim=-1).topk(self.chosen, dim=-1)
        return tokens, weights / weights.sum(dim=-1, keepdim=True), experts


class Experts(nn.Module):
    """Gated feed-forwards, each for the tokens that chose it. How many do depends on the data: never compiled."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.up = nn.Parameter(torch.randn(config.experts, config.width, 4 * config.width) / config.width**0.5)
        self.down = nn.Parameter(torch.randn(config.experts, 2 * config.width, config.width) / config.width**0.5)

    def forward(self, tokens: Tensor, weights: Tensor, experts: Tensor) -> Tensor:
        assert not torch.compiler.is_compiling()
        out = torch.zeros_like(tokens)
        for number, (up, down) in enumerate(zip(self.up, self.down, strict=True)):
            rows, places = (experts == number).nonzero(as_tuple=True)
            gate, value = (tokens[rows] @ up).chunk(2, dim=-1)
            out = out.index_add(0, rows, (F.silu(gate) * value) @ down * weights[rows, places, None])
        return out


class Block(nn.Module):
    """The mixer, then the experts, each on a residual branch."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.mixer = Mixer(config)
        self.router = Router(config)
        self.experts = Experts(config)

    def forward(self, hidden: Tensor) -> Tensor:
        hidden = hidden + self.mixer(hidden)
        out: Tensor = hidden + self.experts(*self.router(hidden)).view_as(hidden)
        return out


class Model(nn.Module):
    """Tokens (batch, length) to logits (batch, length, vocabulary)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.embedding = nn.Embedding(config.vocabulary, config.width)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.blocks))
        self.head = nn.Sequential(nn.RMSNorm(config.width), nn.Linear(config.width, config.vocabulary, bias=False))

    def forward(self, tokens: Tensor) -> Tensor:
        hidden = self.embedding(tokens)
        for block in self.blocks:
            hidden = block(hidden)
        logits: Tensor = self.head(hidden)
        return logits


def build(config: ModelConfig, device: torch.device, seed: int = 0) -> Model:
    """A model whose parameters depend on ``config`` and ``seed`` only, so that every rank starts equal."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Model(config)
    return model.to(device)
