"""Owns what a box's own end says, by its guard's exit status and log, wherever it was; must not know a surface."""

import contextlib
import signal

from pytest_megacpp.recording.events import ProblemFound
from pytest_megacpp.recording.vocabulary import ProblemCause, ProblemCode

CANNOT_WRITE = 73  # EX_CANTCREAT, of a box that could not write its recording
SIGKILL = 9  # on the box, which takes Linux: other desks have no such name
SIGNALLED = 128  # and the signal: how the guard reports a box that was killed, as shells do
LAST_WORDS_CHARS = 400


def problem_of(status: int, log: str) -> ProblemFound | None:
    """Of a guard that ended with `status` (negative: by that signal); None where it ended in order. `log` is what guard
    and box wrote last.
    """
    number = -status if status < 0 else status - SIGNALLED
    words = (how(status) if number > 0 else last_words(log) or how(status))[:LAST_WORDS_CHARS]
    cause = ProblemCause.KILLED if number == SIGKILL else ProblemCause.CUT_OFF
    return ProblemFound(ProblemCode.BOX_LOST, cause, words) if words else None


def last_words(log: str) -> str:
    """The exception that ended a process, whatever was written behind it; else the last line."""
    _, raised, after = log.rpartition("Traceback (most recent call last):\n")
    lines = [line for line in after.splitlines() if line.strip()]
    exceptions = [line for line in lines if raised and not line.startswith(" ")]
    return next(iter(exceptions or lines[-1:]), "").strip()


def how(status: int) -> str:
    """How a box ended that was not meant to; its guard tells a signal as shells do."""
    if status == CANNOT_WRITE:
        return "the box could not write its recording: is the disk full?"
    with contextlib.suppress(ValueError):
        return f"the box was killed by {signal.Signals(-status if status < 0 else status - SIGNALLED).name}"
    return f"the box ended with status {status}" if status else ""
