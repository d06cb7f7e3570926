"""Owns noticing that the test calls for its peers while it handles an exception; must not judge what that means.

A rank that raises and has a collective in `finally` or `except` reports the exception only when the collective is over,
which it never is where its peers are elsewhere. Decision 0085.
"""

import dis
import sys
import threading
from collections.abc import Callable
from functools import lru_cache
from types import CodeType

from pytest_megacpp.rank.errors import describe, rendered
from pytest_megacpp.recording.events import Error
from pytest_megacpp.recording.texts import class_of, guarded

MOST_REPORTS = 256  # in a test; `except queue.Empty` around every step is ordinary code
_FRAMES = -4  # the innermost ones of a traceback
_CONTROL_FLOW = frozenset(
    {"GeneratorExit", "StopIteration", "StopAsyncIteration", "CancelledError", "Skipped", "XFailed", "Exit"}
)
_CAUGHT = frozenset({"CHECK_EXC_MATCH", "CHECK_EG_MATCH"})

Report = Callable[[Error | None, bool, bool], object]
"""Gets what is handled, whether it propagates, and whether this is known."""


class Handling:
    """Of the thread that makes this, which runs the tests. `report` gets what is handled, and None at the first call
    without an exception after that.
    """

    def __init__(self, report: Report) -> None:
        self._report = report
        self._thread = threading.get_ident()
        self._reports = 0
        self._handles = False

    def begin(self) -> None:
        """A test begins."""
        self._reports, self._handles = 0, False

    def look(self) -> None:
        """Before a call that waits for peers, or may."""
        error = sys.exception()
        if (error is None and not self._handles) or threading.get_ident() != self._thread:
            return
        if self._reports > MOST_REPORTS:
            return
        self._handles, self._reports = error is not None, self._reports + 1
        if self._reports > MOST_REPORTS:
            self._report(None, False, False)
        elif error is None:
            self._report(None, False, True)
        else:
            self._report(describe(error, rendered(error, _FRAMES)), propagates(error), True)


def propagates(error: BaseException) -> bool:
    """Returns whether the exception is in a `finally` or an `__exit__` of the frame that it has reached; False if it
    was caught there, is ordinary control flow, and where that can't be seen.
    """
    if class_of(error) in _CONTROL_FLOW:
        return False
    return guarded(lambda: _propagates(error), False)


def _propagates(error: BaseException) -> bool:
    reached = error.__traceback__
    return reached is not None and _is_in_finally(reached.tb_frame.f_code, reached.tb_frame.f_lasti)


@lru_cache(maxsize=256)
def _is_in_finally(code: CodeType, offset: int) -> bool:
    """By the instructions since the handler began: an `except` clause compares the exception, or drops it."""
    since_handler: list[str] = []
    for instruction in dis.get_instructions(code):
        if instruction.offset > offset:
            break
        if instruction.opname == "PUSH_EXC_INFO":
            since_handler = []
        since_handler.append(instruction.opname)
    is_handler = since_handler[:1] == ["PUSH_EXC_INFO"]
    return is_handler and since_handler[1:2] != ["POP_TOP"] and not _CAUGHT.intersection(since_handler)
