"""Owns what `nvidia-smi` and the kernel log report about GPUs beyond their names: health, users, links; must not judge.

Parsers take recorded text. What a driver doesn't tell (`N/A`, an element that isn't there, a question that fails) is
None, never a guess. Formats: NVIDIA's nvidia-smi manual and its `nvsmi_device` document type.
"""

import contextlib
import os
import re
import subprocess
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeAlias, TypeVar
from xml.etree import ElementTree

from pytest_megacpp.recording.texts import beginning

T = TypeVar("T")
Answer: TypeAlias = Callable[[Sequence[str]], str]
"""Runs a command and gives its output; raises OSError, SubprocessError or ValueError."""

Matrix: TypeAlias = tuple[tuple[str, ...], ...]
"""A row per GPU in the driver's order: `X` for itself, else how it reaches the other one (`NV18`, `SYS`; `OK`)."""

STATE = ("nvidia-smi", "-q", "-x")
TOPOLOGY = ("nvidia-smi", "topo", "-m")
PEERS = ("nvidia-smi", "topo", "-p2p", "r")
LINKS = ("nvidia-smi", "nvlink", "-s")
KERNEL_LOG_RECORDS = 20_000
KEPT_XIDS = 32
_NOT_TOLD = ("", "N/A", "Not Supported", "Unknown Error", "GPU requires reset")
_ESCAPE = re.compile(r"\x1b\[[0-9;]*m")
_GPU_COLUMN = re.compile(r"GPU\d+")
_XID = re.compile(r"NVRM: Xid \((?:PCI:)?(?P<bus>[0-9A-Fa-f:.]+)\): (?P<code>\d+)(?:, )?(?P<text>.*)")


@dataclass(frozen=True, slots=True)
class GpuProcess:
    """A process on a GPU; `kind` is the driver's letter: C computes, G draws, C+G does both."""

    pid: int
    kind: str
    name: str
    memory_mib: int | None


@dataclass(frozen=True, slots=True)
class GpuState:
    """One GPU as its driver sees it now.

    `uncorrected` counts ECC errors since the driver was loaded, `uncorrected_ever` over the card's life. A remap that
    is pending needs a reset of the GPU, one that failed needs another card. `recovery` is what the driver itself asks
    for (`Reset`, `Reboot` …; `None` spelled out is nothing). `fabric` is the state of its NVSwitches.
    """

    uuid: str
    bus_id: str
    memory_mib: int | None = None
    used_mib: int | None = None
    ecc: bool | None = None
    uncorrected: int | None = None
    uncorrected_ever: int | None = None
    remap_pending: bool | None = None
    remap_failed: bool | None = None
    mig: bool | None = None
    compute_mode: str | None = None
    recovery: str | None = None
    fabric: str | None = None
    processes: tuple[GpuProcess, ...] = ()


@dataclass(frozen=True, slots=True)
class Links:
    """The NVLinks of one GPU; `gb_per_s` is what an active one carries in each direction."""

    uuid: str
    active: int
    total: int
    gb_per_s: float | None


@dataclass(frozen=True, slots=True)
class Xid:
    """A driver error of the kernel log; NVIDIA's Xid catalogue says what each code means."""

    bus_id: str
    code: int
    text: str


@dataclass(frozen=True, slots=True)
class GpuSurvey:
    """All that could be learnt. `cuda` is the newest CUDA that the driver supports."""

    driver: str | None = None
    cuda: str | None = None
    states: tuple[GpuState, ...] = ()
    topology: Matrix | None = None
    peers: Matrix | None = None
    links: tuple[Links, ...] | None = None
    xids: tuple[Xid, ...] | None = None


def ask(answer: Answer, kernel_log: Callable[[], str | None]) -> GpuSurvey:
    """Asks everything at the same time. Never raises: a question without an answer leaves its fields None."""
    with ThreadPoolExecutor(4) as pool:
        state = pool.submit(_parsed, answer, STATE, parse_state)
        topology = pool.submit(_parsed, answer, TOPOLOGY, parse_matrix)
        peers = pool.submit(_parsed, answer, PEERS, parse_matrix)
        links = pool.submit(_parsed, answer, LINKS, parse_links)
    log = kernel_log()
    driver, cuda, states = state.result() or (None, None, ())
    xids = None if log is None else parse_xids(log)
    return GpuSurvey(driver, cuda, states, topology.result(), peers.result(), links.result(), xids)


def _parsed(answer: Answer, question: Sequence[str], parse: Callable[[str], T]) -> T | None:
    try:
        return parse(answer(question))
    except (OSError, subprocess.SubprocessError, ValueError):
        return None


# -- nvidia-smi -q -x --------------------------------------------------------------------------------------------


def parse_state(xml: str) -> tuple[str | None, str | None, tuple[GpuState, ...]]:
    """Returns driver, its newest CUDA, and the state of every GPU. Raises ValueError where the text is not an answer of
    `nvidia-smi -q -x`.
    """
    document = re.search(r"<nvidia_smi_log>.*</nvidia_smi_log>", xml, re.DOTALL)  # there may be warnings around it
    try:
        root = ElementTree.fromstring(document[0] if document else "")
    except ElementTree.ParseError as error:
        raise ValueError(f"no <nvidia_smi_log>: {error}") from None
    return _text(root, "driver_version"), _text(root, "cuda_version"), tuple(map(_state, root.iterfind("gpu")))


