"""Owns one sample after another of any kind of fact, derived from its annotations; must not know what facts mean.

Texts and numbers are new in each sample, so that whatever is kept by them grows. All else (which enum member, whether
an optional field is there) repeats after `PERIOD` samples: views are of equal size a whole number of periods later.
"""

import random
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from enum import StrEnum
from typing import Any

from pytest_megacpp.recording.events import Fact, Json
from pytest_megacpp.recording.numbers import Numbers

PERIOD = 40
_SCALARS: Mapping[object, Callable[[int, random.Random], Any]] = {
    bool: lambda _, chance: chance.random() < 0.5,
    int: lambda i, chance: chance.choice((0, 1, i)),
    float: lambda i, _: 5.0 + i,
    str: lambda i, _: f"n{i}",
    Numbers: lambda i, _: Numbers((i,)),
    Json: lambda i, _: f"n{i}",
}


def sample_fact(kind: type[Fact], i: int) -> Fact:
    """The `i`th sample, of rank 0."""
    return typing.cast(Fact, _instance(kind, i, random.Random(f"{kind.__name__} {i % PERIOD}")))


def _instance(cls: type, i: int, chance: random.Random) -> Any:
    return cls(**{f.name: 0 if f.name == "rank" else _value(f.type, i, chance) for f in fields(cls)})


def _value(hint: Any, i: int, chance: random.Random) -> Any:
    if hint in _SCALARS:
        return _SCALARS[hint](i, chance)
    if is_dataclass(hint):
        return _instance(typing.cast(type, hint), i, chance)
    if isinstance(hint, type) and issubclass(hint, StrEnum):
        return chance.choice(list(hint))
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        option = chance.choice(args)
        return None if option is type(None) else _value(option, i, chance)
    if origin is tuple:
        return tuple(_value(arg, i, chance) for arg in args if arg is not Ellipsis)
    assert origin is dict, hint
    return {f"n{i}": _value(args[1], i, chance)}
