"""Owns checking what users wrote against what there is; must not know where an option or a key comes from.

Every complaint is a `pytest.UsageError` that names the place, what was wrong, the nearest valid word and all of them.
"""

from collections.abc import Collection
from enum import StrEnum
from math import isfinite
from typing import TypeVar

import pytest

LIMIT_NAMES = ("startup", "skew", "compile", "stall", "test", "run")  # as in `events`, which takes long to import
ANNOTATIONS = ("auto", "on", "off")
E = TypeVar("E", bound=StrEnum)


def known(word: object, valid: Collection[str], *, what: str, where: str) -> str:
    """`word` if it is one of `valid`; raises UsageError."""
    if isinstance(word, str) and word in valid:
        return word
    raise pytest.UsageError(f"{where}: unknown {what} {word!r}{nearest(word, valid)} Known: {', '.join(sorted(valid))}")


def member(word: object, cls: type[E], *, what: str, where: str) -> E:
    """The member of `cls` that a user wrote; raises UsageError. A member without a text can't be asked for."""
    return cls(known(word, [one.value for one in cls if one.value], what=what, where=where))


def nearest(word: object, valid: Collection[str]) -> str:
    """`; did you mean 'stall'?`, or a full stop."""
    from difflib import get_close_matches

    folded = str(word).replace("-", "_").lower()
    found = get_close_matches(folded, sorted(valid), n=1, cutoff=0.5)
    return f"; did you mean {found[0]!r}?" if found else "."


def count(value: object, *, what: str, where: str) -> int:
    """`value` as a whole number of at least 1; raises UsageError."""
    number = _whole(value)
    if number is None or number < 1:
        raise pytest.UsageError(f"{where}: {what} must be a whole number of at least 1, not {value!r}")
    return number


def seconds(value: object, *, what: str, where: str) -> float:
    """`value` as a time in seconds above 0; raises UsageError."""
    number = _real(value)
    if number is None or not isfinite(number) or number <= 0:
        raise pytest.UsageError(f"{where}: {what} must be a number of seconds above 0, not {value!r}")
    return number


def flag(value: object, *, what: str, where: str) -> bool:
    """`value` if it is a truth value; raises UsageError."""
    if not isinstance(value, bool):
        raise pytest.UsageError(f"{where}: {what} must be true or false, not {value!r}")
    return value


def said_flag(value: str, *, where: str) -> bool:
    """A truth value in words, as variables hold it; raises UsageError."""
    words = {"1": True, "true": True, "yes": True, "on": True, "0": False, "false": False, "no": False, "off": False}
    if value.lower() not in words:
        raise pytest.UsageError(f"{where}: it must be 1 or 0 (true, false, yes, no, on, off), not {value!r}")
    return words[value.lower()]


def text(value: object, *, what: str, where: str) -> str:
    """`value` if it is a text that says something; raises UsageError."""
    if not isinstance(value, str) or not value.strip() or "\0" in value:
        raise pytest.UsageError(f"{where}: {what} must be a text, not {value!r}")
    return value


def table(value: object, *, what: str, where: str) -> dict[str, object]:
    """`value` if it is a table; raises UsageError."""
    if not isinstance(value, dict):
        raise pytest.UsageError(f"{where}: {what} must be a table, not {value!r}")
    return value


def _whole(value: object) -> int | None:
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    return int(value) if isinstance(value, str) and value.isascii() and value.isdecimal() else None


def _real(value: object) -> float | None:
    if isinstance(value, int | float | str) and not isinstance(value, bool):
        try:
            return float(value)
        except (ValueError, OverflowError):
            return None
    return None
