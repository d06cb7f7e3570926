"""Owns reading `[tool.pytest_megacpp.source]`, checked key by key; must not know where the source goes."""

from collections.abc import Mapping

import pytest
from pathspec import PathSpec

from pytest_megacpp.settings.checks import count, known, table
from pytest_megacpp.surfaces.source import MIB, SourceConfig

TABLE = "[tool.pytest_megacpp.source]"
KEYS = ("include", "exclude", "extra", "max_mib")


def read_source(value: object) -> SourceConfig:
    """The table, checked. Raises UsageError."""
    settings = table(value, what="it", where=TABLE)
    for key in settings:
        known(key, KEYS, what="key", where=TABLE)
    max_mib = count(settings.get("max_mib", SourceConfig().max_bytes // MIB), what="max_mib", where=TABLE)
    include, exclude, extra = (_texts(settings, key) for key in ("include", "exclude", "extra"))
    _check_patterns(exclude, "exclude")
    for pattern in include:
        if pattern.startswith(("/", "!")) or ".." in pattern.split("/"):
            raise pytest.UsageError(
                f"{TABLE}: include takes paths inside the project, not {pattern!r}; use extra for others"
            )
    return SourceConfig(include, exclude, extra, max_mib * MIB)


def _texts(settings: Mapping[str, object], key: str) -> tuple[str, ...]:
    value = settings.get(key, [])
    if not isinstance(value, list) or not all(isinstance(one, str) and one.strip() for one in value):
        raise pytest.UsageError(f'{TABLE}: {key} must be a list of strings, such as ["assets/**"], not {value!r}')
    return tuple(value)


def _check_patterns(patterns: tuple[str, ...], key: str) -> None:
    try:
        PathSpec.from_lines("gitignore", patterns)
    except ValueError as error:
        raise pytest.UsageError(f"{TABLE}: invalid pattern in {key}: {error}") from None
