"""Owns `--pdb-rank`: whether a rank can have this terminal, and the terminal while one has it; must not debug.

The rank reads and writes the device itself. What the terminal sends as a signal goes to the desk's process group, so
Ctrl-C is passed on to the rank.
"""

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from pytest_megacpp.desk.config.options import Options
from pytest_megacpp.desk.hooks.terminal import Terminal
from pytest_megacpp.desk.run.session import LaneRun
from pytest_megacpp.recording.events import Debugged
from pytest_megacpp.recording.plan import Debugger
from pytest_megacpp.surfaces.registry import provider

HANDED_OVER = "control/terminal"
_HERE = "--surface local --pdb-rank 0, typed in a terminal, opens one in rank 0"


class Debugging:
    """One of a session."""

    def __init__(self, config: pytest.Config, options: Options, terminal: Terminal) -> None:
        self._config = config
        self._rank = options.pdb_rank
        self._terminal = terminal
        self._take_back: Callable[[], object] = lambda: None

    def plan(self, surface: str, ranks: int) -> Debugger | None:
        """What a box on that surface is told, but for the file. Raises UsageError where the rank that was asked for can
        have no debugger; `--pdb` alone is for tests of the desk, and a line says so.
        """
        there, on_failure = provider(surface), bool(self._config.getoption("usepdb", False))
        if self._rank is None:
            if on_failure:
                where = f"on {there.title}, without a terminal" if there.is_remote else "in ranks"
                self._terminal.say(f"--pdb opens no debugger for lane tests, which run {where}: {_HERE}")
            return None
        if there.is_remote:
            raise pytest.UsageError(f"--pdb-rank: ranks on {there.title} have no terminal: {_HERE}")
        if self._rank >= ranks:
            raise pytest.UsageError(f"--pdb-rank: no selected test has rank {self._rank}: the largest has {ranks}")
        device = _device(self._config)
        if device is None:
            raise pytest.UsageError(
                "--pdb-rank: this session has no terminal to hand over: type it in one, without -n and redirections"
            )
        return Debugger(self._rank, device, "", on_failure)

    def turn(self, run: LaneRun, fact: Debugged) -> None:
        """Leaves the terminal to the rank, or takes it back."""
        debugger = run.plan.debugger
        if debugger is None or fact.rank != debugger.rank:
            return
        self.take_back()
        if not fact.is_open:
            return
        self._terminal.lend()
        self._take_back = self._left_to(_pid_of(run, fact.rank), debugger.terminal)
        path = Path(debugger.handed_over)
        path.parent.mkdir(parents=True, exist_ok=True)
        fresh = path.with_suffix(".new")
        fresh.write_text(str(fact.turn), encoding="ascii", newline="\n")
        fresh.replace(path)

    def take_back(self) -> None:
        """Also from a rank that is gone; without effect where the terminal is here."""
        take_back, self._take_back = self._take_back, lambda: None
        take_back()

    def _left_to(self, pid: int | None, device: str) -> Callable[[], object]:
        """What undoes it: signals, the terminal's modes, which a rank that was killed left as they were."""
        if sys.platform == "win32":  # which runs no box
            return lambda: None
        import termios

        def interrupt(number: int, frame: FrameType | None) -> None:
            if pid is not None:
                os.kill(pid, signal.SIGINT)

        before: dict[int, Any] = {
            signal.SIGINT: signal.signal(signal.SIGINT, interrupt),
            signal.SIGTSTP: signal.signal(signal.SIGTSTP, signal.SIG_IGN),
        }
        terminal = os.open(device, os.O_RDWR | os.O_NOCTTY)
        modes = termios.tcgetattr(terminal)

        def take_back() -> None:
            termios.tcsetattr(terminal, termios.TCSADRAIN, modes)
            os.close(terminal)
            for number, handler in before.items():
                signal.signal(number, handler)
            self._terminal.take_back()

        return take_back


def _pid_of(run: LaneRun, rank: int) -> int | None:
    """In the world that was started last: the one that runs a test."""
    ready = [world.ready[rank][1].pid for world in run.timeline.worlds.values() if rank in world.ready]
    return ready[-1] if ready else None


def _device(config: pytest.Config) -> str | None:
    """The path of the terminal that this session reads from and writes to."""
    if sys.platform == "win32":
        return None
    reporter: Any = config.pluginmanager.get_plugin("terminalreporter")
    capture: Any = config.pluginmanager.get_plugin("capturemanager")
    if reporter is None or not reporter.isatty or bool(config.getoption("numprocesses", None)):
        return None
    if capture is not None:
        capture.suspend_global_capture(in_=True)
    try:
        return os.ttyname(0) if os.isatty(0) else None
    except OSError:
        return None
    finally:
        if capture is not None:
            capture.resume_global_capture()
