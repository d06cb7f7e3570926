"""Owns which threads of a rank only carry messages and keep watch, and the CPU time they use; must not know tests.

Their CPU time is no progress of a test: NCCL's proxy threads and tensorpipe's loops may spin for as long as anything is
in flight, and torch's worker server works whenever the box looks at the rank. Threads that compute (`pt_autograd_0`,
Inductor's and OpenMP's workers, those that run functions of rpc) are not among them.
"""

import contextlib
import os

from pytest_megacpp.box.host import process

# As set by torch 2.11 to 2.15, tensorpipe and NCCL 2.27; the kernel keeps 15 characters.
NAMES = (b"gloo_", b"pt_gloo_", b"pt_tcpstore", b"pt_workerserver", b"pt_nccl_", b"TP_", b"NCCL ")


class MessageThreads:
    """The threads of one process that carry torch's messages. A thread's name is read again until it is one of them,
    since a new thread has its maker's.
    """

    def __init__(self, pid: int) -> None:
        self._tasks = f"/proc/{pid}/task"
        self._known: set[str] = set()

    def cpu_s(self) -> float:
        """Returns the CPU seconds that living ones have used; 0.0 where threads can't be seen."""
        with contextlib.suppress(OSError):
            return sum(process.thread_cpu_s(f"{self._tasks}/{tid}") for tid in self._alive())
        return 0.0

    def _alive(self) -> set[str]:
        tids = set(os.listdir(self._tasks))
        self._known = {tid for tid in tids if tid in self._known or self._is_one(tid)}
        return self._known

    def _is_one(self, tid: str) -> bool:
        try:
            with open(f"{self._tasks}/{tid}/comm", "rb") as f:
                return f.read().startswith(NAMES)
        except OSError:
            return False
