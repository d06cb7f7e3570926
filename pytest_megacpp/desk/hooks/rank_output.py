"""Owns what ranks write, shown while they run (`-s`): whole lines with their rank in front; must not know how logs get
to the run's directory.

The logs grow as ranks write. What a rank writes faster than a terminal is read is left out and counted; the log has it.
"""

import contextlib
from collections.abc import Collection, Iterator, Mapping, Sequence

import pytest

from pytest_megacpp.desk.config.options import Options
from pytest_megacpp.desk.run.growing_log import GrowingLog
from pytest_megacpp.recording.ranks import ranks_named
from pytest_megacpp.recording.vocabulary import Stream
from pytest_megacpp.report.clean import clean
from pytest_megacpp.report.reporter import Line, Reporter, RunResults
from pytest_megacpp.surfaces.registry import is_remote

PORTION_BYTES = 64 << 10  # of a log, each time
LOOK_BYTES = 256 << 10  # of all logs together, each time: meanwhile the desk reads no events
LAST_BYTES = 1 << 10  # of each log at the end, however many there are
KEPT_BEHIND_BYTES = 4 << 20  # of a log, that have not been shown yet
READS = 8  # of a log at the end: where somebody still writes to it, there is no end
OPEN_LOGS = 64  # of more, each is opened for every look
LINE_CHARS = 3_800  # what a line may have on the terminal, whose own limit is a bit larger


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


class RankOutput(Reporter):
    """The output of chosen ranks (none: of all)."""

    name = "output of ranks"

    def __init__(self, ranks: frozenset[int]) -> None:
        self._ranks = ranks
        self._logs: dict[tuple[str, str], dict[int, list[GrowingLog]]] = {}  # by run and world, then by rank
        self._first = 0  # of the logs in the next look, so that none is always the last

    def running(self, run: RunResults) -> Iterator[Line]:
        """What is new in the logs of all worlds that may still write."""
        return iter(()) if is_remote(run.plan.surface) else self._new(run, to_the_end=False)

    def _new(self, run: RunResults, *, to_the_end: bool) -> Iterator[Line]:
        """Worlds that are over first: what a world that follows writes comes after their last words."""
        for name, world in run.timeline.worlds.items():
            key = run.plan.run_id, name
            if key not in self._logs:
                self._logs[key] = self._of_world(run, name, world.size)
            if to_the_end or world.ended is not None:
                yield from self._last(self._logs[key])
            else:
                yield from self._portions(self._logs[key])
            if world.ended is not None:
                self._logs[key] = {}

    def _portions(self, logs: Mapping[int, Sequence[GrowingLog]]) -> Iterator[Line]:
        """As much of each log as one look has time for, by rank; the next look begins with those that had none."""
        left, ranks = LOOK_BYTES, list(logs)
        first = self._first % len(ranks) if ranks else 0
        lines: dict[int, list[Line]] = {}
        for rank in ranks[first:] + ranks[:first]:
            if left <= 0:
                self._first = ranks.index(rank)
                break
            for log in logs[rank]:
                used, texts = _portion(log, min(left, PORTION_BYTES))
                left -= used
                lines.setdefault(rank, []).extend(_shown(rank, texts, log))
        for rank in sorted(lines):
            yield from lines[rank]

    def _last(self, logs: Mapping[int, Sequence[GrowingLog]]) -> Iterator[Line]:
        """The end of every log: of what is too much for one look, the beginning is left out."""
        grown = sum(_has_grown(log) for some in logs.values() for log in some)
        most = max(LAST_BYTES, LOOK_BYTES // max(1, grown))
        for rank, some in logs.items():
            for log in some:
                yield from _shown(rank, _rest(log, most), log)

    def _of_world(self, run: RunResults, name: str, size: int) -> dict[int, list[GrowingLog]]:
        ranks = [rank for rank in range(size) if not self._ranks or rank in self._ranks]
        directory, stays_open = run.directory / "ranks" / name, len(ranks) * len(Stream) <= OPEN_LOGS
        paths = {rank: [directory / str(rank) / f"{stream}.log" for stream in Stream] for rank in ranks}
        return {
            rank: [GrowingLog(path, run.redact, stays_open=stays_open) for path in some] for rank, some in paths.items()
        }

    def tested(self, run: RunResults, index: int) -> Iterator[Line]:
        """What ranks wrote is shown before the result of their test. A box elsewhere sends its logs when it has ended,
        but what the recording has of them with each test.
        """
        return self._recorded(run, index) if is_remote(run.plan.surface) else self._new(run, to_the_end=False)

    def _recorded(self, run: RunResults, index: int) -> Iterator[Line]:
        key = run.plan.run_id, str(index)
        if key in self._logs:  # a drill's result is reported twice
            return
        self._logs[key] = {}
        for number in run.timeline.attempts(index):
            view = run.timeline.tests.get(number)
            for rank, seen in sorted(view.ranks.items()) if view is not None else ():
                for stream in Stream if not self._ranks or rank in self._ranks else ():
                    output = seen.output.get(stream)
                    if output is not None and (text := run.redact(output.text.rstrip("\n"))):
                        yield from _shown(rank, text.split("\n"), None)

    def ended(self, run: RunResults) -> Iterator[Line]:
        """The rest, to the last line without an end."""
        return iter(()) if is_remote(run.plan.surface) else self._new(run, to_the_end=True)


def _has_grown(log: GrowingLog) -> bool:
    try:
        return log.behind() > 0
    except OSError:
        return False


def _portion(log: GrowingLog, most: int) -> tuple[int, list[str]]:
    """How many bytes a look took, and their lines. A log that can't be read has nothing yet."""
    if most <= 0:
        return 0, []
    try:
        behind = log.behind()
        skipped = log.skip_to_last(most) if behind > KEPT_BEHIND_BYTES else []
        return min(behind, most), [*skipped, *(log.read(most) or ())]
    except OSError:
        return 0, []


def _rest(log: GrowingLog, most: int) -> list[str]:
    lines: list[str] = []
    with contextlib.suppress(OSError):
        lines += log.skip_to_last(most) if log.behind() > most else []
        for _ in range(READS):
            if (more := log.read(most)) is None:
                break
            lines += more
    return [*lines, *log.finish()]


def _shown(rank: int, texts: Sequence[str], log: GrowingLog | None) -> Iterator[Line]:
    """Texts without secrets as lines; of a very long one it is said where the rest is."""
    for line in clean("\n".join(texts)).split("\n") if texts else ():
        yield Line(f"[rank {rank}] {_cut(line, log)}", plain=True, always=True)


def _cut(line: str, log: GrowingLog | None) -> str:
    """Without a number of what is missing: a longer line has been shortened before, and what acts became escapes."""
    where = f"is in {'/'.join(log.path.parts[-4:])}" if log is not None else "is left out"
    return line if len(line) <= LINE_CHARS else f"{line[:LINE_CHARS]} … the rest of the line {where}"
