"""Owns the table of kernel interfaces that box and ranks use: what each is for, what stands in for it, and what is lost
without it; must not use them for anything but to find out whether they are there.

Modal runs its sandboxes under gVisor, which lacks some of them by version; containers hide others. None is assumed to
exist: one that is missing is a missing source of evidence (`Capability`), never a fact about a rank. `docs/kernel.md`
has the same table.
"""

import ctypes
import fcntl
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pytest_megacpp.box.host import loopback, process
from pytest_megacpp.box.host.memory import allowance
from pytest_megacpp.box.host.oom import OomWitness
from pytest_megacpp.box.logs.size import give_back
from pytest_megacpp.recording.vocabulary import EvidenceSource

Probe = Callable[[Path], str]
"""Says why an interface can't be used, in few words; empty when it can. Its argument is where the run writes."""

PAGE_BYTES = 4096


@dataclass(frozen=True, slots=True)
class Interface:
    """One row of the table. `name` is that of its capability in the recording, `call` what manuals call it."""

    name: str
    call: str
    purpose: str
    fallback: str
    lost: str
    probe: Probe


def missing(directory: Path) -> dict[str, str]:
    """Returns why each interface can't be used here, by name; `directory` is where a run writes."""
    found = {interface.name: why_not(interface, directory) for interface in INTERFACES}
    return {name: why for name, why in found.items() if why}


def why_not(interface: Interface, directory: Path) -> str:
    """Returns why an interface can't be used; empty when it can. Never raises."""
    try:
        return interface.probe(directory)
    except (OSError, AttributeError) as e:
        return (e.strerror if isinstance(e, OSError) else None) or str(e)


def _pidfd(_: Path) -> str:
    os.close(os.pidfd_open(os.getpid()))
    return ""


def _thread_runs(_: Path) -> str:
    return "" if process.main_thread(os.getpid()).runs is not None else "the kernel counts no runs of a thread"


def _pyspy(_: Path) -> str:
    if shutil.which("py-spy") is None:
        return "py-spy is not installed: pip install py-spy"
    return process.cannot_read_memory()


def _cpu_model(_: Path) -> str:
    text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    return "" if re.search(r"^model name\s*:\s*(?!unknown)\S", text, re.MULTILINE) else "it names no model"


def _readable(path: str) -> Probe:
    def probe(_: Path) -> str:
        with open(path, "rb") as file:
            return "" if file.read(1) else f"{path} is empty"

    return probe


def _parent_death_signal(_: Path) -> str:
    """Sets the signal that is set already, so nothing changes."""
    now = ctypes.c_int(0)
    return process.prctl(process.PR_GET_PDEATHSIG, ctypes.byref(now)) or process.prctl(
        process.PR_SET_PDEATHSIG, now.value
    )


def _subreaper(_: Path) -> str:
    """Tries it with an orphan: gVisor of 2022-12 accepts the call and does nothing."""
    return "" if _adopts() else "refused, or accepted and orphans go elsewhere all the same"


def _adopts() -> bool:
    """Returns what this process found out at its start; one that didn't asks a process of its own, since only a process
    with one thread can try.
    """
    known = process.adopts_orphans()
    if known is not None:
        return known
    code = "from pytest_megacpp.box.host import process as p; p.adopt_orphans(); print(p.adopts_orphans())"
    return b"True" in subprocess.run([sys.executable, "-c", code], capture_output=True).stdout


def _memory_events(_: Path) -> str:
    with OomWitness() as witness:
        return witness.why_not


def _kernel_log(_: Path) -> str:
    with OomWitness() as witness:
        return "" if witness.reads_log else "/dev/kmsg can't be read, or speaks of other process ids"


def _memory_used(_: Path) -> str:
    allowed = allowance(None)
    return "" if allowed and allowed.used_bytes() is not None else "neither a cgroup nor /proc/meminfo reports it"


def _hole_punching(directory: Path) -> str:
    with tempfile.NamedTemporaryFile(dir=directory if directory.is_dir() else None) as file:
        file.write(bytes(2 * PAGE_BYTES))
        file.flush()
        return "" if give_back(file.name, 0, PAGE_BYTES) else "the file system can't"


def _crash_look(_: Path) -> str:
    """Checks that a crash dump doesn't fit into the socket's buffer. Else the process would be gone before it can be
    looked at (decision 0007).
    """
    ours, theirs = socket.socketpair(socket.AF_UNIX)
    with ours, theirs:
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
        ours.setblocking(False)
        taken = 0
        while taken < PAGE_BYTES // 2:
            try:
                taken += ours.send(bytes(64))
            except BlockingIOError:
                return ""
    return "a socket takes a page and more, however small a buffer is asked for"


def _file_locks(_: Path) -> str:
    with tempfile.TemporaryFile() as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    return ""


def _unix_sockets(_: Path) -> str:
    """Makes one socket, not a pair: a filter of address families lets socketpair(2) pass."""
    socket.socket(socket.AF_UNIX).close()
    return ""


def _interface_list(_: Path) -> str:
    return "" if loopback.name() is not None else "no loopback interface is listed"


def _address_order(_: Path) -> str:
    name = loopback.name()
    return "" if name is None or loopback.lists_ipv4_first(name) else f"{name} lists its addresses in changing order"


