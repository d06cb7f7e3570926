"""Owns the arguments of lane markers, checked and merged; must not know what is done with them."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

import pytest

from pytest_megacpp.judge.verdicts import Code
from pytest_megacpp.recording.vocabulary import Preset, SeedMode
from pytest_megacpp.settings.checks import LIMIT_NAMES, E, count, flag, known, member, seconds, text

ARGUMENTS = ("ranks", "preset", "fresh", "cache_seed", *LIMIT_NAMES)


@dataclass(frozen=True, slots=True)
class MarkerArguments:
    """What a test's lane markers say together; None where they don't. Limits in seconds, by name."""

    ranks: int | None = None
    preset: Preset | None = None
    fresh: bool = False
    cache_seed: SeedMode | None = None
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
        preset=_member(merged, "preset", Preset, where),
        fresh=flag(merged.get("fresh", False), what="fresh", where=where),
        cache_seed=_member(merged, "cache_seed", SeedMode, where),
        limits={name: seconds(merged[name], what=name, where=where) for name in LIMIT_NAMES if name in merged},
    )


@dataclass(frozen=True, slots=True)
class Expectation:
    """What a drill's `expect_verdict(code, ranks=None, cause=None)` says; None: any."""

    code: Code
    ranks: tuple[int, ...] | None = None
    cause: str | None = None


def expectation(mark: pytest.Mark, nodeid: str) -> Expectation:
    """The arguments of a drill's mark. Raises UsageError."""
    where = f"@pytest.mark.{mark.name} of {nodeid}"
    names = ("code", "ranks", "cause")
    if len(mark.args) > len(names):
        raise pytest.UsageError(f"{where}: it takes {', '.join(names)}, not {len(mark.args)} arguments")
    given = {**mark.kwargs, **dict(zip(names, mark.args, strict=False))}
    for name in given:
        known(name, names, what="argument", where=where)
    return Expectation(
        code=member(given.get("code"), Code, what="verdict", where=where),
        ranks=None if given.get("ranks") is None else _ranks(given["ranks"], where),
        cause=None if given.get("cause") is None else text(given["cause"], what="cause", where=where),
    )


def _ranks(value: object, where: str) -> tuple[int, ...]:
    if type(value) is int:
        value = (value,)
    if not isinstance(value, Collection) or not all(type(rank) is int and rank >= 0 for rank in value):
        raise pytest.UsageError(f"{where}: ranks must be a list of ranks, such as [3], not {value!r}")
    return tuple(sorted(value))


def _check_shape(mark: pytest.Mark, nodeid: str) -> None:
    where = f"@pytest.mark.{mark.name} of {nodeid}"
    if mark.args:
        raise pytest.UsageError(f"{where}: its arguments need names, such as ranks={mark.args[0]!r}")
    for name in mark.kwargs:
        known(name, ARGUMENTS, what="argument", where=where)


def _member(arguments: Mapping[str, object], name: str, cls: type[E], where: str) -> E | None:
    return member(arguments[name], cls, what=name, where=where) if name in arguments else None
