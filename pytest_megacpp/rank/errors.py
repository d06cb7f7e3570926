"""Owns turning a raised exception into a fact; must not judge whose fault it was.

Nothing here raises, whatever the exception is: its class, its text and what it was raised from are the user's, and the
working directory may be gone.
"""

import os
import re
import traceback
import types
from collections import deque
from collections.abc import Sequence
from itertools import pairwise

import pytest

from pytest_megacpp.recording.events import Cause, Error
from pytest_megacpp.recording.texts import beginning, class_of, ending, guarded, is_of_a_signal, text_of
from pytest_megacpp.recording.vocabulary import Stage

_MAX_CHARS = 24_000
_CAUSE_CHARS = 1_000
FILE_CHARS = 4_096  # the longest path of Linux
_DEEPEST_GROUP = 4
KEPT_CAUSES = 4
_LIBRARY = re.compile(r"[/\\](?:site|dist)-packages[/\\]|[/\\]lib[/\\]python\d")
_OWN_PACKAGE = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep


def describe(error: BaseException, longrepr: str, found: pytest.ExceptionInfo[BaseException] | None = None) -> Error:
    """Returns the exception with the innermost frame of the user's code and a rendering of it. `found` is the exception
    as pytest caught it: an exception may hide its own traceback.
    """
    file, line = guarded(lambda: _user_line(found or pytest.ExceptionInfo.from_exception(error)), ("", 0))
    causes, shown = _causes(error), ending(longrepr, _MAX_CHARS)
    return Error(_name(error), _message(error), file, line, shown, (), _raised_in(error), causes)


def rendered(error: BaseException, limit: int | None = None) -> str:
    """Returns its traceback as Python prints it; its name and text where that fails. `limit` as in `traceback`."""
    plain = f"{_name(error)}: {_message(error)}\n"
    return guarded(lambda: "".join(traceback.format_exception(error, limit=limit)), plain)


def in_one_line(error: BaseException, limit: int) -> str:
    """Returns the name of its class and its text."""
    return beginning(f"{class_of(error)}: {text_of(error)}", limit)


def _name(error: BaseException) -> str:
    """Returns the name of its class, with its module, as Python shows it."""
    name = class_of(error)
    module = guarded(lambda: str(type(error).__module__), "")
    return name if module in ("builtins", "") else f"{module}.{name}"


def _causes(error: BaseException) -> tuple[Cause, ...]:
    """Returns what it was raised from, or what was being handled, nearest first; then the exceptions that a group
    holds.
    """
    found = [error]
    while len(found) <= KEPT_CAUSES:
        before = guarded(lambda: _before(found[-1]), None)
        if before is None or any(before is e for e in found):
            break
        found.append(before)
    chain = [_cause(e, explicit=_is_raised_from(later, e)) for later, e in pairwise(found)]
    return (*chain, *(_cause(e, explicit=False) for e in _held(error)))


def _before(error: BaseException) -> BaseException | None:
    """Returns the exception from which this one was raised, or that was being handled. Compares with None, since an
    exception may be false in a boolean context.
    """
    cause = error.__cause__
    before = cause if cause is not None else error.__context__
    return before if isinstance(before, BaseException) else None


def _is_raised_from(error: BaseException, cause: BaseException) -> bool:
    return guarded(lambda: error.__cause__ is cause, False)


def _held(error: BaseException) -> Sequence[BaseException]:
    """Returns the first exceptions of a group, or of what is like one: groups came with Python 3.11."""

    def held() -> list[BaseException]:
        parts = getattr(error, "exceptions", ()) if hasattr(error, "derive") else ()
        return [e for e in parts[:KEPT_CAUSES] if isinstance(e, BaseException)]

    return guarded(held, [])


def _cause(error: BaseException, *, explicit: bool) -> Cause:
    return Cause(class_of(error), beginning(_message(error), _CAUSE_CHARS), _raised_in(error), explicit)


def _raised_in(error: BaseException) -> str:
    """Returns the file of the innermost frame; empty for an exception that was never raised."""

    def innermost() -> str:
        frames = traceback.walk_tb(error.__traceback__)
        return ending(deque((frame.f_code.co_filename for frame, _ in frames), maxlen=1).pop(), FILE_CHARS)

    return guarded(innermost, "")


def stage_of(error: BaseException) -> Stage:
    """Returns what was being done before the tests when this was raised: conftest, import (of a
    test file) or plugin.
    """
    nothing: list[types.CodeType] = []
    codes = guarded(lambda: [frame.f_code for frame, _ in traceback.walk_tb(error.__traceback__)], nothing)
    own = [c for c in codes if not _is_library(c.co_filename) and os.path.isfile(c.co_filename)]
    if any(os.path.basename(c.co_filename) == "conftest.py" for c in own):
        return Stage.CONFTEST
    return Stage.IMPORT if any(c.co_name == "<module>" for c in own) else Stage.PLUGIN


def _is_library(path: str) -> bool:
    return _LIBRARY.search(path) is not None or path.startswith(_OWN_PACKAGE)


def _message(error: BaseException, depth: int = 0) -> str:
    """Returns `str` of it, with its notes; for a group, also those of what it holds."""
    held = _held(error) if depth < _DEEPEST_GROUP else ()
    try:
        parts = ["".join((str(error),)), *(f"{class_of(e)}: {_message(e, depth + 1)}" for e in held)]
    except BaseException as e:
        if is_of_a_signal(e):
            raise
        return f"<str() of the exception failed: {class_of(e)}>"
    return beginning("\n".join([" · ".join(parts), *_notes(error)]), _MAX_CHARS)


def _notes(error: BaseException) -> Sequence[str]:
    def notes() -> list[str]:
        return ["".join((note,)) for note in getattr(error, "__notes__", ()) if isinstance(note, str)][:KEPT_CAUSES]

    return guarded(notes, [])


def _user_line(excinfo: pytest.ExceptionInfo[BaseException]) -> tuple[str, int]:
    """Returns the file (relative to the working directory where possible) and the 1-based line in the user's code."""
    entries = [e for e in excinfo.traceback if not _is_library(str(e.path))]
    if not entries:
        return "", 0
    path = str(entries[-1].path)
    return guarded(lambda: os.path.relpath(path), path), entries[-1].lineno + 1
