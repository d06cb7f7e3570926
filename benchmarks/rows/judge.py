"""Owns the row ``judge``: what it takes to read and judge a recording of a large world, and whether that is linear.

The same story is told at two lengths in turns; a figure per event that is the same for both is what linear means.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks import recordings
from benchmarks.commands import CASES, Workshop, command
from benchmarks.measure import Completed, Outcome, Variant, run
from benchmarks.table import Metric, Relation, Table

RANKS = 1024
SIZES = {"quarter": 250_000, "million": 1_000_000}
BASE = "quarter"
DEADLINE_S = 300.0
_METRICS = (
    Metric("us_per_event", "CPU time per event, all in all", "µs", Relation.BASE_OVER_THIS),
    Metric("cpu_s", "CPU time, all in all", "s", Relation.BASE_OVER_THIS),
    Metric("read_cpu_s", "CPU time to read and fold", "s", Relation.BASE_OVER_THIS),
    Metric("judge_cpu_s", "CPU time to judge", "s", Relation.BASE_OVER_THIS),
    Metric("wall_s", "wall time, all in all", "s", Relation.BASE_OVER_THIS),
    Metric("peak_mib", "peak memory", "MiB", Relation.BASE_OVER_THIS),
)


def tables(workshop: Workshop) -> list[Table]:
    """One table: the story at a quarter of its length, and whole."""
    bench = _Bench(workshop)
    variants = tuple(_variant(bench, name, events) for name, events in SIZES.items())
    title = f"read and judge a recording of {RANKS:,} ranks and {recordings.TESTS} tests, the last one with a straggler"
    aim = "1,000,000 events in ≤ 10 s; the same time per event at both lengths; bounded memory"
    return [Table("judge", title, aim, BASE, _METRICS, variants)]


def _variant(bench: _Bench, name: str, events: int) -> Variant:
    return Variant(name, f"{events:,} events", lambda _: bench.measure(name, events))


@dataclass
class _Bench:
    """The generated recordings, by variant, with how many events they hold."""

    workshop: Workshop
    _made: dict[str, tuple[Path, int]] = field(default_factory=dict)

    def measure(self, name: str, events: int) -> Outcome:
        """One process that reads, judges and tells the last test's text."""
        if name not in self._made:
            path = self.workshop.fresh(f"judge-{name}") / "recording.jsonl"
            self._made[name] = path, recordings.write(path, events, RANKS)
        path, count = self._made[name]
        target = path.with_name("seen.json")
        script = str(CASES / "judge_recording.py")
        done = run(command([sys.executable, script, str(path), str(target)], path.parent, DEADLINE_S))
        return _outcome(done, target, path, count)


def _outcome(done: Completed, target: Path, path: Path, count: int) -> Outcome:
    if done.timed_out or done.rc != 0:
        return Outcome(failure=f"exit code {done.rc}: {done.tail()}")
    seen = json.loads(target.read_text(encoding="utf-8"))
    values = {metric.name: seen[metric.name] for metric in _METRICS if metric.name in seen}
    values["us_per_event"] = 1e6 * seen["cpu_s"] / count
    facts = {"events": count, "bytes": path.stat().st_size, "verdicts": ", ".join(seen["verdicts"])}
    right = seen["blamed"] == [recordings.MISSING]
    return Outcome(values, {**facts, "right rank": right, "lines of its text": seen["lines"]})
