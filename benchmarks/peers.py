"""Owns running one scenario on one side, ours or a peer's, and reading from its output whom it blames.

The rank at fault stamps the wall clock. Ours has answered when the receipt is on disk; a peer when the line that
names a rank arrives on its output.
"""

from __future__ import annotations

import json
import re
import sys
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
    write_module,
)
from benchmarks.measure import Completed, Fact, Outcome, Variant, run

RANKS = 4
DEADLINE_S = 150.0
GROUP_LIMIT_S = 20  # of a collective, where the case makes the process group
HARNESS_LIMIT_S = 60  # of a test; start-up counts in it
OURS_LIMIT_S = 5  # stall and skew
_WORDS_CHARS = 120


@dataclass(frozen=True)
class Scenario:
    """A fault of ``cases/scenarios.py``, its truth in words, and the ranks to blame."""

    name: str
    truth: str
    guilty: tuple[int, ...]


@dataclass(frozen=True)
class Answer:
    """Whom a side blamed, when (epoch seconds), and in which words of its own."""

    blamed: list[int]
    at_s: float
    words: str


@dataclass(frozen=True)
class Side:
    """How to launch a scenario and how to read the answer. ``limit_s`` is written into the case."""

    name: str
    label: str
    case: str
    limit_s: int | None
    launch: Callable[[Path, Path], list[str]]
    read: Callable[[Path, Completed], Answer | None]
    missing: str | None = None


def sides() -> tuple[Side, ...]:
    """Ours first; ours and torchrun run the very same file."""
    harness, torch = harness_missing(), torch_missing()
    fast, slow = GROUP_LIMIT_S, HARNESS_LIMIT_S
    spawned, continuous = "torch MultiProcessTestCase", "torch MultiProcContinuousTest"
    return (
        Side("ours", "ours", "scenario_marker", fast, _ours, _read_receipt, lane_missing()),
        Side("torchrun", "torchrun -m pytest", "scenario_marker", fast, _torchrun, _read_torchrun, torch),
        Side("spawned", spawned, "scenario_spawned", None, _pytest, _read_spawned, harness),
        Side("continuous", continuous, "scenario_continuous", fast, _pytest, _read_continuous, harness),
        Side("pool", "Pool.starmap_async().get()", "scenario_pool", slow, _pytest, _read_pool, torch),
        Side("frtrace", "torchfrtrace", "scenario_records", slow, _script, _read_analyser, torch),
    )


def variant(workshop: Workshop, side: Side, scenario: Scenario) -> Variant:
    """The scenario on this side, as something to measure."""
    return Variant(side.name, side.label, lambda _: _measure(workshop, side, scenario), missing=side.missing)


def _measure(workshop: Workshop, side: Side, scenario: Scenario) -> Outcome:
    folder = workshop.fresh(f"{side.name}-{scenario.name}")
    stamp = folder / "fault.txt"
    write_module(folder, "scenarios", "scenarios", SCENARIO=scenario.name, STAMP=str(stamp))
    test = write_case(folder, side.case, **({"LIMIT_S": side.limit_s} if side.limit_s else {}))
    extra = {"PYTHONUNBUFFERED": "1", "DISTRIBUTED_TESTS_DEFAULT_TIMEOUT": str(HARNESS_LIMIT_S)}
    done = run(command(side.launch(folder, test), folder, DEADLINE_S, extra))
    if not stamp.exists():
        return Outcome(failure=f"the fault never happened: {done.tail()}")
    return _outcome(float(stamp.read_text()), done, side.read(folder, done), scenario)


def _outcome(fault_at_s: float, done: Completed, answer: Answer | None, scenario: Scenario) -> Outcome:
    values = {} if done.timed_out else {"end_s": done.finished_at_s - fault_at_s}
    facts: dict[str, Fact] = {"strays": done.strays} if done.strays else {}
    says = [answer.words if answer and answer.words else _silence(done)]
    if any(re.match(r"FAILED .*::test_next", line.text) for line in done.lines):
        says.append("the next test fails too")
    facts |= {"answer": _mark(answer, done, scenario), "says": ", ".join(says)}
    if answer and answer.blamed:
        values |= {"verdict_s": answer.at_s - fault_at_s}
        facts |= {"blamed": answer.blamed}
    return Outcome(values, facts)


def _mark(answer: Answer | None, done: Completed, scenario: Scenario) -> str:
    """A fault that nobody is told of is a wrong answer too."""
    if answer and answer.blamed:
        return "right" if tuple(answer.blamed) == scenario.guilty else "wrong"
    return "wrong" if done.rc == 0 else "names nobody"


