"""Owns Ctrl-Z while the desk waits: the terminal is left tidy before the process stops. Must not know what is on it.

The handler only takes note, since it may run in the middle of a write; the loop that waits acts on it at its next turn.
A SIGTSTP that somebody else handles or ignores is left alone. Windows has neither.
"""

import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

Turn = Callable[[], None]


@contextmanager
def suspending(tidy: Callable[[], object]) -> Iterator[Turn]:
    """Yields what a loop has to call at each turn; `tidy` is called before this process stops."""
    if sys.platform == "win32" or not _stops_by_default():
        yield lambda: None
        return
    asked = threading.Event()

    def note(*_: object) -> None:
        asked.set()

    def turn() -> None:
        if asked.is_set():
            asked.clear()
            tidy()
            signal.signal(signal.SIGTSTP, signal.SIG_DFL)
            signal.raise_signal(signal.SIGTSTP)  # returns once somebody has this process go on
            signal.signal(signal.SIGTSTP, note)

    signal.signal(signal.SIGTSTP, note)
    try:
        yield turn
    finally:
        turn()
        signal.signal(signal.SIGTSTP, signal.SIG_DFL)


def _stops_by_default() -> bool:
    """Whether Ctrl-Z stops this process, and a handler can be set here."""
    if sys.platform == "win32" or threading.current_thread() is not threading.main_thread():
        return False
    return signal.getsignal(signal.SIGTSTP) == signal.SIG_DFL
