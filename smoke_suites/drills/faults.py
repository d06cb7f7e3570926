"""Ways for a rank to go wrong, and for its peers to wait for it. Which verdict follows is not known here."""

from __future__ import annotations

import ctypes
import os
import signal
import time
import uuid
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from pytest_megacpp.rank.lane import Lane

LONG_S = 600
"""Longer than any limit of a drill; nothing ever waits it out."""

LAYERS_TO_COMPILE = {"cpu": 20, "cuda": 80}
"""Several seconds of cold compile: on a CPU a layer takes 0.2 to 0.5 s, mostly in the C++ compiler."""


def line_up(lane: Lane) -> None:
    """Bring every rank to this line, so that a fault meets peers that are past their set-up."""
    wait_for_everyone(lane)


def wait_for_everyone(lane: Lane) -> None:
    """An all_reduce whose result is read, for on CUDA a rank only waits where it reads."""
    import torch
    import torch.distributed as dist

    ones = torch.ones(8, device=lane.device)
    dist.all_reduce(ones)
    assert ones.tolist() == [lane.ranks] * 8


def let_peers_wait() -> None:
    """Give the peers time to enter their collective before this rank fails."""
    time.sleep(0.5)


def kill_self() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def read_null_pointer() -> None:
    ctypes.string_at(0)


def freeze() -> None:
    """Stop the whole process as a debugger would: no thread of it answers any more."""
    os.kill(os.getpid(), signal.SIGSTOP)


def sleep_with_the_gil(seconds: int = LONG_S) -> None:
    """Block in native code that keeps the interpreter lock: no other Python thread of this rank runs."""
    ctypes.PyDLL(None).sleep(seconds)


def spin(seconds: int = LONG_S) -> None:
    """Compute without communicating, always making progress."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        sum(range(10_000))


def receive_only(lane: Lane) -> None:
    """Wait for the rank before this one in the ring, which sends nothing either."""
    import torch
    import torch.distributed as dist

    mailbox = torch.zeros(1, device=lane.device)
    dist.recv(mailbox, src=(lane.rank - 1) % lane.ranks)
    mailbox.tolist()


def reduce_elements(lane: Lane, elements: int, dtype: str = "float32") -> Tensor:
    """An all_reduce of so many ones, read back; peers that reduce another size or dtype disagree with it."""
    import torch
    import torch.distributed as dist

    values = torch.ones(elements, dtype=getattr(torch, dtype), device=lane.device)
    dist.all_reduce(values)
    return values.cpu()


def new_salt() -> float:
    """A number that no compile cache has seen."""
    return uuid.uuid4().int % 10**9 / 10**9


def compile_and_run(lane: Lane, *, times: int = 1, salt: float = 0.0) -> None:
    """Compile a long function: seconds when cold, next to nothing when warm.

    ``times`` makes it longer; ``salt`` is a constant of the graph, so a new one makes every cache miss.
    """
    import torch
    import torch.nn.functional as F

    depth = times * LAYERS_TO_COMPILE[lane.device.type]

    def layers(hidden: Tensor) -> Tensor:
        for layer in range(1, depth + 1):
            normed = F.layer_norm(hidden, hidden.shape[-1:])
            hidden = F.gelu(normed + salt).roll(layer, 0) + torch.tanh(hidden)
        return hidden

    torch.compile(layers)(torch.ones(64, 64, device=lane.device))


def compile_with_a_cold_cache(lane: Lane) -> None:
    """The same as if this rank had come without the seed: with an empty Inductor cache directory."""
    from torch._inductor.utils import fresh_cache

    with fresh_cache():
        compile_and_run(lane)


def forget_compiled_code() -> None:
    """Make the next call of a compiled function compile anew, from whatever cache there is on disk."""
    import torch

    torch.compiler.reset()
