"""Owns the recording's file and the box's clock: stamps facts, takes secrets out, appends; must not read it back."""

import contextlib
import dataclasses
import os
import time
from collections import Counter
from collections.abc import Iterator
from enum import StrEnum
from typing import Any

from pytest_megacpp.recording import events as ev
from pytest_megacpp.recording.oversize import encoded
from pytest_megacpp.recording.redact import Redactor
from pytest_megacpp.recording.timeline import Timeline
from pytest_megacpp.recording.wire import encode

_WITHOUT_FREE_TEXT = (ev.FlightRecorded, ev.Sampled, ev.Finished, ev.RankStarted, ev.RankReady, ev.GroupCreated)


class RecordingFailed(OSError):
    """The recording can't be written, so the run has to end."""


class Recorder:
    """Writes events and folds them into `timeline`. Times are seconds since it was made, which was at `origin_s`
    of the monotonic clock.
    """

    def __init__(self, path: str, run_id: str, redactor: Redactor) -> None:
        self.timeline = Timeline()
        self.origin_s = time.monotonic()
        self._run_id = run_id
        self._redactor = redactor
        self._seq: Counter[tuple[str, str]] = Counter()
        self._lines: list[bytes] = []
        self._holds = False
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)

    def now_s(self) -> float:
        return time.monotonic() - self.origin_s

    def epoch_s(self) -> float:
        """Returns the wall clock's time at box time zero, by what it says now: it may be set during a run, and runs
        faster or slower while it is corrected. torch stamps collectives by it.
        """
        return time.time() - self.now_s()

    def write(self, fact: ev.Fact, world: str = "", source: str = "box", at_s: float | None = None) -> None:
        """Appends one event. Raises RecordingFailed."""
        key = world, source
        time_s = self.now_s() if at_s is None else at_s
        stamp = self._run_id, world, source, self._seq[key], time_s
        recorded, line = encoded(self._clean(fact), lambda one: encode(ev.Event(*stamp, one)))
        self._lines.append(line)
        if not self._holds:
            self._flush()
        self._seq[key] += 1
        self.timeline.add(ev.Event(*stamp, recorded))

    @contextlib.contextmanager
    def together(self) -> Iterator[None]:
        """Holds back what is written inside, and appends it at the end in one piece. Raises RecordingFailed."""
        self._holds = True
        try:
            yield
        finally:
            self._holds = False
            self._flush()

    def _flush(self) -> None:
        lines, self._lines = self._lines, []
        self._append(b"".join(lines))

    def _append(self, line: bytes) -> None:
        try:
            while line:
                line = line[os.write(self._fd, line) :]
        except OSError as e:
            raise RecordingFailed(e.errno, f"the recording can't be written: {e.strerror}") from e

    def _clean(self, fact: ev.Fact) -> ev.Fact:
        if isinstance(fact, _WITHOUT_FREE_TEXT):
            return fact
        changes = {
            name: cleaned
            for name in fact.__dataclass_fields__
            if (cleaned := self._clean_value(value := getattr(fact, name))) is not value
        }
        return dataclasses.replace(fact, **changes) if changes else fact

    def _clean_value(self, value: Any) -> Any:
        if isinstance(value, StrEnum):
            return value
        if isinstance(value, str):
            return self._redactor.text(value)
        if isinstance(value, dict):
            return {self._clean_value(k): self._clean_value(v) for k, v in value.items()} if value else value
        if isinstance(value, tuple | list):
            return type(value)(self._clean_value(v) for v in value) if value else value
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            return self._clean(value)  # type: ignore[arg-type]
        return value

    def close(self) -> None:
        os.close(self._fd)
