"""Owns `megacpp runs`: which runs there are, the newest first; must not know how a run is judged."""

import argparse
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from pytest_megacpp.desk.commands.command import OK, Desk, fitting, say, say_json, takes_json
from pytest_megacpp.desk.run.directory import RUN_JSON, id_time, read_run_json, run_paths, utc_now
from pytest_megacpp.judge.verdicts import RED, Outcome
from pytest_megacpp.report.clean import one_line
from pytest_megacpp.report.history.series import began_before_its_id
from pytest_megacpp.report.measures import amount
from pytest_megacpp.report.quantities import age_text, seconds_text, usd_text
from pytest_megacpp.report.run_json import RunStatus, unfinished

HEAD = ("RUN", "AGE", "STATUS", "VERDICTS", "DURATION", "PRICE", "LANE", "SURFACE", "TESTS")
_GOES_ON = (RunStatus.RUNNING, RunStatus.DETACHED)
_NOT_RED = (RunStatus.PASSED, *_GOES_ON)


@dataclass(frozen=True, slots=True)
class Entry:
    """A run by its `run.json`, which anybody may have written; `document` is empty where it can't be read."""

    path: Path
    document: Mapping[str, Any]

    @property
    def status(self) -> str:
        return self.text("status")

    @property
    def is_red(self) -> bool:
        """Whether it ended, and not well."""
        return self.status not in _NOT_RED

    @property
    def started(self) -> datetime | None:
        """When its id was given: the document of a replay has the beginning of the run that it repeats, and a document
        may have any time. What is named otherwise has only that.
        """
        return id_time(self.path.name) or moment(self.document.get("started_at"))

    @property
    def is_part(self) -> bool:
        """Whether it is the run of one of several boxes, whose joint run is there."""
        joint = self.document.get("part_of")
        return isinstance(joint, str) and id_time(joint) is not None and (self.path.parent / joint).is_dir()

    @property
    def is_replay(self) -> bool:
        return began_before_its_id(self.path.name, self.document.get("started_at"))

    @property
    def duration_s(self) -> float | None:
        """None for a replay too, of which only the end is known."""
        began, ended = moment(self.document.get("started_at")), moment(self.document.get("finished_at"))
        if began is None or ended is None or ended < began or self.is_replay:
            return None
        return (ended - began).total_seconds()

    @property
    def usd(self) -> float | None:
        cost = self.document.get("cost")
        return amount(cost.get("usd")) if isinstance(cost, dict) else None

    @property
    def codes(self) -> Counter[str]:
        """How often each verdict was reached that isn't green, the most frequent first."""
        tests = self.document.get("tests")
        listed = [test for test in tests if isinstance(test, dict)] if isinstance(tests, list) else []
        bad = (one_line(str(t.get("verdict")), 40) for t in listed if t.get("outcome") in RED)
        return Counter(dict(Counter(bad).most_common()))

    def text(self, name: str) -> str:
        return one_line(str(self.document.get(name) or "?"), 40)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--failed", action="store_true", help="only runs that ended and aren't green")
    parser.add_argument("--lane", metavar="NAME", help="only runs of this lane")
    parser.add_argument("--limit", metavar="N", type=int, help="at most so many, the newest ones")
    takes_json(parser)


def run(desk: Desk, arguments: argparse.Namespace) -> int:
    """Lists the runs. Raises UsageError."""
    if arguments.limit is not None and arguments.limit < 1:
        raise pytest.UsageError(f"--limit {arguments.limit}: it has to be 1 or more")
    found = list(islice(_wanted(desk.lane_dir, arguments.lane, arguments.failed), arguments.limit))
    if arguments.json:
        say_json([as_json(entry) for entry in found])
    else:
        say(table(found, utc_now()) if found else [_nothing(desk.lane_dir)])
    return OK


def entries(lane_dir: Path) -> Iterator[Entry]:
    """All runs, the newest first."""
    for path in reversed(run_paths(lane_dir)):
        yield Entry(path, read_run_json(path) or {})


def _wanted(lane_dir: Path, lane: str | None, failed: bool) -> Iterator[Entry]:
    for entry in entries(lane_dir):
        if not entry.is_part and (lane is None or entry.text("lane") == lane) and (entry.is_red or not failed):
            yield entry


def _nothing(lane_dir: Path) -> str:
    if run_paths(lane_dir):
        return f"none of the {len(run_paths(lane_dir))} runs in {lane_dir} is such a one: megacpp runs lists all"
    return f"no runs in {lane_dir} yet: start one with pytest -m LANE, or name another --lane-dir"


def table(found: Sequence[Entry], now: datetime) -> Iterator[str]:
    """One line per run."""
    yield from fitting([HEAD, *(row(entry, now) for entry in found)])


def row(entry: Entry, now: datetime) -> tuple[str, ...]:
    """The cells of `HEAD`."""
    age = age_text((now - entry.started).total_seconds() if entry.started is not None else None)
    if not entry.document:
        return one_line(entry.path.name), age, f"no {RUN_JSON}", "", "", "", "", "", ""
    return (
        one_line(entry.path.name),
        age,
        entry.status,
        ", ".join(code if number == 1 else f"{code} ×{number}" for code, number in entry.codes.items()),
        seconds_text(entry.duration_s) if entry.duration_s is not None else "",
        usd_text(entry.usd),
        entry.text("lane"),
        entry.text("surface") + (" (dry run)" if entry.document.get("dry_run") is True else ""),
        counted(entry.document.get("counts"), entry.status),
    )


def counted(counts: object, status: str = "") -> str:
    """`3 passed, 1 failed`; by the status of a run also how many tests have no result, or that it goes on."""
    if not isinstance(counts, dict):
        return "?"
    known = {o: counts[o] for o in Outcome if isinstance(counts.get(o), int) and counts[o]}
    parts = [f"{number} {outcome}" for outcome, number in known.items()]
    selected = counts.get("selected")
    if status and isinstance(selected, int):
        parts.append(unfinished(status, selected, sum(known.values())))
    return ", ".join(filter(None, parts)) or ("running" if status in _GOES_ON else "no result")


def as_json(entry: Entry) -> dict[str, object]:
    """The entry of `megacpp runs --json`; what isn't known is null."""
    fields = ("status", "lane", "surface", "dry_run", "ranks", "started_at", "finished_at", "counts")
    return {
        "run_id": entry.path.name,
        "directory": str(entry.path),
        **{name: entry.document.get(name) for name in fields},
        "duration_s": entry.duration_s,
        "usd": entry.usd,
        "verdicts": dict(entry.codes),
    }


def moment(value: object) -> datetime | None:
    """A time as documents have it, always with a zone."""
    try:
        found = datetime.fromisoformat(value) if isinstance(value, str) else None
    except ValueError:
        return None
    return found.replace(tzinfo=UTC) if found is not None and found.tzinfo is None else found
