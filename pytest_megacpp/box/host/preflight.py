"""Owns what the box is before anything costs time; must not know torch, CUDA or a rank.

Versions come from package metadata and devices from `nvidia-smi`, with a deadline: nothing here imports torch
or initialises CUDA or NVML in the process, so a fork server can follow. What can't be read is None or absent,
and what is absent is never a problem by itself, except torch and pytest.
"""

import contextlib
import csv
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
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pytest_megacpp.box.gpus.fitness import Problem, cuda_problems, gpu_problems
from pytest_megacpp.box.gpus.survey import GpuSurvey, ask, read_kernel_log
from pytest_megacpp.box.host import loopback
from pytest_megacpp.box.host.kernel_identity import is_gvisor
from pytest_megacpp.box.host.memory import NO_LIMIT_BYTES, allowance
from pytest_megacpp.box.host.process import has_proc
from pytest_megacpp.box.host.rented import machine
from pytest_megacpp.recording.codec import to_json
from pytest_megacpp.recording.events import Json
from pytest_megacpp.recording.texts import beginning

MIB = 1 << 20
SHM_BYTES_PER_RANK = 64 * MIB
MIN_FREE_DISK_BYTES = 64 * MIB
DESCRIPTORS, DESCRIPTORS_PER_RANK = 32, 10
"""What a box needs: 40 were open at once with 2 ranks, 56 with 4 (three tests, one of which failed), and looks at ranks
that stall open a few more.
"""
SUPPORTED: Mapping[str, tuple[tuple[int, int], tuple[int, int] | None]] = {
    "pytest": ((8, 2), None),
    "torch": ((2, 11), (3, 0)),
}
"""What ranks need, by package: the oldest version that will do, and the first that is too new to be known."""
INSTALL = "pip install 'pytest-megacpp[local]'"
COMPATIBILITY_LIBRARIES = "/usr/local/cuda/compat"
QUERY = (
    "nvidia-smi",
    "--query-gpu=index,name,uuid,memory.total,driver_version",
    "--format=csv,noheader,nounits",
)
QUERY_DEADLINE_S = 20.0


@dataclass(frozen=True, slots=True)
class Device:
    """One GPU as the driver lists it; `memory_mib` is None where the driver doesn't tell."""

    index: int
    name: str
    uuid: str
    memory_mib: int | None
    driver: str


@dataclass(frozen=True, slots=True)
class DeviceList:
    """The devices that ranks will see; `failure` says why the driver could not be asked, when it is there."""

    devices: tuple[Device, ...] = ()
    failure: str | None = None


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


def survey(directory: Path, *, list_devices: bool = True, ordered_bytes: int | None = None) -> Survey:
    """Returns everything `problems` asks for. `directory` is where the run will write; a dry run needs no devices;
    `ordered_bytes` of memory were ordered for this box.
    """
    listed = devices() if list_devices else DeviceList()
    gpus = ask(_answer_in_time, read_kernel_log) if listed.devices else GpuSurvey()
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


def devices(
    *,
    command: Sequence[str] = QUERY,
    deadline_s: float = QUERY_DEADLINE_S,
    visible: str | None = None,
) -> DeviceList:
    """Returns the GPUs that ranks will see. `visible` stands for `CUDA_VISIBLE_DEVICES`, by default this process's own.
    No `nvidia-smi` means no devices. One that fails or doesn't answer in `deadline_s` is a `failure`.
    """
    visible = os.environ.get("CUDA_VISIBLE_DEVICES") if visible is None else visible
    if shutil.which(command[0]) is None:
        return DeviceList()
    try:
        listed = parse_devices(_answer(command, deadline_s))
    except (OSError, subprocess.SubprocessError, ValueError) as error:
        return DeviceList(failure=_describe(error))
    return DeviceList(visible_devices(listed, visible))


def _describe(error: OSError | subprocess.SubprocessError | ValueError) -> str:
    match error:
        case subprocess.TimeoutExpired():
            return f"nvidia-smi did not answer in {error.timeout:g} s"
        case subprocess.CalledProcessError():
            output = " ".join(str(error.output).split())
            return f"nvidia-smi failed with exit status {error.returncode}: {beginning(output, 300)}"
        case _:
            return f"nvidia-smi could not be read: {error}"


def _answer_in_time(command: Sequence[str]) -> str:
    return _answer(command, QUERY_DEADLINE_S)


