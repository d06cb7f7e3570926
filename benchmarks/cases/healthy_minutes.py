"""Two healthy minutes: steps, a silent stretch that is longer than ``stall``, waits that are shorter."""

import time

import pytest
import torch
import torch.distributed as dist

SECONDS = 120
SILENT_S = 25


@pytest.mark.h200x8(ranks=2, stall=20, skew=20, test=600)
def test_minutes(modal_h200x8: object) -> None:
    begun = time.monotonic()
    everybody(begun)
    time.sleep(SILENT_S)  # nobody waits for anybody
    step = 0
    while everybody(begun) < SECONDS:
        step += 1
        time.sleep(8 if step % 40 == 0 and dist.get_rank() == 1 else 0.2)


def everybody(begun: float) -> float:
    """Seconds since the beginning, of the rank that began first."""
    seconds = torch.tensor([time.monotonic() - begun])
    dist.all_reduce(seconds, op=dist.ReduceOp.MAX)
    return float(seconds)
