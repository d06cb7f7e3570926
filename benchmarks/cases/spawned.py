"""The same trivial tests on torch's MultiProcessTestCase: processes spawned for every test."""

import time
from pathlib import Path

import torch
import torch.distributed as dist
from torch._C._distributed_c10d import FileStore
from torch.testing._internal.common_distributed import MultiProcessTestCase

RANKS = 4
TESTS = 1
STAMPS = ""


class TestSpawned(MultiProcessTestCase):
    @property
    def world_size(self) -> int:
        return RANKS

    def setUp(self) -> None:
        super().setUp()
        self._spawn_processes()

    def _all_reduce(self) -> None:
        store = FileStore(self.file_name, self.world_size)
        dist.init_process_group("gloo", store=store, rank=self.rank, world_size=self.world_size)
        if STAMPS and self.rank == 0:
            with Path(STAMPS).open("a") as file:
                file.write(f"{time.time()}\n")
        value = torch.ones(1)
        dist.all_reduce(value)
        assert value.item() == self.world_size


for _number in range(TESTS):
    setattr(TestSpawned, f"test_all_reduce_{_number:03d}", lambda self: self._all_reduce())
