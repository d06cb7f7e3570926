"""Rank 3 fails while the others wait in an all_reduce; for the lane and for ``torchrun -m pytest``."""

import os
import signal
import time
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

FAULT = "raise"
STAMP = ""


def fail_here() -> None:
    """Stamp the wall clock, then fail the way that FAULT says."""
    Path(STAMP).write_text(str(time.time()))
    if FAULT == "sigkill":
        os.kill(os.getpid(), signal.SIGKILL)
    raise ValueError("true cause")


@pytest.mark.h200x8
def test_rank_3_fails() -> None:
    dist.init_process_group("gloo")
    value = torch.ones(1)
    dist.all_reduce(value)
    if dist.get_rank() == 3:
        time.sleep(1.0)  # the others are surely waiting then
        fail_here()
    dist.all_reduce(value)
    dist.destroy_process_group()
