"""Owns frozen dataclasses ↔ JSON objects, checked field by field; must not know what any of them means.

Readers are compiled once per class, so a long recording costs little per event. Unknown fields are ignored
(a newer writer), missing ones take their default, a wrong type is a `CodecError`, and so is a text that is no member of
its enum: an `UnknownWord`. What is accepted can be written again: numbers are finite, nesting is bounded.
"""

import math
import types
import typing
from collections.abc import Callable
from dataclasses import MISSING, Field, fields, is_dataclass, make_dataclass
from enum import StrEnum
from functools import cache
from typing import Any, TypeVar

from pytest_megacpp.recording.numbers import Numbers

T = TypeVar("T")
Reader = Callable[[Any], Any]
MAX_DEPTH = 64
MAX_WORD_CHARS = 40
_SCALARS = {bool, int, float, str, type(None)}
_JSON = _SCALARS | {list, dict}


class CodecError(ValueError):
    """The data don't fit the class."""


class UnknownWord(CodecError):
    """A text that is no member of its enum: a newer writer may know it."""


_KEY = "key"


def recorded_as(key: str) -> dict[str, str]:
    """Metadata of a field whose key is not its name: recordings keep the key that the field had first."""
    return {_KEY: key}


def key_of(field: "Field[Any]") -> str:
    """The key of a dataclass's field in JSON."""
    key: str = field.metadata.get(_KEY, field.name)
    return key


def to_json(value: object) -> Any:
    """A dataclass, or anything made of dataclasses, tuples and JSON values, as JSON data."""
    kind: Any = type(value)
    if kind in _SCALARS:
        return value
    if (named := _keys(kind)) is not None:
        return {key: to_json(getattr(value, name)) for name, key in named}
    if isinstance(value, tuple | list):
        return [to_json(v) for v in value]
    if isinstance(value, dict):
        return {str(k): to_json(v) for k, v in value.items()}
    if isinstance(value, StrEnum):
        return value.value
    return value.to_json() if isinstance(value, Numbers) else value


@cache
def _keys(cls: type) -> tuple[tuple[str, str], ...] | None:
    """The names of a dataclass's fields with their keys; None of another class."""
    return tuple((f.name, key_of(f)) for f in fields(cls)) if is_dataclass(cls) else None


def from_json(cls: type[T], data: object) -> T:
    """Returns `data` as an instance of dataclass `cls`; raises CodecError."""
    result: T = _reader(typing.cast(Any, cls))(data)
    return result


@cache
def _reader(hint: Any) -> Reader:
    if is_dataclass(hint):
        return _dataclass_reader(typing.cast(type, hint))
    if hint is Numbers:
        return _numbers
    if _is_enum(hint):
        return _enum_reader(hint)
    origin = typing.get_origin(hint)
    if origin in (typing.Union, types.UnionType):
        options = typing.get_args(hint)
        return _anything if {typing.get_origin(o) or o for o in options} == _JSON else _union_reader(options)
    if origin is tuple:
        return _tuple_reader(typing.get_args(hint))
    if origin is dict:
        return _dict_reader(_reader(typing.get_args(hint)[1]))
    return _scalar_reader(hint)


def _anything(value: Any) -> Any:
    _check_depth(value, MAX_DEPTH)
    return value


def _check_depth(value: Any, left: int) -> None:
    if isinstance(value, dict | list):
        if not left:
            raise CodecError(f"nested deeper than {MAX_DEPTH}")
        for inner in value.values() if isinstance(value, dict) else value:
            _check_depth(inner, left - 1)


def _scalar_reader(cls: type) -> Reader:
    if cls is float:
        return _finite

    def read(value: Any) -> Any:
        if type(value) is cls:
            return value
        raise CodecError(f"expected {cls.__name__}, got {type(value).__name__}")

    return read


def _is_enum(hint: Any) -> bool:
    return isinstance(hint, type) and issubclass(hint, StrEnum)


def _enum_reader(cls: type[StrEnum]) -> Reader:
    members = _members(cls)

    def read(value: Any) -> Any:
        if type(value) is not str:
            raise CodecError(f"expected str, got {type(value).__name__}")
        if value not in members:
            raise UnknownWord(f"{value[:MAX_WORD_CHARS]!r} is not a {cls.__name__}")
        return members[value]

    return read


def _members(cls: type[StrEnum]) -> dict[str, StrEnum]:
    return {member.value: member for member in cls}


def _numbers(value: Any) -> Numbers:
    try:
        return Numbers.from_json(value)
    except ValueError as e:
        raise CodecError(str(e)) from None