def _answer(command: Sequence[str], deadline_s: float) -> str:
    """Returns the command's output. A process that can't be killed (stuck in the driver) is left behind, not waited
    for.
    """
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    )
    try:
        output, _ = process.communicate(timeout=deadline_s)
    except subprocess.TimeoutExpired:
        process.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.communicate(timeout=1)
        raise
    if process.returncode != 0:
        raise subprocess.CalledProcessError(process.returncode, list(command), output)
    return output


def parse_devices(output: str) -> tuple[Device, ...]:
    """Returns the devices in the output of `QUERY`; other lines (the driver's warnings) are passed over. Raises
    ValueError where there are lines and none is a device.
    """
    rows = [[cell.strip() for cell in row] for row in csv.reader(output.splitlines()) if row]
    found = tuple(_device(row) for row in rows if len(row) == 5 and row[0].isdecimal())
    if rows and not found and output.strip() != "No devices were found":
        raise ValueError(f"no device in {beginning(output.strip(), 300)!r}")
    return found


def _device(row: Sequence[str]) -> Device:
    index, name, uuid, memory, driver = row
    return Device(int(index), name, uuid, int(memory) if memory.isdecimal() else None, driver)


def visible_devices(listed: Sequence[Device], visible: str | None) -> tuple[Device, ...]:
    """Returns what `CUDA_VISIBLE_DEVICES` leaves, in its order and, as CUDA does it, up to the first invalid entry."""
    if visible is None:
        return tuple(listed)
    seen: list[Device] = []
    for entry in visible.split(","):
        device = _named(entry.strip(), listed)
        if device is None:
            break
        seen.append(device)
    return tuple(seen)


def _named(entry: str, listed: Iterable[Device]) -> Device | None:
    if entry.isdecimal():
        return next((device for device in listed if device.index == int(entry)), None)
    return next((device for device in listed if entry and device.uuid.startswith(entry)), None)


def problems(box: Survey, *, requested_gpu: str | None, requested_count: int, dry_run: bool) -> tuple[Problem, ...]:
    """Returns why the lane can't be run here; nothing where it can. `requested_gpu` is a GPU type as Modal spells it
    (`H200`, `A100-80GB`, `H100!`), with or without a count; None or `any` accepts every type. `requested_count` is the
    number of devices, one for each rank; a dry run has only the ranks.
    """
    found = [*_version_problems(box.versions), *_kernel_problems(box.facts)]
    found += [*_network_problems(box.facts), *_disk_problems(box.facts)]
    found += _descriptor_problems(box.facts, requested_count)
    if not dry_run:
        found += _device_problems(box.devices, requested_gpu, requested_count)
        found += _shared_memory_problems(box.facts, requested_count)
        compat = box.facts.get("cuda_compatibility_libraries") is True
        found += cuda_problems(box.versions.get("cuda"), box.gpus, compat=compat)
        found += gpu_problems(box.gpus, [device.uuid for device in box.devices.devices[:requested_count]])
    return tuple(found)


def _version_problems(installed: Mapping[str, str]) -> Iterable[Problem]:
    for package, (oldest, too_new) in SUPPORTED.items():
        version = installed.get(package)
        if version is None:
            yield Problem(package, f"{package} is not installed here, and ranks need it: {INSTALL}, or fix the image")
        elif _major_minor(version) < oldest or (too_new is not None and _major_minor(version) >= too_new):
            known = f"at least {_dotted(oldest)}" + (f", below {_dotted(too_new)}" if too_new is not None else "")
            yield Problem(package, f"{package} {version} is not supported ({known}): {INSTALL}, or fix the image")


def _dotted(version: tuple[int, int]) -> str:
    return ".".join(map(str, version))


def _major_minor(version: str) -> tuple[int, int]:
    match = re.match(r"(\d+)\.(\d+)", version)
    return (int(match[1]), int(match[2])) if match else (0, 0)


def _kernel_problems(machine: Mapping[str, Json]) -> Iterable[Problem]:
    """Yields interfaces without which ranks can't be started, watched or ended."""
    if machine.get("proc") is False:
        yield Problem(
            "proc",
            "there is no /proc here, so ranks can't be watched or ended: mount it (mount -t proc proc /proc)",
        )
    why = machine.get("semaphores")
    if isinstance(why, str):
        yield Problem(
            "shared-memory",
            f"multiprocessing gets no semaphores here ({why}): mount a writable /dev/shm (docker run --shm-size=1g)",
        )


