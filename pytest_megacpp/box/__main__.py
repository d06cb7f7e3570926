"""Owns the guard, the process that a surface starts: it forks the box and outlives it; must not know a run.

`python -m pytest_megacpp.box PLAN DIRECTORY`. The guard and the box watch each other: whichever is killed, the
other ends every process of the run. Standard library only, and little of it, so that it stays small.
"""

import contextlib
import json
import os
import shutil
import signal
import sys
import time

from pytest_megacpp.box.host import contract, process
from pytest_megacpp.box.scratch import make, sweep

SWEEP_S = 5.0
GUARD = "MEGACPP_GUARD"  # in the environment of all that is started below this process: its id
STARTED_WITH = "MEGACPP_LIBRARY_PATH"  # what LD_LIBRARY_PATH was before this program started itself anew
_UNKNOWN = 70


def main(plan: str, directory: str) -> int:
    _restart_with_library_path(plan)
    found = process.default_signals()
    process.adopt_orphans()
    guard = os.getpid()
    os.environ[GUARD] = str(guard)
    sweep()
    scratch = make()
    box = os.fork()
    if box == 0:
        os._exit(_box(plan, directory, scratch, guard, found))
    for sig in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(sig, lambda number, _: process.send(box, signal.Signals(number)))
    os.close(0)
    status = _wait_for(box)
    _sweep()
    shutil.rmtree(scratch, ignore_errors=True)
    return status if status >= 0 else 128 - status


def _restart_with_library_path(plan: str) -> None:
    """Starts this program anew where the contract changes LD_LIBRARY_PATH: the loader reads it only as a program
    starts, and the box is to load the libraries that its ranks load. STARTED_WITH keeps the old value for the contract.
    """
    if STARTED_WITH in os.environ:
        _set(contract.LIBRARY_PATH, os.environ.pop(STARTED_WITH))
        return
    with open(plan, encoding="utf-8") as f:
        configured = json.load(f).get("environment", {})
    inherited = os.environ.get(contract.LIBRARY_PATH, "")
    wanted = contract.library_path({**os.environ, **configured}, chosen=configured) or ""
    if wanted != inherited:
        os.environ[STARTED_WITH] = inherited
        _set(contract.LIBRARY_PATH, wanted)
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def _set(variable: str, value: str) -> None:
    os.environ.pop(variable, None)
    if value:
        os.environ[variable] = value


def _box(plan: str, directory: str, scratch: str, guard: int, signals: tuple[str, ...]) -> int:
    process.adopt_orphans()  # before there are threads: it forks
    process.die_with_parent(signal.SIGTERM)
    if os.getppid() != guard:
        return 128 + signal.SIGTERM
    try:
        from pytest_megacpp.box.main import serve

        return serve(plan, directory, scratch, signals)
    except BaseException:
        import traceback

        traceback.print_exc()
        sys.stderr.flush()
        return 70


def _wait_for(box: int) -> int:
    """Returns the box's exit status. Other children that end meanwhile are orphans that this process adopted."""
    while True:
        try:
            pid, status = os.wait()
        except ChildProcessError:  # somebody else collected it: a tracer, or a runtime that reaps for all
            return _UNKNOWN
        if pid == box:
            return os.waitstatus_to_exitcode(status)


def _sweep() -> None:
    """Ends what the box left behind, for at most SWEEP_S."""
    deadline = time.monotonic() + SWEEP_S
    while (left := _left()) and time.monotonic() < deadline:
        process.end_all(left)
        process.reap_strays()
        time.sleep(0.02)
    with contextlib.suppress(OSError):
        process.reap_strays()


def _left() -> list[int]:
    """Returns the ids of descendants and, where orphans aren't adopted, of processes that were started with this
    guard's mark.
    """
    below = [p.pid for p in process.descendants(os.getpid())]
    return below if process.adopts_orphans() else [*below, *process.marked(GUARD, str(os.getpid()))]


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
