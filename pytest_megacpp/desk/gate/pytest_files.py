"""Owns which files hold tests, by pytest's configuration and their own sources; must not import or run any of them."""

import ast
import fnmatch
import posixpath
import tomllib
from collections.abc import Collection, Iterator, Sequence
from configparser import Error, RawConfigParser
from pathlib import Path

CONFIG_FILES = ("pyproject.toml", "pytest.toml", ".pytest.toml", "pytest.ini", ".pytest.ini", "tox.ini", "setup.cfg")
DEFAULT = ("test_*.py", "*_test.py")
_TABLES = (("tool", "pytest", "ini_options"), ("tool", "pytest"), ("pytest",))
_SECTIONS = ("pytest", "tool:pytest")


def is_test_file(path: str, patterns: Collection[str]) -> bool:
    """Returns whether pytest's `python_files` matches: a pattern with a slash sees the whole path, others the name."""
    name = posixpath.basename(path)
    return any(fnmatch.fnmatch(f"/{path}" if "/" in p else name, f"*/{p}" if "/" in p else p) for p in patterns)


def read_test_files(project: Path) -> tuple[str, ...]:
    """Returns pytest's default and the patterns of `python_files` in every file that pytest might read.

    A gate that takes one file too many for a test costs little; one that overlooks a test passes without running it.
    """
    found = (pattern for name in CONFIG_FILES for pattern in _python_files(project / name))
    return tuple(dict.fromkeys((*DEFAULT, *found)))


def _python_files(file: Path) -> Iterator[str]:
    try:
        text = file.read_text(encoding="utf-8")
        values = _of_toml(text) if file.suffix == ".toml" else _of_ini(text)
    except (OSError, ValueError, Error):
        return
    for value in values:
        patterns = value.split() if isinstance(value, str) else value
        yield from map(str, patterns if isinstance(patterns, list) else ())


def _of_toml(text: str) -> list[object]:
    return [table["python_files"] for table in _tables(tomllib.loads(text)) if "python_files" in table]


def _tables(document: object) -> Iterator[dict[str, object]]:
    for path in _TABLES:
        at = document
        for name in path:
            at = at.get(name) if isinstance(at, dict) else None
        if isinstance(at, dict):
            yield at


def _of_ini(text: str) -> list[object]:
    parser = RawConfigParser(strict=False)
    parser.read_string(text)
    return [parser.get(section, "python_files", fallback="") for section in _SECTIONS]


def has_lane_tests(path: Path, lanes: Sequence[str]) -> bool:
    """Returns whether a file marks tests for one of these lanes, by its source; True if it can't be read."""
    try:
        tree = ast.parse(path.read_bytes())
    except (OSError, SyntaxError, ValueError, RecursionError, MemoryError):
        return True
    fixtures = {f"modal_{lane}" for lane in lanes}
    return any(_is_of_lane(node, lanes, fixtures) for node in ast.walk(tree))


def _is_of_lane(node: ast.AST, lanes: Sequence[str], fixtures: Collection[str]) -> bool:
    match node:
        case ast.Attribute(attr=name, value=ast.Attribute(attr="mark") | ast.Name(id="mark")):
            return name in lanes
        case ast.arg(arg=name) | ast.Constant(value=str(name)):
            return name in fixtures
        case _:
            return False
