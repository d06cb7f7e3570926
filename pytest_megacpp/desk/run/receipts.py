"""Owns reading the receipts of runs, of many runs quickly; must not know what is made of them."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pytest_megacpp.desk.run.directory import run_paths
from pytest_megacpp.desk.run.runs import no_garbage_collection
from pytest_megacpp.report.measures import Measures, measures

MAX_BYTES = 64 << 20  # of one receipt
_UNMEASURED = b'\n "seed": ', b'\n "git": '  # what is between them is half of a receipt: the circumstances of its run


def receipts_of(run: Path) -> Iterator[tuple[Path, Measures]]:
    """What the readable receipts of a run measured, in the order of their names."""
    for path in sorted((run / "receipts").glob("*.json")):
        found = measures(read_receipt(path))
        if found is not None:
            yield path, found


@dataclass(frozen=True, slots=True)
class History:
    """The receipts of the newest `runs` of `all_runs` runs that have any, in order of time."""

    receipts: list[Measures]
    runs: int
    all_runs: int

    @property
    def covered(self) -> str:
        """Which runs these are."""
        if self.runs == self.all_runs:
            return f"All {self.all_runs} runs that have receipts, {len(self.receipts)} receipts."
        newest = f"The newest {self.runs} of {self.all_runs} runs, {len(self.receipts)} receipts"
        return f"{newest}; megacpp history --html takes all."


def newest_receipts(lane_dir: Path, limit: int | None = None, runs: int | None = None) -> History:
    """About as many receipts as `limit`, of whole runs, at least two; of at most so many `runs`. None: of all."""
    found: list[list[Measures]] = []
    having = [run for run in reversed(run_paths(lane_dir)) if (run / "receipts").is_dir()]
    left = limit
    with no_garbage_collection():
        for run in having[:runs]:
            if left is not None and left <= 0 and len(found) >= 2:
                break
            found.append([measured for _, measured in receipts_of(run)])
            left = left - len(found[-1]) if left is not None else None
    return History([measured for of_run in reversed(found) for measured in of_run], len(found), len(having))


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
