"""What each of four ranks does in a scenario, the same on every side. The first test has the fault, the next none."""

import os
import signal
import time
from pathlib import Path

import torch
import torch.distributed as dist

SCENARIO = ""
STAMP = ""
RANKS = 4
FOREVER_S = 600.0


def first_test(rank: int) -> None:
    """Everybody meets, then the scenario takes its course."""
    reduce(1.0)
    globals()[f"_{SCENARIO}"](rank)


def next_test(rank: int) -> None:
    """Nothing is wrong with this one."""
    del rank
    reduce(10.0)


def reduce(value: float) -> None:
    summed = torch.full((8,), value)
    dist.all_reduce(summed)
    assert summed[0].item() == RANKS * value


def _stamp() -> None:
    """The wall-clock time of the fault."""
    Path(STAMP).write_text(str(time.time()))


def _let_others_wait() -> None:
    time.sleep(1.0)
    _stamp()


def _raise(rank: int) -> None:
    if rank == 3:
        _let_others_wait()
        raise ValueError("true cause")
    reduce(1.0)


def _sigkill(rank: int) -> None:
    if rank == 3:
        _let_others_wait()
        os.kill(os.getpid(), signal.SIGKILL)
    reduce(1.0)


def _exit(rank: int) -> None:
    if rank == 3:
        _let_others_wait()
        os._exit(3)
    reduce(1.0)


def _sigkill_unmissed(rank: int) -> None:
    if rank == 1:
        _stamp()
        os.kill(os.getpid(), signal.SIGKILL)


def _absent(rank: int) -> None:
    if rank == 2:
        _stamp()
        time.sleep(FOREVER_S)
    reduce(1.0)


def _frozen(rank: int) -> None:
    if rank == 2:
        _let_others_wait()
        os.kill(os.getpid(), signal.SIGSTOP)
    reduce(1.0)


def _compiling(rank: int) -> None:
    if rank == 1:
        _stamp()
        torch.compile(torch.sin, backend=_slow_compiler)(torch.ones(8))
    reduce(1.0)


def _slow_compiler(graph: torch.fx.GraphModule, inputs: list[torch.Tensor]) -> object:
    del inputs
    until = time.monotonic() + FOREVER_S
    while time.monotonic() < until:
        sum(range(10_000))
    return graph.forward


def _operation(rank: int) -> None:
    """The root of a broadcast waits for nobody: rank 1 returns."""
    if rank == 1:
        _stamp()
        dist.broadcast(torch.ones(8), src=1)
        return
    reduce(1.0)


def _size(rank: int) -> None:
    """The root sends less than the others expect, and returns."""
    if rank == 0:
        _stamp()
    dist.broadcast(torch.ones(4 if rank == 0 else 8), src=0)


def _dtype(rank: int) -> None:
    """As wide as what the others sum, so nobody notices."""
    if rank == 2:
        _stamp()
    dist.all_reduce(torch.ones(8, dtype=torch.int32 if rank == 2 else torch.float32))
