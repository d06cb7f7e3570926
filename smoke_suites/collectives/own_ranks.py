"""A training script in miniature, which a test launches with torchrun inside its own single rank."""

from __future__ import annotations

import os
import sys

import torch
import torch.distributed as dist


def main() -> None:
    dist.init_process_group("gloo")
    value = torch.tensor(dist.get_rank() + 1)
    dist.all_reduce(value)
    sys.stdout.write(f"rank {os.environ['RANK']} of {os.environ['WORLD_SIZE']}: {value.item()}\n")
    sys.stdout.flush()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
