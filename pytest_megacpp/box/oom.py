"""Owns telling an OOM kill from a plain SIGKILL; must not know ranks.

Two witnesses: the `oom_kill` counter of this cgroup's memory.events (cgroup v2), and the kernel log, which names
the process. Either may be out of reach.
"""

import contextlib
import os
import re

_KILLED = re.compile(r"Killed process (\d+)")


class OomWitness:
    """Remembers the counter from the start of the box."""

    def __init__(self) -> None:
        self._counter = _counter_path()
        self._before = _oom_kills(self._counter)
        self._log = _open_kernel_log()

    @property
    def counts(self) -> bool:
        return self._before is not None

    @property
    def reads_log(self) -> bool:
        return self._log is not None

    def killed(self, pid: int) -> bool | None:
        """Whether the kernel killed `pid` for memory; None when there is no witness."""
        if self._log is not None and pid in _killed_pids(self._log):
            return True
        now = _oom_kills(self._counter)
        if now is None or self._before is None:
            return None if self._log is None else False
        rose, self._before = now > self._before, now
        return rose


def _counter_path() -> str | None:
    try:
        with open("/proc/self/cgroup", encoding="ascii") as f:
            relative = next(line for line in f if line.startswith("0::")).strip()[3:]
    except (OSError, StopIteration):
        return None
    path = os.path.join("/sys/fs/cgroup", relative.lstrip("/"), "memory.events")
    return path if os.path.exists(path) else None


def _oom_kills(path: str | None) -> int | None:
    if path is None:
        return None
    try:
        with open(path, encoding="ascii") as f:
            counters = dict(line.split() for line in f)
        return int(counters["oom_kill"])
    except (OSError, KeyError, ValueError):
        return None


def _open_kernel_log() -> int | None:
    """A descriptor on /dev/kmsg that reads what comes from now on."""
    try:
        log = os.open("/dev/kmsg", os.O_RDONLY | os.O_NONBLOCK)
    except OSError:
        return None
    with contextlib.suppress(OSError):
        os.lseek(log, 0, os.SEEK_END)
        return log
    os.close(log)
    return None


def _killed_pids(log: int) -> set[int]:
    found: set[int] = set()
    with contextlib.suppress(OSError):
        while record := os.read(log, 8192):
            found |= {int(pid) for pid in _KILLED.findall(record.decode(errors="replace"))}
    return found
