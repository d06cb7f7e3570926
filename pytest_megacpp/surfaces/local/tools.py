"""Owns what ranks use when it is installed beside torch: what follows where it isn't, and what installs it. Nothing is
imported or run: packages are looked up, programs are looked for in PATH.
"""

import importlib.metadata
import shutil
from collections.abc import Mapping
from dataclasses import dataclass

_COMPILERS = ("g++", "clang++", "c++")


@dataclass(frozen=True, slots=True)
class Tool:
    """`found` is a version or a path, empty where there is none; `lost` and `remedy` are for that case."""

    name: str
    found: str
    lost: str
    remedy: str


def tools(environ: Mapping[str, str], *, gpus: bool) -> tuple[Tool, ...]:
    """`environ` is that of ranks. `gpus`: whether this machine has some."""
    return (
        Tool(
            "numpy",
            _version("numpy"),
            "torch's object collectives (all_gather_object, broadcast_object_list …) and Triton's interpreter raise "
            "'Numpy is not available'",
            "pip install numpy",
        ),
        Tool(
            "C++ compiler",
            _compiler(environ),
            "torch.compile fails where it compiles for the CPU, and so does Triton's first kernel on a GPU",
            "apt-get install g++ (dnf install gcc-c++), or set CXX",
        ),
        Tool(
            "triton",
            _version("triton"),
            "torch.compile fails on a GPU, and tests can't import kernels written in Triton"
            if gpus
            else "tests can't import kernels written in Triton, which a dry run executes in its interpreter",
            "pip install triton",
        ),
        Tool(
            "py-spy",
            shutil.which("py-spy") or "",
            "a verdict has no stack of a rank that holds its interpreter lock, such as one that loops in C code",
            "pip install py-spy",
        ),
    )


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _compiler(environ: Mapping[str, str]) -> str:
    """Inductor takes `CXX`, or g++."""
    chosen = environ.get("CXX")
    names = (chosen,) if chosen else _COMPILERS
    return next((found for name in names if (found := shutil.which(name, path=environ.get("PATH")))), "")
