"""Owns `megacpp logs`: what ranks wrote, afterwards or as they write it; must not know where it is kept."""

import argparse
import json
import re
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pytest_megacpp.desk.commands.asking import Asking
from pytest_megacpp.desk.commands.command import FAILED, OK, Desk, complain, say_on, takes_run
from pytest_megacpp.desk.commands.runs import Entry
from pytest_megacpp.desk.run.directory import read_run_json
from pytest_megacpp.desk.run.leftovers import known_secrets
from pytest_megacpp.desk.run.rank_logs import LogFiles, Redact, Source, TestOutput, Wanted, Written, log_paths
from pytest_megacpp.desk.run.runs import find_box_run, named_recording
from pytest_megacpp.recording.vocabulary import Stream
from pytest_megacpp.report.run_json import RunStatus

POLL_S = 0.2


def add_arguments(parser: argparse.ArgumentParser) -> None:
    takes_run(parser)
    parser.add_argument("--rank", metavar="RANKS", help="only these ranks: 3, or 0,4-7")
    parser.add_argument("--test", metavar="TEST", help="only tests whose node id contains this")
    parser.add_argument("--stream", choices=list(map(str, Stream)), help="only one of the two streams")
    parser.add_argument("-f", "--follow", action="store_true", help="go on until the run ends")
    parser.add_argument("--json", action="store_true", help="print a JSON object for each line")


def run(desk: Desk, arguments: argparse.Namespace) -> int:
    """Prints the lines; FAILED if there are none. Raises RunNotFound and UsageError."""
    path = find_box_run(desk.lane_dir, arguments.name)
    wanted = Wanted(_ranks(arguments.rank), arguments.stream)
    entry = Entry(path, read_run_json(path) or {})
    if entry.status == RunStatus.DETACHED and not log_paths(path):
        return _elsewhere(desk, entry, wanted, arguments)
    redact = known_secrets(path).text  # the box takes secrets out of logs when it ends
    source = _source(path, wanted, redact, arguments.test, named_recording(arguments.name))
    show = _Shown(wanted, redact, as_json=arguments.json)
    for written in _followed(source, path) if arguments.follow else _at_once(source):
        show(written)
    if not show.lines:
        complain(_nothing(path, arguments.test, source))
    return OK if show.lines else FAILED


def _elsewhere(desk: Desk, entry: Entry, wanted: Wanted, arguments: argparse.Namespace) -> int:
    """Of a run without a desk: what its ended tests wrote, as the box says it. Raises CannotDo."""
    redact = known_secrets(entry.path).text
    show = _Shown(wanted, redact, as_json=arguments.json)
    with tempfile.TemporaryDirectory(prefix="megacpp-logs-") as into:
        source = TestOutput(Path(into), wanted, redact, arguments.test or "")
        asking = Asking(desk, entry, Path(into))

        def is_over() -> bool:
            for written in source.read():
                show(written)
            sys.stdout.flush()
            return not arguments.follow and asking.has_waited(0.0)

        if not asking.visit((), is_over):
            complain(f"no box of run {entry.path.name} is running: pytest --attach {entry.path.name} takes its logs in")
            return FAILED
        is_over()
    if not show.lines:
        complain(f"no test of run {entry.path.name} that has ended wrote anything that was asked for")
    return OK if show.lines else FAILED


def _source(path: Path, wanted: Wanted, redact: Redact, test: str | None, recording: Path | None) -> Source:
    """The log files hold more than the recording, but the tests aren't marked in them."""
    if recording is not None or test or not (log_paths(path) or _is_local(path)):
        return TestOutput(path, wanted, redact, test or "", recording)
    return LogFiles(path, wanted, redact)


def _is_local(path: Path) -> bool:
    """Whether the ranks of a run write here."""
    from pytest_megacpp.surfaces.registry import is_remote

    return not is_remote(str((read_run_json(path) or {}).get("surface")))


def _at_once(source: Source) -> Iterator[Written]:
    yield from source.read()
    yield from source.read()  # of a test that runs: its place in the log files is known now
    yield from source.rest()


def _followed(source: Source, path: Path) -> Iterator[Written]:
    """Until the run has ended and everything was read."""
    while True:
        goes_on = (read_run_json(path) or {}).get("status") in (RunStatus.RUNNING, RunStatus.DETACHED)
        yield from source.read()
        sys.stdout.flush()
        if not goes_on:
            yield from source.rest()
            return
        time.sleep(POLL_S)


class _Shown:
    """Prints lines, with their rank where several can be meant; `lines` counts them."""

    def __init__(self, wanted: Wanted, redact: Redact, *, as_json: bool) -> None:
        self.lines = 0
        self._alone = wanted.ranks is not None and len(wanted.ranks) == 1
        self._redact = redact
        self._as_json = as_json

    def __call__(self, written: Written) -> None:
        """Lines are redacted together: a key has several."""
        lines = self._redact("\n".join(written.lines)).split("\n") if written.lines else []
        self.lines += len(lines)
        if self._as_json:
            fields = {"world": written.world, "rank": written.rank, "stream": written.stream}
            for line in lines:
                print(json.dumps(fields | {"line": line}))
        else:
            prefix = self._prefix(written)
            say_on(f"{prefix}{line}" for line in lines)

    def _prefix(self, written: Written) -> str:
        """`[rank 3] `; of a later world `[w2 rank 3] `."""
        if self._alone:
            return "" if written.world == "w1" else f"[{written.world}] "
        return f"[rank {written.rank}] " if written.world == "w1" else f"[{written.world} rank {written.rank}] "


def _ranks(given: str | None) -> frozenset[int] | None:
    """Raises UsageError."""
    if given is None:
        return None
    ranks: set[int] = set()
    for part in given.split(","):
        span = re.fullmatch(r"(\d{1,5})(?:-(\d{1,5}))?", part.strip())
        if span is None or int(span[2] or span[1]) < int(span[1]):
            raise pytest.UsageError(f"--rank {given}: it has to be ranks such as 3 or 0,4-7")
        ranks.update(range(int(span[1]), int(span[2] or span[1]) + 1))
    return frozenset(ranks)


def _nothing(path: Path, test: str | None, source: Source) -> str:
    """Why there is no line."""
    if test and isinstance(source, TestOutput) and not source.found:
        return f"no test of run {path.name} that has begun has {test!r} in its node id: megacpp show {path.name}"
    where = ", or its logs are elsewhere until it ends" if not log_paths(path) else ""
    return f"the ranks asked for wrote nothing in run {path.name}{where}"
