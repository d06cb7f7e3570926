"""Owns the text about tests that the desk could only read from their source; must not know how the box found others."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from pytest_megacpp.recording.events import SourceRead
from pytest_megacpp.report.clean import one_line
from pytest_megacpp.report.layout import counted


@dataclass(frozen=True, slots=True)
class NotRun:
    """What boxes of a lane have otherwise than it was read, as in `SourceRead`."""

    differing: tuple[str, ...]
    differing_count: int
    more: tuple[str, ...]
    more_count: int


def not_run(sources: Sequence[SourceRead]) -> NotRun:
    """Of the boxes of a lane, each of which names what nobody read: a file with tests on two of them counts once. Where
    there are more names than boxes keep, the count may be too low.
    """
    differing = tuple(dict.fromkeys(name for source in sources for name in source.differing))
    more = tuple(dict.fromkeys(name for source in sources for name in source.more))
    return NotRun(
        differing=differing,
        differing_count=sum(source.differing_count for source in sources),
        more=more,
        more_count=max([len(more), *(source.more_count for source in sources)]),
    )


def source_lines(source: SourceRead, box: str = "") -> Iterator[str]:
    """What the box (`, box 2 of 3`; empty: the only one) has in place of what was read."""
    read = f"{counted(source.read, 'test')} read from the source{box}"
    if source.problem:
        yield f"{read}, and not found out at the box: {source.problem}"
        return
    notes = [
        f"{source.missing} not there" if source.missing else "",
        f"{len(source.left_out)} with no case that -k or -m selects there" if len(source.left_out) else "",
        f"{source.differing_count} marked differently there, so not run" if source.differing_count else "",
        f"{source.more_count} more there, not run" if source.more_count else "",
    ]
    cases = f"{counted(source.cases, 'test')} at the box"
    yield ", ".join(filter(None, (f"{read}: {cases}", *notes)))


def source_complaints(found: Iterable[NotRun]) -> Iterator[str]:
    """Which tests of boxes were not run, by name: they make the session red."""
    for one in found:
        yield from _complaints(one)


def _complaints(source: NotRun) -> Iterator[str]:
    if source.differing_count:
        yield (
            f"{counted(source.differing_count, 'lane test')} not run: the marks at the box have other arguments than"
            " those that could be read here. Write them as literals, or run where the file can be imported:"
        )
        yield from _named(source.differing, source.differing_count)
    if source.more_count:
        yield (
            f"{counted(source.more_count, 'lane test')} of the box could not be read from the source here, so not run."
            " Define them where the source shows them, or run where the file can be imported:"
        )
        yield from _named(source.more, source.more_count)


def _named(names: Sequence[str], count: int) -> Iterator[str]:
    yield from (f"  {one_line(name, 200)}" for name in names)
    if count > len(names):
        yield f"  … and {count - len(names)} more"
