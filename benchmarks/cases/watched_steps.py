"""FSDP2 training steps, in turns watched and not: rank 0 freezes the box, which watches, for every other block.

Each rank writes, for each block, its seconds and the CPU seconds of its process and of its worker server.
"""

import json
import os
import signal
import time
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.fsdp import fully_shard

FOLDER = ""
PAIRS = 10
STEPS = 25
WIDTH, LAYERS, BATCH = 768, 4, 128


@pytest.mark.h200x8(ranks=2, test=600)
def test_steps() -> None:
    dist.init_process_group("gloo")
    box = int(_stat(os.getppid())[1])
    training = Training()
    training.run(STEPS)
    blocks = [_block(training, box, watched=number % 2 == 0) for number in range(2 * PAIRS)]
    Path(FOLDER, f"rank-{dist.get_rank()}.json").write_text(json.dumps(blocks))
    dist.destroy_process_group()


class Training:
    """A small model, sharded, and its steps."""

    def __init__(self) -> None:
        layers = [nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.GELU()) for _ in range(LAYERS)]
        for layer in layers:
            fully_shard(layer)
        self.model = nn.Sequential(*layers)
        fully_shard(self.model)
        self.optimizer = torch.optim.AdamW(self.model.parameters())
        self.batch = torch.ones(BATCH, WIDTH)

    def run(self, steps: int) -> None:
        for _ in range(steps):
            self.model(self.batch).square().mean().backward()
            self.optimizer.step()
            self.optimizer.zero_grad()


def _block(training: Training, box: int, *, watched: bool) -> dict[str, float | bool]:
    leads = dist.get_rank() == 0
    if leads and not watched:
        os.kill(box, signal.SIGSTOP)
    dist.barrier()
    try:
        before = _clocks(box)
        training.run(STEPS)
        after = _clocks(box)
        dist.barrier()
    finally:
        if leads and not watched:
            os.kill(box, signal.SIGCONT)
    return {"watched": watched, **{name: after[name] - before[name] for name in after}}


def _clocks(box: int) -> dict[str, float]:
    return {
        "wall_s": time.monotonic(),
        "rank_cpu_s": time.process_time(),
        "server_cpu_s": sum(map(_cpu_s, _server_threads())),
        "box_cpu_s": sum(map(int, _stat(box)[11:13])) / os.sysconf("SC_CLK_TCK"),
    }


def _server_threads() -> list[Path]:
    """Those that answer the box; torch names them."""
    threads = Path("/proc/self/task").iterdir()
    return [thread for thread in threads if (thread / "comm").read_text().strip() == "pt_workerserver"]


def _cpu_s(thread: Path) -> float:
    return int((thread / "schedstat").read_text().split()[0]) / 1e9


def _stat(pid: int) -> list[str]:
    """The fields of /proc/PID/stat from the third on."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
