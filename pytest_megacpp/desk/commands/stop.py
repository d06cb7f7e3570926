"""Owns `megacpp stop`: ending the box of a run from a second terminal; must not know how a box ends in order.

A box is first asked to end: evidence of the test that runs is kept, and its desk reports as after any end. What does
not end in time is ended by force. The desk may go on for long with other tests of its session, and says only then what
the run came to: a box that has ended is nothing to stop.
"""

import argparse
import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from pytest_megacpp.box.asked import ask
from pytest_megacpp.desk.commands.command import OK, CannotDo, Desk, complain, say
from pytest_megacpp.desk.commands.runs import Entry, counted, entries
from pytest_megacpp.desk.run.directory import RECORDING, read_run_json, utc_now
from pytest_megacpp.desk.run.joint import parts_of
from pytest_megacpp.desk.run.runs import GrowingRecording, find_run, read_timeline
from pytest_megacpp.recording.events import RunFinished
from pytest_megacpp.recording.plan import Stop
from pytest_megacpp.recording.vocabulary import RunEnd
from pytest_megacpp.report.clean import one_line
from pytest_megacpp.report.quantities import age_text
from pytest_megacpp.report.run_json import RunStatus
from pytest_megacpp.surfaces.protocol import SurfaceFailed
from pytest_megacpp.surfaces.registry import SURFACES, provider

IN_ORDER_S = 30.0  # the grace periods of a box together, and some
REMOTE_S = 60.0  # the same, and its records have to arrive
REPORT_S = 5.0  # for the desk to write what the run came to, unless it goes on with other tests
POLL_S = 0.1
NAMED = 8  # of the runs that go on
RUN_HELP = "id, its beginning, `last`, or a path (default: the one that is running, where it is the only one)"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="RUN", nargs="?", help=RUN_HELP)


def run(desk: Desk, arguments: argparse.Namespace) -> int:
    """Ends a run, and says what was done. Raises RunNotFound, CannotDo and UsageError."""
    entry = _entry(find_run(desk.lane_dir, arguments.name)) if arguments.name is not None else _only(desk.lane_dir)
    if parts := parts_of(entry.document):
        return max([_stop(desk, _entry(entry.path.parent / part)) for part in parts])
    return _stop(desk, entry)


def _stop(desk: Desk, entry: Entry) -> int:
    name = one_line(entry.path.name)
    if not _goes_on(entry):
        return _nothing_to_do(name, entry)
    if _has_ended_box(entry):
        say([f"the box of run {name} has ended: there is nothing to stop", *_what_now(name, entry)])
        return OK
    surface = entry.text("surface")
    if surface not in SURFACES:
        raise CannotDo(f"run {name} is on the surface {surface}, which this installation doesn't have")
    say([f"run {name} is asked to end"])
    try:
        ended = _end_elsewhere(desk, entry, surface) if provider(surface).is_remote else _end_here(entry)
    except SurfaceFailed as error:
        raise CannotDo(f"run {name} could not be ended: {error}") from error
    return _reported(name, entry.path, ended)


class _Ending:
    """Whether the box of a run recorded its end: one that was killed did not."""

    def __init__(self, run: Path) -> None:
        self._recording = GrowingRecording(run / RECORDING)
        self._is_recorded = False

    def is_recorded(self) -> bool:
        """Reads what is new."""
        with contextlib.suppress(OSError):
            for event in self._recording.read():
                self._is_recorded = self._is_recorded or isinstance(event.fact, RunFinished)
        return self._is_recorded


def _has_ended_box(entry: Entry) -> bool:
    """Whether only the desk still works on a run."""
    from pytest_megacpp.surfaces.sweep import processes_of

    is_left = entry.status == RunStatus.RUNNING and _Ending(entry.path).is_recorded()
    return is_left and not processes_of(entry.path.name)


def _have_ended_boxes(entry: Entry) -> bool:
    parts = [_entry(entry.path.parent / part) for part in parts_of(entry.document)] or [entry]
    return all(map(_has_ended_box, parts))


def _entry(path: Path) -> Entry:
    return Entry(path, read_run_json(path) or {})


