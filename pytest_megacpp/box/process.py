"""Owns the Linux process facts: parent death, subreaper, process groups, /proc; must not know ranks or tests."""

import contextlib
import ctypes
import os
import signal
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_CLOCK_TICK_S = 1 / os.sysconf("SC_CLK_TCK")


def _prctl(option: int, value: int) -> None:
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(option, value, 0, 0, 0)


def die_with_parent(sig: signal.Signals = signal.SIGKILL) -> None:
    """The kernel sends `sig` here when the thread that started this process ends (prctl(2))."""
    _prctl(_PR_SET_PDEATHSIG, sig)


def adopt_orphans() -> None:
    """Orphaned descendants become children of this process, so that it can find and end them."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


@dataclass(frozen=True, slots=True)
class Stat:
    """A line of /proc/PID/stat. `cpu_s` includes reaped children."""

    pid: int
    state: str
    parent: int
    group: int
    session: int
    cpu_s: float


def stat(pid: int) -> Stat | None:
    """None when the process is gone."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as f:
            text = f.read().decode(errors="replace")
    except OSError:
        return None
    rest = text[text.rindex(")") + 2 :].split()
    ticks = sum(int(t) for t in rest[11:15])
    return Stat(pid, rest[0], int(rest[1]), int(rest[2]), int(rest[3]), ticks * _CLOCK_TICK_S)


def main_thread(pid: int) -> tuple[float, int]:
    """CPU seconds of the main thread alone and how often it got to run; zeros when the process is gone."""
    try:
        with open(f"/proc/{pid}/task/{pid}/schedstat", "rb") as f:
            cpu_ns, _, runs = f.read().split()[:3]
        return int(cpu_ns) / 1e9, int(runs)
    except (OSError, ValueError):
        return 0.0, 0


def all_processes() -> list[Stat]:
    found = (stat(int(name)) for name in os.listdir("/proc") if name.isdigit())
    return [s for s in found if s is not None]


def descendants(root: int, processes: Iterable[Stat] | None = None) -> list[Stat]:
    """Every living process below `root`, parents first."""
    children: dict[int, list[Stat]] = {}
    for process in processes if processes is not None else all_processes():
        children.setdefault(process.parent, []).append(process)
    found: list[Stat] = []
    queue = [root]
    while queue:
        below = [p for p in children.get(queue.pop(), ()) if p.state not in "ZX"]
        found += below
        queue += [p.pid for p in below]
    return found


def cpu_s_by_session(processes: Iterable[Stat]) -> dict[int, float]:
    """CPU seconds of each session, with those of the sessions that its processes started."""
    by_pid = {p.pid: p for p in processes}
    own: dict[int, float] = defaultdict(float)
    for p in by_pid.values():
        own[p.session] += p.cpu_s
    total = dict(own)
    for session, cpu_s in own.items():
        above, seen = by_pid.get(session), {session}
        while above is not None and (starter := by_pid.get(above.parent)) is not None and starter.session not in seen:
            seen.add(starter.session)
            total[starter.session] += cpu_s
            above = by_pid.get(starter.session)
    return total


def environment_of(pid: int) -> dict[str, str]:
    """The environment that a process was started with; empty when it can't be read."""
    try:
        with open(f"/proc/{pid}/environ", "rb") as f:
            pairs = f.read().decode(errors="replace").split("\0")
    except OSError:
        return {}
    return dict(p.split("=", 1) for p in pairs if "=" in p)


def send(pid: int, sig: signal.Signals) -> None:
    """A signal to the process, and to its group when it leads one."""
    with contextlib.suppress(OSError):
        if os.getpgid(pid) == pid:
            os.killpg(pid, sig)
    with contextlib.suppress(OSError):
        os.kill(pid, sig)


def end_all(pids: Iterable[int]) -> None:
    """SIGKILL, at once, group by group."""
    for pid in pids:
        send(pid, signal.SIGKILL)


def reap_strays() -> None:
    """Collects adopted children that ended."""
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
