"""Owns noticing that the test calls for its peers while it handles an exception; must not judge what that means.

A rank that raises and has a collective in `finally` or `except` reports the exception only when the collective is over,
which it never is where its peers are elsewhere. Decision 85.
"""

import sys
import threading
from collections.abc import Callable

from pytest_megacpp.rank.errors import describe, rendered
from pytest_megacpp.recording.events import Error

MOST_REPORTS = 32  # in a test; `except queue.Empty` around every step is ordinary code
_FRAMES = -4  # the innermost ones of a traceback


class Handling:
    """Of the thread that makes this, which runs the tests. `report` gets what is handled, and None at the first call
    without an exception after that.
    """

    def __init__(self, report: Callable[[Error | None], object]) -> None:
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
        self._reports += error is not None
        if error is not None and self._reports > MOST_REPORTS:
            error = None  # what is handled from here on isn't known
        if error is not None or self._handles:
            self._report(None if error is None else describe(error, rendered(error, _FRAMES)))
        self._handles = error is not None
