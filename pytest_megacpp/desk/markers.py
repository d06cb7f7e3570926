"""Owns the arguments of lane markers, checked and merged; must not know what is done with them."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import pytest

from pytest_megacpp.desk.words import CACHE_SEEDS, LIMIT_NAMES, PRESETS, count, flag, known, seconds

ARGUMENTS = ("ranks", "preset", "fresh", "cache_seed", *LIMIT_NAMES)


@dataclass(frozen=True, slots=True)
class MarkerArguments:
    """What a test's lane markers say together; None where they don't. Limits in seconds, by name."""

    ranks: int | None = None
    preset: str | None = None
    fresh: bool = False
    cache_seed: str | None = None
    limits: Mapping[str, float] = field(default_factory=dict)


def marker_arguments(marks: Iterable[pytest.Mark], nodeid: str) -> MarkerArguments:
    """The arguments of a test's marks of one lane, closest first as `iter_markers` gives them. Raises UsageError."""
    merged: dict[str, object] = {}
    for mark in marks:
        _check_shape(mark, nodeid)
        merged = {**mark.kwargs, **merged}
    where = f"a lane marker of {nodeid}"
    return MarkerArguments(
        ranks=count(merged["ranks"], what="ranks", where=where) if "ranks" in merged else None,
        preset=_word(merged, "preset", PRESETS, where),
        fresh=flag(merged.get("fresh", False), what="fresh", where=where),
        cache_seed=_word(merged, "cache_seed", CACHE_SEEDS, where),
        limits={name: seconds(merged[name], what=name, where=where) for name in LIMIT_NAMES if name in merged},
    )


def _check_shape(mark: pytest.Mark, nodeid: str) -> None:
    where = f"@pytest.mark.{mark.name} of {nodeid}"
    if mark.args:
        raise pytest.UsageError(f"{where}: its arguments need names, such as ranks={mark.args[0]!r}")
    for name in mark.kwargs:
        known(name, ARGUMENTS, what="argument", where=where)


def _word(arguments: Mapping[str, object], name: str, valid: tuple[str, ...], where: str) -> str | None:
    return known(arguments[name], valid, what=name, where=where) if name in arguments else None
