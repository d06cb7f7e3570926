"""Owns reading what ranks wrote, while they write and afterwards; must not know how it is shown.

The log files of a run hold everything, in the order in which one rank wrote to one stream. Where they lie on another
machine, or aren't kept, the recording has what each test wrote, once the test has ended.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence, Set
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from pytest_megacpp.desk.run.directory import RECORDING
from pytest_megacpp.desk.run.growing_log import GrowingLog, open_log
from pytest_megacpp.desk.run.runs import GrowingRecording
from pytest_megacpp.recording.events import OutputRead, TestEnded, TestStarted
from pytest_megacpp.recording.vocabulary import Stream

TAIL_CHARS = 4_000  # by which the end of an earlier test's output is found again
_TEXT_LINE_END = re.compile(r"\r\n|[\r\n]")

Redact = Callable[[str], str]


@dataclass(frozen=True, slots=True)
class Written:
    """Lines of one rank. `world` is the recording's name of it (`w1`)."""

    world: str
    rank: int
    stream: str
    lines: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which lines: of these ranks (None: of all), and of this stream (None: of both)."""

    ranks: Set[int] | None = None
    stream: str | None = None

    def has(self, rank: int, stream: str) -> bool:
        return (self.ranks is None or rank in self.ranks) and self.stream in (None, stream)


class Source(Protocol):
    """What ranks wrote, as far as it is known."""

    def read(self) -> Iterator[Written]:
        """What is new since the last call, as whole lines."""

    def rest(self) -> Iterator[Written]:
        """What is left at the end: lines without an end."""


@dataclass
class LogFiles:
    """The log files of a run on this machine; those of worlds that start later are found as they appear. `starts_at`:
    from which byte on a file is read; `world`: only those of this one.
    """

    run: Path
    wanted: Wanted
    redact: Redact
    starts_at: dict[Path, int] = field(default_factory=dict)
    world: str | None = None
    _logs: dict[Path, GrowingLog] = field(default_factory=dict)

    def read(self) -> Iterator[Written]:
        """Raises OSError where more files would have to be open than the system allows."""
        for path in log_paths(self.run, self.wanted):
            if self.world not in (None, path.parts[-3]):
                continue
            if path not in self._logs:
                self._logs[path] = GrowingLog(path, self.redact, starts_at=self.starts_at.get(path, 0))
            while (lines := self._logs[path].read()) is not None:
                yield from _written(path, lines)

    def rest(self) -> Iterator[Written]:
        for path, log in self._logs.items():
            yield from _written(path, log.finish())


def _written(path: Path, lines: Sequence[str]) -> Iterator[Written]:
    if lines:
        yield Written(path.parts[-3], int(path.parts[-2]), path.stem, tuple(lines))


def log_paths(run: Path, wanted: Wanted = Wanted()) -> list[Path]:
    """The log files of a run, by world, rank and stream."""
    found = [p for p in run.glob("ranks/*/*/*.log") if p.parts[-2].isdecimal() and p.stem in list(Stream)]
    chosen = [path for path in found if wanted.has(int(path.parts[-2]), path.stem)]
    return sorted(chosen, key=lambda path: (_number(path.parts[-3]), int(path.parts[-2]), path.stem != Stream.STDOUT))


def _number(world: str) -> tuple[int, str]:
    digits = re.sub(r"\D", "", world)
    return int(digits[:9] or 0), world


# -- by test -------------------------------------------------------------------------------------------------


@dataclass
class TestOutput:
    """What the recording has of ended tests whose node id contains `test`; empty: of everything. While such a test runs
    here, its lines are read from the log files.
    """

    __test__ = False

    run: Path
    wanted: Wanted
    redact: Redact
    test: str = ""
    recording: Path | None = None  # where it isn't the run's own
    found: set[str] = field(default_factory=set)  # node ids
    _recording: GrowingRecording = field(init=False)
    _before: dict[tuple[str, int, str], str] = field(default_factory=dict)  # what was written last
    _live: dict[str, "_Live"] = field(default_factory=dict)  # by world

    def __post_init__(self) -> None:
        self._recording = GrowingRecording(self.recording or self.run / RECORDING)

    def read(self) -> Iterator[Written]:
        """Files first: what a later test wrote is in them only once the recording has all of the one before."""
        seen = {world: list(live.files.read()) for world, live in self._live.items()}
        for event in self._recording.read():
            match event.fact:
                case TestStarted(nodeid=nodeid, test=number) if self.test and self.test in nodeid:
                    self.found.add(nodeid)
                    self._live[event.world] = _Live(number, self._files_of(event.world))
                case OutputRead() as fact:
                    yield from self._recorded(event.world, fact)
                case TestEnded():
                    self._live.pop(event.world, None)
                case _:
                    pass
        for world, written in seen.items():
            if world in self._live:
                yield from self._live[world].counted(written)

    def rest(self) -> Iterator[Written]:
        yield from ()

    def _recorded(self, world: str, fact: OutputRead) -> Iterator[Written]:
        self._before[world, fact.rank, fact.stream] = fact.text
        live = self._live.get(world)
        is_wanted = not self.test or (live is not None and live.number == fact.test)
        if is_wanted and self.wanted.has(fact.rank, fact.stream):
            shown = live.shown[fact.rank, fact.stream] if live is not None else 0
            lines = _lines(fact.text)
            yield Written(world, fact.rank, fact.stream, tuple(lines[shown:] if not (shown and fact.cut_bytes) else ()))

    def _files_of(self, world: str) -> LogFiles:
        """The logs of a world, each from where the test before ended; from the beginning where that isn't found."""
        paths = [path for path in log_paths(self.run, self.wanted) if path.parts[-3] == world]
        starts = {path: _end_of(path, self._before.get((world, int(path.parts[-2]), path.stem), "")) for path in paths}
        return LogFiles(self.run, self.wanted, self.redact, starts, world)


@dataclass
class _Live:
    """A test that runs: `shown` counts its lines by rank and stream."""

    number: int
    files: LogFiles
    shown: Counter[tuple[int, str]] = field(default_factory=Counter)

    def counted(self, written: Iterable[Written]) -> Iterator[Written]:
        for one in written:
            self.shown[one.rank, one.stream] += len(one.lines)
            yield one


def _end_of(path: Path, text: str) -> int:
    """Behind the last place in a log where an output ends like `text`."""
    tail = text[-TAIL_CHARS:].encode(errors="replace")
    try:
        log = open_log(path) if tail else None
        at = -1
        if log is not None:
            with open(log, "rb") as file:
                at = file.read().rfind(tail)
    except OSError:
        at = -1
    return at + len(tail) if at >= 0 else 0


def _lines(text: str) -> list[str]:
    lines = _TEXT_LINE_END.split(text)
    return lines if lines[-1] else lines[:-1]
