"""Owns finding and reading `[tool.pytest_megacpp]` in pyproject.toml; must not know what may be in it."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from pytest_megacpp.settings.checks import table

NAME = "pytest_megacpp"
TABLE = f"[tool.{NAME}]"
_HEADER = r"\[{1,2}[ \t]*tool[ \t]*\.[ \t]*[\"']?(?P<name>[\w-]+)"  # compiled where a line looks like ours
NEARLY = 0.88  # `pytest_mega` just is; `pytest-cpp`, which is another plugin, isn't with 0.83


def nearest_pyproject(directory: Path) -> Path:
    """The closest pyproject.toml, from `directory` upwards, that speaks of the plugin: pytest's rootdir may be a
    subdirectory of the project.
    """
    return next((file for file, data in _upwards(directory) if NAME in data), directory / "pyproject.toml")


def read_table(pyproject: Path) -> dict[str, object]:
    """`[tool.pytest_megacpp]`, its keys not checked; empty without a file or without the table. Raises UsageError."""
    try:
        data = pyproject.read_bytes()
    except OSError:
        return {}
    if NAME.encode() not in data:
        return {}
    import tomllib

    try:
        tool = tomllib.loads(data.decode()).get("tool", {})
    except ValueError as error:
        raise pytest.UsageError(f"{pyproject}: {error}") from None
    settings = table(tool, what="[tool]", where=str(pyproject)).get(NAME, {})
    return table(settings, what=TABLE, where=str(pyproject))


def misspelt_table(directory: Path) -> str | None:
    """What to say of a table whose name is nearly ours, in the nearest file that speaks of the plugin or below it: no
    other tool complains of it either.
    """
    for file, data in _upwards(directory):
        for line in map(str.strip, data.splitlines()):
            if line.startswith("[") and (name := _misspelt_name(line)):
                return f"{file}: [tool.{name}] means nothing to pytest-megacpp; did you mean {TABLE}?"
        if NAME in data:
            break
    return None


def _misspelt_name(header: str) -> str | None:
    """The name of a table of a tool, if it is nearly ours."""
    folded = header.lower()
    if not ("meg" in folded or "cpp" in folded):
        return None  # most sessions need neither a pattern nor difflib
    found = re.match(_HEADER, header)
    if found is None or found["name"] == NAME:
        return None
    from difflib import get_close_matches

    return found["name"] if get_close_matches(found["name"].replace("-", "_").lower(), [NAME], cutoff=NEARLY) else None


def _upwards(directory: Path) -> Iterator[tuple[Path, str]]:
    """Every pyproject.toml that can be read, the closest first; bytes that are no UTF-8 are replaced."""
    for place in (directory, *directory.parents):
        file = place / "pyproject.toml"
        try:
            data = file.read_bytes()
        except OSError:
            continue
        yield file, data.decode(errors="replace")
