"""Owns ending what runs left on this machine, wherever their boxes were; must not know which runs are over.

Boxes run on Linux, and leave nothing on a desk that isn't.
"""

import sys
import time

RUN_VARIABLE = "MEGACPP_RUN_ID"  # every process of a run has it
LIMIT_S = 5.0


def sweep(run_id: str) -> None:
    """Ends what is left of a run whose desk and box are gone: every process that carries its id."""
    if sys.platform != "linux":
        return
    from pytest_megacpp.box.host import process

    deadline = time.monotonic() + LIMIT_S
    while (left := processes_of(run_id)) and time.monotonic() < deadline:
        process.end_all(left)
        time.sleep(0.05)


def processes_of(run_id: str) -> list[int]:
    """The process ids of a run that live on this machine."""
    if sys.platform != "linux":
        return []
    from pytest_megacpp.box.host import process

    return process.marked(RUN_VARIABLE, run_id)
