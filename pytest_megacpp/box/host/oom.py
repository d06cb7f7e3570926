"""Owns telling an OOM kill from a plain SIGKILL; must not know ranks.

Two witnesses: the kernel log, which names the process, and a counter of the cgroup's kills (`memory.events` of cgroup
v2, `memory.oom_control` of v1), which doesn't. Either may be out of reach. gVisor's memory.events is a constant text
that says `oom_kill 0` whatever happens: no witness.
"""

import errno
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Self

from pytest_megacpp.box.host.cgroups import MEMBERSHIP, MOUNTED, memberships
from pytest_megacpp.box.host.kernel_identity import is_gvisor

_KILLED = re.compile(r"Killed process (\d+)")
_FIRST_PID_NAMESPACE = "pid:[4026531836]"  # PROC_PID_INIT_INO, the only one whose process ids the kernel log speaks


class OomWitness:
    """Counts OOM kills since it was made, or since the last `look`. `cgroups` is where the hierarchies are mounted."""

    def __init__(
        self,
        cgroups: Path = MOUNTED,
        membership: Path = MEMBERSHIP,
        log: Path = Path("/dev/kmsg"),
        namespace: Path = Path("/proc/self/ns/pid"),
        gvisor: bool | None = None,
    ) -> None:
        self._is_gvisor = is_gvisor() if gvisor is None else gvisor
        self._counter = None if self._is_gvisor else next(_counters(cgroups, membership), None)
        self._log = _open_at_end(log) if _link(namespace) == _FIRST_PID_NAMESPACE else None
        self._named: set[int] = set()
        self._before = _oom_kills(self._counter)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stops reading the kernel log. May be called more than once."""
        if self._log is not None:
            os.close(self._log)
            self._log = None

    @property
    def counts(self) -> bool:
        return self._before is not None

    @property
    def why_not(self) -> str:
        """Why kills aren't counted; empty where they are."""
        if self.counts:
            return ""
        return "gVisor counts no OOM kills" if self._is_gvisor else "no memory cgroup that counts OOM kills"

    @property
    def reads_log(self) -> bool:
        return self._log is not None

    def look(self) -> None:
        """Forgets the kills until now: a worker of an earlier test, for example, explains no later death."""
        self._before = _oom_kills(self._counter)

    def killed(self, pid: int) -> bool | None:
        """Returns whether the kernel killed `pid` for memory; None where neither witness is within reach."""
        if self._log is not None:
            self._named |= set(_killed_pids(self._log))
            return pid in self._named
        now = _oom_kills(self._counter)
        return None if now is None or self._before is None else now > self._before


def _counters(cgroups: Path, membership: Path) -> Iterator[Path]:
    """Yields the files that count the kills of this process's group."""
    for member in memberships(membership):
        if member.counts_memory:
            hierarchy, name = ("", "memory.events") if member.is_v2 else ("memory", "memory.oom_control")
            file = cgroups / hierarchy / member.path.lstrip("/") / name
            if _oom_kills(file) is not None and (not member.is_v2 or _accounts_for_memory(file.parent)):
                yield file


def _accounts_for_memory(group: Path) -> bool:
    """Returns whether the group's counters are Linux's own, which stand beside its size. Counters alone are a stub."""
    return os.path.exists(group / "memory.current")


def _oom_kills(file: Path | None) -> int | None:
    if file is None:
        return None
    try:
        counters = dict(line.split() for line in file.read_text(encoding="ascii").splitlines())
        return int(counters["oom_kill"])
    except (OSError, KeyError, ValueError):
        return None


def _link(path: Path) -> str:
    try:
        return os.readlink(path)
    except OSError:
        return ""


def _open_at_end(path: Path) -> int | None:
    """Returns a descriptor on the kernel log that reads what comes from now on; None where it can't be read."""
    try:
        log = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except OSError:
        return None
    try:
        os.lseek(log, 0, os.SEEK_END)
    except OSError:
        os.close(log)
        return None
    return log


def _killed_pids(log: int) -> Iterator[int]:
    while True:
        try:
            record = os.read(log, 8192)
        except OSError as e:
            if e.errno == errno.EPIPE:  # the log went round meanwhile; the next read goes on behind the hole
                continue
            return
        if not record:
            return
        yield from (int(pid) for pid in _KILLED.findall(record.decode(errors="replace")))
