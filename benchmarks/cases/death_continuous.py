"""Rank 3 fails while the others wait in an all_reduce, on torch's MultiProcContinuousTest."""

import os
import signal
import time
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from torch.testing._internal.common_distributed import MultiProcContinuousTest

FAULT = "raise"
STAMP = ""


def fail_here() -> None:
    """Stamp the wall clock, then fail the way that FAULT says."""
    Path(STAMP).write_text(str(time.time()))
    if FAULT == "sigkill":
        os.kill(os.getpid(), signal.SIGKILL)
    raise ValueError("true cause")


class TestContinuous(MultiProcContinuousTest):
    world_size = 4
    timeout = timedelta(seconds=20)

    @classmethod
    def backend_str(cls) -> str:
        return "gloo"

    def test_rank_3_fails(self) -> None:
        value = torch.ones(1)
        dist.all_reduce(value)
        if self.rank == 3:
            time.sleep(1.0)  # the others are surely waiting then
            fail_here()
        dist.all_reduce(value)
