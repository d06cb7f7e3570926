"""Owns the row ``healthy``: false alarms in tests that are unusual but right, on a machine overloaded on purpose."""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from benchmarks.commands import Workshop, command, lane, lane_missing, write_case
from benchmarks.measure import Completed, Fact, Outcome, Variant, run
from benchmarks.table import Metric, Relation, Table

RANKS = 8  # of tests that don't say how many
PASSES = 5  # with some forty tests each: two hundred
BURNERS_PER_CPU = 2
DEADLINE_S = 900.0
DRILLS = Path("smoke_suites/drills/test_healthy.py")
_METRICS = (
    Metric("tests", "healthy tests run", "tests", Relation.NONE),
    Metric("alarms", "false alarms", "tests", Relation.NONE),
)


def tables(workshop: Workshop) -> list[Table]:
    """One table: the healthy drills, and one test of two minutes."""
    drills = Variant("drills", str(DRILLS), lambda _: _measure(workshop, DRILLS.resolve()), missing=lane_missing())
    minutes = Variant("minutes", "two minutes", lambda _: _measure_minutes(workshop), missing=lane_missing())
    title = f"healthy tests under {BURNERS_PER_CPU} burning processes a CPU"
    return [Table("healthy", title, "no false alarm", "drills", _METRICS, (drills, minutes), rounds=PASSES)]


def _measure_minutes(workshop: Workshop) -> Outcome:
    return _measure(workshop, write_case(workshop.fresh("minutes"), "healthy_minutes"))


def _measure(workshop: Workshop, test: Path) -> Outcome:
    folder = workshop.fresh("healthy")
    with _burning():
        done = run(command(lane(test, RANKS, folder / "lane"), test.parent, DEADLINE_S))
    runs = list((folder / "lane").glob("runs/*/run.json"))
    return _outcome(json.loads(runs[0].read_text(encoding="utf-8"))["tests"], done) if runs else _broken(done)


@contextlib.contextmanager
def _burning() -> Iterator[None]:
    count = BURNERS_PER_CPU * len(os.sched_getaffinity(0))
    burners = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for burner in burners:
            burner.kill()
            burner.wait()


def _broken(done: Completed) -> Outcome:
    return Outcome(failure=f"no run: {done.tail()}")


def _outcome(tests: list[dict[str, str]], done: Completed) -> Outcome:
    alarms = [f"{test['nodeid']} {test['outcome']} {test['verdict']}" for test in tests if test["outcome"] != "passed"]
    ran, passed = (Counter(map(_kind, some)) for some in (tests, [t for t in tests if t["outcome"] == "passed"]))
    facts: dict[str, Fact] = {kind: f"{passed[kind]} of {count}" for kind, count in ran.items()}
    failure = "; ".join(alarms) or ("" if done.rc == 0 else f"exit code {done.rc}: {done.tail()}")
    return Outcome({"tests": len(tests), "alarms": len(alarms)}, facts, failure or None)


def _kind(test: dict[str, str]) -> str:
    """The test function without its parameters."""
    return re.sub(r".*::test_|\[.*", "", test["nodeid"])
