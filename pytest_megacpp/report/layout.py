"""Owns lines, columns and groups of plain text; must not know what they say."""

import re
import textwrap
from collections.abc import Hashable, Iterable, Iterator, Sequence
from typing import TypeVar

WIDTH = 120  # of files, and of output that goes into one
GUTTER = "│ "

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


def wrapped(text: str, first: str = "", rest: str | None = None, width: int = WIDTH) -> list[str]:
    """`text` as lines of at most `width` columns; words (paths, commands) are never broken."""
    return textwrap.wrap(
        text,
        width,
        initial_indent=first,
        subsequent_indent=first if rest is None else rest,
        break_long_words=False,
        break_on_hyphens=False,
    )


def listed(items: Iterable[str], indent: str = "", width: int = WIDTH) -> list[str]:
    """`a · b · c`, broken between items only where they fit a line."""
    lines = wrapped(" · ".join(item.replace(" ", "\xa0") for item in items), indent, width=width)
    return [line.replace("\xa0", " ") for line in lines]


def columns(rows: Sequence[tuple[str, ...]], indent: str = "") -> Iterator[str]:
    """Rows of cells as lines, each column as wide as its widest cell."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        yield indent + "  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip()


def quoted(lines: Iterable[str]) -> list[str]:
    """Lines of ranks behind a gutter, so that no CI reads them as its own commands."""
    return [f"{GUTTER}{line}".rstrip() for line in lines]


def counted(number: int, noun: str) -> str:
    """`1 rank`, `3 ranks`."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def grouped(pairs: Iterable[tuple[K, V]]) -> dict[K, list[V]]:
    """The values (ranks, mostly) by what they share, in order of first appearance."""
    found: dict[K, list[V]] = {}
    for key, value in pairs:
        found.setdefault(key, []).append(value)
    return found


def grouped_texts(texts: Iterable[tuple[int, str]], exact: int = 0) -> list[tuple[list[int], str]]:
    """Ranks by their texts. More than `exact` different texts are grouped by all but their numbers.

    Numbers that name something (`all_reduce #7`) always tell texts apart.
    """
    texts = list(texts)
    groups = grouped((text, rank) for rank, text in texts)
    if len(groups) <= exact:
        return [(ranks, text) for text, ranks in groups.items()]
    like = grouped((_without_numbers(text), (rank, text)) for rank, text in texts)
    return [([rank for rank, _ in alike], _first_of(text for _, text in alike)) for alike in like.values()]


def _first_of(texts: Iterable[str]) -> str:
    first, *others = texts
    return first if all(other == first for other in others) else f"{first} (numbers differ)"


def _without_numbers(text: str) -> str:
    return re.sub(r"(?<![#\w])(?:0x[0-9a-f]+|\d+)", "0", text)
