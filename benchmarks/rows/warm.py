"""Owns the row ``warm``: what one more trivial test costs when the ranks are up.

Two slopes: of the whole command between a short and a long file, and of rank 0's own stamps inside the long
one. The first holds everything that is done for a test, also at the end of the session, and carries the noise
of two start-ups; the second is steady and misses what is put off to the end.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from benchmarks.commands import (
    Workshop,
    command,
    discard,
    failure_of,
    harness_missing,
    lane,
    lane_missing,
    plain_pytest,
    torch_missing,
    torchrun,
    write_case,
)
from benchmarks.measure import Completed, Outcome, Variant, run
from benchmarks.table import Metric, Relation, Table

RANKS = 4
DEADLINE_S = 300.0
STAMPS = "stamps.txt"
_METRICS = (
    Metric("command_s", "slope of the command", "ms/test", Relation.BASE_OVER_THIS, scale=1e3),
    Metric("inside_s", "slope of rank 0's stamps", "ms/test", Relation.BASE_OVER_THIS, scale=1e3),
)


@dataclass(frozen=True)
class _Side:
    """How to write and launch a file of N tests; ``short`` and ``long`` are the two values of N."""

    case: str
    constants: dict[str, str | int]
    launch: Callable[[Path, Path], list[str]]
    short: int = 5
    long: int = 105


def tables(workshop: Workshop) -> list[Table]:
    """One table; torchrun's ranks share a session-wide group and have no fence between tests."""

    def variant(name: str, label: str, side: _Side, missing: str | None, most: int | None = None) -> Variant:
        return Variant(name, label, lambda _: _measure(workshop, name, side), most, missing)

    ranks: dict[str, str | int] = {"RANKS": RANKS}
    ours = _Side("lane_fixture", {}, lambda folder, test: lane(test, RANKS, folder / "lane"))
    fenceless = _Side("session_group", {}, lambda _, test: torchrun(test, RANKS))
    continuous = _Side("continuous", ranks, lambda _, test: plain_pytest(test))
    spawned = _Side("spawned", ranks, lambda _, test: plain_pytest(test), short=1, long=3)
    variants = (
        variant("ours", "ours", ours, lane_missing()),
        variant("torchrun", "torchrun -m pytest, no fence", fenceless, torch_missing()),
        variant("continuous", "torch MultiProcContinuousTest", continuous, harness_missing()),
        variant("spawned", "torch MultiProcessTestCase", spawned, harness_missing(), most=2),
    )
    title = f"one more trivial {RANKS}-rank test (all_reduce and assert) in a warm world"
    aim = "≤ 1/700 of MultiProcessTestCase, ahead of the other two"
    return [Table("warm", title, aim, "ours", _METRICS, variants)]


def _measure(workshop: Workshop, name: str, side: _Side) -> Outcome:
    short, failed_short, _ = _run(workshop.fresh(f"{name}-short"), side, side.short)
    long, failed_long, stamps = _run(workshop.fresh(f"{name}-long"), side, side.long)
    failure = failed_short or failed_long
    if failure is not None:
        return Outcome(failure=failure)
    values = {"command_s": (long.wall_s - short.wall_s) / (side.long - side.short)}
    return Outcome(values | _inside(stamps, side))


def _run(folder: Path, side: _Side, tests: int) -> tuple[Completed, str | None, list[float]]:
    stamps = folder / STAMPS
    test = write_case(folder, side.case, **side.constants, TESTS=tests, STAMPS=str(stamps))
    done = run(command(side.launch(folder, test), folder, DEADLINE_S))
    times = [float(line) for line in stamps.read_text().split()] if stamps.exists() else []
    discard(folder)
    return done, failure_of(done, passed=tests), times


def _inside(stamps: list[float], side: _Side) -> dict[str, float]:
    """From the start of the last warm-up test to the start of the last test, over the tests between."""
    first = side.short - 1
    if len(stamps) != side.long:
        return {}
    return {"inside_s": (stamps[-1] - stamps[first]) / (side.long - 1 - first)}
