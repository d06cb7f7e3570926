"""Owns what the box is before anything costs time; must not know torch, CUDA or a rank, nor what a lane needs.

Versions come from package metadata and devices from `nvidia-smi`: nothing here imports torch or initialises CUDA or
NVML in the process, so a fork server can follow. What can't be read is None or absent.
"""

import contextlib
import hashlib
import importlib.metadata
import importlib.util
import multiprocessing
import os
import platform
import re
import resource
import shutil
import socket
from dataclasses import dataclass, field
from pathlib import Path

from pytest_megacpp.box.gpus.devices import DeviceList, answer_in_time, devices
from pytest_megacpp.box.gpus.survey import GpuSurvey, ask, read_kernel_log
from pytest_megacpp.box.host import loopback
from pytest_megacpp.box.host.kernel_identity import is_gvisor
from pytest_megacpp.box.host.memory import NO_LIMIT_BYTES, allowance
from pytest_megacpp.box.host.process import has_proc
from pytest_megacpp.box.host.rented import machine
from pytest_megacpp.recording.codec import to_json
from pytest_megacpp.recording.events import Json

COMPATIBILITY_LIBRARIES = "/usr/local/cuda/compat"


@dataclass(frozen=True, slots=True)
class Survey:
    """The box: versions by package name, facts by name, devices, and what is known of them beyond their names."""

    versions: dict[str, str]
    facts: dict[str, Json]
    devices: DeviceList
    gpus: GpuSurvey = field(default_factory=GpuSurvey)

    def all_facts(self) -> dict[str, Json]:
        """Returns the facts to record: with what a rented machine reports of itself (`machine`), and `gpus` where there
        are some.
        """
        rented = machine(os.environ)
        own = self.facts | ({"machine": rented} if rented else {})
        return own | ({"gpus": to_json(self.gpus)} if self.gpus != GpuSurvey() else {})


def survey_host(directory: Path, *, list_devices: bool = True, ordered_bytes: int | None = None) -> Survey:
    """Returns everything `problems` asks for. `directory` is where the run will write; a dry run needs no devices;
    `ordered_bytes` of memory were ordered for this box.
    """
    listed = devices() if list_devices else DeviceList()
    gpus = ask(answer_in_time, read_kernel_log) if listed.devices else GpuSurvey()
    return Survey(versions(), facts(directory, ordered_bytes), listed, gpus)


def versions() -> dict[str, str]:
    """Returns the versions of Python and of packages that matter, by package name; what isn't installed isn't listed.
    `cuda` is what torch was built for, `nccl` the library that torch brought along.
    """
    found = {"python": platform.python_version()}
    for package in ("pytest", "pytest-megacpp", "torch", "triton"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[package] = importlib.metadata.version(package)
    for name, version in (("cuda", _torchs_cuda()), ("nccl", _nccl())):
        if version is not None:
            found[name] = version
    return found


def _torchs_cuda() -> str | None:
    """Returns the CUDA in torch's own `version.py`, which is read, not imported."""
    with contextlib.suppress(ImportError, ValueError, OSError):
        spec = importlib.util.find_spec("torch")
        if spec is not None and spec.origin is not None:
            source = Path(spec.origin).with_name("version.py").read_text(encoding="utf-8", errors="replace")
            found = re.search(r"""^cuda\b[^=\n]*=\s*['"](?P<version>[\d.]+)['"]""", source, re.MULTILINE)
            return found["version"] if found else None
    return None


def _nccl() -> str | None:
    for cuda in ("cu13", "cu12", "cu11"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            return importlib.metadata.version(f"nvidia-nccl-{cuda}")
    return None


def facts(directory: Path, ordered_bytes: int | None = None) -> dict[str, Json]:
    """Returns what the machine offers, None where it doesn't tell. `shm_bytes` is the size of /dev/shm; `memory_from`
    says whether the memory is what was ordered, what a cgroup allows, or the machine's.
    """
    allowed = allowance(ordered_bytes)
    return {
        "platform": platform.platform(),
        "gvisor": is_gvisor(),
        "cpus": cpu_count(),
        "memory_bytes": allowed.limit_bytes if allowed else None,
        "memory_from": allowed.source if allowed else None,
        "shm_bytes": _disk_bytes(Path("/dev/shm"), free=False),
        "free_disk_bytes": _disk_bytes(directory, free=True),
        "semaphores": _semaphores(),
        "descriptors": _descriptors(),
        "proc": has_proc(),
        "interfaces": _interfaces(),
        "loopback_connects": _loopback_connects(),
        "loopback": loopback.name(),
        "cuda_compatibility_libraries": os.path.isdir(COMPATIBILITY_LIBRARIES),
    }


def cpu_model(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """Returns the CPU's name, and a digest of what it can do: code that was compiled for it may not run on another.
    gVisor calls every model `unknown`; there family and number replace the name. Where nothing is known of the CPU, the
    host's name keeps it apart from others.
    """
    try:
        text = cpuinfo.read_text(encoding="utf-8", errors="replace")
    except OSError:
        text = ""
    can = _of_cpu(text, "flags") or _of_cpu(text, "Features")
    name = _cpu_name(text)
    if not (can or name):
        return f"{platform.machine()} (of {platform.node() or 'a host without a name'})"
    digest = hashlib.blake2s(" ".join(sorted(can.split())).encode(), digest_size=4).hexdigest()
    return f"{name or platform.machine()} ({digest})"


_CPU_NUMBERS = ("vendor_id", "cpu family", "model", "stepping", "CPU implementer", "CPU part", "CPU variant")


def _cpu_name(text: str) -> str:
    name = _of_cpu(text, "model name")
    if name not in ("", "unknown"):
        return name
    return " ".join(number for key in _CPU_NUMBERS if (number := _of_cpu(text, key)) not in ("", "unknown"))


def _of_cpu(text: str, key: str) -> str:
    """Returns the value of a key of the first CPU in /proc/cpuinfo; empty where it has none."""
    found = re.search(rf"^{re.escape(key)}[ \t]*:[ \t]*(.+)$", text, re.MULTILINE)
    return found[1].strip() if found else ""


def cpu_count() -> int:
    """Returns on how many CPUs this process may run."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _semaphores() -> bool | str:
    """Returns whether multiprocessing has semaphores, which starting ranks takes, or why not."""
    try:
        multiprocessing.get_context("fork").Lock()
    except (OSError, ImportError) as e:
        return str(e)
    return True


def _descriptors() -> int | None:
    """Returns how many files this process may have open; None where there is no limit."""
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return None if limit == resource.RLIM_INFINITY else limit


def _interfaces() -> bool | str:
    """Returns whether network interfaces can be listed, as gloo and NCCL do before anything else, or why not."""
    try:
        return bool(socket.if_nameindex()) or "there are none"
    except OSError as e:
        return str(e)


def _loopback_connects() -> bool | str:
    """Returns whether a process can connect to another one here, as ranks do to their store, or why not."""
    return loopback.why_unreachable() or True


def _disk_bytes(directory: Path, *, free: bool) -> int | None:
    """Returns the size (or what is `free`) of the file system of `directory`, for free space of its nearest parent that
    exists; None where that is not known.
    """
    for place in (directory, *directory.absolute().parents):
        with contextlib.suppress(OSError):
            usage = shutil.disk_usage(place)
            size = usage.free if free else usage.total
            return size if size < NO_LIMIT_BYTES else None  # gVisor tells 2**63 of the host's file systems
        if not free:
            break
    return None
