"""A scenario whose ranks write torch's flight-recorder dumps in the end, then stock torchfrtrace over them."""

import multiprocessing
import os
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import torch.distributed as dist
from scenarios import RANKS, first_test
from torch._C import _distributed_c10d as c10d

LIMIT_S = 0
DUMP_AFTER_S = 8.0


def in_rank(rank: int, folder: str) -> None:
    """The scenario, then the dump; of a rank that waits for ever by a thread."""
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=RANKS)
    threading.Timer(DUMP_AFTER_S, dump, (f"{folder}/trace_{rank}",)).start()
    try:
        first_test(rank)
    finally:
        dump(f"{folder}/trace_{rank}")


def dump(path: str) -> None:
    Path(path).write_bytes(c10d._dump_fr_trace())
    os._exit(0)


def main() -> int:
    """Ends with the exit code of torchfrtrace."""
    with tempfile.TemporaryDirectory() as folder:
        context = multiprocessing.get_context("spawn")
        ranks = [context.Process(target=in_rank, args=(rank, folder)) for rank in range(RANKS)]
        for rank in ranks:
            rank.start()
        for rank in ranks:
            rank.join(LIMIT_S)
            rank.kill()
        Path(folder, "meeting").unlink(missing_ok=True)
        analyser = [sys.executable, "-m", "torch.distributed.flight_recorder.fr_trace", folder, "-p", "trace_"]
        return subprocess.run(analyser, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
