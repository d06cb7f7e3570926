"""Owns reading the receipts of runs, of many runs quickly; must not know what is made of them."""

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pytest_megacpp.desk.run.directory import run_paths
from pytest_megacpp.desk.run.runs import no_garbage_collection
from pytest_megacpp.report.history.series import is_replayed
from pytest_megacpp.report.layout import counted
from pytest_megacpp.report.measures import Measures, measures

MAX_BYTES = 64 << 20  # of one receipt
LOOKED_AT = 100  # runs, for receipts of given names: a test may be in none
_UNMEASURED = b'\n "seed": ', b'\n "git": '  # what is between them is half of a receipt: the circumstances of its run


def receipts_of(run: Path, names: Sequence[str] | None = None) -> Iterator[tuple[Path, Measures]]:
    """What the readable receipts of a run measured, in the order of their names; None: of all."""
    named = [run / "receipts" / name for name in names or ()]
    for path in sorted(named if names is not None else (run / "receipts").glob("*.json")):
        found = measures(read_receipt(path))
        if found is not None:
            yield path, found


@dataclass(frozen=True, slots=True)
class History:
    """The receipts of the newest `runs` of `all_runs` runs that have any, in order of time. `tests`: of how many tests
    of the newest run at most, None: of all.
    """

    receipts: list[Measures]
    runs: int
    all_runs: int
    tests: int | None = None

    @property
    def is_whole(self) -> bool:
        """Whether these are all receipts that there are."""
        return self.runs == self.all_runs and self.tests is None

    @property
    def covered(self) -> str:
        """Which runs and tests these are, and what was left out of them."""
        real = [one for one in self.receipts if not is_replayed(one)]
        shown, named = ({one.run_id for one in receipts} for receipts in (real, self.receipts))
        left = [counted(len(named - shown), "replay")] if named - shown else []
        left += [f"{counted(self.runs - len(named), 'run')} without such receipts"] if self.runs > len(named) else []
        without = f"; left out: {', '.join(left)}" if left else ""
        if self.is_whole:
            return f"All {self.all_runs} runs that have receipts, {counted(len(real), 'receipt')}{without}."
        tests = f", of {self.tests} tests: what failed last and what took longest" if self.tests is not None else ""
        return (
            f"The newest {self.runs} of {self.all_runs} runs, {counted(len(real), 'receipt')}{tests}{without}; "
            "megacpp history --html takes all."
        )


def newest_receipts(
    lane_dir: Path, limit: int | None = None, runs: int | None = None, names: Sequence[str] | None = None
) -> History:
    """About as many receipts as `limit`, of at least two and at most so many `runs`; None: of all. `names`: only files
    of these names, in the newest `LOOKED_AT` runs.
    """
    found: list[list[Measures]] = []
    having = _runs_with_receipts(lane_dir)
    left, most = limit, runs if names is None else min(runs or LOOKED_AT, LOOKED_AT)
    with no_garbage_collection():
        for run in having[:most]:
            if left is not None and left <= 0 and len(found) >= 2:
                break
            found.append([measured for _, measured in receipts_of(run, names)])
            left = left - len(found[-1]) if left is not None else None
    receipts = [measured for of_run in reversed(found) for measured in of_run]
    return History(receipts, len(found), len(having), len(names) if names is not None else None)


def newest_two(lane_dir: Path) -> int:
    """How many receipts the two newest runs have together; 0 where there aren't two."""
    counts = [len(os.listdir(run / "receipts")) for run in _runs_with_receipts(lane_dir)[:2]]
    return sum(counts) if len(counts) == 2 else 0


def _runs_with_receipts(lane_dir: Path) -> list[Path]:
    """The newest first."""
    return [run for run in reversed(run_paths(lane_dir)) if (run / "receipts").is_dir()]


def read_receipt(path: Path) -> dict[str, Any] | None:
    """A receipt without the circumstances of its run; None where it can't be read."""
    try:
        document = _parsed(path.read_bytes()) if path.stat().st_size <= MAX_BYTES else None
    except (OSError, ValueError, RecursionError):
        return None
    return document if isinstance(document, dict) else None


def _parsed(data: bytes) -> object:
    """The document. As `dump_json` writes it, a line begins a field, and no text holds a line's end."""
    head, begin, rest = data.partition(_UNMEASURED[0])
    _, end, tail = rest.partition(_UNMEASURED[1])
    if begin and end:
        try:
            return json.loads(head + end + tail)
        except ValueError:
            pass
    return json.loads(data)
