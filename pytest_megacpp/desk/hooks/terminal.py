"""Owns how lines get to pytest's terminal; must not know what they say."""

import pytest

from pytest_megacpp.report.clean import clean
from pytest_megacpp.report.reporter import Line

LINE_CHARS = 4_000


class Terminal:
    """pytest's terminal, which a plugin may have taken away."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config

    def say(self, text: str) -> None:
        """A line of its own while tests run, unless the session is to be quiet."""
        reporter = self._config.pluginmanager.get_plugin("terminalreporter")
        if reporter is not None and reporter.verbosity >= 0:
            reporter.ensure_newline()
            _write(reporter, Line(f"megacpp: {text}"))


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
