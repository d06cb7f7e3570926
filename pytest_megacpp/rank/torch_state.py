"""Owns what this process's torch is at: on which kind of device, and whether it is in a group; must not know tests."""

import os


def on_cuda() -> bool:
    """Whether the box gave this rank a GPU."""
    return os.environ.get("MEGACPP_DEVICE") == "cuda"


def group_exists() -> bool:
    """Whether there is a default process group."""
    import torch.distributed as dist

    return dist.is_available() and dist.is_initialized()
