"""One training loop for the reference and for the sharded model. It knows nothing of lanes."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LEARNING_RATE = 0.1


class Trainer:
    """Trains ``model`` on one fixed batch of ``tokens`` (batch, length).

    SGD rather than Adam: Adam would hide a gradient that is wrong by a factor.
    """

    def __init__(self, model: nn.Module, tokens: Tensor) -> None:
        self.model = model
        self.tokens = tokens
        self.optimizer = torch.optim.SGD(model.parameters(), lr=LEARNING_RATE, momentum=0.9)

    def step(self) -> Tensor:
        """Forward, backward and update; the loss before the update."""
        return self.learn(self.loss())

    def loss(self) -> Tensor:
        """Mean cross entropy of predicting each token from those before it."""
        logits = self.model(self.tokens[:, :-1])
        return F.cross_entropy(logits.flatten(0, 1), self.tokens[:, 1:].flatten())

    def learn(self, loss: Tensor) -> Tensor:
        """Backward and update."""
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        self.optimizer.zero_grad()
        return loss.detach()


def random_tokens(sequences: int, length: int, vocabulary: int, device: torch.device) -> Tensor:
    """The same (sequences, length) tokens on every rank and every kind of device."""
    generator = torch.Generator().manual_seed(1)
    return torch.randint(vocabulary, (sequences, length), generator=generator).to(device)
