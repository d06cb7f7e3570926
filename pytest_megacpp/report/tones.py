"""Owns what parts of a text are, so that a terminal can colour them; must not know colours."""

import re
from collections.abc import Iterable, Sequence
from enum import Enum, auto
from typing import TypeAlias


class Tone(Enum):
    """`BLAMED`: a rank that is blamed. `EVIDENCE`: what is known of it. `RAISED`: the error itself in a traceback."""

    PLAIN = auto()
    HEADLINE = auto()
    TITLE = auto()
    BLAMED = auto()
    EVIDENCE = auto()
    RAISED = auto()
    COMMAND = auto()


TonedLine: TypeAlias = tuple[tuple[str, Tone], ...]
"""A line as its parts, in order."""

_BETWEEN = re.compile(r"( {3}| · )")
_ERROR = re.compile(r"│ (E {3}|\w+(\.\w+)*(Error|Exception|Interrupt|Exit): )")


def plain(lines: Iterable[str], tone: Tone = Tone.PLAIN) -> list[TonedLine]:
    """Lines of one tone."""
    return [((line, tone),) for line in lines]


def titled(lines: Sequence[str], title: Tone = Tone.TITLE) -> list[TonedLine]:
    """A title, and the lines below it."""
    return [*plain(lines[:1], title), *plain(lines[1:])]


def pictured(lines: Iterable[str]) -> list[TonedLine]:
    """A picture of the ranks: those that are marked as blamed stand out."""
    return [
        tuple((part, Tone.BLAMED if "✗" in part else Tone.PLAIN) for part in _BETWEEN.split(line) if part)
        for line in lines
    ]


def raised(lines: Sequence[str]) -> list[TonedLine]:
    """What ranks raised below its title: the lines of the errors themselves stand out."""
    below = (((line, Tone.RAISED if _ERROR.match(line) else Tone.PLAIN),) for line in lines[1:])
    return [*plain(lines[:1], Tone.TITLE), *below]


def text_of(line: TonedLine) -> str:
    """Returns the line without its tones."""
    return "".join(text for text, _ in line)
