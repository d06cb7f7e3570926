"""Owns Hypothesis strategies for facts and events, derived from their annotations; must not know what facts mean."""

import types
import typing
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from enum import StrEnum
from functools import cache
from typing import Any

from hypothesis import strategies as st

from pytest_megacpp.recording.events import Event, Fact, Json, TestStarted, WorldStarted
from pytest_megacpp.recording.numbers import MAX_NUMBER, Numbers
from pytest_megacpp.recording.vocabulary import WorldReason
from pytest_megacpp.recording.wire import KINDS
from tests.recording.telling import BLOCKED, LIMITS

TEXTS = st.text(st.characters(), max_size=12)  # lone surrogates too, as `os.fsdecode` makes them
FLOATS = st.floats(allow_nan=False, allow_infinity=False)
INTS = st.integers(-(10**30), 10**30)
JSON: st.SearchStrategy[Json] = st.recursive(
    st.none() | st.booleans() | INTS | FLOATS | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=6,
)
TIMES = st.floats(-1e6, 1e9).map(lambda t: round(t, 6))
_SCALARS: Mapping[object, st.SearchStrategy[Any]] = {
    bool: st.booleans(),
    int: INTS,
    float: FLOATS,
    str: TEXTS,
    type(None): st.none(),
    Numbers: st.builds(Numbers, st.sets(st.integers(0, 12) | st.integers(0, MAX_NUMBER))),
}


def instances(cls: type, **given: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Any instance of dataclass `cls`; fields named in `given` come from there."""
    return st.builds(cls, **{f.name: given.get(f.name, of_hint(typing.cast(Any, f.type))) for f in fields(cls)})


@cache
def of_hint(hint: Any) -> st.SearchStrategy[Any]:
    if hint is Json or isinstance(hint, str | typing.ForwardRef):
        return JSON
    if is_dataclass(hint):
        return instances(typing.cast(type, hint))
    if isinstance(hint, type) and issubclass(hint, StrEnum):
        return st.sampled_from(hint)
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return st.one_of(*map(of_hint, args))
    if origin is tuple:
        if args[1:] == (Ellipsis,):
            return st.lists(of_hint(args[0]), max_size=3).map(tuple)
        return st.tuples(*map(of_hint, args))
    if origin is dict:
        return st.dictionaries(TEXTS, of_hint(args[1]), max_size=3)
    return _SCALARS[hint]


def facts(**given: st.SearchStrategy[Any]) -> st.SearchStrategy[Fact]:
    """A fact of any kind that is written; `given` are the values of fields of those names, in every kind."""
    return st.one_of(*(facts_of(cls, **given) for cls in KINDS.values()))


def facts_of(cls: type, **given: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    names = {f.name for f in fields(cls)}
    return instances(cls, **{name: s for name, s in given.items() if name in names})


@st.composite
def streams(draw: st.DrawFn, max_size: int = 12) -> list[Event]:
    """Events as their writers number them: from zero, without a hole, per world and source."""
    written = draw(st.lists(st.tuples(st.sampled_from(["", "w1", "wé"]), sources(), TIMES, facts()), max_size=max_size))
    numbers: dict[tuple[str, str], int] = {}
    events = []
    for world, source, time_s, fact in written:
        seq = numbers[world, source] = numbers.get((world, source), -1) + 1
        events.append(Event("r1", world, source, seq, time_s, fact))
    return events


def sources() -> st.SearchStrategy[str]:
    return st.sampled_from(["box", "desk", "rank 0", "rank 1"])


NAMES = st.sampled_from(["0", "1", "tp", "setup", "call", "stdout"])
ANY_FACTS = facts(
    rank=st.integers(-1, 4),
    test=st.integers(-1, 2),
    size=st.sampled_from([0, 1, 2, 4]),
    name=NAMES,
    group=NAMES,
    seq=st.integers(0, 5),
    text=st.sampled_from([BLOCKED, "", "x"]),
    main_thread=st.sampled_from(["0x12", "", "hex?"]),
)


@st.composite
def any_events(draw: st.DrawFn) -> list[Event]:
    """Valid events in no order at all; half of them into a run that began well."""
    source = st.sampled_from(["box", "desk", "reader", "rank 0", "rank 1", "rank 3", "rank x"])
    world = st.sampled_from(["", "w1", "w2"])
    stray = draw(st.lists(st.builds(Event, st.just("r"), world, source, st.just(0), TIMES, ANY_FACTS), max_size=30))
    start = [
        Event("r", "w1", "box", 0, 0.0, WorldStarted(4, WorldReason.FIRST)),
        Event("r", "w1", "box", 1, 1.0, TestStarted(0, "a", 4, LIMITS)),
    ]
    return draw(st.sampled_from([[], start])) + stray
