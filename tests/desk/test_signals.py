"""What the header says of signals that were ignored where the session was started."""

import signal
import subprocess
import sys

import pytest

from pytest_megacpp.desk.hooks import signals

CODE = "from pytest_megacpp.desk.hooks import signals; print(signals.header_line(7))"


def header(*ignored: signal.Signals) -> str:
    def ignore() -> None:
        for name in signals.STOPS:
            sig = getattr(signal, name)
            signal.signal(sig, signal.SIG_IGN if sig in ignored else signal.SIG_DFL)

    ran = subprocess.run([sys.executable, "-c", CODE], preexec_fn=ignore, capture_output=True, text=True, check=True)
    return ran.stdout.strip()


@pytest.mark.parametrize(
    ("ignored", "named", "advice"),
    [
        ((signal.SIGINT, signal.SIGQUIT), "SIGINT, SIGQUIT ignored", "kill -TERM 7"),
        ((signal.SIGINT, signal.SIGTERM), "SIGINT, SIGTERM ignored", "kill -HUP 7"),
        ((signal.SIGHUP,), "SIGHUP ignored", ""),
    ],
)
def test_ignored_signals_are_reported(ignored: tuple[signal.Signals, ...], named: str, advice: str) -> None:
    line = header(*ignored)
    assert line.startswith(named)
    assert "ranks start with the default signals" in line
    assert ("Ctrl-C has no effect" in line) is bool(advice)
    assert advice in line


def test_an_ordinary_session_says_nothing() -> None:
    assert header() == ""
