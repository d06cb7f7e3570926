"""Owns the row ``misreport``: one fault after another on every side, and which of them tell the truth about it."""

from __future__ import annotations

from benchmarks.commands import Workshop
from benchmarks.peers import OURS_LIMIT_S, RANKS, Scenario, sides, variant
from benchmarks.rows.death import METRICS
from benchmarks.table import Table

SCENARIOS = (
    Scenario("sigkill_unmissed", "rank 1 kills itself with SIGKILL, the others return", (1,)),
    Scenario("sigkill", "rank 3 kills itself with SIGKILL, the others wait", (3,)),
    Scenario("exit", "rank 3 exits with status 3, the others wait", (3,)),
    Scenario("raise", "rank 3 raises ValueError, stays alive and goes on to the next test", (3,)),
    Scenario("absent", "rank 2 never enters the all_reduce", (2,)),
    Scenario("frozen", "rank 2 is stopped by SIGSTOP, the others wait", (2,)),
    Scenario("compiling", "rank 1 compiles for minutes, the others wait", (1,)),
    Scenario("operation", "rank 1 broadcasts where the others reduce, and returns", (1,)),
    Scenario("size", "rank 0 broadcasts 4 elements where the others expect 8, and returns", (0,)),
    Scenario("dtype", "rank 2 reduces integers where the others reduce floats; everybody passes", (2,)),
)


def tables(workshop: Workshop) -> list[Table]:
    """One table a scenario; together they are a grid."""
    return [_table(workshop, scenario) for scenario in SCENARIOS]


def _table(workshop: Workshop, scenario: Scenario) -> Table:
    variants = tuple(variant(workshop, side, scenario) for side in sides())
    aim = f"the right rank; of hangs within the limit of {OURS_LIMIT_S} s + 2 s"
    title = f"{scenario.truth} ({RANKS} ranks)"
    return Table(f"misreport-{scenario.name}", title, aim, "ours", METRICS, variants, truth=scenario.truth, rounds=1)