def _only(lane_dir: Path) -> Entry:
    """The run that is running or detached. Raises CannotDo where that isn't a single one: an end takes hours of work
    with it, so it is not guessed which one is meant.
    """
    open_ones = [entry for entry in entries(lane_dir) if _goes_on(entry) and not entry.is_part]
    found = [entry for entry in open_ones if not _have_ended_boxes(entry)]
    if not found and open_ones:
        names = ", ".join(one_line(entry.path.name) for entry in open_ones[:NAMED])
        raise CannotDo(f"no box in {lane_dir} is running: that of {names} has ended, and only its pytest goes on")
    if not found:
        raise CannotDo(
            f"no run in {lane_dir} is running or detached: there is nothing to stop (megacpp runs lists all)"
        )
    if len(found) > 1:
        listed = "\n".join(f"  megacpp stop {_described(entry)}" for entry in found[:NAMED])
        raise CannotDo(f"{len(found)} runs are not over, so name the one to stop:\n{listed}")
    return found[0]


def _described(entry: Entry) -> str:
    """A run among others that go on: `20261201-021757-0b88  (running for 3 min, test_a.py::test_slow)`."""
    age = age_text((utc_now() - entry.started).total_seconds() if entry.started is not None else None)
    what = ", ".join(filter(None, (f"{entry.status} for {age}", entry.text("lane"), _test_of(entry))))
    return f"{one_line(entry.path.name)}  ({what})"


def _test_of(entry: Entry) -> str:
    """The test that runs; empty where there is none, or where that isn't known here."""
    if entry.status != RunStatus.RUNNING:
        return ""
    try:
        tests = read_timeline(entry.path / RECORDING).tests.values()
    except OSError:
        return ""
    return next((one_line(test.nodeid) for test in reversed(tests) if test.ended is None), "")


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

    run_id, began_s, ending = entry.path.name, time.monotonic(), _Ending(entry.path)
    found = processes_of(run_id)
    _ask(entry.path)
    is_seen = found or _until(lambda: processes_of(run_id) or _is_over(entry.path, ending), REPORT_S)
    if not is_seen:
        raise CannotDo(
            f"no process of run {run_id} is on this machine: is its lane directory shared with another one? "
            "The run stays asked to end, and does so where it reads that"
        )
    if _until(lambda: not processes_of(run_id), IN_ORDER_S):
        ended = "its box ended in order" if ending.is_recorded() else "its processes ended"
        return f"{ended} within {time.monotonic() - began_s:.1f} s"
    left = len(processes_of(run_id))
    sweep(run_id)
    if processes_of(run_id):
        raise CannotDo(
            f"{len(processes_of(run_id))} processes of run {run_id} can't be ended: are they another user's?"
        )
    return f"its box did not end in order within {IN_ORDER_S:.0f} s: {left} processes were killed"


def _is_over(run: Path, ending: _Ending) -> bool:
    return ending.is_recorded() or not _goes_on(_entry(run))


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
        began_s, ending = time.monotonic(), _Ending(entry.path)
        _ask(entry.path)
        if _until(lambda: _is_over(entry.path, ending), REMOTE_S):
            return f"its desk had its box end within {time.monotonic() - began_s:.1f} s"
        complain(f"its desk did not do so within {REMOTE_S:.0f} s")
    attaching = provider(surface).attaching
    if attaching is None:
        raise CannotDo(f"{provider(surface).title} can't be asked for the box of a run without its desk")
    done = attaching.stop(desk.configured(surface), entry.path.name)
    return done or f"{provider(surface).title} runs no box of it (any more)"


# -- what came of it -----------------------------------------------------------------------------------------


def _reported(name: str, run: Path, ended: str) -> int:
    """Says what is known once the box has ended."""
    say([ended])
    _until(lambda: _entry(run).status != RunStatus.RUNNING, REPORT_S)
    say(_what_now(name, _entry(run)))
    return OK


def _what_now(name: str, entry: Entry) -> Iterator[str]:
    if entry.status == RunStatus.RUNNING:
        yield f"its pytest goes on, and says at its end what the run came to: megacpp show {name}"
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
