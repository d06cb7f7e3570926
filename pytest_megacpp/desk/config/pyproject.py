"""Owns finding and reading `[tool.pytest_megacpp]` in pyproject.toml; must not know what may be in it."""

from pathlib import Path

import pytest

from pytest_megacpp.desk.config.checks import table

TABLE = "[tool.pytest_megacpp]"


def nearest_pyproject(directory: Path) -> Path:
    """The closest pyproject.toml, from `directory` upwards, that speaks of the plugin: pytest's rootdir may be a
    subdirectory of the project.
    """
    for place in (directory, *directory.parents):
        file = place / "pyproject.toml"
        try:
            if b"pytest_megacpp" in file.read_bytes():
                return file
        except OSError:
            continue
    return directory / "pyproject.toml"


def read_table(pyproject: Path) -> dict[str, object]:
    """`[tool.pytest_megacpp]`, its keys not checked; empty without a file or without the table. Raises UsageError."""
    try:
        data = pyproject.read_bytes()
    except OSError:
        return {}
    if b"pytest_megacpp" not in data:
        return {}
    import tomllib

    try:
        tool = tomllib.loads(data.decode()).get("tool", {})
    except ValueError as error:
        raise pytest.UsageError(f"{pyproject}: {error}") from None
    settings = table(tool, what="[tool]", where=str(pyproject)).get("pytest_megacpp", {})
    return table(settings, what=TABLE, where=str(pyproject))
