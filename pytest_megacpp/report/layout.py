"""Owns lines, columns and groups of plain text; must not know what they say."""

import re
import textwrap
from collections.abc import Hashable, Iterable
from typing import TypeVar

from pytest_megacpp.recording.ranks import brief_ranks

WIDTH = 120
GUTTER = "│ "

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


def wrapped(text: str, first: str = "", rest: str | None = None) -> list[str]:
    """`text` as lines of at most `WIDTH` columns; words (paths, commands) are never broken."""
    return textwrap.wrap(
        text,
        WIDTH,
        initial_indent=first,
        subsequent_indent=first if rest is None else rest,
        break_long_words=False,
        break_on_hyphens=False,
    )


def quoted(lines: Iterable[str]) -> list[str]:
    """Lines that somebody else wrote, behind a gutter: no CI reads them as its own commands."""
    return [f"{GUTTER}{line}".rstrip() for line in lines]


def counted(number: int, noun: str) -> str:
    """`1 rank`, `3 ranks`."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def named(ranks: Iterable[int]) -> str:
    """`rank 3`, `ranks 0-2,4`; long lists are cut."""
    listed = brief_ranks(ranks)
    return f"rank {listed}" if listed.isdecimal() else f"ranks {listed}"


def grouped(pairs: Iterable[tuple[K, V]]) -> dict[K, list[V]]:
    """The values (ranks, mostly) by what they share, in order of first appearance."""
    found: dict[K, list[V]] = {}
    for key, value in pairs:
        found.setdefault(key, []).append(value)
    return found


def grouped_texts(said: Iterable[tuple[int, str]], limit: int) -> list[tuple[list[int], str]]:
    """Ranks by what they said. More than `limit` different texts are grouped with their numbers left out."""
    said = list(said)
    exact = grouped((text, rank) for rank, text in said)
    if len(exact) <= limit:
        return [(ranks, text) for text, ranks in exact.items()]
    like = grouped((_without_numbers(text), rank) for rank, text in said)
    texts = dict(reversed(said))
    return [(ranks, texts[ranks[0]] + (" (numbers differ)" if len(ranks) > 1 else "")) for ranks in like.values()]


def _without_numbers(text: str) -> str:
    return re.sub(r"0x[0-9a-f]+|\d+", "#", text)
