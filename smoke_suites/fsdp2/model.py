"""A small decoder in plain PyTorch: embedding, equal pre-norm blocks, head. It knows nothing of ranks."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class ModelConfig:
    """Sizes of a :class:`Decoder`; ``width`` must divide by ``heads``."""

    blocks: int
    width: int
    heads: int
    vocabulary: int = 64


class Block(nn.Module):
    """Attention and a gated feed-forward, each on a residual branch; keeps (batch, length, width)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.attention_norm = nn.RMSNorm(config.width)
        self.query, self.key, self.value, self.attention_out = (
            nn.Linear(config.width, config.width, bias=False) for _ in range(4)
        )
        self.feed_forward_norm = nn.RMSNorm(config.width)
        self.gate = nn.Linear(config.width, 2 * config.width, bias=False)
        self.up = nn.Linear(config.width, 2 * config.width, bias=False)
        self.down = nn.Linear(2 * config.width, config.width, bias=False)

    def forward(self, hidden: Tensor) -> Tensor:
        hidden = hidden + self.attend(self.attention_norm(hidden))
        normed = self.feed_forward_norm(hidden)
        out: Tensor = hidden + self.down(F.silu(self.gate(normed)) * self.up(normed))
        return out

    def attend(self, hidden: Tensor) -> Tensor:
        query, key, value = (
            project(hidden).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for project in (self.query, self.key, self.value)
        )
        mixed = F.scaled_dot_product_attention(query, key, value, is_causal=True)
        out: Tensor = self.attention_out(mixed.transpose(1, 2).flatten(-2))
        return out


class Decoder(nn.Module):
    """Tokens (batch, length) to logits (batch, length, vocabulary)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.embedding = nn.Embedding(config.vocabulary, config.width)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.blocks))
        self.norm = nn.RMSNorm(config.width)
        self.head = nn.Linear(config.width, config.vocabulary, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        hidden = self.embedding(tokens)
        for block in self.blocks:
            hidden = block(hidden)
        logits: Tensor = self.head(self.norm(hidden))
        return logits


def build(config: ModelConfig, device: torch.device, seed: int = 0) -> Decoder:
    """A decoder whose parameters depend on ``config`` and ``seed`` only, so that every rank starts equal."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Decoder(config)
    return model.to(device)
