"""Owns what has arrived of a run: its file at the desk, and what the desk has not read of it yet; must not know the
surface.

One thread writes, the desk reads.
"""

import contextlib
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from pytest_megacpp.recording.events import Event, Fact, Progress
from pytest_megacpp.recording.wire import encode
from pytest_megacpp.surfaces.unseen import Unseen

T = TypeVar("T")
SOURCE = "surface"  # of events about the way to the box and back
RECORDING = "recording.jsonl"


class Inbox:
    """`run` is the run's directory at the desk."""

    def __init__(self, run_id: str, run: Path) -> None:
        self.recording = run / RECORDING
        self._run_id = run_id
        self._run = run
        self._unread = bytearray()
        self._lock = threading.Lock()
        self._next_seq = 0

    def read(self) -> bytes:
        """Returns the bytes that arrived since the last call."""
        with self._lock:
            data, self._unread = bytes(self._unread), bytearray()
        return data

    def take(self, data: bytes) -> None:
        """Keeps lines of the recording."""
        with self.recording.open("ab") as recording:
            recording.write(data)
        with self._lock:
            self._unread += data

    def take_unseen(self, data: bytes) -> None:
        """Keeps the whole lines of a second source that are new."""
        unseen = self.unseen()
        lines = data.splitlines(keepends=True)
        self.take(b"".join(line for line in lines if line.endswith(b"\n") and unseen.is_new(line)))

    def unseen(self) -> Unseen:
        """Returns a filter that knows the lines that have arrived."""
        unseen = Unseen()
        with contextlib.suppress(OSError):
            unseen.mark_seen(self.recording.read_bytes())
        return unseen

    def has_box_events(self) -> bool:
        """Returns whether any event of the box itself has arrived."""
        return b'"kind":"run-started"' in self.recording.read_bytes()

    def write_log(self, path: str, data: bytes) -> None:
        """Keeps a log; `path` is relative to the run's directory."""
        target = self._run / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)

    def report(self, phase: str, detail: str) -> None:
        """Records a step on the way to the box or back."""
        self.record(Progress(phase, detail), 0.0)

    def record(self, fact: Fact, time_s: float) -> None:
        """Records what only the surface knows, at a time of the box."""
        event = Event(self._run_id, "", SOURCE, self._next_seq, time_s, fact)
        self._next_seq += 1
        self.take(encode(event))

    def phase(self, name: str, work: Callable[[], T], detail: str = "") -> T:
        """Runs a step that may take a while, and records its start and its duration."""
        self.report(name, detail)
        began = time.monotonic()
        result = work()
        self.report(name, f"{time.monotonic() - began:.1f} s")
        return result
