"""Owns reading the receipts of runs, of many runs quickly; must not know what is made of them."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pytest_megacpp.desk.run.directory import run_paths
from pytest_megacpp.report.measures import Measures, measures
from pytest_megacpp.report.receipt import receipt_name

MAX_BYTES = 64 << 20  # of one receipt
_UNMEASURED = b'\n "seed": ', b'\n "git": '  # what is between them is half of a receipt: the circumstances of its run


def receipts_of(run: Path, nodeid: str | None = None) -> Iterator[tuple[Path, Measures]]:
    """What the readable receipts of a run measured, in the order of their names; `nodeid`: those of one test."""
    pattern = receipt_name(nodeid) if nodeid is not None else "*.json"
    for path in sorted((run / "receipts").glob(pattern)):
        found = measures(read_receipt(path))
        if found is not None:
            yield path, found


def all_receipts(lane_dir: Path, nodeid: str | None = None) -> Iterator[Measures]:
    """What all receipts of a lane directory measured, the oldest run first."""
    for run in run_paths(lane_dir):
        yield from (found for _, found in receipts_of(run, nodeid))


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
