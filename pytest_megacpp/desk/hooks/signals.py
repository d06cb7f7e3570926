"""Owns what the desk was started with in the way of signals, as the header reports it, and the words for what ended it;
must not change either.

A shell that isn't interactive starts background jobs with SIGINT and SIGQUIT ignored, nohup with SIGHUP. By custom a
program leaves that as it is. The box does not: its ranks start with default dispositions.
"""

import signal

import pytest

CANCELLED = "SIGTERM"
STOPS = ("SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT")


def cancelled(*_: object) -> None:
    """Of a job that is cancelled: ends the session in order."""
    pytest.exit(CANCELLED, returncode=128 + signal.SIGTERM)


def interruption(raised: BaseException) -> str:
    """Returns what the session was interrupted by, as verdicts say it."""
    if isinstance(raised, KeyboardInterrupt):
        return "Ctrl-C"
    return f"its pytest got {CANCELLED}" if str(raised) == CANCELLED else "pytest.exit"


def ignored() -> tuple[str, ...]:
    """Returns the names of the signals that would end this process, and are ignored."""
    known = [name for name in STOPS if hasattr(signal, name)]
    return tuple(name for name in known if signal.getsignal(getattr(signal, name)) is signal.SIG_IGN)


def header_line(pid: int) -> str:
    """Returns what the header says of ignored signals, empty where none is. `pid` is this session's."""
    names = ignored()
    if not names:
        return ""
    line = f"{', '.join(names)} ignored in this session, as in a background job; ranks start with the default signals"
    if "SIGINT" not in names:
        return line
    left = next((name for name in STOPS if name not in names), "SIGKILL")
    return f"{line}. Ctrl-C has no effect: kill -{left.removeprefix('SIG')} {pid} stops it"