def _state(gpu: ElementTree.Element) -> GpuState:
    return GpuState(
        uuid=_text(gpu, "uuid") or "",
        bus_id=gpu.get("id") or "",
        memory_mib=_mib(_text(gpu, "fb_memory_usage/total")),
        used_mib=_mib(_text(gpu, "fb_memory_usage/used")),
        ecc=_switch(_text(gpu, "ecc_mode/current_ecc")),
        uncorrected=_uncorrected(gpu, "ecc_errors/volatile"),
        uncorrected_ever=_uncorrected(gpu, "ecc_errors/aggregate"),
        remap_pending=_first_switch(gpu, "remapped_rows/remapped_row_pending", "retired_pages/pending_retirement"),
        remap_failed=_switch(_text(gpu, "remapped_rows/remapped_row_failure")),
        mig=_switch(_text(gpu, "mig_mode/current_mig")),
        compute_mode=_text(gpu, "compute_mode"),
        recovery=_text(gpu, "gpu_recovery_action"),
        fabric=_text(gpu, "fabric/state"),
        processes=tuple(map(_process, gpu.iterfind("processes/process_info"))),
    )


def _process(info: ElementTree.Element) -> GpuProcess:
    pid = _text(info, "pid") or ""
    return GpuProcess(
        pid=int(pid) if pid.isdecimal() else 0,
        kind=_text(info, "type") or "",
        name=_text(info, "process_name") or "",
        memory_mib=_mib(_text(info, "used_memory")),
    )


def _text(element: ElementTree.Element, path: str) -> str | None:
    text = (element.findtext(path) or "").strip()
    return None if text.strip("[]") in _NOT_TOLD else text


def _mib(text: str | None) -> int | None:
    """Returns the number in a text such as `143771 MiB`."""
    found = re.fullmatch(r"(\d+)(?: MiB)?", text or "")
    return int(found[1]) if found else None


def _switch(text: str | None) -> bool | None:
    return {"enabled": True, "yes": True, "disabled": False, "no": False}.get((text or "").lower())


def _first_switch(gpu: ElementTree.Element, *paths: str) -> bool | None:
    """Returns the first of these switches that the card has: it remaps rows or, before Ampere, retires pages."""
    return next((known for path in paths if (known := _switch(_text(gpu, path))) is not None), None)


def _uncorrected(gpu: ElementTree.Element, path: str) -> int | None:
    """Returns the sum of the counters of uncorrectable errors, whose names changed with the architectures."""
    counters = gpu.find(path)
    if counters is None:
        return None
    named = [*counters.iterfind("double_bit/total"), *(c for c in counters if "uncorrectable" in c.tag)]
    counts = [int(text) for c in named if (text := (c.text or "").strip()).isdecimal()]
    return sum(counts) if counts else None


# -- nvidia-smi topo, nvlink -------------------------------------------------------------------------------------


def parse_matrix(output: str) -> Matrix:
    """GPU against GPU out of `nvidia-smi topo -m` or `-p2p`; columns of network cards and affinities are left out.

    Raises:
        ValueError: there is no such table.
    """
    rows = [line.split() for line in _ESCAPE.sub("", output).splitlines()]
    header = next((row for row in rows if row and _GPU_COLUMN.fullmatch(row[0])), [])
    wanted = [i for i, name in enumerate(header) if _GPU_COLUMN.fullmatch(name)]
    table = [row[1:] for row in rows if row is not header and row and _GPU_COLUMN.fullmatch(row[0])]
    if not wanted or len(table) != len(wanted) or any(len(row) <= wanted[-1] for row in table):
        raise ValueError("no complete table of GPUs")
    return tuple(tuple(row[i] for i in wanted) for row in table)


def parse_links(output: str) -> tuple[Links, ...]:
    """Returns the links by GPU from `nvidia-smi nvlink -s`; a GPU without NVLink has none. Raises ValueError where no
    GPU is listed.
    """
    found: list[Links] = []
    for line in output.splitlines():
        if gpu := re.match(r"GPU \d+: .*\(UUID: (?P<uuid>[^)]+)\)", line):
            found.append(Links(gpu["uuid"], 0, 0, None))
        elif found and (link := re.match(r"\s+Link \d+: (?P<state>.+)", line)):
            found[-1] = _with_link(found[-1], link["state"].strip())
    if not found:
        raise ValueError("no GPU is listed")
    return tuple(found)


def _with_link(links: Links, state: str) -> Links:
    speed = re.match(r"([\d.]+) GB/s", state)
    gb_per_s = float(speed[1]) if speed else links.gb_per_s
    return Links(links.uuid, links.active + (speed is not None), links.total + 1, gb_per_s)


# -- the kernel log ----------------------------------------------------------------------------------------------


def parse_xids(log: str) -> tuple[Xid, ...]:
    """Returns the last Xid errors in a kernel log, oldest first."""
    found = [
        Xid(m["bus"], int(m["code"]), beginning(m["text"].strip(), 200))
        for m in map(_XID.search, log.splitlines())
        if m
    ]
    return tuple(found[-KEPT_XIDS:])


def read_kernel_log(path: str = "/dev/kmsg") -> str | None:
    """Returns what the kernel has logged so far; None where it may not be read, as in most containers."""
    try:
        log = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except OSError:
        return None
    records: list[bytes] = []
    with contextlib.suppress(BlockingIOError), os.fdopen(log, "rb", buffering=0) as file:
        while len(records) < KERNEL_LOG_RECORDS and (record := _record(file.fileno())):
            records.append(record)
    return b"\n".join(records).decode(errors="replace")


def _record(log: int) -> bytes:
    """Returns the next record. Records that were overwritten meanwhile are passed over."""
    while True:
        try:
            return os.read(log, 8192)
        except BrokenPipeError:
            continue
        except OSError:
            return b""
