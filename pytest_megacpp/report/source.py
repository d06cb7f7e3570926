"""Owns the text about tests that the desk could only read from their source; must not know how the box found others."""

from collections.abc import Iterator, Sequence

from pytest_megacpp.recording.events import SourceRead
from pytest_megacpp.report.clean import one_line
from pytest_megacpp.report.layout import counted


def source_lines(source: SourceRead) -> Iterator[str]:
    """What the box has in place of what was read."""
    if source.problem:
        yield f"{counted(source.read, 'test')} read from the source, and not found out at the box: {source.problem}"
        return
    notes = [
        f"{source.missing} not there" if source.missing else "",
        f"{len(source.left_out)} with no case that -k or -m selects there" if len(source.left_out) else "",
        f"{source.differing_count} marked differently there, so not run" if source.differing_count else "",
        f"{source.more_count} more there, not run" if source.more_count else "",
    ]
    cases = f"{counted(source.cases, 'test')} at the box"
    yield ", ".join(filter(None, (f"{counted(source.read, 'test')} read from the source: {cases}", *notes)))


def source_complaints(source: SourceRead) -> Iterator[str]:
    """Which tests of the box were not run, by name: they make the session red."""
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
