"""Owns what a run's summary says of data that ranks read in its source; must not know how that was noticed."""

from pytest_megacpp.recording.ranks import ranks_named
from pytest_megacpp.recording.timeline import Timeline
from pytest_megacpp.report.clean import one_line
from pytest_megacpp.report.layout import counted


def bucket_lines(timeline: Timeline) -> list[str]:
    """A line for each data set whose source ranks read; plain text."""
    seen: dict[str, tuple[set[int], set[int], str]] = {}
    for test in timeline.tests.values():
        for rank, view in test.ranks.items():
            for name, (_, fact) in view.bucket_reads.items():
                ranks, tests, _ = seen.setdefault(name, (set(), set(), fact.path))
                ranks.add(rank)
                tests.add(test.index)
    return [_line(one_line(name, 80), *found) for name, found in sorted(seen.items())]


def _line(name: str, ranks: set[int], tests: set[int], path: str) -> str:
    who, often = ranks_named(sorted(ranks)), counted(len(tests), "test")
    return f"data: {who} read the source of {name!r} in {often} ({one_line(path, 200)}): use lane.data({name!r})"
