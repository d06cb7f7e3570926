"""Owns JSON Schemas of frozen dataclasses and of the recording's lines; must not know who reads them.

A schema allows fields that it doesn't name, as readers do: a newer version may write more.
"""

import inspect
import types
import typing
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from enum import StrEnum
from typing import Any

from pytest_megacpp.recording.codec import key_of
from pytest_megacpp.recording.numbers import MAX_NUMBER, Numbers
from pytest_megacpp.recording.wire import KINDS, VERSION

Schema = dict[str, Any]
DIALECT = "https://json-schema.org/draft/2020-12/schema"
_SCALARS: Mapping[Any, str] = {bool: "boolean", int: "integer", float: "number", str: "string", type(None): "null"}
_NUMBER = {"type": "integer", "minimum": 0, "maximum": MAX_NUMBER}


def event_schema() -> Schema:
    """Of one line of a recording. A kind that it doesn't name is one of a newer version."""
    definitions: dict[str, Schema] = {}
    for kind, cls in KINDS.items():
        definitions[kind] = object_schema(cls, definitions)
    head: Schema = {
        "v": {"const": VERSION},
        "run": {"type": "string", "description": "the run's id"},
        "world": {"type": "string", "description": "such as w1; empty for what is of the whole run"},
        "src": {"type": "string", "description": "box, desk, surface, or rank N: who says it"},
        "seq": {"type": "integer", "minimum": 0, "description": "counts per world and source; a hole is a loss"},
        "t": {"type": "number", "description": "seconds since the run began, by the box's clock"},
        "kind": {"type": "string"},
    }
    return {
        "$schema": DIALECT,
        "title": "a line of recording.jsonl",
        "type": "object",
        "properties": head,
        "required": list(head),
        "allOf": [
            {
                "if": {"properties": {"kind": {"const": kind}}, "required": ["kind"]},
                "then": {"$ref": f"#/$defs/{kind}"},
            }
            for kind in KINDS
        ],
        "$defs": dict(sorted(definitions.items())),
    }


def schema_of(hint: Any, definitions: dict[str, Schema]) -> Schema:
    """What `codec.to_json` makes of values of a type. Dataclasses are put into `definitions`, by their names."""
    if is_dataclass(hint):
        name = typing.cast(type, hint).__name__
        if name not in definitions:
            definitions[name] = {}  # it may hold itself
            definitions[name] = object_schema(typing.cast(type, hint), definitions)
        return {"$ref": f"#/$defs/{name}"}
    if hint in _SCALARS:
        return {"type": _SCALARS[hint]}
    if hint is Numbers:
        span = {"type": "array", "prefixItems": [_NUMBER, _NUMBER], "minItems": 2, "maxItems": 2}
        return {"type": "array", "items": {"anyOf": [_NUMBER, span]}}
    if isinstance(hint, type) and issubclass(hint, StrEnum):
        return {"enum": [member.value for member in hint]}
    return _compound(hint, definitions)


def _compound(hint: Any, definitions: dict[str, Schema]) -> Schema:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        if any(typing.get_origin(option) is list or option is list for option in arguments):
            return {}  # any JSON
        return _any_of([schema_of(option, definitions) for option in arguments])
    if origin is tuple and len(arguments) == 2 and arguments[1] is Ellipsis:
        return {"type": "array", "items": schema_of(arguments[0], definitions)}
    if origin is tuple:
        items = [schema_of(argument, definitions) for argument in arguments]
        return {"type": "array", "prefixItems": items, "minItems": len(items), "maxItems": len(items)}
    if origin is dict:
        return {"type": "object", "additionalProperties": schema_of(arguments[1], definitions)}
    raise TypeError(f"no schema for {hint}")


def _any_of(options: list[Schema]) -> Schema:
    plain = [option["type"] for option in options if set(option) == {"type"}]
    return {"type": plain} if len(plain) == len(options) else {"anyOf": options}


def object_schema(cls: type, definitions: dict[str, Schema]) -> Schema:
    """Of a dataclass as an object; fields with a default may be left out."""
    hints = typing.get_type_hints(cls)
    text = " ".join((inspect.getdoc(cls) or "").split())
    required = [
        key_of(field)
        for field in fields(typing.cast(Any, cls))
        if field.default is MISSING and field.default_factory is MISSING
    ]
    return {
        "type": "object",
        "description": text,
        "properties": {
            key_of(field): schema_of(hints[field.name], definitions) for field in fields(typing.cast(Any, cls))
        },
        "required": required,
    }
