"""Owns short phrases for ranks, times and places in a sentence; must not know what is judged."""

from collections.abc import Iterable

from pytest_megacpp.recording.ranks import ranks_named
from pytest_megacpp.recording.stacks import Frame

MESSAGE_CHARS = 200


def plain(text: str, limit: int = MESSAGE_CHARS) -> str:
    """Returns the first line that isn't empty, printable and short: texts of ranks are not to be trusted."""
    line = next((part for part in text[: 40 * limit].splitlines() if part.strip()), "")
    shown = "".join(c if c.isprintable() else " " for c in line[: 4 * limit])
    words = " ".join(shown.split())
    return words if len(words) <= limit else f"{words[: limit - 1]}…"


def seconds(value: float) -> str:
    """Returns a duration with its unit: `131 s`, `4.2 s`, `0.04 s`."""
    return f"{value:.0f} s" if value >= 10 else f"{value:.1f} s" if value >= 1 else f"{value:.2f} s"


def place(frame: Frame) -> str:
    """Returns `train.py:88 (load_batch)`."""
    return f"{file_line(frame.file, frame.line)} ({plain(frame.function, 60)})"


def file_line(file: str, line: int) -> str:
    """Returns `train.py:88`; empty if the file isn't known."""
    name = plain(file.replace("\\", "/").rpartition("/")[2], 80)
    return f"{name}:{line}" if name and line else name


def was(ranks: Iterable[int]) -> str:
    """Returns `rank 3 was` or `ranks 0-2 were`."""
    return f"{ranks_named(ranks)} {'was' if len(set(ranks)) == 1 else 'were'}"


def of_ranks(ranks: Iterable[int], predicate: str) -> str:
    """Returns a sentence about these ranks, from a predicate in the singular: `ranks 0-2 were killed`."""
    several = len(set(ranks := tuple(ranks))) > 1
    return f"{ranks_named(ranks)} {'were ' + predicate[4:] if several and predicate.startswith('was ') else predicate}"


def joined(parts: Iterable[str], separator: str = "; ") -> str:
    """Returns the parts that aren't empty, joined."""
    return separator.join(part for part in parts if part)
