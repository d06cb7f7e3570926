"""Owns what a report is: who is asked when, from which results, and what may come back; must not know who writes it.

The desk keeps one list of reporters (`desk/hooks/reporters.py`) and asks all of them at each moment of a run. What one
of them yields is written by the desk. One that raises costs a line and a green exit code, and nothing else.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Protocol, TypeAlias

from pytest_megacpp.judge.verdicts import TestResult
from pytest_megacpp.recording.events import Json
from pytest_megacpp.recording.plan import Plan
from pytest_megacpp.recording.timeline import Timeline
from pytest_megacpp.report.run_json import Redact, RunMeta, RunStatus, unfinished


@dataclass(frozen=True, slots=True)
class ChangedFields:
    """Fields of a JSON document that was written before, in place of the whole document."""

    values: Mapping[str, Json]


Content: TypeAlias = bytes | Mapping[str, Json] | ChangedFields


@dataclass(frozen=True, slots=True)
class Artefact:
    """A file, or a directory of files, that counts as written once all of it is. `path` is relative to the run's
    directory (at the end of a session: to the lane directory), and so are the names in `files`. A mapping is written
    as JSON.
    """

    path: str
    files: Iterable[tuple[str, Content]]


@dataclass(frozen=True, slots=True)
class Line:
    """A line on the terminal, which the desk cleans; a `title` opens a section. A `command` is for a CI system: it is
    written as it is, at the beginning of a line, so the reporter has to escape what others wrote. While tests run, a
    line begins with the plugin's name, unless it is `plain`, and a quiet session (`-q`) shows it only if it is `always`
    to be shown.
    """

    text: str
    title: bool = False
    command: bool = False
    plain: bool = False
    always: bool = False
    red: bool = False
    yellow: bool = False


class Style(StrEnum):
    """How a part of the board is set off, where the terminal has colours."""

    PLAIN = ""
    STRONG = "strong"
    FAINT = "faint"
    AWAITED = "awaited"  # who is waited for
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Span:
    """A part of a row. Where the row is too long for the terminal, a span that is `cut` loses its middle first."""

    text: str
    style: Style = Style.PLAIN
    cut: bool = False


@dataclass(frozen=True, slots=True)
class Board:
    """Rows at the bottom of a terminal, in place of those before. They are there only while the desk waits, and go
    before anything else is written. The desk cleans them, and leaves the last ones out where there is no room.

    `of` is the run that they are about: those of several runs stand below each other. Without rows the run's are taken
    away; of no run, those of all.
    """

    rows: Sequence[Sequence[Span]] = ()
    of: str = ""


def document(path: str, content: Content) -> Artefact:
    """Returns the artefact that is one file."""
    return Artefact(path, [(path, content)])


@dataclass(frozen=True, slots=True)
class RunResults:
    """One run as far as it is known, to be read only. Numbers of tests are indexes in `plan.tests`.

    `nodeids` are redacted, as they are recorded; `receipt_names` are unique file names, one per test. `judged` has the
    tests that have a result, `reported` those whose result pytest has got, in that order. `written` has the paths of
    all artefacts that were written, also by the reporters before this one; `unwritten` a line for each that was not.
    `defined_at`: file (from pytest's root directory) and line of each test, counted from 1. `directory` is the run's.
    """

    meta: RunMeta
    status: RunStatus
    nodeids: Sequence[str]
    receipt_names: Sequence[str]
    judged: Mapping[int, TestResult]
    timeline: Timeline
    redact: Redact
    reported: Sequence[int] = ()
    written: Set[str] = frozenset()
    unwritten: Sequence[str] = ()
    defined_at: Mapping[int, tuple[str, int]] = field(default_factory=dict)
    directory: Path = Path()

    @property
    def plan(self) -> Plan:
        return self.meta.plan

    @property
    def is_still_running(self) -> bool:
        """Whether the box goes on without this desk."""
        is_left = self.status is RunStatus.DETACHED
        return is_left and self.timeline.finished is None and not self.timeline.problems

    @property
    def unfinished(self) -> str:
        """`interrupted, 20 of 21 tests have no result`; empty if the run came to everything, or goes on."""
        return unfinished(self.status, len(self.nodeids), len(self.judged))


@dataclass(frozen=True, slots=True)
class GateResults:
    """What a change-based gate decided (`rules`), what it left out, and what it has against the session."""

    rules: Sequence[str]
    notes: Sequence[str]
    complaints: Sequence[str]


@dataclass(frozen=True, slots=True)
class SessionResults:
    """A pytest session at its end: its runs, its gate if it has one, and the lines about tests without a result and
    about those that hooks reported otherwise.
    """

    runs: Sequence[RunResults]
    gate: GateResults | None = None
    unreported: Sequence[str] = ()
    overruled: Sequence[str] = ()


Output: TypeAlias = Artefact | Line | Board


class Reporter(Protocol):
    """One report. Subclasses override the moments at which they have something to say; one object serves all runs of a
    session, so what it remembers goes by run id. No method may wait, and none changes what it is given.
    """

    name: str

    def started(self, run: RunResults) -> Iterable[Output]:
        """Before the box starts."""
        return ()

    def running(self, run: RunResults) -> Iterable[Output]:
        """Several times a second while the desk waits for results: whoever needs less has to look at a clock."""
        return ()

    def tested(self, run: RunResults, index: int) -> Iterable[Output]:
        """Each time a test gets a result: when it was judged, and when a drill's outcome takes the place of that."""
        return ()

    def properties(self, run: RunResults, index: int) -> Mapping[str, object]:
        """The properties of a test's pytest reports, which JUnit files keep."""
        return {}

    def ended(self, run: RunResults) -> Iterable[Output]:
        """When this desk is through with the run, however it ended. A detached run goes on (`run.is_still_running`)."""
        return ()

    def closing(self, session: SessionResults) -> Iterable[Output]:
        """At the end of the session, after its runs; the lines go into pytest's summary."""
        return ()


Moment: TypeAlias = Callable[[Reporter], Iterable[Output]]
