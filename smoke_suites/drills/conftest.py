"""A conftest that fails on one rank. Only the drill in `test_startup.py` has a world of this size."""

from __future__ import annotations

from . import faults

if faults.world_and_rank() == (5, 3):
    raise RuntimeError("this conftest breaks on rank 3, on purpose")
