"""Hearing of GPU errors: what the kernel says as an H200's driver put it, and which GPU is meant."""

import ctypes
import os
from pathlib import Path

import pytest

from pytest_megacpp.box.gpus import faults
from pytest_megacpp.box.gpus.faults import GpuFault, KernelLog, Nvml, device_of, open_fault_sources
from pytest_megacpp.recording.vocabulary import FaultKind

BUS_IDS = {"GPU-a": "00000000:00:06.0", "GPU-b": "00000000:9A:00.0"}
SAID = (
    b"4,1001,30589819,-;NVRM: Xid (PCI:0000:00:06): 31, pid=454, name=python3, channel 0x0000005a, intr 00000000. "
    b"MMU Fault: ENGINE GRAPHICS GPC1 GPCCLIENT_T1_8 faulted @ 0x829f_2a744000. Fault is of type FAULT_PDE\n"
)


def test_the_kernel_log_names_code_slot_and_process(tmp_path: Path) -> None:
    log = tmp_path / "kmsg"
    log.write_bytes(b"4,1,1,-;Xids from before don't count\n")
    source = KernelLog(str(log))
    with log.open("ab") as f:
        f.write(SAID)
    (fault,) = source.read(0.0)
    assert (fault.kind, fault.code, fault.bus_id, fault.pid) == (FaultKind.XID, 31, "0000:00:06", 454)
    assert "MMU Fault" in fault.text
    assert list(source.read(0.0)) == []


def test_other_lines_and_hostile_ones_are_nothing(tmp_path: Path) -> None:
    log = tmp_path / "kmsg"
    log.write_bytes(b"")
    source = KernelLog(str(log))
    log.write_bytes(b"NVRM: Xid (PCI:): x, pid=\n\xff\xfe NVRM Xid\nusb 1-1: new device\n")
    assert list(source.read(0.0)) == []


@pytest.mark.parametrize(
    ("fault", "found"),
    [
        (GpuFault(FaultKind.XID, 31, bus_id="0000:00:06"), (0, "GPU-a")),
        (GpuFault(FaultKind.XID, 31, bus_id="0000:9a:00"), (1, "GPU-b")),
        (GpuFault(FaultKind.ECC, 2, uuid="GPU-b"), (1, "GPU-b")),
        (GpuFault(FaultKind.XID, 79, bus_id="0000:ff:00"), (None, "")),
        (GpuFault(FaultKind.XID, 79, bus_id="nonsense"), (None, "")),
        (GpuFault(FaultKind.XID, 79), (None, "")),
    ],
)
def test_which_gpu_is_meant(fault: GpuFault, found: tuple[int | None, str]) -> None:
    assert device_of(fault, BUS_IDS) == found


class FakeLibrary:
    """NVML of a machine with one GPU, which reports what is in `events`."""

    def __init__(self, *events: tuple[int, int]) -> None:
        self.events = list(events)
        self.registered: list[int] = []

    def __getattr__(self, name: str) -> object:
        return {
            "nvmlInit_v2": lambda: 0,
            "nvmlEventSetCreate": lambda events: 0,
            "nvmlDeviceGetHandleByUUID": self.handle,
            "nvmlDeviceRegisterEvents": self.register,
            "nvmlEventSetWait_v2": self.wait,
        }[name]

    def handle(self, uuid: bytes, device: object) -> int:
        device._obj.value = 77  # type: ignore[attr-defined]
        return 0 if uuid == b"GPU-a" else 6

    def register(self, device: object, kinds: ctypes.c_ulonglong, events: object) -> int:
        self.registered.append(kinds.value)
        return 0

    def wait(self, events: object, event: object, wait_ms: object) -> int:
        if not self.events:
            return 10
        slot = event._obj  # type: ignore[attr-defined]
        slot.device = 77
        slot.type, slot.data = self.events.pop(0)
        return 0


@pytest.fixture
def nvml(monkeypatch: pytest.MonkeyPatch) -> FakeLibrary:
    library = FakeLibrary((8, 43), (2, 0))
    monkeypatch.setattr(ctypes, "CDLL", lambda name: library)
    return library


def test_nvml_tells_xids_and_memory_errors(nvml: FakeLibrary) -> None:
    source = Nvml(["GPU-a"], 8 | 2)
    assert nvml.registered == [8 | 2]
    assert [next(iter(source.read(0.0))) for _ in range(2)] == [
        GpuFault(FaultKind.XID, 43, uuid="GPU-a"),
        GpuFault(FaultKind.ECC, 2, uuid="GPU-a"),
    ]
    assert list(source.read(0.0)) == []


def test_an_unknown_gpu_is_an_error_of_the_library(nvml: FakeLibrary) -> None:
    with pytest.raises(OSError, match="nvmlDeviceGetHandleByUUID answers 6"):
        Nvml(["GPU-x"], 8)


def test_nvml_listens_for_xids_only_where_the_kernel_log_can_not_be_read(
    nvml: FakeLibrary, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: str, flags: int) -> int:
        raise PermissionError(1, "not permitted")

    monkeypatch.setattr(os, "open", refuse)
    found, missing = open_fault_sources(["GPU-a"])
    assert [type(source) for source in found] == [Nvml]
    assert nvml.registered == [8 | 2 | 1]
    assert list(missing) == ["kernel_log"]


def test_without_any_source_it_is_said_why(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> object:
        raise OSError(f"{name}: cannot open shared object file")

    monkeypatch.setattr(ctypes, "CDLL", absent)
    monkeypatch.setattr(faults, "KernelLog", lambda: absent("/dev/kmsg"))
    found, missing = open_fault_sources(["GPU-a"])
    assert found == []
    assert missing.keys() == {"kernel_log", "nvml"}
