"""Owns reading which control groups this process is in; must not know what is counted there.

Nothing here raises: a file that is missing, refused or odd is a group that isn't known.
"""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

MOUNTED, MEMBERSHIP = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")


@dataclass(frozen=True, slots=True)
class Membership:
    """One line of /proc/PID/cgroup. cgroup v2's only hierarchy names no controllers."""

    controllers: tuple[str, ...]
    path: str

    @property
    def is_v2(self) -> bool:
        return not self.controllers

    @property
    def counts_memory(self) -> bool:
        """Whether the group may count memory: any group of v2, of v1 only that of the memory controller."""
        return self.is_v2 or "memory" in self.controllers


def memberships(file: Path = MEMBERSHIP) -> Iterator[Membership]:
    """Yields the memberships that can be read; lines not of the form `number:controllers:path` are left out."""
    lines: list[str] = []
    with contextlib.suppress(OSError):
        lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
    for line in lines:
        _, *named = line.split(":", 2)
        if len(named) == 2:
            yield Membership(tuple(filter(None, named[0].split(","))), named[1])