def _silence(done: Completed) -> str:
    if done.timed_out:
        return f"nothing in {DEADLINE_S:.0f} s"
    return "passed" if done.rc == 0 else f"exit code {done.rc}"


# How each side is started.


def _ours(folder: Path, test: Path) -> list[str]:
    limits = [part for name in ("stall", "skew") for part in ("--lane-limit", f"{name}={OURS_LIMIT_S}")]
    return lane(test, RANKS, folder / "lane", *limits)


def _torchrun(folder: Path, test: Path) -> list[str]:
    del folder
    return torchrun(test, RANKS)


def _pytest(folder: Path, test: Path) -> list[str]:
    del folder
    return plain_pytest(test)


def _script(folder: Path, test: Path) -> list[str]:
    del folder
    return [sys.executable, str(test)]


# Where each side's answer is.


def _read_receipt(folder: Path, done: Completed) -> Answer | None:
    """The receipt of the first test; its file time is the time of the verdict."""
    del done
    for path in (folder / "lane").glob("runs/*/receipts/*.json"):
        receipt = json.loads(path.read_text(encoding="utf-8"))
        if receipt["nodeid"].endswith("::test_first"):
            verdict = receipt["verdict"]
            words = f"{verdict['code']}, {verdict['cause']}, {verdict['certainty']}"
            return Answer(sorted(verdict["blamed_ranks"]), path.stat().st_mtime, words)
    return None


def _read_torchrun(folder: Path, done: Completed) -> Answer | None:
    """The rank under torchrun's heading "Root Cause (first observed failure)", with its exit code."""
    del folder
    starts = [index for index, line in enumerate(done.lines) if "Root Cause" in line.text]
    cause = done.lines[starts[0] :] if starts else ()
    ranks = [(line.at_s, int(found[1])) for line in cause if (found := re.search(r"\brank\s*:\s*(\d+)", line.text))]
    if not ranks:
        return None
    codes = [found[1] for line in cause if (found := re.search(r"\bexitcode\s*:\s*(-?\d+)", line.text))]
    return Answer([ranks[0][1]], ranks[0][0], ", ".join(filter(None, [f"exitcode {codes[0]}", _error_text(done)])))


def _read_spawned(folder: Path, done: Completed) -> Answer | None:
    """Every process that MultiProcessTestCase lists as having failed."""
    del folder
    return _named(done, r"^E .*Process (\d+) (?:exit|terminated or timed out)")


def _read_continuous(folder: Path, done: Completed) -> Answer | None:
    """The rank that MultiProcContinuousTest's warning names."""
    del folder
    return _named(done, r"[^\"]Detected failure from Rank (\d+)")


def _read_pool(folder: Path, done: Completed) -> Answer | None:
    """A pool knows no ranks; what its exception says."""
    del folder
    return Answer([], 0.0, _error_text(done)) if done.rc else None


def _read_analyser(folder: Path, done: Completed) -> Answer | None:
    """Ranks that torchfrtrace names as missing or odd; of a crash the last line."""
    del folder
    said = [line for line in done.lines if re.search(r"ranks.*missing|missing_ranks|[Mm]ismatch", line.text)]
    crashed = [line for line in done.lines if re.match(r"\w+Error: ", line.text)]
    if crashed or not said:
        return Answer([], 0.0, _shortened(crashed[-1].text)) if crashed else None
    return Answer(sorted({int(rank) for rank in re.findall(r"\d+", said[0].text)}), said[0].at_s, said[0].text)


def _named(done: Completed, pattern: str) -> Answer | None:
    """Ranks of all lines that match; the words are those of the first exception."""
    found = [(line.at_s, int(match[1])) for line in done.lines if (match := re.search(pattern, line.text))]
    if not found:
        return None
    return Answer(sorted({rank for _, rank in found}), found[0][0], _error_text(done))


def _error_text(done: Completed) -> str:
    """The first exception that pytest shows."""
    for line in done.lines:
        if match := re.match(r"E +(\w[\w.]*(?:Error|Exception)\b.*)", line.text):
            return _shortened(match[1])
    return ""


def _shortened(text: str) -> str:
    text = re.sub(r"\[/[^]]*\] ", "", text).strip()
    return text if len(text) <= _WORDS_CHARS else text[: _WORDS_CHARS - 1] + "…"