def _shared_memory(_: Path) -> str:
    if not os.path.isdir("/dev/shm"):
        return "there is no /dev/shm"
    return "" if os.access("/dev/shm", os.W_OK) else "/dev/shm can't be written"


INTERFACES: tuple[Interface, ...] = (
    Interface(
        "processes",
        "/proc/PID/stat",
        "state (running, stopped) and CPU time of ranks, the processes below them",
        "none: the run is refused as `environment` (`proc`)",
        "everything",
        _readable("/proc/self/stat"),
    ),
    Interface(
        EvidenceSource.THREAD_RUNS,
        "/proc/PID/task/TID/schedstat",
        "CPU time of a rank's main thread, and how often it ran: a stack is old once it ran again",
        "context switches in TID/status; where they aren't counted (gVisor), ticks of 10 ms in TID/stat, the thread's "
        "state at two looks, and a second equal stack",
        "a wait that only a stack shows (point to point, a store) is less certain",
        _thread_runs,
    ),
    Interface(
        EvidenceSource.PY_SPY,
        "py-spy: process_vm_readv(2)",
        "the stack of a rank whose interpreter doesn't answer",
        "torch's worker server, and faulthandler by a signal",
        "the stack of a rank that holds its interpreter lock",
        _pyspy,
    ),
    Interface(
        "process_environment",
        "/proc/PID/environ",
        "finds what a rank started and left behind in a session of its own",
        "process groups and sessions; the guard ends every descendant when the run is over",
        "such a process may live until the end of the run",
        _readable("/proc/self/environ"),
    ),
    Interface(
        "pidfd",
        "pidfd_open(2)",
        "notices the end of a rank",
        "the pipe on which the forkserver reports it; waitid(2) in a thread for ranks that aren't forked from it",
        "nothing",
        _pidfd,
    ),
    Interface(
        "parent_death_signal",
        "prctl(PR_SET_PDEATHSIG)",
        "ends the ranks when the forkserver dies, and forkserver and box when their parents die",
        "a thread in each that looks at its parent twice a second",
        "a rank that holds the interpreter lock outlives a killed forkserver until the guard ends it",
        _parent_death_signal,
    ),
    Interface(
        "subreaper",
        "prctl(PR_SET_CHILD_SUBREAPER)",
        "orphans of ranks come to the guard, which ends them",
        "they are found by a mark in their environment",
        "an orphan that cleared its environment survives the run",
        _subreaper,
    ),
    Interface(
        EvidenceSource.MEMORY_EVENTS,
        "memory.events, memory.oom_control",
        "tells an OOM kill from a plain SIGKILL",
        "the kernel log",
        "without both a death by SIGKILL is `signal:SIGKILL`, likely",
        _memory_events,
    ),
    Interface(
        EvidenceSource.KERNEL_LOG,
        "/dev/kmsg",
        "names the process that was killed for memory; Xids with the process that caused them",
        "memory.events; NVML's events, which name the GPU only",
        "without both a death by SIGKILL is `signal:SIGKILL`, likely",
        _kernel_log,
    ),
    Interface(
        "memory_used",
        "memory.current, /proc/meminfo",
        "memory of the box against what it may use",
        "none",
        "a box that was killed whole isn't explained by its memory (`box-lost`, `oom`)",
        _memory_used,
    ),
    Interface(
        "hole_punching",
        "fallocate(FALLOC_FL_PUNCH_HOLE)",
        "gives the disk back what a flooding rank wrote beyond its first and last megabytes",
        "the log is cut and its last megabytes are appended again",
        "what a rank writes in the moment of the cut",
        _hole_punching,
    ),
    Interface(
        "crash_look",
        "SO_SNDBUF of a unix socket",
        "holds a crashing process until the box has looked at its collectives",
        "none: a dump that fits the buffer doesn't wait",
        "the last look at a crashed rank's collectives, where its dump is shorter than a page",
        _crash_look,
    ),
    Interface(
        "unix_sockets",
        "socket(AF_UNIX)",
        "facts from ranks, questions to their worker servers",
        "none: the run is refused as `environment` (`kernel`)",
        "everything",
        _unix_sockets,
    ),
    Interface(
        "file_locks",
        "flock(2)",
        "keeps a run's scratch directory from being removed by another run, and two publishers of a seed apart",
        "none: nothing is removed, nothing is published",
        "what a killed run left in the temporary directory stays",
        _file_locks,
    ),
    Interface(
        "interfaces",
        "if_nameindex(3)",
        "finds the loopback interface for gloo",
        "none: the run is refused as `environment` (`network`) where none can be listed",
        "everything",
        _interface_list,
    ),
    Interface(
        "address_order",
        "getifaddrs(3)",
        "all ranks of a gloo group take the same address of the loopback interface",
        "gloo goes by the host's name",
        "gloo fails where the host's name resolves to an address of another machine",
        _address_order,
    ),
    Interface(
        "cpu_model",
        "/proc/cpuinfo",
        "keeps seeds of different CPUs apart",
        "vendor, family, model and flags; without the file the host's name",
        "without the file, seeds aren't shared between hosts",
        _cpu_model,
    ),
    Interface(
        "shared_memory",
        "/dev/shm",
        "multiprocessing's semaphores, NCCL's transport between processes, DataLoader workers",
        "none: the run is refused as `environment` (`shared-memory`)",
        "everything",
        _shared_memory,
    ),
)
