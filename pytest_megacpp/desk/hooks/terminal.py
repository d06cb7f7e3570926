"""Owns how lines get to pytest's terminal; must not know what they say."""

import os
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pytest_megacpp.desk.hooks.board import TerminalBoard
from pytest_megacpp.desk.hooks.suspending import suspending
from pytest_megacpp.report.clean import clean, escaped, one_line
from pytest_megacpp.report.reporter import Board, Line

LINE_CHARS = 4_000


class Terminal:
    """pytest's terminal, which a plugin may have taken away."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._board = TerminalBoard.of(config)
        self._reported_problem: str | None = None
        self._interrupted: object = None  # what the line of results began with
        self._is_last_line_over = False
        self._lent: list[Line] | None = None  # lines that wait while somebody else has the terminal

    def lend(self) -> None:
        """Leaves the terminal to somebody else until `take_back`."""
        self._leave()
        self._lent = []

    def take_back(self) -> None:
        waiting, self._lent = self._lent or [], None
        if waiting:
            self.show(waiting)

    def say(self, text: str) -> None:
        """A line of its own while tests run, unless the session is to be quiet."""
        self.show([Line(text)])

    def show(self, shown: Sequence[Line | Board]) -> None:
        """What reporters have at one moment while tests run. The board, which takes longer to draw than a line, is
        drawn once for all of it: the last one.
        """
        lines = [one for one in shown if isinstance(one, Line)]
        if self._lent is not None:
            self._lent += lines
            return
        boards = [one for one in shown if isinstance(one, Board)]
        if lines:
            self._board.hide()
            self._lines(lines)
        if boards:
            if self._is_last_line_over and boards[-1].rows and self._board.is_possible():
                self._end_line()
            self._board.show(boards[-1])
            self._show_problem()
        elif lines:
            self._board.show_again()

    def waiting(self) -> AbstractContextManager[Callable[[], object]]:
        """While the desk waits, with a board: Ctrl-Z leaves no part of it behind for the shell to write into. What it
        gives has to be called at each turn.
        """
        return suspending(self._leave) if self._board.is_possible() else nullcontext(lambda: None)

    def _leave(self) -> None:
        """Ends pytest's line for whoever writes next; `resume` begins it anew."""
        self._board.hide()
        self._end_line()

    def results_are_over(self) -> None:
        """pytest's last line of results fills the terminal, and no board can be drawn below it: from now on, one begins
        on a line of its own.
        """
        self._is_last_line_over = True

    def _end_line(self) -> None:
        reporter = self._config.pluginmanager.get_plugin("terminalreporter")
        if reporter is not None:
            self._interrupt(reporter)
            reporter.flush()

    def _show_problem(self) -> None:
        if self._board.problem != self._reported_problem:
            self._reported_problem = self._board.problem
            self._lines([Line(f"the board can't be drawn ({one_line(self._reported_problem or '')}): lines instead")])

    def _lines(self, lines: Iterable[Line]) -> None:
        reporter = self._config.pluginmanager.get_plugin("terminalreporter")
        if reporter is None:
            return
        for line in lines:
            if line.always or reporter.verbosity >= 0:
                self._interrupt(reporter)
                _write(reporter, line if line.plain else replace(line, text=f"megacpp: {line.text}"))
        reporter.flush()

    def _interrupt(self, reporter: Any) -> None:
        self._interrupted = getattr(reporter, "currentfspath", None) or self._interrupted
        _begin_line(reporter)

    def resume(self) -> None:
        """Begins pytest's line of results anew where lines interrupted it, so that no letter stands there alone."""
        began, self._interrupted = self._interrupted, None
        reporter: Any = self._config.pluginmanager.get_plugin("terminalreporter")
        if reporter is None or getattr(reporter, "currentfspath", None) or not isinstance(began, Path | str):
            return
        named = f"{os.path.relpath(began, reporter.startpath)} " if isinstance(began, Path) else began
        reporter.write(named)
        reporter.currentfspath = began


def _begin_line(reporter: Any) -> None:
    """Ends the line of results that pytest has begun. A quiet session's line has no file name, so that pytest itself
    doesn't know of it.
    """
    reporter.ensure_newline()
    if reporter._tw.width_of_current_line:
        reporter.line("")


# As a string: pytest exports the name since 8.4, and 8.2 is supported.
def write(reporter: "pytest.TerminalReporter", line: Line) -> None:
    """A line of the summary."""
    if line.title:
        reporter.section(writable(reporter._tw, line.text), red=line.red, yellow=line.yellow)
    elif line.command:
        reporter.write_line(writable(reporter._tw, line.text))
    else:
        _write(reporter, line)


def _write(reporter: "pytest.TerminalReporter", line: Line) -> None:
    """What a box or a rank wrote of it must not act on a terminal, or as a command of a workflow."""
    text = clean(line.text).replace("\n", " ")
    if len(text) > LINE_CHARS:
        text = f"{text[:LINE_CHARS]} … {len(text) - LINE_CHARS} more characters"
    reporter.line(writable(reporter._tw, text), red=line.red, yellow=line.yellow)


def writable(writer: Any, text: str) -> str:
    """What the file of pytest's terminal writer can encode. Of anything else pytest escapes the ends of lines and the
    colours as well.
    """
    return escaped(text, getattr(getattr(writer, "_file", None), "encoding", None))
