"""Owns the list of rows: a name on the command line to the tables that it measures."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from benchmarks.commands import Workshop
from benchmarks.rows import death, healthy, idle, judge, misreport, modal, reports, seed, start, warm, watch
from benchmarks.table import Table

ROWS: Mapping[str, Callable[[Workshop], list[Table]]] = {
    "idle": idle.tables,
    "start": start.tables,
    "warm": warm.tables,
    "death": death.tables,
    "misreport": misreport.tables,
    "healthy": healthy.tables,
    "watch": watch.tables,
    "judge": judge.tables,
    "modal": modal.tables,
    "seed": seed.tables,
    "reports": reports.tables,
}
