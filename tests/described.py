"""Owns checking documents against the schemas that the package ships; must not know what writes them."""

import copy
import json
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import Any

from jsonschema import Draft202012Validator

HEAD = ("v", "run", "world", "src", "seq", "t")
"""What each line of a recording has beside its fact."""


def shipped(name: str) -> Mapping[str, Any]:
    document: Mapping[str, Any] = json.loads((files("pytest_megacpp") / "schemas" / name).read_text(encoding="utf-8"))
    return document


def strict(schema: Any) -> Any:
    """The same, but for objects with fields that it doesn't name."""
    match schema:
        case dict():
            made = {key: strict(value) for key, value in schema.items()}
            return made | ({"additionalProperties": False} if "properties" in made and "required" in made else {})
        case list():
            return [strict(item) for item in schema]
        case _:
            return schema


@cache
def validator(name: str) -> Draft202012Validator:
    return Draft202012Validator(strict(shipped(name)))


@cache
def of_kind(kind: str) -> Draft202012Validator:
    definitions = strict(shipped("event.json")["$defs"])
    definition = copy.deepcopy(definitions[kind])
    definition["properties"]["kind"] = {"const": kind}
    return Draft202012Validator(definition | {"$defs": definitions})


def wrong(checked: Draft202012Validator, document: object) -> list[str]:
    return [f"{error.json_path}: {error.message[:300]}" for error in checked.iter_errors(document)]
