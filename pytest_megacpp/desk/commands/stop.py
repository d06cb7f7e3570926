"""Owns `megacpp stop`: ending the box of a run from a second terminal; must not know how a box ends in order.

A box is first asked to end: evidence of the test that runs is kept, and its desk reports as after any end. What does
not end in time is ended by force.
"""

import argparse
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from pytest_megacpp.box.asked import ask
from pytest_megacpp.desk.commands.command import FAILED, OK, CannotDo, Desk, complain, say
from pytest_megacpp.desk.commands.runs import Entry, counted, entries
from pytest_megacpp.desk.run.directory import RECORDING, read_run_json
from pytest_megacpp.desk.run.runs import find_run, read_timeline
from pytest_megacpp.recording.plan import Stop
from pytest_megacpp.recording.vocabulary import RunEnd
from pytest_megacpp.report.clean import one_line
from pytest_megacpp.report.run_json import RunStatus
from pytest_megacpp.surfaces.protocol import SurfaceFailed
from pytest_megacpp.surfaces.registry import SURFACES, provider

IN_ORDER_S = 30.0  # the grace periods of a box together, and some
REMOTE_S = 60.0  # the same, and its records have to arrive
REPORT_S = 10.0  # for the desk to write what the run came to
POLL_S = 0.1
NAMED = 8  # of the runs that go on
RUN_HELP = "id, its beginning, `last`, or a path (default: the one that is running, where it is the only one)"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="RUN", nargs="?", help=RUN_HELP)


def run(desk: Desk, arguments: argparse.Namespace) -> int:
    """Ends a run, and says what was done. Raises RunNotFound, CannotDo and UsageError."""
    entry = _entry(find_run(desk.lane_dir, arguments.name)) if arguments.name is not None else _only(desk.lane_dir)
    name = one_line(entry.path.name)
    if not _goes_on(entry):
        return _nothing_to_do(name, entry)
    surface = entry.text("surface")
    if surface not in SURFACES:
        raise CannotDo(f"run {name} is on the surface {surface}, which this installation doesn't have")
    say([f"run {name} is asked to end"])
    try:
        ended = _end_elsewhere(desk, entry, surface) if provider(surface).is_remote else _end_here(entry)
    except SurfaceFailed as error:
        raise CannotDo(f"run {name} could not be ended: {error}") from error
    return _reported(name, entry.path, ended)


def _entry(path: Path) -> Entry:
    return Entry(path, read_run_json(path) or {})


def _only(lane_dir: Path) -> Entry:
    """The run that is running or detached. Raises CannotDo where that isn't a single one: an end takes hours of work
    with it, so it is not guessed which one is meant.
    """
    found = [entry for entry in entries(lane_dir) if _goes_on(entry)]
    if not found:
        raise CannotDo(
            f"no run in {lane_dir} is running or detached: there is nothing to stop (megacpp runs lists all)"
        )
    if len(found) > 1:
        listed = ", ".join(f"{one_line(entry.path.name)} ({entry.status})" for entry in found[:NAMED])
        raise CannotDo(f"{len(found)} runs are not over, so name the one to stop, megacpp stop RUN: {listed}")
    return found[0]


def _goes_on(entry: Entry) -> bool:
    return entry.status in (RunStatus.RUNNING, RunStatus.DETACHED)


def _nothing_to_do(name: str, entry: Entry) -> int:
    say([f"run {name} is not running ({entry.status}): there is nothing to stop"])
    if not entry.document:
        return OK
    from pytest_megacpp.surfaces.sweep import processes_of, sweep

    if left := processes_of(entry.path.name):
        sweep(entry.path.name)
        say([f"{len(left)} processes that it had left here were ended"])
    return OK


# -- a box on this machine -----------------------------------------------------------------------------------


def _end_here(entry: Entry) -> str:
    """Returns what was done. Raises CannotDo."""
    from pytest_megacpp.surfaces.sweep import processes_of, sweep

    run_id, began_s = entry.path.name, time.monotonic()
    found = processes_of(run_id)
    _ask(entry.path)
    if not found and not _until(lambda: processes_of(run_id) or not _goes_on(_entry(entry.path)), REPORT_S):
        raise CannotDo(f"no process of run {run_id} is on this machine: is its lane directory shared with another one?")
    if _until(lambda: not processes_of(run_id), IN_ORDER_S):
        ended = "its box ended in order" if _has_end(entry.path) else "its processes ended"
        return f"{ended} within {time.monotonic() - began_s:.1f} s"
    left = len(processes_of(run_id))
    sweep(run_id)
    if processes_of(run_id):
        raise CannotDo(
            f"{len(processes_of(run_id))} processes of run {run_id} can't be ended: are they another user's?"
        )
    return f"its box did not end in order within {IN_ORDER_S:.0f} s: {left} processes were killed"


def _has_end(run: Path) -> bool:
    """Whether the box recorded the end of the run: one that was killed did not."""
    try:
        return read_timeline(run / RECORDING).finished is not None
    except OSError:
        return False


def _ask(run: Path) -> None:
    try:
        ask(run, Stop(RunEnd.INTERRUPTED))
    except OSError as error:
        complain(f"it can't be asked in {run}: {error.strerror or error}")


# -- a box elsewhere -----------------------------------------------------------------------------------------


def _end_elsewhere(desk: Desk, entry: Entry, surface: str) -> str:
    """Returns what was done. The desk of the run is asked first; where there is none, its surface. Raises CannotDo,
    SurfaceFailed and UsageError.
    """
    if entry.status == RunStatus.RUNNING:
        _ask(entry.path)
        if _until(lambda: not _goes_on(_entry(entry.path)), REMOTE_S):
            return "its desk had its box end"
        complain(f"its desk did not do so within {REMOTE_S:.0f} s")
    attaching = provider(surface).attaching
    if attaching is None:
        raise CannotDo(f"{provider(surface).title} can't be asked for the box of a run without its desk")
    done = attaching.stop(desk.configured(surface), entry.path.name)
    return done or f"{provider(surface).title} runs no box of it (any more)"


# -- what came of it -----------------------------------------------------------------------------------------


def _reported(name: str, run: Path, ended: str) -> int:
    say([ended])
    _until(lambda: _entry(run).status != RunStatus.RUNNING, REPORT_S)
    entry = _entry(run)
    say(_what_now(name, entry))
    return FAILED if entry.status == RunStatus.RUNNING else OK


def _what_now(name: str, entry: Entry) -> Iterator[str]:
    if entry.status == RunStatus.RUNNING:
        yield f"its pytest has not finished run.json within {REPORT_S:.0f} s: look again with megacpp show {name}"
    elif entry.status == RunStatus.DETACHED:
        yield f"take in what it came to: pytest -m {entry.text('lane')} --attach {name}"
    else:
        yield f"run {name}: {entry.status}, {counted(entry.document.get('counts'))}; see megacpp show {name}"


def _until(done: Callable[[], object], limit_s: float) -> bool:
    deadline = time.monotonic() + limit_s
    while not done():
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL_S)
    return True
