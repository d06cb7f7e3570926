"""Owns noticing GPU errors while tests run: Xids and ECC, from the kernel log or NVML; must not judge them.

The kernel log names the process, NVML only the GPU, so where the log can be read Xids are taken from there. NVML is
asked in the box's own process, through its C library: the forkserver and the ranks stay untouched by it.
"""

import contextlib
import ctypes
import os
import re
import select
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from pytest_megacpp.box.gpus.survey import parse_xids
from pytest_megacpp.recording.vocabulary import FaultKind

WAIT_S = 0.5
CORRECTED, UNCORRECTED = 1, 2  # NVML's event bits for single and double bit errors
_XID_EVENT = 8
_NVML_TIMEOUT = 10
_NAMES_PID = re.compile(r"\bpid='?(\d+)")


@dataclass(frozen=True, slots=True)
class GpuFault:
    """An error as its source reports it. `bus_id` or `uuid` names the GPU, `pid` the process, where known."""

    kind: FaultKind
    code: int
    text: str = ""
    bus_id: str = ""
    uuid: str = ""
    pid: int | None = None


class FaultSource(Protocol):
    """Where GPU errors are read from."""

    def read(self, wait_s: float) -> Iterable[GpuFault]:
        """Yields what was reported since the last call, after waiting at most `wait_s` for something. Never raises."""


class KernelLog:
    """Xids from /dev/kmsg, beginning now. Raises OSError where it can't be read."""

    def __init__(self, path: str = "/dev/kmsg") -> None:
        self._log = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with contextlib.suppress(OSError):
            os.lseek(self._log, 0, os.SEEK_END)

    def read(self, wait_s: float) -> Iterable[GpuFault]:
        select.select([self._log], [], [], wait_s)
        with contextlib.suppress(OSError):
            while record := os.read(self._log, 8192):
                for xid in parse_xids(record.decode(errors="replace")):
                    named = _NAMES_PID.search(xid.text)
                    pid = int(named[1]) if named else None
                    yield GpuFault(FaultKind.XID, xid.code, xid.text, bus_id=xid.bus_id, pid=pid)


class _NvmlEvent(ctypes.Structure):
    """NVML's struct `nvmlEventData_t`."""

    _fields_ = (
        ("device", ctypes.c_void_p),
        ("type", ctypes.c_ulonglong),
        ("data", ctypes.c_ulonglong),
        ("gpu_instance", ctypes.c_uint),
        ("compute_instance", ctypes.c_uint),
    )


class Nvml:
    """Events of the GPUs with these ids, from NVIDIA's management library. Raises OSError where there is none."""

    def __init__(self, uuids: Sequence[str], kinds: int) -> None:
        self._library = ctypes.CDLL("libnvidia-ml.so.1")
        self._check("nvmlInit_v2")
        self._events = ctypes.c_void_p()
        self._check("nvmlEventSetCreate", ctypes.byref(self._events))
        self._uuids: dict[int | None, str] = {}
        for uuid in uuids:
            device = ctypes.c_void_p()
            self._check("nvmlDeviceGetHandleByUUID", uuid.encode(), ctypes.byref(device))
            self._check("nvmlDeviceRegisterEvents", device, ctypes.c_ulonglong(kinds), self._events)
            self._uuids[device.value] = uuid

    def _check(self, function: str, *arguments: object) -> None:
        code = getattr(self._library, function)(*arguments)
        if code:
            raise OSError(f"{function} answers {code}")

    def read(self, wait_s: float) -> Iterable[GpuFault]:
        event = _NvmlEvent()
        code = self._library.nvmlEventSetWait_v2(self._events, ctypes.byref(event), ctypes.c_uint(int(wait_s * 1000)))
        if code == 0:
            kind = FaultKind.XID if event.type == _XID_EVENT else FaultKind.ECC
            number = int(event.data if kind is FaultKind.XID else event.type)
            yield GpuFault(kind, number, uuid=self._uuids.get(event.device, ""))
        elif code != _NVML_TIMEOUT:
            threading.Event().wait(wait_s)


def open_fault_sources(uuids: Sequence[str]) -> tuple[list[FaultSource], dict[str, str]]:
    """Returns the sources that can be opened, and by name why others can't."""
    found: list[FaultSource] = []
    missing: dict[str, str] = {}
    kinds = CORRECTED | UNCORRECTED
    try:
        found.append(KernelLog())
    except OSError as e:
        missing["kernel_log"] = str(e)
        kinds |= _XID_EVENT
    try:
        found.append(Nvml(uuids, kinds))
    except (OSError, AttributeError) as e:
        missing["nvml"] = str(e)
    return found, missing


class FaultWatch(threading.Thread):
    """Reads one source until the process ends. `report` is called from this thread."""

    def __init__(self, source: FaultSource, report: Callable[[GpuFault], None]) -> None:
        super().__init__(name="faults", daemon=True)
        self._source = source
        self._report = report

    def run(self) -> None:
        while True:
            for fault in self._source.read(WAIT_S):
                self._report(fault)


def device_of(fault: GpuFault, bus_ids: Mapping[str, str]) -> tuple[int | None, str]:
    """Returns which GPU is meant: its index in the lane (None where it is not one of them) and its id. `bus_ids` are by
    uuid, in the lane's order.
    """
    for place, (uuid, bus_id) in enumerate(bus_ids.items()):
        if (fault.uuid and fault.uuid == uuid) or (fault.bus_id and _slot(fault.bus_id) == _slot(bus_id)):
            return place, uuid
    return None, fault.uuid


def _slot(bus_id: str) -> tuple[int, ...]:
    """Returns the numbers of a PCI slot: `0000:00:06` of the kernel and `00000000:00:06.0` of the driver are the same
    one.
    """
    parts = bus_id.partition(".")[0].split(":")[-3:]
    try:
        return tuple(int(part, 16) for part in parts)
    except ValueError:
        return ()
