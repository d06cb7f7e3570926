"""Owns the row ``reports``: what the reporters cost a session of a thousand tests, by what a test does."""

from __future__ import annotations

import json

from benchmarks.commands import CASES, Workshop, command, failure_of, lane, lane_missing
from benchmarks.measure import Outcome, Variant, run
from benchmarks.table import Metric, Relation, Table

TESTS = 1_000
RANKS = 2
BASE = "empty"
_TESTS = {
    BASE: ("tests that do nothing", "pass"),
    "all_reduce": ("one all_reduce", "dist.all_reduce(torch.ones(8))"),
    "50 ms": ("tests of 50 ms", "time.sleep(0.05)"),
}
DEADLINE_S = 600.0
_METRICS = (
    Metric("cpu_ms", "CPU time of reporters per test", "ms", Relation.NONE),
    Metric("session_ms", "wall time of the session per test", "ms", Relation.NONE),
    Metric("share", "the one as a share of the other", "%", Relation.NONE, scale=100.0),
)
_SUITE = """
import time

import pytest
import torch
import torch.distributed as dist

@pytest.mark.{lane}
@pytest.mark.parametrize("number", range({tests}))
def test_one(modal_{lane}, number):
    {body}
"""


def tables(workshop: Workshop) -> list[Table]:
    """One table: tests that do nothing, the least that needs several ranks, and tests that take a moment."""
    variants = tuple(
        Variant(name, label, lambda _, name=name: _measure(workshop, name), missing=lane_missing())
        for name, (label, _) in _TESTS.items()
    )
    title = f"reporters in a session of {TESTS:,} tests on {RANKS} ranks"
    return [Table("reports", title, "at most 2 % of the session", BASE, _METRICS, variants)]


def _measure(workshop: Workshop, name: str) -> Outcome:
    folder = workshop.fresh(f"reports-{name.replace(' ', '-')}")
    test, seen = folder / "test_many.py", folder / "seen.json"
    test.write_text(_SUITE.format(lane="h200x8", tests=TESTS, body=_TESTS[name][1]), encoding="utf-8")
    (folder / "conftest.py").write_text((CASES / "reporter_time.py").read_text(encoding="utf-8"), encoding="utf-8")
    argv = lane(test, RANKS, folder / "lane")
    done = run(command(argv, folder, DEADLINE_S, {"REPORTER_TIME": str(seen)}))
    if failure := failure_of(done, TESTS):
        return Outcome(failure=failure)
    cpu_s = json.loads(seen.read_text(encoding="utf-8"))
    spent_s = sum(cpu_s.values())
    per_test_ms = 1000 / TESTS
    values = {"cpu_ms": spent_s * per_test_ms, "session_ms": done.wall_s * per_test_ms, "share": spent_s / done.wall_s}
    return Outcome(values, {name: f"{cost_s * per_test_ms:.2f} ms" for name, cost_s in cpu_s.items()})
