"""Owns why a lane can't be run on this box, by what its survey found; must not ask the machine itself.

What is absent from a survey is never a problem by itself, except torch and pytest.
"""

import re
from collections.abc import Iterable, Mapping, Sequence

from pytest_megacpp.box.gpus.devices import Device, DeviceList
from pytest_megacpp.box.gpus.fitness import Problem, cuda_problems, gpu_problems
from pytest_megacpp.box.host.supported import SUPPORTED
from pytest_megacpp.box.host.survey import Survey
from pytest_megacpp.recording.events import Json

MIB = 1 << 20
SHM_BYTES_PER_RANK = 64 * MIB
MIN_FREE_DISK_BYTES = 64 * MIB
DESCRIPTORS, DESCRIPTORS_PER_RANK = 32, 10
"""What a box needs: 40 were open at once with 2 ranks, 56 with 4 (three tests, one of which failed), and looks at ranks
that stall open a few more.
"""
INSTALL = "pip install 'pytest-megacpp[local]'"


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
