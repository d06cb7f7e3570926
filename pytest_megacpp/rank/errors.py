"""Owns turning a raised exception into a fact; must not judge whose fault it was.

Nothing here raises, whatever the exception is: its class, its text and what it was raised from are the user's, and the
working directory may be gone.
"""

import os
import traceback
from collections.abc import Callable
from typing import TypeVar

import pytest

from pytest_megacpp.recording.events import Error

_MAX_CHARS = 24_000
_CONTEXT_CHARS = 1_000
KEPT_CONTEXT = 4
T = TypeVar("T")
_OWN_PACKAGE = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep


def describe(excinfo: pytest.ExceptionInfo[BaseException], longrepr: str) -> Error:
    """The exception with the innermost frame of the user's code and pytest's own rendering."""
    file, line = _guarded(lambda: _user_line(excinfo), ("", 0))
    nothing: tuple[str, ...] = ()
    context = _guarded(lambda: _context(excinfo.value), nothing)
    return Error(_name(excinfo.value), _message(excinfo.value), file, line, longrepr[-_MAX_CHARS:], context)


def rendered(error: BaseException, limit: int | None = None) -> str:
    """Its traceback as Python prints it; its name and text where that fails. `limit` as in `traceback`."""
    plain = f"{_name(error)}: {_message(error)}\n"
    return _guarded(lambda: "".join(traceback.format_exception(error, limit=limit)), plain)


def text_of(value: object) -> str:
    """`str` of it, or what is known of it where that fails."""
    return _guarded(lambda: str(value), f"<str() of a {type(value).__name__} failed>")


def _guarded(read: Callable[[], T], otherwise: T) -> T:
    try:
        return read()
    except BaseException:  # also what pytest.skip() and sys.exit() raise
        return otherwise


def _name(error: BaseException) -> str:
    kind = type(error)
    name = kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
    return name if isinstance(name, str) else "an exception"


def _context(error: BaseException) -> tuple[str, ...]:
    """What was being handled, nearest first."""
    found: list[BaseException] = []
    before = error.__cause__ or error.__context__
    while before is not None and all(before is not e for e in found) and len(found) < KEPT_CONTEXT:
        found.append(before)
        before = before.__cause__ or before.__context__
    return tuple(f"{type(e).__qualname__}: {_message(e)[:_CONTEXT_CHARS]}" for e in found)


def stage_of(error: BaseException) -> str:
    """What was being done before the tests when this was raised: conftest, import (of a test file) or plugin."""
    codes = [frame.f_code for frame, _ in traceback.walk_tb(error.__traceback__)]
    own = [c for c in codes if not _is_library(c.co_filename) and os.path.isfile(c.co_filename)]
    if any(os.path.basename(c.co_filename) == "conftest.py" for c in own):
        return "conftest"
    return "import" if any(c.co_name == "<module>" for c in own) else "plugin"


def _is_library(path: str) -> bool:
    return "-packages" + os.sep in path or f"{os.sep}lib{os.sep}python" in path or path.startswith(_OWN_PACKAGE)


def _message(error: BaseException) -> str:
    """`str` of it; of a group, of what it holds too."""
    held = getattr(error, "exceptions", ()) if hasattr(error, "derive") else ()
    try:
        parts = [str(error), *(f"{type(e).__qualname__}: {_message(e)}" for e in held[:KEPT_CONTEXT])]
        return " · ".join(parts)[:_MAX_CHARS]
    except BaseException as e:
        return f"<str() of the exception failed: {type(e).__name__}>"


def _user_line(excinfo: pytest.ExceptionInfo[BaseException]) -> tuple[str, int]:
    """File (relative to the working directory where possible) and 1-based line."""
    entries = [e for e in excinfo.traceback if not _is_library(str(e.path))]
    if not entries:
        return "", 0
    path = str(entries[-1].path)
    return _guarded(lambda: os.path.relpath(path), path), entries[-1].lineno + 1
