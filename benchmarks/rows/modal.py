"""Owns the row ``modal``: what a desk adds on the way to a Modal box, against an emulated control plane on loopback.

The box refuses the lane at its guard, since there are no GPUs here: torch is never imported, and what is left is the
way there and back. Nothing here says how long Modal itself takes.
"""

from __future__ import annotations

import json
import statistics
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from importlib import util
from pathlib import Path

from benchmarks.commands import LANE, OURS, Workshop, command, plugin_missing, pytest_arguments
from benchmarks.measure import Outcome, Variant, run
from benchmarks.table import Metric, Relation, Table

DEADLINE_S = 120.0
FILES = 1000
POLL_S = 0.001
TEST = f"import pytest\n\n\n@pytest.mark.{LANE}\ndef test_it():\n    pass\n"
HELLO = "import modal; modal.Client.from_env().hello()"
_METRICS = (
    Metric("first_event_s", "start to the box's first event", "s", Relation.THIS_MINUS_BASE),
    Metric("latency_ms", "from the box to the desk, an event", "ms", Relation.NONE),
    Metric("latency_max_ms", "the slowest event", "ms", Relation.NONE),
)


def tables(workshop: Workshop) -> list[Table]:
    """One table; the client's own hello is the base."""
    missing = None if util.find_spec("modal") else "the modal client is not installed here (pip install -e '.[test]')"
    variants = (
        Variant("hello", "the client's own hello", lambda _: _hello(workshop), missing=missing),
        Variant("ours", "a lane of one test", lambda _: _lane(workshop, 0), missing=missing or plugin_missing([OURS])),
        Variant("tree", f"the same, {FILES:,} files unchanged", lambda _: _lane(workshop, FILES), missing=missing),
    )
    aim = "first event ≤ hello + 1.5 s · an event ≤ 100 ms · the unchanged tree ≤ 1.5 s more"
    return [Table("modal", "on an emulated Modal", aim, "hello", _METRICS, variants)]


def _hello(workshop: Workshop) -> Outcome:
    with _emulator() as environment:
        done = run(command([sys.executable, "-c", HELLO], workshop.fresh("hello"), DEADLINE_S, environment))
    return Outcome({"first_event_s": done.wall_s}, failure=done.tail() if done.rc else None)


def _lane(workshop: Workshop, files: int) -> Outcome:
    """A tree is sent once before it counts, so that it is unchanged."""
    folder = workshop.fresh("lane")
    (folder / "test_it.py").write_text(TEST, encoding="utf-8")
    for number in range(files):
        place = folder / f"package_{number % 20}" / f"module_{number}.py"
        place.parent.mkdir(exist_ok=True)
        place.write_text(f"# module {number}\n" * 40, encoding="utf-8")
    with _emulator() as environment:
        if files:
            _watched(folder, folder / "before", environment)
        return _watched(folder, folder / "lane", environment)


def _watched(folder: Path, lane_dir: Path, environment: dict[str, str]) -> Outcome:
    argv = [sys.executable, "-m", "pytest", *pytest_arguments([OURS]), "-m", LANE, "--surface", "modal"]
    with _Watch(lane_dir) as watch:
        begun_s = time.time()
        done = run(command([*argv, "--lane-dir", str(lane_dir)], folder, DEADLINE_S, environment))
    events = [arrival for arrival in watch.arrivals if arrival.source == "box"]
    started = next((arrival for arrival in events if arrival.started_at_s is not None), None)
    if started is None or started.started_at_s is None:
        return Outcome(failure=f"no event of the box came: {done.tail()}")
    late_ms = [1000 * (a.at_s - started.started_at_s - (a.box_s - started.box_s)) for a in events]
    return Outcome(
        {
            "first_event_s": started.at_s - begun_s,
            "latency_ms": statistics.median(late_ms),
            "latency_max_ms": max(late_ms),
        },
        {"events": len(events)},
    )


@dataclass(frozen=True)
class _Arrival:
    """A line of the desk's recording: when it came, and when the box says it was."""

    at_s: float
    source: str
    box_s: float
    started_at_s: float | None


@dataclass
class _Watch:
    """Stamps the lines of the recording below a lane directory as they appear."""

    lane_dir: Path
    arrivals: list[_Arrival] = field(default_factory=list)

    def __enter__(self) -> _Watch:
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def _look(self) -> None:
        offset = 0
        while not self._done.wait(POLL_S):
            for recording in self.lane_dir.glob("runs/*/recording.jsonl"):
                with recording.open("rb") as file:
                    file.seek(offset)
                    lines = file.read().splitlines(keepends=True)
                at_s = time.time()
                for line in lines:
                    if line.endswith(b"\n"):
                        offset += len(line)
                        self._note(line, at_s)

    def _note(self, line: bytes, at_s: float) -> None:
        if not line.strip():
            return
        told = json.loads(line)
        started = told.get("started_at")
        started_s = datetime.fromisoformat(started).timestamp() if started else None
        self.arrivals.append(_Arrival(at_s, told["src"], told["t"], started_s))


@contextmanager
def _emulator() -> Iterator[dict[str, str]]:
    from tests.modal_emulator import Emulator

    with Emulator() as emulator:
        yield emulator.environment
