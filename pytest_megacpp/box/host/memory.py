"""Owns how much memory the box uses against what it may use; must not know why that matters.

Where memory runs out the kernel kills one process, or, in gVisor, where all of a sandbox is one process of the host,
the whole box: then the last figures are all that is left to explain it by.

The box's own figure is one small file, read every second and four times as often near the limit. Ranks are only looked
at when that figure moved or is near the limit, and a record is made when it moved by 5 % of the limit, or near it when
it or a rank's moved by 1 %. One more is made when a fast growth that is on record has stopped: it would be read as
going on.
"""

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TypeAlias

from pytest_megacpp.box.host.cgroups import MEMBERSHIP, MOUNTED, Membership, memberships
from pytest_megacpp.box.host.kernel_identity import is_gvisor
from pytest_megacpp.box.host.process import Stat
from pytest_megacpp.recording.events import MemoryUsed, RankMemory
from pytest_megacpp.recording.vocabulary import MemoryLimit

CALM_S, NEAR_S = 1.0, 0.25
NEAR = 0.75  # of the limit
STEP, STEP_NEAR, MOVED = 0.05, 0.01, 0.01  # of the limit
FIRST_BYTES = 64 << 20  # less than this is no doubling
RATE_S = 5.0  # a rate over a longer time says nothing of now
NO_LIMIT_BYTES = 1 << 60  # cgroup v1 and gVisor write "none" as a number near 2**63
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True, slots=True)
class _Names:
    limit: str
    used: str
    cache: tuple[str, ...]  # of memory.stat: what the kernel takes back before it kills anything
    mounted: str


_V2 = _Names("memory.max", "memory.current", ("inactive_file", "active_file"), "")
_V1 = _Names("memory.limit_in_bytes", "memory.usage_in_bytes", ("total_inactive_file", "total_active_file"), "memory")


@dataclass(frozen=True, slots=True)
class Cgroup:
    """A group that accounts for memory."""

    directory: Path
    names: _Names

    def limit_bytes(self) -> int | None:
        limit = _number(self.directory / self.names.limit)
        return limit if limit is not None and limit < NO_LIMIT_BYTES else None

    def used_bytes(self) -> int | None:
        """Returns the memory in use, without the page cache of files, which is given back before anything is killed."""
        used = _number(self.directory / self.names.used)
        if used is None:
            return None
        cached = (_entry(self.directory / "memory.stat", name) or 0 for name in self.names.cache)
        return max(0, used - sum(cached))


def cgroups(mounted: Path = MOUNTED, membership: Path = MEMBERSHIP) -> Iterator[Cgroup]:
    """Yields the memory groups of this process, its own first, then those above. A container sees its own group as the
    root.
    """
    for member in list(memberships(membership)) or [Membership((), "/")]:
        if member.counts_memory:
            yield from _groups(mounted, _V2 if member.is_v2 else _V1, member.path)


def _groups(mounted: Path, names: _Names, path: str) -> Iterator[Cgroup]:
    root = mounted / names.mounted
    own = root / path.strip("/")
    for directory in dict.fromkeys((own, *own.parents, root)):
        if directory.is_relative_to(root) and os.path.exists(directory / names.used):  # Path.exists() raises EACCES
            yield Cgroup(directory, names)


@dataclass(frozen=True, slots=True)
class Allowance:
    """How much memory the box may use, who says so (ordered, cgroup or machine), and how to read what it uses."""

    limit_bytes: int
    source: MemoryLimit
    used_bytes: Callable[[], int | None]


def allowance(
    ordered_bytes: int | None,
    *,
    groups: Iterable[Cgroup] | None = None,
    proc: Path = Path("/proc"),
    gvisor: bool | None = None,
) -> Allowance | None:
    """Returns the smallest limit that is known; None where none is. What is used may still be impossible to read.
    gVisor's own figures describe the sandbox in what is used, and the host in what there is.
    """
    gvisor = is_gvisor() if gvisor is None else gvisor
    found = list(cgroups() if groups is None else groups)
    limited = {group: limit for group in found if (limit := group.limit_bytes())}
    tightest = min(limited, key=lambda group: limited[group], default=None)
    limits = {
        MemoryLimit.ORDERED: ordered_bytes,
        MemoryLimit.CGROUP: limited[tightest] if tightest is not None else None,
        MemoryLimit.MACHINE: _entry_bytes(proc / "meminfo", "MemTotal") or _physical_bytes(),
    }
    known = {source: limit for source, limit in limits.items() if limit}
    if not known:
        return None
    source = min(known, key=lambda name: known[name])
    group = tightest or next(iter(found), None)
    if group is not None and source is not MemoryLimit.MACHINE and not gvisor:
        return Allowance(known[source], source, group.used_bytes)
    return Allowance(
        known[source], source, partial(_taken_bytes, proc / "meminfo", "MemFree" if gvisor else "MemAvailable")
    )


def _physical_bytes() -> int | None:
    with contextlib.suppress(OSError, ValueError):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return None


def _taken_bytes(meminfo: Path, free: str) -> int | None:
    there, left = _entry_bytes(meminfo, "MemTotal"), _entry_bytes(meminfo, free)
    return None if there is None or left is None else max(0, there - left)


def _entry_bytes(file: Path, name: str) -> int | None:
    found = _entry(file, f"{name}:")
    return None if found is None else found << 10


def _entry(file: Path, name: str) -> int | None:
    """Returns the number beside a name, in a file of such lines."""
    with contextlib.suppress(OSError, ValueError):
        for line in file.read_text(encoding="ascii", errors="replace").splitlines():
            words = line.split()
            if len(words) > 1 and words[0] == name:
                return int(words[1])
    return None


