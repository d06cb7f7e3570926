"""Owns `megacpp prune`: removing old runs; must not know what is in them.

A run that goes on is never removed: a desk holds its lock, or its document says that it goes on. A run is renamed
before it is removed, so that no half of one is ever taken for a run.
"""

import argparse
import contextlib
import os
import re
import shutil
import sys
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from pytest_megacpp.desk.commands.command import FAILED, OK, Desk, complain, say
from pytest_megacpp.desk.commands.runs import Entry, entries
from pytest_megacpp.desk.run.directory import (
    HISTORY,
    LATEST,
    is_held,
    read_run_json,
    replace_file,
    run_paths,
    utc_now,
)
from pytest_megacpp.desk.run.history_file import write_history
from pytest_megacpp.desk.run.joint import parts_of
from pytest_megacpp.desk.run.receipts import newest_receipts
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
    keep, age = _asked(arguments)
    now = utc_now()
    whole = [entry for entry in entries(desk.lane_dir) if not entry.is_part]
    old = [entry for entry in whole[keep:] if age is None or _is_older(entry, age, now)]
    if arguments.dry_run:
        say(_plan(old, now))
        return OK
    freed, failed = _remove_all(old, now)
    say([_total(freed, "removed")])
    _sweep(desk.lane_dir)
    if freed or failed:
        _renew(desk.lane_dir)
    return FAILED if failed else OK


def _asked(arguments: argparse.Namespace) -> tuple[int, timedelta | None]:
    """How many runs stay, and how old the others have to be. Raises UsageError."""
    if arguments.keep is None and arguments.older_than is None:
        raise pytest.UsageError("say which runs may go: megacpp prune --keep 100, or --older-than 30d, or both")
    if arguments.keep is not None and arguments.keep < 0:
        raise pytest.UsageError(f"--keep {arguments.keep}: it has to be 0 or more")
    return arguments.keep or 0, _age(arguments.older_than) if arguments.older_than is not None else None


def _age(given: str) -> timedelta:
    """Raises UsageError."""
    parts = re.fullmatch(r"([0-9]{1,5})([hdw])", given.strip())
    if parts is None:
        raise pytest.UsageError(f"--older-than {given}: it has to be a number of hours, days or weeks: 36h, 30d, 8w")
    return timedelta(hours=int(parts[1]) * _UNITS[parts[2]])


def _is_older(entry: Entry, age: timedelta, now: datetime) -> bool:
    return entry.started is not None and now - entry.started > age


def _goes_on(run: Path) -> bool:
    """As far as can be seen now."""
    return Entry(run, read_run_json(run) or {}).status in GOING or is_held(run)


def _paths(entry: Entry) -> list[Path]:
    """The directory of a run, last, after those of its boxes if it is a joint one."""
    boxes = (entry.path.parent / part for part in parts_of(entry.document))
    return [*(box for box in boxes if box.is_dir()), entry.path]


def _plan(old: Sequence[Entry], now: datetime) -> Iterator[str]:
    sizes = []
    for entry in old:
        if any(map(_goes_on, _paths(entry))):
            yield _stays(entry)
        else:
            sizes.append(sum(map(_size, _paths(entry))))
            yield _line(entry, now, sizes[-1], "would be removed")
    yield _total(sizes, "would be removed")


def _remove_all(old: Sequence[Entry], now: datetime) -> tuple[list[int], int]:
    """The bytes of each run that was removed, and how many could not be."""
    freed, failed = [], 0
    for entry in old:
        paths = _paths(entry)
        size = sum(map(_size, paths))
        if any(map(_goes_on, paths)):  # asked last: others take time
            say([_stays(entry)])
        elif all(map(_remove, paths)):
            say([_line(entry, now, size, "removed")])
            freed.append(size)
        else:
            failed += 1
    return freed, failed


def _line(entry: Entry, now: datetime, size: int, what: str) -> str:
    age = age_text((now - entry.started).total_seconds() if entry.started is not None else None)
    return f"{one_line(entry.path.name)}  {age}  {entry.status}  {_bytes(size)}  {what}"


def _stays(entry: Entry) -> str:
    return f"{one_line(entry.path.name)}  stays: it goes on"


def _total(sizes: Sequence[int], what: str) -> str:
    return f"{counted(len(sizes), 'run')} {what}, {_bytes(sum(sizes))}"


def _size(run: Path) -> int:
    """The bytes on the disk; what can't be read counts for nothing."""
    total = 0
    for directory, _, names in os.walk(run):
        for name in names:
            with contextlib.suppress(OSError):
                total += _on_disk(os.lstat(os.path.join(directory, name)))
    return total


def _on_disk(file: os.stat_result) -> int:
    """Of a log with a hole less than its length; Windows only tells that."""
    if sys.platform == "win32":
        return file.st_size
    return file.st_blocks * 512


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
    except OSError as error:
        complain(f"run {run.name} can't be removed, it is as it was: {error.strerror or error} ({run})")
        return False
    try:
        shutil.rmtree(aside)
    except OSError as error:
        complain(
            f"run {run.name} is only half removed, files of it are left in {aside}: {error.strerror or error} "
            f"({error.filename or aside}); once that is fixed, the next megacpp prune removes them"
        )
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
    history = newest_receipts(lane_dir)
    if history.runs < 2:
        (lane_dir / HISTORY).unlink()
    else:
        write_history(lane_dir, history)
