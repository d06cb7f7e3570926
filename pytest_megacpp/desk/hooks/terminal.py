"""Owns how lines get to pytest's terminal; must not know what they say."""

from dataclasses import replace
from typing import Any

import pytest

from pytest_megacpp.report.clean import clean
from pytest_megacpp.report.reporter import Board, Line

LINE_CHARS = 4_000


class Terminal:
    """pytest's terminal, which a plugin may have taken away."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config

    def say(self, text: str) -> None:
        """A line of its own while tests run, unless the session is to be quiet."""
        self.show(Line(text))

    def show(self, shown: Line | Board) -> None:
        """What a reporter has while tests run."""
        reporter = self._config.pluginmanager.get_plugin("terminalreporter")
        if reporter is None or isinstance(shown, Board) or not (shown.always or reporter.verbosity >= 0):
            return
        _begin_line(reporter)
        _write(reporter, shown if shown.plain else replace(shown, text=f"megacpp: {shown.text}"))
        reporter.flush()


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
        reporter.section(line.text, red=line.red, yellow=line.yellow)
    elif line.command:
        reporter.write_line(line.text)
    else:
        _write(reporter, line)


def _write(reporter: "pytest.TerminalReporter", line: Line) -> None:
    """What a box or a rank wrote of it must not act on a terminal, or as a command of a workflow."""
    text = clean(line.text).replace("\n", " ")[:LINE_CHARS]
    reporter.line(text, red=line.red, yellow=line.yellow)