def _number(file: Path) -> int | None:
    with contextlib.suppress(OSError, ValueError):
        return int(file.read_text(encoding="ascii", errors="replace"))
    return None


def resident_bytes(pid: int) -> int:
    """Returns the resident bytes of a process; 0 when it is gone."""
    with contextlib.suppress(OSError, ValueError, IndexError), open(f"/proc/{pid}/statm", "rb") as f:
        return int(f.read().split()[1]) * _PAGE_BYTES
    return 0


def resident_by_rank(ranks: Mapping[int, int], processes: Iterable[Stat]) -> dict[int, int]:
    """Returns the resident bytes of each rank (`ranks` has their process ids), with those of what it started."""
    by_pid = {p.pid: p for p in processes}
    rank_of = {pid: rank for rank, pid in ranks.items()}
    total = {rank: 0 for pid, rank in rank_of.items() if pid in by_pid}
    for process in by_pid.values():
        rank = _owner(process, by_pid, rank_of)
        if rank is not None:
            total[rank] = total.get(rank, 0) + resident_bytes(process.pid)
    return total


def _owner(process: Stat, by_pid: Mapping[int, Stat], rank_of: Mapping[int, int]) -> int | None:
    """Returns the rank from which a process descends, or to whose session it belongs."""
    seen: set[int] = set()
    above: Stat | None = process
    while above is not None and above.pid not in seen:
        if above.pid in rank_of:
            return rank_of[above.pid]
        seen.add(above.pid)
        above = by_pid.get(above.parent)
    return rank_of.get(process.session)


Ranks: TypeAlias = Mapping[str, Mapping[int, int]]
"""Process ids by world and rank."""


@dataclass
class Ledger:
    """Decides when to look and what is worth a record. `processes` are the box's descendants, not too old."""

    allowed: Allowance
    processes: Callable[[], Iterable[Stat]]
    _due_s: float = 0.0
    _total: tuple[float, int] | None = None
    _measured_s: float = 0.0
    _written: MemoryUsed | None = None
    _ranks: dict[str, tuple[float, dict[int, int]]] = field(default_factory=dict)

    def look(self, now_s: float, worlds: Callable[[], Ranks]) -> tuple[str, MemoryUsed] | None:
        """Returns a record, with its world, when there is something new to record."""
        if now_s < self._due_s:
            return None
        self._due_s = now_s + CALM_S
        used = self.allowed.used_bytes()
        if used is None:
            return None
        before, self._total = self._total, (now_s, used)
        growth_bytes_s = _rate(before, self._total)
        is_near = self._is_near(used, growth_bytes_s)
        self._due_s = now_s + (NEAR_S if is_near else CALM_S)
        is_news = self._is_news(used) or self._has_stopped(growth_bytes_s)
        moved = before is None or abs(used - before[1]) >= MOVED * self.allowed.limit_bytes
        if not (is_news or moved or (is_near and now_s - self._measured_s >= CALM_S)):
            return None
        self._measured_s = now_s
        world, ranks = self._measure(now_s, worlds())
        if not (is_news or (is_near and self._has_grown(ranks))):
            return None
        self._written = MemoryUsed(used, self.allowed.limit_bytes, self.allowed.source, growth_bytes_s, ranks)
        return world, self._written

    def _is_near(self, used: int, growth_bytes_s: float) -> bool:
        """Returns whether the limit is near, by what is used or, at this growth, soon will be."""
        return used + 4 * max(0.0, growth_bytes_s) >= NEAR * self.allowed.limit_bytes

    def _is_news(self, used: int) -> bool:
        if self._written is None:
            return True
        limit, before = self.allowed.limit_bytes, self._written.total_bytes
        step = STEP_NEAR if used >= NEAR * limit else STEP
        return abs(used - before) >= step * limit or used >= 2 * max(before, FIRST_BYTES)

    def _has_stopped(self, growth_bytes_s: float) -> bool:
        """Returns whether a growth that is on record as fast has stopped."""
        limit, written_bytes_s = self.allowed.limit_bytes, self._written.growth_bytes_s if self._written else 0.0
        return written_bytes_s >= STEP * limit and growth_bytes_s < MOVED * limit

    def _has_grown(self, ranks: tuple[RankMemory, ...]) -> bool:
        """Returns whether a rank has grown by a step, which the total may hide."""
        before = {one.rank: one.used_bytes for one in self._written.ranks} if self._written else {}
        grown = (one.used_bytes - before.get(one.rank, 0) for one in ranks)
        return any(bytes_ >= STEP_NEAR * self.allowed.limit_bytes for bytes_ in grown)

    def _measure(self, now_s: float, worlds: Ranks) -> tuple[str, tuple[RankMemory, ...]]:
        """Returns the world whose rank uses most, and its ranks, the largest first."""
        processes = list(self.processes())
        found = {name: resident_by_rank(ranks, processes) for name, ranks in worlds.items()}
        world = max(found, key=lambda name: max(found[name].values(), default=0), default="")
        before, self._ranks = self._ranks, {name: (now_s, used) for name, used in found.items()}
        at_s, then = before.get(world, (now_s, {}))
        used = sorted(found.get(world, {}).items(), key=lambda item: -item[1])
        return world, tuple(RankMemory(r, n, _rate((at_s, then.get(r, n)), (now_s, n))) for r, n in used)


def _rate(before: tuple[float, int] | None, now: tuple[float, int]) -> float:
    """Returns bytes per second; 0 where that is not known."""
    if before is None or not 0 < now[0] - before[0] <= RATE_S:
        return 0.0
    return round((now[1] - before[1]) / (now[0] - before[0]), 1)