def _finite(value: Any) -> float:
    if type(value) is not float and type(value) is not int:
        raise CodecError(f"expected float, got {type(value).__name__}")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise CodecError("not a finite number")
    return number


def _union_reader(options: tuple[Any, ...]) -> Reader:
    readers = [_reader(option) for option in options if option is not type(None)]
    optional = type(None) in options

    def read(value: Any) -> Any:
        if value is None and optional:
            return None
        for reader in readers[:-1]:
            try:
                return reader(value)
            except CodecError:
                continue
        return readers[-1](value)

    return read


def _tuple_reader(args: tuple[Any, ...]) -> Reader:
    if len(args) == 2 and args[1] is Ellipsis:
        item = _reader(args[0])

        def read_many(value: Any) -> Any:
            if not isinstance(value, list):
                raise CodecError(f"expected a list, got {type(value).__name__}")
            return tuple(map(item, value))

        return read_many
    items = [_reader(a) for a in args]

    def read_fixed(value: Any) -> Any:
        if not isinstance(value, list) or len(value) != len(items):
            raise CodecError(f"expected a list of {len(items)}")
        return tuple(r(v) for r, v in zip(items, value, strict=True))

    return read_fixed


def _dict_reader(item: Reader) -> Reader:
    def read(value: Any) -> Any:
        if not isinstance(value, dict):
            raise CodecError(f"expected an object, got {type(value).__name__}")
        return {k: item(v) for k, v in value.items()}

    return read


_PLAIN: dict[Any, str] = {
    int: "type({0}) is int",
    str: "type({0}) is str",
    bool: "type({0}) is bool",
    float: "type({0}) is float and {0} - {0} == 0.0",  # finite
    int | None: "{0} is None or type({0}) is int",
    str | None: "{0} is None or type({0}) is str",
    bool | None: "{0} is None or type({0}) is bool",
}


def _dataclass_reader(cls: type) -> Reader:
    """A function written for the class: plain values are checked in place, everything else goes to its reader.

    Recordings have millions of events, and this is where most of the time to read one goes.
    """
    hints = typing.get_type_hints(cls)
    scope: dict[str, Any] = {"cls": cls, "mutable_twin": mutable_twin(cls), "absent": _ABSENT, "refuse": _refuser(cls)}
    lines = ["def read(value):", "    if type(value) is not dict: refuse(value)", "    get = value.get"]
    for f in fields(cls):
        hint = hints[f.name]
        scope[f"read_{f.name}"] = _field_reader(f, _reader(hint))
        scope[f"members_{f.name}"] = _members(hint) if _is_enum(hint) else {}
        lines += _lines(f.name, key_of(f), hint)
    lines.append(f"    made = mutable_twin({', '.join(f'_{f.name}' for f in fields(cls))})")
    lines += ["    made.__class__ = cls", "    return made"]
    exec("\n".join(lines), scope)
    reader: Reader = scope["read"]
    return reader


def _lines(name: str, key: str, hint: Any) -> list[str]:
    """Takes a field's value out, and checks it in place where that can be done in a line."""
    take, read = f"    _{name} = get({key!r}, absent)", f"_{name} = read_{name}(_{name})"
    if plain := _PLAIN.get(hint):
        return [take, f"    if not ({plain.format(f'_{name}')}): {read}"]
    if _is_enum(hint):
        known = f"type(_{name}) is str and _{name} in members_{name}"
        return [take, f"    if {known}: _{name} = members_{name}[_{name}]", f"    else: {read}"]
    return [take, f"    {read}"]


def mutable_twin(cls: type) -> Callable[..., Any]:
    """A class of the same fields and layout whose instances may still be changed, also into instances of `cls`.

    A frozen dataclass sets every field through `object.__setattr__`: that takes as long as reading the JSON.
    """
    return make_dataclass(cls.__name__, [f.name for f in fields(cls)], slots=True)


def _refuser(cls: type) -> Reader:
    def refuse(value: Any) -> Any:
        raise CodecError(f"expected an object for {cls.__name__}, got {type(value).__name__}")

    return refuse


_ABSENT = object()


def _field_reader(field: "Field[Any]", reader: Reader) -> Reader:
    """Reads one field's value, or its absence."""

    def read(value: Any) -> Any:
        if value is _ABSENT:
            if field.default is not MISSING:
                return field.default
            if field.default_factory is not MISSING:
                return field.default_factory()
            raise CodecError(f"{key_of(field)} is missing")
        try:
            return reader(value)
        except CodecError as e:
            raise type(e)(f"{key_of(field)}: {e}") from None

    return read
