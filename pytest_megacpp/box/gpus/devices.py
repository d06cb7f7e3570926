"""Owns which GPUs ranks will see, as `nvidia-smi` lists them; must not know torch, CUDA or a rank.

A driver may not answer, so each question has a deadline. Nothing here initialises CUDA or NVML in the process.
"""

import contextlib
import csv
import os
import shutil
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pytest_megacpp.recording.texts import beginning

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


def answer_in_time(command: Sequence[str]) -> str:
    """Returns the command's output. Raises OSError or subprocess.SubprocessError, also after QUERY_DEADLINE_S."""
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
        encoding="utf-8",
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
