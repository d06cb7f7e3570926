"""Owns the life of a command at the desk: runs it, and ends it when the desk is gone, by SIGKILL as well.

`python holder.py DESCRIPTOR COMMAND…`, a program of its own. The descriptor is a pipe that the desk holds open. A byte
in it says that the command is to end, its end that the desk is gone: so is the command's input then, at which a box
ends in order, so it is given some time. After that it is asked to end (SIGTERM), which takes a job out of a scheduler's
queue, and in the end it is killed with all that it started here.
"""

import contextlib
import os
import signal
import subprocess
import sys
import threading

LEFT_S = 15.0  # for a box to end in order
ASKED_S = 40.0  # schedulers take their time to end a job
NOT_FOUND = 127  # as shells have it


def main(descriptor: str, *command: str) -> int:
    for sig in (signal.SIGHUP, signal.SIGINT):
        signal.signal(sig, signal.SIG_IGN)
    try:
        child = subprocess.Popen(command, restore_signals=True, preexec_fn=_default_signals)
    except OSError as error:
        print(f"{command[0]}: {error.strerror or error}", file=sys.stderr, flush=True)
        return NOT_FOUND
    signal.signal(signal.SIGTERM, lambda *_: child.terminate())
    for standard in (0, 1):
        os.close(standard)  # or whoever is at the other end would wait for this process as well
    threading.Thread(target=_hold, args=(int(descriptor), child), daemon=True).start()
    status = child.wait()
    return status if status >= 0 else 128 - status


def _default_signals() -> None:
    for sig in (signal.SIGHUP, signal.SIGINT):
        signal.signal(sig, signal.SIG_DFL)


def _hold(descriptor: int, child: "subprocess.Popen[bytes]") -> None:
    if not os.read(descriptor, 1):
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(LEFT_S)
    child.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        child.wait(ASKED_S)
    if child.returncode is None:
        os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
