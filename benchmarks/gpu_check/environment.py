"""Owns what a results table says of the machine it was made on."""

import importlib.metadata
import json
import os
import platform

import torch

from tests.gpu.conftest import gpu_name


def main() -> None:
    names = ("torch", "triton", "nvidia-nccl-cu13", "nvidia-nccl-cu12", "pytest")
    found = {name: version for name in names if (version := _version(name))}
    handlers = (
        torch._C._distributed_c10d._get_handler_names()
        if hasattr(torch._C._distributed_c10d, "_get_handler_names")
        else []
    )
    print(
        json.dumps(
            {
                "gpu": gpu_name() or "no GPU",
                "python": platform.python_version(),
                "kernel": platform.release(),
                "cpus": os.cpu_count(),
                **found,
                "cuda": torch.version.cuda,
                "nccl2": hasattr(torch._C._distributed_c10d, "ProcessGroupNCCL2"),
                "handlers": sorted(handlers),
            }
        )
    )


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return ""


if __name__ == "__main__":
    main()
