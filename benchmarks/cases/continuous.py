"""The same trivial tests on torch's MultiProcContinuousTest: processes and group kept for the class."""

import time
from pathlib import Path

import torch
import torch.distributed as dist
from torch.testing._internal.common_distributed import MultiProcContinuousTest

RANKS = 4
TESTS = 5
STAMPS = ""


class TestContinuous(MultiProcContinuousTest):
    world_size = RANKS

    @classmethod
    def backend_str(cls) -> str:
        return "gloo"

    def _all_reduce(self) -> None:
        if STAMPS and self.rank == 0:
            with Path(STAMPS).open("a") as file:
                file.write(f"{time.time()}\n")
        value = torch.ones(1)
        dist.all_reduce(value)
        assert value.item() == self.world_size


for _number in range(TESTS):
    setattr(TestContinuous, f"test_all_reduce_{_number:03d}", lambda self: self._all_reduce())
