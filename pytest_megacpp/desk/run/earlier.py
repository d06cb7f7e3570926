"""Owns how long tests took in earlier runs of a lane directory; must not know what that is used for."""

from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from pytest_megacpp.desk.run.directory import read_run_json, run_paths
from pytest_megacpp.report.measures import amount

KEPT_RUNS = 3  # the newest: what a test takes changes with the code
LOOKED_AT = 12  # runs of other lanes among them
MAX_BYTES = 8 << 20  # of a run.json: reading it must take no longer than a moment


def seconds_before(run: Path, lane: str, *, dry_run: bool) -> Mapping[str, float]:
    """By node id, of the runs of this lane beside `run`, the newest first; empty where there are none. A test counts
    with all its attempts, as a run pays for them.
    """
    found: dict[str, float] = {}
    earlier = (path for path in reversed(run_paths(run.parent.parent)) if path.name < run.name)
    alike = (document for path in islice(earlier, LOOKED_AT) if (document := _document(path, lane, dry_run)))
    for document in islice(alike, KEPT_RUNS):
        tests = document.get("tests")
        for test in tests if isinstance(tests, list) else ():
            nodeid, seconds = _seconds(test)
            if seconds > 0:
                found.setdefault(nodeid, seconds)
    return found


def _document(run: Path, lane: str, dry_run: bool) -> dict[str, Any] | None:
    try:
        is_small = (run / "run.json").stat().st_size <= MAX_BYTES
    except OSError:
        return None
    document = read_run_json(run) if is_small else None
    is_alike = document is not None and (document.get("lane"), document.get("dry_run")) == (lane, dry_run)
    return document if is_alike else None


def _seconds(test: Any) -> tuple[str, float]:
    """Of an entry of `run.json`, whoever wrote it: 0 where it says nothing, or of a test that its limits ended."""
    cost = test.get("cost") if isinstance(test, dict) and test.get("outcome") == "passed" else None
    seconds = amount(cost.get("seconds")) if isinstance(cost, dict) else None
    return (str(test.get("nodeid")), seconds) if seconds is not None else ("", 0.0)