def _network_problems(machine: Mapping[str, Json]) -> Iterable[Problem]:
    why = machine.get("interfaces")
    if isinstance(why, str):
        yield Problem(
            "network",
            f"network interfaces can't be listed here ({why}), and ranks find each other by them: allow netlink "
            "sockets, and give the container a loopback interface",
        )
    elif isinstance(why := machine.get("loopback_connects"), str):
        yield Problem(
            "network",
            f"ranks can't connect to each other over 127.0.0.1 ({why}): bring the loopback interface up "
            "(ip link set lo up), and let the sandbox listen on it",
        )


def _disk_problems(machine: Mapping[str, Json]) -> Iterable[Problem]:
    free = machine.get("free_disk_bytes")
    if isinstance(free, int) and free < MIN_FREE_DISK_BYTES:
        yield Problem(
            "disk",
            f"the disk is almost full: {free // MIB} MiB free where the run writes, at least "
            f"{MIN_FREE_DISK_BYTES // MIB} MiB needed. Free some, or choose another place with --lane-dir",
        )


def _descriptor_problems(machine: Mapping[str, Json], ranks: int) -> Iterable[Problem]:
    """Yields a limit of open files that is too low: the box would fail in mid-run, with an error that doesn't name the
    cause.
    """
    limit, needed = machine.get("descriptors"), DESCRIPTORS + DESCRIPTORS_PER_RANK * ranks
    if isinstance(limit, int) and limit < needed:
        yield Problem(
            "descriptors",
            f"too few open files are allowed here: {limit}, and a box with {ranks} ranks needs {needed}. Raise the "
            "limit (ulimit -n 4096; docker run --ulimit nofile=4096)",
        )


def _shared_memory_problems(machine: Mapping[str, Json], ranks: int) -> Iterable[Problem]:
    size, needed = machine.get("shm_bytes"), SHM_BYTES_PER_RANK * ranks
    if isinstance(size, int) and size < needed:
        yield Problem(
            "shared-memory",
            f"too little shared memory: /dev/shm has {size // MIB} MiB, NCCL needs about {needed // MIB} MiB "
            f"for {ranks} ranks. Start the container with more (docker run --shm-size=1g, or --ipc=host)",
        )


def _device_problems(box: DeviceList, requested_gpu: str | None, requested_count: int) -> Iterable[Problem]:
    wanted = f"{requested_count} × {_type_name(requested_gpu) or 'any GPU'}"
    if box.failure is not None:
        yield Problem("devices", f"the devices could not be listed ({box.failure}); the lane asked for {wanted}")
        return
    if len(box.devices) < requested_count:
        shown = _show(box.devices)
        yield Problem(
            "devices", f"the lane asked for {wanted}; this box shows {shown}. Use --dry-run to run without devices"
        )
    wrong = [device for device in box.devices[:requested_count] if not is_type(device, requested_gpu)]
    if wrong:
        shown = _show(box.devices)
        yield Problem(
            "devices", f"the lane asked for {wanted}; device {wrong[0].index} of {shown} is {_name(wrong[0])}"
        )


def _name(device: Device) -> str:
    memory = "" if device.memory_mib is None else f", {device.memory_mib} MiB"
    return f"{device.name!r}{memory}"


def _show(found: Sequence[Device]) -> str:
    names = [device.name for device in found]
    return ", ".join(f"{names.count(name)} × {name}" for name in dict.fromkeys(names)) or "no devices"


_ALSO_KNOWN_AS = {"A10": ("A10", "A10G"), "B200+": ("B200", "B300")}


def is_type(device: Device, requested_gpu: str | None) -> bool:
    """Returns whether a device is of a type as Modal spells it: `H200` is `NVIDIA H200`, not `NVIDIA GH200 480GB`."""
    wanted = _type_name(requested_gpu).upper().removesuffix("!")
    if wanted in ("", "ANY"):
        return True
    return any(_is_exactly(device, name) for name in _ALSO_KNOWN_AS.get(wanted, (wanted,)))


def _type_name(requested_gpu: str | None) -> str:
    return (requested_gpu or "").partition(":")[0].strip()


def _is_exactly(device: Device, wanted: str) -> bool:
    words = set(re.split(r"[^A-Z0-9]+", device.name.upper()))
    sizes = re.findall(r"\b(\d+)GB\b", wanted)
    names = [word for word in re.split(r"[^A-Z0-9]+", wanted) if word and not re.fullmatch(r"\d+GB", word)]
    return all(name in words for name in names) and all(_has_about(device, int(size)) for size in sizes)


def _has_about(device: Device, size_gb: int) -> bool:
    """Returns whether the device is sold as one of this size: drivers report 81559 MiB for 80 GB and 40960 for 40."""
    return device.memory_mib is None or abs(device.memory_mib / 1024 - size_gb) <= 0.1 * size_gb
