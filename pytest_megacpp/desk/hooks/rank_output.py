"""Owns what ranks write, shown while they run (`-s`): whole lines with their rank in front; must not know how logs get
to the run's directory.

The logs grow as ranks write. What a rank writes faster than a terminal is read is left out and counted; the log has it.
"""

import os
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from pytest_megacpp.desk.config.options import Options
from pytest_megacpp.recording.ranks import ranks_named
from pytest_megacpp.recording.vocabulary import Stream
from pytest_megacpp.report.clean import clean
from pytest_megacpp.report.reporter import Line, Reporter, RunResults
from pytest_megacpp.surfaces.registry import is_remote

PORTION_BYTES = 64 << 10  # of a log, each time
LINE_BYTES = 16 << 10  # a line that is longer is shown in pieces
KEPT_BEHIND_BYTES = 4 << 20  # of what has not been shown yet


def is_live(config: pytest.Config) -> bool:
    """Whether pytest itself shows output as it comes."""
    return bool(config.getoption("capture", "fd") == "no")


def check(options: Options, config: pytest.Config) -> None:
    """Raises UsageError for ranks whose output was asked for in vain."""
    if "lane_output" in options.given and not is_live(config):
        asked = config.getoption("megacpp_lane_output")
        raise pytest.UsageError(f"--lane-output {asked}: output of ranks is shown live only with -s: add -s")


def check_sizes(options: Options, config: pytest.Config, sizes: Collection[int]) -> None:
    """Raises UsageError where no test has one of the ranks whose output is asked for."""
    largest = max(sizes, default=0)
    if is_live(config) and options.lane_output and largest and min(options.lane_output) >= largest:
        asked, there = ranks_named(options.lane_output), ranks_named(range(largest))
        raise pytest.UsageError(f"--lane-output: no selected test has {asked}: the largest has {there}")


@dataclass
class _Log:
    """One log of a rank as far as it was shown. `began`: bytes of a line whose end has not come."""

    path: Path
    rank: int
    offset: int = 0
    began: bytes = b""

    def lines(self, *, to_the_end: bool) -> Iterator[bytes]:
        """Whole lines that are new; at the end the last one as well."""
        while (data := self._read()) or (to_the_end and self.began):
            *lines, self.began = (self.began + data).split(b"\n") if data else (self.began, b"")
            yield from lines
            if len(self.began) > LINE_BYTES:
                yield self.began
                self.began = b""
            if not to_the_end:
                return

    def _read(self) -> bytes:
        try:
            size = os.stat(self.path).st_size
            if size == self.offset:
                return b""
            with self.path.open("rb") as log:
                skipped = self._skip(size)
                log.seek(self.offset)
                data = log.read(PORTION_BYTES)
        except OSError:
            return b""
        self.offset += len(data)
        return skipped + data

    def _skip(self, size: int) -> bytes:
        """Goes on near the end of a log that grew too fast, or whose box cut something out of it."""
        if self.offset <= size <= self.offset + KEPT_BEHIND_BYTES:
            return b""
        left_out, self.offset = max(0, size - PORTION_BYTES - self.offset), max(0, size - PORTION_BYTES)
        told = f"… {left_out} bytes left out: {self.path.name} of the rank has them …" if left_out else "…"
        self.began, began = b"", self.began
        return (began + b"\n" if began else b"") + told.encode() + b"\n"


class RankOutput(Reporter):
    """The output of chosen ranks (none: of all)."""

    name = "output of ranks"

    def __init__(self, ranks: frozenset[int]) -> None:
        self._ranks = ranks
        self._logs: dict[tuple[str, str], list[_Log]] = {}  # by run and world

    def running(self, run: RunResults) -> Iterator[Line]:
        """What is new in the logs of all worlds that may still write."""
        return iter(()) if is_remote(run.plan.surface) else self._new(run, to_the_end=False)

    def _new(self, run: RunResults, *, to_the_end: bool) -> Iterator[Line]:
        for name, world in run.timeline.worlds.items():
            key = run.plan.run_id, name
            if key not in self._logs:
                self._logs[key] = self._of_world(run.directory / "ranks" / name, world.size)
            is_over = to_the_end or world.ended is not None
            for log in self._logs[key]:
                text = b"\n".join(log.lines(to_the_end=is_over)).decode(errors="replace")
                yield from _shown(log.rank, text, run)
            if is_over and world.ended is not None:
                self._logs[key] = []

    def _of_world(self, directory: Path, size: int) -> list[_Log]:
        ranks = [rank for rank in range(size) if not self._ranks or rank in self._ranks]
        return [_Log(directory / str(rank) / f"{stream}.log", rank) for rank in ranks for stream in Stream]

    def tested(self, run: RunResults, index: int) -> Iterator[Line]:
        """What ranks wrote is shown before the result of their test. A box elsewhere sends its logs when it has ended,
        but what the recording has of them with each test.
        """
        return self._recorded(run, index) if is_remote(run.plan.surface) else self._new(run, to_the_end=False)

    def _recorded(self, run: RunResults, index: int) -> Iterator[Line]:
        key = run.plan.run_id, str(index)
        if key in self._logs:  # a drill's result is told twice
            return
        self._logs[key] = []
        for number in run.timeline.attempts(index):
            view = run.timeline.tests.get(number)
            for rank, seen in sorted(view.ranks.items()) if view is not None else ():
                for stream in Stream if not self._ranks or rank in self._ranks else ():
                    output = seen.output.get(stream)
                    yield from _shown(rank, output.text.rstrip("\n"), run) if output is not None else ()

    def ended(self, run: RunResults) -> Iterator[Line]:
        """The rest, to the last line without an end."""
        return iter(()) if is_remote(run.plan.surface) else self._new(run, to_the_end=True)


def _shown(rank: int, text: str, run: RunResults) -> Iterator[Line]:
    """Secrets are taken out of all lines together, since some have several."""
    for line in clean(run.redact(text)).split("\n") if text else ():
        yield Line(f"[rank {rank}] {line}", plain=True, always=True)
