"""Owns what NVML and nvidia-smi answer, and how fast, while the device does nothing and while a kernel loops.

The box asks the same way: NVML by its C library (`box/gpus/faults.py`), nvidia-smi by its output
(`box/gpus/survey.py`).
"""

import ctypes
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

from pytest_megacpp.box.gpus.faults import CORRECTED, UNCORRECTED, Nvml, open_fault_sources
from pytest_megacpp.box.gpus.survey import STATE, parse_state
from tests.gpu.conftest import gpu_name

LOOPS = 20
LOAD = """
import sys, torch
a = torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16)
print("ready", flush=True)
while True:
    for _ in range(200):
        a @ a
    torch.cuda.synchronize()
"""


class _Utilization(ctypes.Structure):
    """`nvmlUtilization_t`."""

    _fields_ = (("gpu", ctypes.c_uint), ("memory", ctypes.c_uint))


class _Memory(ctypes.Structure):
    """`nvmlMemory_t`."""

    _fields_ = (("total", ctypes.c_ulonglong), ("free", ctypes.c_ulonglong), ("used", ctypes.c_ulonglong))


class Device:
    """The first device, through NVML."""

    def __init__(self) -> None:
        self._nvml = ctypes.CDLL("libnvidia-ml.so.1")
        self._check("nvmlInit_v2")
        self._handle = ctypes.c_void_p()
        self._check("nvmlDeviceGetHandleByIndex_v2", 0, ctypes.byref(self._handle))

    def _check(self, function: str, *arguments: object) -> None:
        code = getattr(self._nvml, function)(*arguments)
        if code:
            raise OSError(f"{function} answers {code}")

    def utilization(self) -> str:
        told = _Utilization()
        self._check("nvmlDeviceGetUtilizationRates", self._handle, ctypes.byref(told))
        return f"{told.gpu} % busy, {told.memory} % of memory bandwidth"

    def memory(self) -> str:
        told = _Memory()
        self._check("nvmlDeviceGetMemoryInfo", self._handle, ctypes.byref(told))
        return f"{told.used >> 20} of {told.total >> 20} MiB"

    def power(self) -> str:
        told = ctypes.c_uint()
        self._check("nvmlDeviceGetPowerUsage", self._handle, ctypes.byref(told))
        return f"{told.value / 1000:.0f} W"


def nvidia_smi() -> str:
    text = subprocess.run(STATE, capture_output=True, text=True, timeout=20, check=True).stdout
    _, _, (state, *_) = parse_state(text)
    return f"{state.used_mib} MiB used by {len(state.processes)} processes, recovery {state.recovery}"


def asked(question: Callable[[], str], times: int) -> dict[str, Any]:
    """The last answer, the median and the longest time of it in milliseconds."""
    took_ms, answer = [], ""
    for _ in range(times):
        began_s = time.perf_counter()
        try:
            answer = question()
        except (OSError, AttributeError, ValueError, subprocess.SubprocessError) as e:
            return {"error": repr(e)[:200]}
        took_ms.append((time.perf_counter() - began_s) * 1000)
    return {"answer": answer, "median_ms": round(statistics.median(took_ms), 2), "max_ms": round(max(took_ms), 2)}


def all_asked(device: Device) -> dict[str, Any]:
    quick = {name: asked(getattr(device, name), LOOPS) for name in ("utilization", "memory", "power")}
    return {**quick, "nvidia-smi -q -x": asked(nvidia_smi, 3)}


def events() -> dict[str, Any]:
    """Whether the box can listen for errors of the device."""
    _, _, states = parse_state(subprocess.run(STATE, capture_output=True, text=True, timeout=20, check=True).stdout)
    uuids = [state.uuid for state in states]
    found, missing = open_fault_sources(uuids)
    heard = Nvml(uuids, CORRECTED | UNCORRECTED)
    return {
        "fault_sources": [type(source).__name__ for source in found],
        "missing": missing,
        "wait": asked(lambda: str(list(heard.read(0.1))), 5),
    }


def main() -> int:
    if not gpu_name():
        print(json.dumps({"nvml": "no GPU"}))
        return 0
    device = Device()
    told: dict[str, Any] = {"idle": all_asked(device)}
    with subprocess.Popen([sys.executable, "-c", LOAD], stdout=subprocess.PIPE, text=True) as load:
        try:
            assert load.stdout is not None
            assert load.stdout.readline().strip() == "ready", "the load did not begin"
            time.sleep(3)
            told["loaded"] = all_asked(device)
            told["events"] = events()
        finally:
            load.kill()
    print(json.dumps(told))
    return 0


if __name__ == "__main__":
    sys.exit(main())
