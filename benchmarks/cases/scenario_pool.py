"""A scenario in the pattern of DeepSpeed's tests: a process pool, one task a rank, one wait for all of them."""

import multiprocessing
import tempfile

import torch.distributed as dist
from scenarios import RANKS, first_test

LIMIT_S = 0


def in_rank(rank: int, meeting_point: str) -> None:
    """One task: meet, test, part."""
    dist.init_process_group("gloo", init_method=f"file://{meeting_point}", rank=rank, world_size=RANKS)
    first_test(rank)
    dist.destroy_process_group()


def test_first() -> None:
    with tempfile.TemporaryDirectory() as folder:
        pool = multiprocessing.get_context("spawn").Pool(RANKS)
        try:
            tasks = [(rank, f"{folder}/meeting") for rank in range(RANKS)]
            pool.starmap_async(in_rank, tasks).get(LIMIT_S)
        finally:
            pool.terminate()
