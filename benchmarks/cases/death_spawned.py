"""Rank 3 fails while the others wait in an all_reduce, on torch's MultiProcessTestCase."""

import os
import signal
import time
from pathlib import Path

import torch
import torch.distributed as dist
from torch._C._distributed_c10d import FileStore
from torch.testing._internal.common_distributed import MultiProcessTestCase

FAULT = "raise"
STAMP = ""


def fail_here() -> None:
    """Stamp the wall clock, then fail the way that FAULT says."""
    Path(STAMP).write_text(str(time.time()))
    if FAULT == "sigkill":
        os.kill(os.getpid(), signal.SIGKILL)
    raise ValueError("true cause")


class TestSpawned(MultiProcessTestCase):
    @property
    def world_size(self) -> int:
        return 4

    def setUp(self) -> None:
        super().setUp()
        self._spawn_processes()

    def test_rank_3_fails(self) -> None:
        store = FileStore(self.file_name, self.world_size)
        dist.init_process_group("gloo", store=store, rank=self.rank, world_size=self.world_size)
        value = torch.ones(1)
        dist.all_reduce(value)
        if self.rank == 3:
            time.sleep(1.0)  # the others are surely waiting then
            fail_here()
        dist.all_reduce(value)
