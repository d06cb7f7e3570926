"""Owns the row ``start``: a whole command, shell to exit code, for one small test on eight ranks."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from benchmarks.commands import (
    Workshop,
    command,
    failure_of,
    harness_missing,
    lane,
    lane_missing,
    plain_pytest,
    torch_missing,
    torchrun,
    write_case,
)
from benchmarks.measure import Outcome, Variant, run
from benchmarks.table import Metric, Relation, Table

RANKS = 8
DEADLINE_S = 240.0
_METRICS = (
    Metric("wall_s", "wall", "s", Relation.BASE_OVER_THIS),
    Metric("cpu_s", "CPU, all processes", "s", Relation.BASE_OVER_THIS),
)


def tables(workshop: Workshop) -> list[Table]:
    """One table; ours and torchrun run the very same file."""

    def variant(name: str, label: str, prepare: Callable[[Path], list[str]], missing: str | None) -> Variant:
        return Variant(name, label, lambda _: _measure(workshop.fresh(name), prepare), missing=missing)

    variants = (
        variant("ours", "ours", _ours, lane_missing()),
        variant("torchrun", "torchrun -m pytest", _torchrun, torch_missing()),
        variant("spawned", "torch MultiProcessTestCase", _spawned, harness_missing()),
        variant("continuous", "torch MultiProcContinuousTest", _continuous, harness_missing()),
    )
    title = f"{RANKS} ranks, one all_reduce test, the whole command"
    return [Table("start", title, "≤ 0.40 × torchrun", "ours", _METRICS, variants)]


def _measure(folder: Path, prepare: Callable[[Path], list[str]]) -> Outcome:
    done = run(command(prepare(folder), folder, DEADLINE_S))
    failure = failure_of(done, passed=1)
    if failure is not None:
        return Outcome(failure=failure)
    values = {"wall_s": done.wall_s, "cpu_s": done.cpu_s}
    return Outcome(values, {"strays": done.strays} if done.strays else {})


def _ours(folder: Path) -> list[str]:
    return lane(write_case(folder, "marker_only"), RANKS, folder / "lane")


def _torchrun(folder: Path) -> list[str]:
    return torchrun(write_case(folder, "marker_only"), RANKS)


def _spawned(folder: Path) -> list[str]:
    return plain_pytest(write_case(folder, "spawned", RANKS=RANKS, TESTS=1))


def _continuous(folder: Path) -> list[str]:
    return plain_pytest(write_case(folder, "continuous", RANKS=RANKS, TESTS=1))
