"""Owns the row ``death``: from a fault on rank 3 of 4 to a recorded verdict, and whom the verdict names."""

from __future__ import annotations

from benchmarks.commands import Workshop
from benchmarks.peers import HARNESS_LIMIT_S, RANKS, Scenario, sides, variant
from benchmarks.table import Metric, Relation, Table

AIMS = {"raise": "≤ 1 s, always the right rank", "sigkill": "≤ 0.3 s, always the right rank"}
SCENARIOS = (
    Scenario("raise", "raises", (3,)),
    Scenario("sigkill", "kills itself with SIGKILL", (3,)),
)
METRICS = (
    Metric("verdict_s", "fault to verdict", "s", Relation.BASE_OVER_THIS),
    Metric("end_s", "fault to the end of the command", "s", Relation.BASE_OVER_THIS),
)
_SIDES = ("ours", "torchrun", "spawned", "continuous")


def tables(workshop: Workshop) -> list[Table]:
    """One table a fault."""
    return [_table(workshop, scenario) for scenario in SCENARIOS]


def _table(workshop: Workshop, scenario: Scenario) -> Table:
    variants = tuple(variant(workshop, side, scenario) for side in sides() if side.name in _SIDES)
    who = f"rank 3 of {RANKS} {scenario.truth} while the others wait in an all_reduce"
    title = f"{who}; the harnesses' limit is {HARNESS_LIMIT_S} s"
    return Table(f"death-{scenario.name}", title, AIMS[scenario.name], "ours", METRICS, variants)
