"""Owns noticing that a rank's process ended, by what the kernel offers; must not know how it ended.

A pidfd where the kernel has them (Linux 5.3; gVisor since 2026-05; seccomp profiles may refuse it). Elsewhere the pipe
on which the forkserver reports a child's status once it reaped it, or, for a child of this process, a thread in
waitid(2) that leaves the status to be collected. All three are readable within milliseconds of the end.
"""

import os
import threading
import time
from multiprocessing.process import BaseProcess

from pytest_megacpp.box.host.process import is_alive

LOOK_S = 0.05  # between two looks at a child that can't be waited for


def watch_exit(process: BaseProcess, *, is_own_child: bool) -> int | None:
    """Returns a descriptor that becomes readable when the process ends, or None when it has ended and was reaped. The
    caller closes it. `is_own_child`: this process started it, not the forkserver.
    """
    pid = process.pid
    assert pid is not None
    try:
        return os.pidfd_open(pid)
    except ProcessLookupError:
        return None
    except (OSError, AttributeError):  # ENOSYS, EPERM, EMFILE …: nothing is known of the process, only of the kernel
        return _end_of_child(pid) if is_own_child else os.dup(process.sentinel)


def _end_of_child(pid: int) -> int:
    """Returns the end of a pipe whose other end is open as long as the child lives."""
    ended, alive = os.pipe()
    threading.Thread(target=_close_at_end, args=(pid, alive), name=f"exit-{pid}", daemon=True).start()
    return ended


def _close_at_end(pid: int, alive: int) -> None:
    """Closes the descriptor `alive` once the child has ended."""
    try:
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    except ChildProcessError:
        pass
    except OSError:
        while is_alive(pid):
            time.sleep(LOOK_S)
    finally:
        os.close(alive)
