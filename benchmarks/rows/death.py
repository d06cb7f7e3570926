"""Owns the row ``death``: from a fault on rank 3 of 4 to a recorded verdict, and whom the verdict names.

The rank stamps the wall clock just before the fault. Ours has answered when the receipt is on disk; a peer
when its line that names a rank arrives on its output.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from benchmarks.commands import (
    Workshop,
    command,
    harness_missing,
    lane,
    lane_missing,
    plain_pytest,
    torch_missing,
    torchrun,
    write_case,
)
from benchmarks.measure import Completed, Fact, Outcome, Variant, run
from benchmarks.table import Metric, Relation, Table

RANKS, GUILTY = 4, 3
DEADLINE_S = 90.0
HARNESS_LIMIT_S = 20
FAULTS = {"raise": "raises", "sigkill": "kills itself with SIGKILL"}
AIMS = {"raise": "≤ 1 s, always the right rank", "sigkill": "≤ 0.3 s, always the right rank"}
_METRICS = (
    Metric("verdict_s", "fault to verdict", "s", Relation.BASE_OVER_THIS),
    Metric("end_s", "fault to the end of the command", "s", Relation.BASE_OVER_THIS),
)


@dataclass(frozen=True)
class _Answer:
    """When a verdict was there (epoch seconds), whom it blamed, and in which words."""

    at_s: float
    blamed: list[int]
    words: str


@dataclass(frozen=True)
class _Side:
    """How to launch a case and how to read the answer."""

    case: str
    launch: Callable[[Path, Path], list[str]]
    read: Callable[[Path, Completed], _Answer | None]


def tables(workshop: Workshop) -> list[Table]:
    """One table a fault; ours and torchrun run the very same file."""
    return [_table(workshop, fault) for fault in FAULTS]


def _table(workshop: Workshop, fault: str) -> Table:
    def variant(name: str, label: str, side: _Side, missing: str | None) -> Variant:
        return Variant(name, label, lambda _: _measure(workshop, name, side, fault), missing=missing)

    ours = _Side("death_marker", lambda folder, test: lane(test, RANKS, folder / "lane"), _read_receipt)
    elastic = _Side("death_marker", lambda _, test: torchrun(test, RANKS), _read_torchrun)
    spawned = _Side("death_spawned", lambda _, test: plain_pytest(test), _read_spawned)
    continuous = _Side("death_continuous", lambda _, test: plain_pytest(test), _read_continuous)
    limited = f"(its limit set to {HARNESS_LIMIT_S} s)"
    variants = (
        variant("ours", "ours", ours, lane_missing()),
        variant("torchrun", "torchrun -m pytest", elastic, torch_missing()),
        variant("spawned", f"torch MultiProcessTestCase {limited}", spawned, harness_missing()),
        variant("continuous", f"torch MultiProcContinuousTest {limited}", continuous, harness_missing()),
    )
    title = f"rank {GUILTY} of {RANKS} {FAULTS[fault]} while the others wait in an all_reduce"
    return Table(f"death-{fault}", title, AIMS[fault], "ours", _METRICS, variants)


def _measure(workshop: Workshop, name: str, side: _Side, fault: str) -> Outcome:
    folder = workshop.fresh(f"{name}-{fault}")
    stamp = folder / "fault.txt"
    test = write_case(folder, side.case, FAULT=fault, STAMP=str(stamp))
    done = run(command(side.launch(folder, test), folder, DEADLINE_S, _extra()))
    if not stamp.exists():
        return Outcome(failure=f"the fault never happened: {done.tail()}")
    return _outcome(float(stamp.read_text()), done, side.read(folder, done))


def _extra() -> dict[str, str]:
    return {"PYTHONUNBUFFERED": "1", "DISTRIBUTED_TESTS_DEFAULT_TIMEOUT": str(HARNESS_LIMIT_S)}


def _outcome(fault_at_s: float, done: Completed, answer: _Answer | None) -> Outcome:
    facts: dict[str, Fact] = {"strays": done.strays} if done.strays else {}
    end = {} if done.timed_out else {"end_s": done.finished_at_s - fault_at_s}
    if answer is None:
        return Outcome(end, facts | {"verdict": _silence(done)})
    facts |= {"blamed": answer.blamed, "right": answer.blamed == [GUILTY], "verdict": answer.words}
    return Outcome({"verdict_s": answer.at_s - fault_at_s} | end, facts)


def _silence(done: Completed) -> str:
    if done.timed_out:
        return f"none, killed after {DEADLINE_S:.0f} s"
    return "none, the command passed" if done.rc == 0 else f"none, exit code {done.rc}"


def _read_receipt(folder: Path, done: Completed) -> _Answer | None:
    """The receipt of the one test of the newest run; its file time is the time of the verdict."""
    del done
    lane_dir = folder / "lane"
    if not (lane_dir / "latest").exists():
        return None
    run_id = (lane_dir / "latest").read_text(encoding="utf-8").strip()
    receipts = sorted((lane_dir / "runs" / run_id / "receipts").glob("*.json"))
    if len(receipts) != 1:
        return None
    verdict = json.loads(receipts[0].read_text(encoding="utf-8"))["verdict"]
    words = f"{verdict['code']}, cause {verdict['cause']}, {verdict['certainty']}"
    return _Answer(receipts[0].stat().st_mtime, sorted(verdict["blamed_ranks"]), words)


def _read_torchrun(folder: Path, done: Completed) -> _Answer | None:
    """The rank under torchrun's heading "Root Cause (first observed failure)"."""
    del folder
    starts = [index for index, line in enumerate(done.lines) if "Root Cause" in line.text]
    for line in done.lines[starts[0] :] if starts else ():
        if match := re.search(r"\brank\s*:\s*(\d+)", line.text):
            return _Answer(line.at_s, [int(match[1])], "root cause")
    return None


def _read_spawned(folder: Path, done: Completed) -> _Answer | None:
    """Every process that MultiProcessTestCase lists as having failed."""
    del folder
    return _named(done, r"^E .*Process (\d+) (?:exit|terminated or timed out)", "error text")


def _read_continuous(folder: Path, done: Completed) -> _Answer | None:
    """The rank that MultiProcContinuousTest's warning names."""
    del folder
    return _named(done, r"Detected failure from Rank (\d+)", "warning")


def _named(done: Completed, pattern: str, words: str) -> _Answer | None:
    found = [(line.at_s, int(match[1])) for line in done.lines if (match := re.search(pattern, line.text))]
    if not found:
        return None
    return _Answer(found[0][0], sorted({rank for _, rank in found}), words)
