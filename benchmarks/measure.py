"""Owns running one command under a deadline, and taking samples in turns.

Knows processes and clocks; knows nothing of pytest, torch or what a figure means.
Linux only: exits come from a pidfd, stray processes are found through ``/proc``.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import threading
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

TOKEN_VARIABLE = "MEGACPP_BENCH_TOKEN"
TERM_GRACE_S = 3.0
STRAY_GRACE_S = 3.0

Fact = str | bool | int | list[int]


@dataclass(frozen=True)
class Command:
    """One process to run: in a session of its own, ended as a group at the deadline."""

    argv: Sequence[str]
    cwd: Path
    env: Mapping[str, str]
    deadline_s: float
    keep_output: bool = True


@dataclass(frozen=True)
class Line:
    """A line of output and the wall-clock time (epoch, seconds) at which it arrived."""

    at_s: float
    text: str


@dataclass(frozen=True)
class Completed:
    """What one command did. ``rc`` is negative for a signal; ``cpu_s`` covers the reaped descendants."""

    rc: int
    wall_s: float
    cpu_s: float
    finished_at_s: float
    timed_out: bool
    strays: int
    lines: tuple[Line, ...]

    def tail(self, count: int = 4) -> str:
        """The last non-empty lines, for a failure text."""
        kept = [line.text.strip() for line in self.lines if line.text.strip()]
        return " | ".join(kept[-count:])


@dataclass(frozen=True)
class Outcome:
    """What one variant showed in one round: figures by metric name, facts, or why there are none."""

    values: Mapping[str, float] = field(default_factory=dict)
    facts: Mapping[str, Fact] = field(default_factory=dict)
    failure: str | None = None


@dataclass(frozen=True)
class Sample:
    """An outcome with its place in the run; ``load`` is the machine's one-minute load before it."""

    variant: str
    round: int
    load: float
    outcome: Outcome


@dataclass(frozen=True)
class Variant:
    """One of the things compared. ``missing`` says why it can't run here."""

    name: str
    label: str
    measure: Callable[[int], Outcome]
    max_rounds: int | None = None
    missing: str | None = None


class _Reader(threading.Thread):
    """Stamps the lines of one stream as they arrive."""

    def __init__(self, stream: IO[bytes]) -> None:
        super().__init__(daemon=True)
        self._stream = stream
        self.lines: list[Line] = []

    def run(self) -> None:
        for raw in self._stream:
            self.lines.append(Line(time.time(), raw.decode("utf-8", "replace").rstrip("\n")))


def run(command: Command) -> Completed:
    """Run to the end or to the deadline; nothing that the command started survives this call."""
    token = uuid.uuid4().hex
    begun = time.monotonic()
    process = _start(command, token)
    reader = _Reader(process.stdout) if process.stdout is not None else None
    if reader is not None:
        reader.start()
    timed_out = False
    try:
        timed_out = not _exited_within(process.pid, command.deadline_s)
        finished, finished_at_s = time.monotonic(), time.time()
    finally:
        cpu_s = _end(process)
        strays = _end_strays(token)
    if reader is not None:
        reader.join(timeout=5.0)
    return Completed(
        rc=process.returncode,
        wall_s=finished - begun,
        cpu_s=cpu_s,
        finished_at_s=finished_at_s,
        timed_out=timed_out,
        strays=strays,
        lines=tuple(reader.lines) if reader is not None else (),
    )


def alternate(variants: Sequence[Variant], rounds: int, progress: Callable[[str], None]) -> list[Sample]:
    """Sample the variants in turns (A B C, A B C, …) so that a slow spell of the machine hits them all."""
    samples: list[Sample] = []
    for number in range(rounds):
        for variant in variants:
            if variant.missing is None and number < (variant.max_rounds or rounds):
                samples.append(_sample(variant, number))
                progress(_progress_line(samples[-1]))
    return samples


def _sample(variant: Variant, number: int) -> Sample:
    load = os.getloadavg()[0]
    return Sample(variant.name, number, load, variant.measure(number))


def _progress_line(sample: Sample) -> str:
    outcome = sample.outcome
    shown = outcome.failure or ", ".join(f"{name} {value:.4g}" for name, value in outcome.values.items())
    return f"  round {sample.round + 1}  {sample.variant}: {shown}"


def _start(command: Command, token: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        list(command.argv),
        cwd=command.cwd,
        env={**command.env, TOKEN_VARIABLE: token},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE if command.keep_output else subprocess.DEVNULL,
        stderr=subprocess.STDOUT if command.keep_output else subprocess.DEVNULL,
        start_new_session=True,
    )


def _exited_within(pid: int, seconds: float) -> bool:
    descriptor = os.pidfd_open(pid)
    try:
        return bool(select.select([descriptor], [], [], seconds)[0])
    finally:
        os.close(descriptor)


def _end(process: subprocess.Popen[bytes]) -> float:
    """Reap the process, ending its group first if it still runs; CPU seconds of it and what it reaped."""
    if not _exited_within(process.pid, 0.0):
        _signal_group(process.pid, signal.SIGTERM)
        if not _exited_within(process.pid, TERM_GRACE_S):
            _signal_group(process.pid, signal.SIGKILL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    return usage.ru_utime + usage.ru_stime


def _signal_group(group: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, number)


def _end_strays(token: str) -> int:
    """Kill what is still there after a grace, whichever session it moved to; how many those were."""
    give_up = time.monotonic() + STRAY_GRACE_S
    while (pids := _carriers(token)) and time.monotonic() < give_up:
        time.sleep(0.05)
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    return len(pids)


def _carriers(token: str) -> list[int]:
    """Processes whose environment carries this run's token: only ones that this run started."""
    mark = f"{TOKEN_VARIABLE}={token}".encode()
    processes = [entry for entry in Path("/proc").iterdir() if entry.name.isdigit()]
    return [int(entry.name) for entry in processes if _carries(entry, mark)]


def _carries(entry: Path, mark: bytes) -> bool:
    try:
        return mark in (entry / "environ").read_bytes()
    except OSError:
        return False
