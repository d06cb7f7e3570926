"""Owns checking what users wrote against what there is; must not know where an option or a key comes from.

Every complaint is a `pytest.UsageError` that names the place, what was wrong, the nearest valid word and all of them.
"""

from collections.abc import Callable, Collection
from enum import StrEnum
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import pytest

if TYPE_CHECKING:
    from pytest_megacpp.recording.vocabulary import Preset, SeedMode

LIMIT_NAMES = ("startup", "skew", "compile", "stall", "test", "run")  # as in `events`, which takes long to import
ANNOTATIONS = ("auto", "on", "off")
MAX_HASH_SEED = (1 << 32) - 2  # of Python's, and there is a next one
MAX_RANKS = 8_192  # of a world that a recording may have
E = TypeVar("E", bound=StrEnum)


class Unparsed(str):
    """What a command line or a variable holds: a string even where a number or a truth value is meant. pyproject.toml
    and markers have values of those types, so a plain string there is a mistake.
    """

    __slots__ = ()


def known(word: object, valid: Collection[str], *, what: str, where: str) -> str:
    """`word` if it is one of `valid`; raises UsageError."""
    if isinstance(word, str) and word in valid:
        return word
    raise pytest.UsageError(f"{where}: unknown {what} {word!r}{nearest(word, valid)} Known: {', '.join(sorted(valid))}")


def member(word: object, cls: type[E], *, what: str, where: str) -> E:
    """The member of `cls` that a user wrote; raises UsageError. A member without a text can't be asked for."""
    return cls(known(word, [one.value for one in cls if one.value], what=what, where=where))


def preset(value: object, *, where: str) -> "Preset":
    """The preset that a user wrote; raises UsageError."""
    from pytest_megacpp.recording.vocabulary import Preset

    return member(value, Preset, what="preset", where=where)


def cache_seed(value: object, *, where: str) -> "SeedMode":
    """The use of the compile cache that a user wrote; raises UsageError."""
    from pytest_megacpp.recording.vocabulary import SeedMode

    return member(value, SeedMode, what="cache seed", where=where)


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
        hint = _unquoted(_whole, value)
        raise pytest.UsageError(f"{where}: {what} must be a whole number of at least 1, not {value!r}{hint}")
    return number


def at_least_0(value: object, *, what: str, where: str) -> int:
    """`value` as a whole number, 0 included; raises UsageError."""
    number = _whole(value)
    if number is None or number < 0:
        raise pytest.UsageError(f"{where}: {what} must be a whole number of at least 0, not {value!r}")
    return number


def hash_seed(value: object, *, where: str) -> int:
    """`value` as a seed of Python's string hashes; raises UsageError."""
    seed = count(value, what="the hash seed", where=where)
    if seed > MAX_HASH_SEED:
        raise pytest.UsageError(f"{where}: Python has hash seeds up to {MAX_HASH_SEED}, not {seed}")
    return seed


def seconds(value: object, *, what: str, where: str) -> float:
    """`value` as a time in seconds above 0; raises UsageError."""
    number = _real(value)
    if number is None or not isfinite(number) or number <= 0:
        hint = _unquoted(_real, value)
        raise pytest.UsageError(f"{where}: {what} must be a number of seconds above 0, not {value!r}{hint}")
    return number


def interval(value: object, *, what: str, where: str) -> float:
    """`value` as seconds between two of something, 0 for never; raises UsageError."""
    number = _real(value)
    if number is None or not isfinite(number) or number < 0:
        hint = _unquoted(_real, value)
        raise pytest.UsageError(f"{where}: {what} must be a number of seconds, or 0 for none, not {value!r}{hint}")
    return number


def budget(value: object, *, where: str) -> float:
    """`value` as dollars above 0; raises UsageError."""
    usd = _real(value)
    if usd is None or not 0 < usd < 1e9:
        not_this = f"{value!r}{_unquoted(_real, value)}"
        raise pytest.UsageError(f"{where}: a budget is a number of dollars above 0, such as 5 or 0.50, not {not_this}")
    return usd


def rank_set(value: object, *, where: str) -> frozenset[int]:
    """`value` as a set of ranks, such as `0`, `0,3`, `0-3`; `all` is the empty one. Raises UsageError."""
    parts = [part.strip() for part in str(value).split(",")]
    if isinstance(value, bool) or not isinstance(value, str | int):
        parts = [""]
    if parts == ["all"]:
        return frozenset()
    found: set[int] = set()
    for part in parts:
        first, dash, last = part.partition("-")
        ends = (first, last) if dash else (first, first)
        if not all(end.isascii() and end.isdecimal() for end in ends):
            raise pytest.UsageError(f"{where}: ranks are written as 0, 0,3, 0-3 or all, not {value!r}")
        low, high = map(int, ends)
        if high < low or high >= MAX_RANKS:
            why = f"{part} ends before it begins" if high < low else f"there are ranks up to {MAX_RANKS - 1}"
            raise pytest.UsageError(f"{where}: {why}, in {value!r}")
        found.update(range(low, high + 1))
    return frozenset(found)


def flag(value: object, *, what: str, where: str) -> bool:
    """`value` as a truth value; raises UsageError."""
    if isinstance(value, Unparsed):
        return _flag_in_words(value, where)
    if not isinstance(value, bool):
        raise pytest.UsageError(f"{where}: {what} must be true or false, not {value!r}")
    return value


def _flag_in_words(value: str, where: str) -> bool:
    words = {"1": True, "true": True, "yes": True, "on": True, "0": False, "false": False, "no": False, "off": False}
    if value.lower() not in words:
        raise pytest.UsageError(f"{where}: it must be 1 or 0 (or true, false, yes, no, on, off), not {value!r}")
    return words[value.lower()]


def text(value: object, *, what: str, where: str) -> str:
    """`value` if it is a string that isn't blank; raises UsageError."""
    if not isinstance(value, str) or not value.strip() or "\0" in value:
        raise pytest.UsageError(f"{where}: {what} must be a non-empty string, not {value!r}")
    return value


def directory(value: object, *, where: str) -> Path:
    """`value` as a path, with `~` expanded; raises UsageError."""
    return Path(text(value, what="the directory", where=where)).expanduser()


def module_names(value: object, *, where: str) -> tuple[str, ...]:
    """`value` if it is a list of dotted names; raises UsageError."""
    if not isinstance(value, list) or not all(isinstance(name, str) and _is_dotted(name) for name in value):
        raise pytest.UsageError(f'{where} must be a list of module names, such as ["numpy"], not {value!r}')
    return tuple(value)


def _is_dotted(name: str) -> bool:
    return all(part.isidentifier() for part in name.split("."))


def table(value: object, *, what: str, where: str) -> dict[str, object]:
    """`value` if it is a table; raises UsageError."""
    if not isinstance(value, dict):
        raise pytest.UsageError(f"{where}: {what} must be a table, not {value!r}")
    return value


def _whole(value: object) -> int | None:
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    return int(value) if isinstance(value, Unparsed) and value.isascii() and value.isdecimal() else None


def _real(value: object) -> float | None:
    if isinstance(value, int | float | Unparsed) and not isinstance(value, bool):
        try:
            return float(value)
        except (ValueError, OverflowError):
            return None
    return None


def _unquoted(parse: Callable[[object], object], value: object) -> str:
    """A hint for a number that is written as a string."""
    is_number = type(value) is str and parse(Unparsed(value)) is not None
    return "; write the number without quotes" if is_number else ""
