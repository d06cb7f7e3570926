"""Owns the Linux process facts: parent death, subreaper, process groups, /proc; must not know ranks or tests.

No call assumes that the kernel has what it asks for: what can't be read is None or empty, and `kernel` says what that
costs.
"""

import contextlib
import ctypes
import os
import signal
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass

PR_SET_PDEATHSIG, PR_GET_PDEATHSIG = 1, 2
PR_SET_CHILD_SUBREAPER = 36
PARENT_LOOK_S = 0.5
_CLOCK_TICK_S = 1 / os.sysconf("SC_CLK_TCK")
_adopts: dict[int, bool] = {}  # by process
_LEFT_IGNORED = frozenset({signal.SIGPIPE, signal.SIGXFSZ})  # Python's own doing, so that writes raise


def prctl(option: int, argument: object) -> str:
    """Returns why prctl(2) refused, or nothing where it did as asked."""
    try:
        failed = ctypes.CDLL(None, use_errno=True).prctl(option, argument, 0, 0, 0)
    except (OSError, AttributeError) as e:
        return str(e)
    return os.strerror(ctypes.get_errno()) if failed else ""


def cannot_read_memory() -> str:
    """Returns why process_vm_readv(2) doesn't work here, tried with this process, or nothing where it does."""
    here = ctypes.create_string_buffer(1)
    part = (ctypes.c_size_t * 2)(ctypes.addressof(here), 1)  # a struct iovec
    try:
        read = ctypes.CDLL(None, use_errno=True).process_vm_readv(os.getpid(), part, 1, part, 1, 0)
    except (OSError, AttributeError) as e:
        return str(e)
    return "" if read == 1 else f"process_vm_readv(2): {os.strerror(ctypes.get_errno())}"


def die_with_parent(sig: signal.Signals = signal.SIGKILL) -> None:
    """Has `sig` sent here when the parent ends: by the kernel (when the thread ends that started this process,
    prctl(2)), else by a thread that looks twice a second.
    """
    if prctl(PR_SET_PDEATHSIG, sig):
        threading.Thread(target=_follow, args=(os.getppid(), sig), name="follow-parent", daemon=True).start()


def _follow(parent: int, sig: signal.Signals) -> None:
    while os.getppid() == parent:
        time.sleep(PARENT_LOOK_S)
    os.kill(os.getpid(), sig)


def adopt_orphans() -> None:
    """Makes orphaned descendants children of this process, so that it can find and end them. Where the kernel refuses,
    they go to the first process of the machine or container, and `marked` finds those that kept the run's environment.
    """
    _adopts[os.getpid()] = not prctl(PR_SET_CHILD_SUBREAPER, 1) and _orphans_come_here()


def adopts_orphans() -> bool | None:
    """Returns whether this process adopts orphans, which a fork of it doesn't; None where it was not asked to."""
    return _adopts.get(os.getpid())


def _orphans_come_here() -> bool:
    """Returns whether an orphan becomes a child of this process, by making one: gVisor of 2022-12 accepts the call and
    gives orphans to the first process all the same. Must be called while this process has one thread.
    """
    reader, writer = os.pipe()
    parent = os.fork()
    if parent == 0:
        os._exit(_leave_an_orphan(writer))
    os.close(writer)
    os.waitpid(parent, 0)
    came, _, _ = os.read(reader, 64).partition(b" ")
    os.close(reader)
    if int(came or 0) != os.getpid():
        return False
    with contextlib.suppress(ChildProcessError):
        os.wait()
    return True


def _leave_an_orphan(writer: int) -> int:
    """Starts a process, leaves it an orphan, and has it write the id of its new parent to the pipe."""
    parent = os.getpid()
    if os.fork() == 0:
        while os.getppid() == parent:
            time.sleep(0.001)
        os.write(writer, f"{os.getppid()} ".encode())
        os._exit(0)
    return 0


def default_signals() -> tuple[str, ...]:
    """Undoes what a shell or nohup did to the signals of a background job; returns the names of those that were ignored
    or blocked.
    """
    ignored = {s for s in signal.valid_signals() if signal.getsignal(s) is signal.SIG_IGN} - _LEFT_IGNORED
    blocked = set(signal.pthread_sigmask(signal.SIG_SETMASK, ()))
    for sig in ignored:
        signal.signal(sig, signal.default_int_handler if sig == signal.SIGINT else signal.SIG_DFL)
    return tuple(sorted(map(signal_name, ignored | blocked)))


def keep_status_of_children() -> None:
    """Restores SIGCHLD. Where it is ignored, which a process inherits, the kernel reaps children itself, and
    `subprocess` takes each for one that ended well.
    """
    if signal.getsignal(signal.SIGCHLD) is signal.SIG_IGN and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)


def signal_name(sig: int) -> str:
    """Returns `SIGKILL`, or `SIGRTMIN+1` for a real-time signal, most of which have no name of their own."""
    try:
        return signal.Signals(sig).name
    except ValueError:
        return f"SIGRTMIN+{sig - signal.SIGRTMIN}"


