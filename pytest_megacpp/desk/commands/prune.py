"""Owns `megacpp prune`: removing old runs; must not know what is in them.

A run that goes on is never removed: a desk holds its lock, or its document says that it goes on. A run is renamed
before it is removed, so that no half of one is ever taken for a run.
"""

import argparse
import contextlib
import os
import re
import shutil
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from pytest_megacpp.desk.commands.command import FAILED, OK, Desk, complain, say
from pytest_megacpp.desk.commands.runs import Entry, entries
from pytest_megacpp.desk.run.directory import HISTORY, LATEST, is_held, replace_file, run_paths, utc_now
from pytest_megacpp.report.clean import one_line
from pytest_megacpp.report.layout import counted
from pytest_megacpp.report.quantities import age_text
from pytest_megacpp.report.run_json import RunStatus

GOING = (RunStatus.RUNNING, RunStatus.DETACHED)
DELETING = ".deleting-"
_UNITS = {"h": 1, "d": 24, "w": 7 * 24}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--keep", metavar="N", type=int, help="the newest N runs stay, however old they are")
    parser.add_argument("--older-than", metavar="AGE", help="younger runs stay: 36h, 30d, 8w")
    parser.add_argument("--dry-run", action="store_true", help="say what would be removed, and remove nothing")


def run(desk: Desk, arguments: argparse.Namespace) -> int:
    """Removes runs and says which; FAILED if one could not be removed. Raises UsageError."""
    if arguments.keep is None and arguments.older_than is None:
        raise pytest.UsageError("say which runs may go: megacpp prune --keep 100, or --older-than 30d, or both")
    if arguments.keep is not None and arguments.keep < 0:
        raise pytest.UsageError(f"--keep {arguments.keep}: it has to be 0 or more")
    found, now = list(entries(desk.lane_dir)), utc_now()
    old = [entry for entry in found[arguments.keep or 0 :] if _is_older(entry, arguments.older_than, now)]
    going = [entry for entry in old if entry.status in GOING or is_held(entry.path)]
    gone = [entry for entry in old if entry not in going]
    say(_plan(gone, going, now, dry_run=arguments.dry_run))
    if arguments.dry_run:
        return OK
    failed = [entry for entry in gone if not _remove(entry.path)]
    _sweep(desk.lane_dir)
    if len(failed) < len(gone):
        _renew(desk.lane_dir)
    return FAILED if failed else OK


def _is_older(entry: Entry, age: str | None, now: datetime) -> bool:
    """A run of which no age is known counts as old only where age doesn't matter."""
    if age is None:
        return True
    return entry.started is not None and now - entry.started > _age(age)


def _age(given: str) -> timedelta:
    """Raises UsageError."""
    parts = re.fullmatch(r"(\d{1,5})([hdw])", given.strip())
    if parts is None:
        raise pytest.UsageError(f"--older-than {given}: it has to be a number of hours, days or weeks: 36h, 30d, 8w")
    return timedelta(hours=int(parts[1]) * _UNITS[parts[2]])


def _plan(gone: Sequence[Entry], going: Sequence[Entry], now: datetime, *, dry_run: bool) -> Iterator[str]:
    verb = "would be removed" if dry_run else "removed"
    freed = 0
    for entry in gone:
        size = _size(entry.path)
        freed += size
        age = age_text((now - entry.started).total_seconds() if entry.started is not None else None)
        yield f"{one_line(entry.path.name)}  {age}  {entry.status}  {_bytes(size)}  {verb}"
    for entry in going:
        yield f"{one_line(entry.path.name)}  {entry.status}  stays: it goes on"
    yield f"{counted(len(gone), 'run')} {verb}, {_bytes(freed)}"


def _size(run: Path) -> int:
    """The bytes on the disk; what can't be read counts for nothing."""
    total = 0
    for directory, _, names in os.walk(run):
        for name in names:
            with contextlib.suppress(OSError):
                total += os.lstat(os.path.join(directory, name)).st_blocks * 512
    return total


def _bytes(number: float) -> str:
    for unit in ("B", "kB", "MB"):
        if number < 1000:
            return f"{number:.0f} {unit}" if unit == "B" else f"{number:.1f} {unit}"
        number /= 1000
    return f"{number:.1f} GB"


def _remove(run: Path) -> bool:
    aside = run.with_name(f"{DELETING}{run.name}")
    try:
        run.rename(aside)
        shutil.rmtree(aside)
    except OSError as error:
        complain(f"run {run.name} can't be removed: {error.strerror or error} ({error.filename or run})")
        return False
    return True


def _sweep(lane_dir: Path) -> None:
    """What an earlier command could not finish."""
    for left in (lane_dir / "runs").glob(f"{DELETING}*"):
        shutil.rmtree(left, ignore_errors=True)


def _renew(lane_dir: Path) -> None:
    """What names runs that aren't there any more: `latest`, and the page of the history."""
    runs = run_paths(lane_dir)
    with contextlib.suppress(OSError):
        if not runs:
            (lane_dir / LATEST).unlink()
        elif (lane_dir / LATEST).read_text(encoding="utf-8").strip() not in {run.name for run in runs}:
            replace_file(lane_dir / LATEST, f"{runs[-1].name}\n".encode())
    with contextlib.suppress(OSError):
        if (lane_dir / HISTORY).exists():
            _renew_history(lane_dir)


def _renew_history(lane_dir: Path) -> None:
    from pytest_megacpp.desk.run.receipts import newest_receipts
    from pytest_megacpp.report.history.page import history_page
    from pytest_megacpp.report.history.series import series

    history = newest_receipts(lane_dir)
    if history.runs < 2:
        (lane_dir / HISTORY).unlink()
    else:
        replace_file(lane_dir / HISTORY, history_page(series(history.receipts), history.receipts, history.covered))
