"""Owns the first lines of a rank's process, reached by pickle reference; must not import what runs in a rank."""

import ctypes
import importlib
import os
import sys

from pytest_megacpp.box.host.process import die_with_parent


def run_rank(environment: dict[str, str], stdout: str, stderr: str) -> None:
    """Runs `pytest_megacpp.rank.main.main()` with these variables and log files, in a session of its own, which ends
    with the interpreter that it is a fork of.
    """
    os.setsid()
    die_with_parent()
    os.environ.update(environment)
    environment.clear()  # multiprocessing keeps its arguments, and the rank's secret is among them
    ctypes.CDLL(None).fflush(None)  # what the interpreter left in C's buffers is not this rank's to write
    for stream, log in ((sys.stdout, stdout), (sys.stderr, stderr)):
        stream.flush()
        with open(log, "w+b") as file:
            os.dup2(file.fileno(), stream.fileno())
    draw_anew()
    importlib.import_module("pytest_megacpp.rank.main").main()


def draw_anew() -> None:
    """Seeds random generators anew, as every process of torchrun does by itself. Python's is seeded in every fork;
    torch's (the CPU's, since devices begin with a fixed seed) and numpy's are still those of the import. torch's own
    `seed()` raises where a read of /dev/urandom is interrupted, as one in some 500 is under gVisor of 2022-12.
    """
    if "torch" in sys.modules:
        sys.modules["torch"].default_generator.manual_seed(int.from_bytes(os.urandom(8)))
    if "numpy.random" in sys.modules:
        sys.modules["numpy.random"].seed()