@dataclass(frozen=True, slots=True)
class Stat:
    """A line of /proc/PID/stat. `cpu_s` includes reaped children."""

    pid: int
    state: str
    parent: int
    group: int
    session: int
    cpu_s: float

    @property
    def waits_for_disk(self) -> bool:
        """Whether its main thread is in uninterruptible sleep, as while it reads or writes a file."""
        return self.state == "D"


def stat(pid: int) -> Stat | None:
    """Returns the line of a process; None when it is gone, or can't be seen."""
    rest = _fields_of(f"/proc/{pid}/stat")
    if rest is None:
        return None
    return Stat(pid, rest[0], int(rest[1]), int(rest[2]), int(rest[3]), _seconds(rest[11:15]))


def _fields_of(stat_file: str) -> list[str] | None:
    """Returns the fields behind the process's name, which may hold anything."""
    try:
        with open(stat_file, "rb") as f:
            text = f.read().decode(errors="replace")
        return text[text.rindex(")") + 2 :].split()
    except (OSError, ValueError):
        return None


def _seconds(ticks: Iterable[str]) -> float:
    return sum(map(int, ticks)) * _CLOCK_TICK_S


@dataclass(frozen=True, slots=True)
class ThreadTime:
    """CPU seconds of one thread, and how often the kernel let it run; None where it doesn't count that, and only
    samples CPU time, in ticks of 10 ms.
    """

    cpu_s: float
    runs: int | None = None


def main_thread(pid: int) -> ThreadTime:
    """Returns the time of a process's main thread; nothing of either when the process is gone. A kernel without
    scheduler statistics has the file, and no run in it.
    """
    task = f"/proc/{pid}/task/{pid}"
    try:
        with open(f"{task}/schedstat", "rb") as f:
            cpu_ns, _, runs = map(int, f.read().split()[:3])
    except (OSError, ValueError):
        runs = 0
    if runs:
        return ThreadTime(cpu_ns / 1e9, runs)
    rest = _fields_of(f"{task}/stat")
    return ThreadTime(0.0, 0) if rest is None else ThreadTime(_seconds(rest[11:13]), _switches(f"{task}/status"))


def thread_cpu_s(task: str) -> float:
    """Returns the CPU seconds of the thread with this directory in /proc; 0.0 when it is gone."""
    rest = _fields_of(f"{task}/stat")
    return 0.0 if rest is None else _seconds(rest[11:13])


def _switches(status_file: str) -> int | None:
    """Returns how often a thread stopped running, which is as good as how often it ran. gVisor doesn't count it."""
    try:
        with open(status_file, "rb") as f:
            found = [int(line.split()[1]) for line in f if b"ctxt_switches" in line]
    except (OSError, ValueError, IndexError):
        return None
    return sum(found) if found else None


def has_proc() -> bool:
    """Returns whether processes can be looked at in /proc."""
    return stat(os.getpid()) is not None


def is_alive(pid: int) -> bool:
    """Returns whether a process has not ended. Without /proc one that ended and wasn't reaped counts as alive."""
    seen = stat(pid)
    if seen is not None or has_proc():
        return seen is not None and seen.state not in "ZX"
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def all_processes() -> list[Stat]:
    try:
        names = os.listdir("/proc")
    except OSError:
        return []
    found = (stat(int(name)) for name in names if name.isdigit())
    return [s for s in found if s is not None]


def descendants(root: int, processes: Iterable[Stat] | None = None) -> list[Stat]:
    """Returns every living process below `root`, parents first."""
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


def sum_by_session(processes: Iterable[Stat], amount: Callable[[Stat], float]) -> dict[int, float]:
    """Returns the sum over the processes of each session and of the sessions that these started."""
    by_pid = {p.pid: p for p in processes}
    own: dict[int, float] = defaultdict(float)
    for p in by_pid.values():
        own[p.session] += amount(p)
    total = dict(own)
    for session, own_sum in own.items():
        above, seen = by_pid.get(session), {session}
        while above is not None and (starter := by_pid.get(above.parent)) is not None and starter.session not in seen:
            seen.add(starter.session)
            total[starter.session] += own_sum
            above = by_pid.get(starter.session)
    return total


def marked(name: str, value: str) -> list[int]:
    """Returns the living processes, but this one, that were started with this variable."""
    living = (p.pid for p in all_processes() if p.pid != os.getpid() and p.state not in "ZX")
    return [pid for pid in living if environment_of(pid).get(name) == value]


def environment_of(pid: int) -> dict[str, str]:
    """Returns the environment that a process was started with; empty when it can't be read."""
    try:
        with open(f"/proc/{pid}/environ", "rb") as f:
            pairs = f.read().decode(errors="replace").split("\0")
    except OSError:
        return {}
    return dict(p.split("=", 1) for p in pairs if "=" in p)


def send(pid: int, sig: signal.Signals) -> None:
    """Sends a signal to the process, and to its group when it leads one."""
    with contextlib.suppress(OSError):
        if os.getpgid(pid) == pid:
            os.killpg(pid, sig)
    with contextlib.suppress(OSError):
        os.kill(pid, sig)


def end_all(pids: Iterable[int]) -> None:
    """Sends SIGKILL to the processes and their groups, without waiting for their end."""
    for pid in pids:
        send(pid, signal.SIGKILL)


def reap_strays() -> None:
    """Collects adopted children that ended."""
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
