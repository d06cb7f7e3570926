"""Owns `testpaths` of pytest's configuration, as `megacpp init` needs it: where it is set, and the same file with one
directory more. Comments and layout stay; what can't be edited for certain is left to its owner.
"""

import json
import re
import tomllib
from collections.abc import Iterator, Mapping
from configparser import Error, RawConfigParser
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# In the order in which pytest looks; of an empty file of the first four it reads no other.
_ALWAYS = ("pytest.toml", ".pytest.toml", "pytest.ini", ".pytest.ini")
_IF_CONFIGURED = ("pyproject.toml", "tox.ini", "setup.cfg")
_ASSIGNED = re.compile(r"^[ \t]*testpaths[ \t]*=[ \t]*", re.MULTILINE)
_PIECE = re.compile(r"""(?P<space>[ \t\r\n]+|\#[^\n]*)|(?P<item>"[^"\\\n]*"|'[^'\n]*')|(?P<comma>,)|(?P<end>\])""")


@dataclass(frozen=True, slots=True)
class TestPaths:
    """`testpaths` as the file `config` sets it."""

    __test__ = False

    config: Path
    paths: tuple[str, ...]

    def has(self, directory: str) -> bool:
        """Whether pytest, started without a path, looks into a directory below the configuration's own."""
        return any(Path(directory).is_relative_to(path) or Path(directory).match(path) for path in self.paths)

    def line(self, directory: str) -> str:
        """What to type, to look there too."""
        words = [*self.paths, directory]
        if self.config.suffix != ".toml":
            return f"testpaths = {' '.join(words)}"
        return f"testpaths = {json.dumps(words, ensure_ascii=False)}"


def read(root: Path) -> TestPaths | None:
    """None where nothing sets `testpaths`, or the file that would can't be read."""
    for name in (*_ALWAYS, *_IF_CONFIGURED):
        file = root / name
        try:
            found = _table(file, file.read_bytes().decode())
        except (OSError, ValueError, Error):
            continue
        if found is not None or name in _ALWAYS:
            paths = _words((found or {}).get("testpaths"))
            return TestPaths(file, paths) if paths else None
    return None


def _words(value: object) -> tuple[str, ...]:
    words = value.split() if isinstance(value, str) else value
    return tuple(map(str, words)) if isinstance(words, list) else ()


def _table(file: Path, text: str) -> Mapping[str, object] | None:
    """What a file says to pytest; None where it says nothing. Raises ValueError and configparser.Error."""
    if file.suffix == ".toml":
        document = tomllib.loads(text)
        return next((table for table in _tables(document, own=file.name in _ALWAYS) if table), None)
    parser = RawConfigParser(strict=False)
    parser.read_string(text)
    section = "tool:pytest" if file.name == "setup.cfg" else "pytest"
    return dict(parser[section]) if parser.has_section(section) else None


def _tables(document: dict[str, Any], *, own: bool) -> Iterator[dict[str, Any]]:
    if own:
        yield document.get("pytest", {})
        return
    pytest = document.get("tool", {}).get("pytest", {})
    yield pytest.get("ini_options", {})
    yield {name: value for name, value in pytest.items() if name != "ini_options"}


# -- one more --------------------------------------------------------------------------------------------------------


def with_one_more(text: str, directory: str) -> str | None:
    """A pyproject.toml whose `testpaths` names one directory more, and that says the same otherwise; None where that
    can't be done by adding to what is there.
    """
    for assigned in _ASSIGNED.finditer(text):
        edited = _added(text, assigned.end(), directory)
        if edited is not None and _says_only_more(text, edited, directory):
            return edited
    return None


def _says_only_more(text: str, edited: str, directory: str) -> bool:
    try:
        before, after = tomllib.loads(text), tomllib.loads(edited)
    except ValueError:
        return False
    for one, other in zip(_tables(before, own=False), _tables(after, own=False), strict=True):
        if "testpaths" in one:
            other_paths = _words(other.get("testpaths"))
            if other_paths != (*_words(one["testpaths"]), directory):
                return False
            other["testpaths"] = one["testpaths"]
            break
    else:
        return False
    if "ini_options" not in before["tool"]["pytest"]:  # `[tool.pytest]` was copied
        after["tool"]["pytest"]["testpaths"] = before["tool"]["pytest"]["testpaths"]
    return before == after


def _added(text: str, at: int, directory: str) -> str | None:
    if at < len(text) and text[at] in "\"'":
        closing = text.find(text[at], at + 1)
        return f"{text[:closing]} {directory}{text[closing:]}" if closing > 0 else None
    if not text.startswith("[", at):
        return None
    return _in_array(text, at, directory)


def _in_array(text: str, at: int, directory: str) -> str | None:
    """Behind the last item, on a line of its own where that has one."""
    last: re.Match[str] | None = None
    comma, position = 0, at + 1
    while (piece := _PIECE.match(text, position)) is not None and piece["end"] is None:
        if piece["item"]:
            last, comma = piece, 0
        elif piece["comma"]:
            comma = piece.end()
        position = piece.end()
    if piece is None:
        return None
    if last is None:
        return f'{text[: at + 1]}"{directory}"{text[at + 1 :]}'
    line_start = text.rfind("\n", 0, last.start()) + 1
    indent = text[line_start : last.start()]
    if line_start <= at or indent.strip():
        return f'{text[: last.end()]}, "{directory}"{text[last.end() :]}'
    end = min(found for found in (text.find("\n", comma or last.end()), position) if found >= 0)
    if end == position:  # the bracket is on the line of the last item
        return f'{text[: last.end()]},\n{indent}"{directory}"{text[last.end() :]}'
    end -= text[end - 1] == "\r"
    newline = "\r\n" if text[end] == "\r" else "\n"
    head = text[: last.end()] + ("" if comma else ",") + text[last.end() : end]
    return f'{head}{newline}{indent}"{directory}",{text[end:]}'
