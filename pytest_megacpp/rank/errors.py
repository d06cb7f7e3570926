"""Owns turning a raised exception into a fact; must not judge whose fault it was.

Nothing here raises, whatever the exception is: its class, its text and what it was raised from are the user's, and the
working directory may be gone.
"""

import os
import re
import traceback
from collections import deque
from collections.abc import Callable
from itertools import pairwise
from typing import TypeVar

import pytest

from pytest_megacpp.recording.events import Cause, Error
from pytest_megacpp.recording.vocabulary import Stage

_MAX_CHARS = 24_000
_CAUSE_CHARS = 1_000
_MAX_SECRET_CHARS = 4_096  # a long text without any space is not lost as a whole
_FILE_CHARS = 300
KEPT_CAUSES = 4
T = TypeVar("T")
_LIBRARY = re.compile(r"[/\\](?:site|dist)-packages[/\\]|[/\\]lib[/\\]python\d")
_LAST_WORD = re.compile(r"(?<![^\s'\"`])[^\s'\"`]*\Z")
_OWN_PACKAGE = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep


def describe(excinfo: pytest.ExceptionInfo[BaseException], longrepr: str) -> Error:
    """The exception with the innermost frame of the user's code and pytest's own rendering."""
    file, line = _guarded(lambda: _user_line(excinfo), ("", 0))
    error, nothing = excinfo.value, tuple[Cause, ...]()
    causes = _guarded(lambda: _causes(error), nothing)
    traceback_end = longrepr[-_MAX_CHARS:]
    return Error(_name(error), _message(error), file, line, traceback_end, (), _raised_in(error), causes)


def rendered(error: BaseException, limit: int | None = None) -> str:
    """Its traceback as Python prints it; its name and text where that fails. `limit` as in `traceback`."""
    plain = f"{_name(error)}: {_message(error)}\n"
    return _guarded(lambda: "".join(traceback.format_exception(error, limit=limit)), plain)


def text_of(value: object) -> str:
    """`str` of it, or what is known of it where that fails."""
    return _guarded(lambda: str(value), f"<str() of a {type(value).__name__} failed>")


def beginning(text: str, limit: int) -> str:
    """At most so many characters of it. It ends before the word that would be cut: the box takes secrets out later, and
    half a secret has no shape.
    """
    if len(text) <= limit:
        return text
    sure = max(limit - _MAX_SECRET_CHARS, 0)
    return text[:sure] + _LAST_WORD.sub("", text[sure:limit])


def _guarded(read: Callable[[], T], otherwise: T) -> T:
    try:
        return read()
    except BaseException:  # also what pytest.skip() and sys.exit() raise
        return otherwise


def _name(error: BaseException) -> str:
    kind = type(error)
    name = kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
    return name if isinstance(name, str) else "an exception"


def _causes(error: BaseException) -> tuple[Cause, ...]:
    """What it was raised from, or what was being handled, nearest first; then what a group holds."""
    found: list[BaseException] = [error]
    while len(found) <= KEPT_CAUSES:
        before = found[-1].__cause__ or found[-1].__context__
        if before is None or any(before is e for e in found):
            break
        found.append(before)
    chain = [_cause(e, explicit=later.__cause__ is e) for later, e in pairwise(found)]
    held = getattr(error, "exceptions", ()) if hasattr(error, "derive") else ()
    return (*chain, *(_cause(e, explicit=False) for e in held[:KEPT_CAUSES]))


def _cause(error: BaseException, *, explicit: bool) -> Cause:
    return Cause(type(error).__qualname__, beginning(_message(error), _CAUSE_CHARS), _raised_in(error), explicit)


def _raised_in(error: BaseException) -> str:
    """The file of the innermost frame; empty for one that was never raised."""
    files = (frame.f_code.co_filename for frame, _ in traceback.walk_tb(error.__traceback__))
    return _guarded(lambda: deque(files, maxlen=1).pop()[-_FILE_CHARS:], "")


def stage_of(error: BaseException) -> Stage:
    """What was being done before the tests when this was raised: conftest, import (of a test file) or plugin."""
    codes = [frame.f_code for frame, _ in traceback.walk_tb(error.__traceback__)]
    own = [c for c in codes if not _is_library(c.co_filename) and os.path.isfile(c.co_filename)]
    if any(os.path.basename(c.co_filename) == "conftest.py" for c in own):
        return Stage.CONFTEST
    return Stage.IMPORT if any(c.co_name == "<module>" for c in own) else Stage.PLUGIN


def _is_library(path: str) -> bool:
    return _LIBRARY.search(path) is not None or path.startswith(_OWN_PACKAGE)


def _message(error: BaseException) -> str:
    """`str` of it, with its notes; of a group, of what it holds too."""
    held = getattr(error, "exceptions", ()) if hasattr(error, "derive") else ()
    try:
        parts = [str(error), *(f"{type(e).__qualname__}: {_message(e)}" for e in held[:KEPT_CAUSES])]
        notes = [note for note in getattr(error, "__notes__", ()) if isinstance(note, str)]
        return beginning("\n".join([" · ".join(parts), *notes[:KEPT_CAUSES]]), _MAX_CHARS)
    except BaseException as e:
        return f"<str() of the exception failed: {type(e).__name__}>"


def _user_line(excinfo: pytest.ExceptionInfo[BaseException]) -> tuple[str, int]:
    """File (relative to the working directory where possible) and 1-based line."""
    entries = [e for e in excinfo.traceback if not _is_library(str(e.path))]
    if not entries:
        return "", 0
    path = str(entries[-1].path)
    return _guarded(lambda: os.path.relpath(path), path), entries[-1].lineno + 1
