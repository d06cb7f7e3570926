"""Owns the first lines of a rank's process, reached by pickle reference; must not import what runs in a rank."""

import importlib
import os

from pytest_megacpp.box.process import die_with_parent


def run_rank() -> None:
    """Runs `pytest_megacpp.rank.main.main()` in a session of its own, which ends with the forkserver."""
    os.setsid()
    die_with_parent()
    importlib.import_module("pytest_megacpp.rank.main").main()
