"""Owns the lines of failing lane tests in pytest's short summary; must not know how a verdict comes about.

pytest cuts such a line at the width of the terminal, and after a long node id nothing is left of code, rank and cause.
Where it would, these lines are written here instead, below pytest's own.
"""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from pytest_megacpp.desk.hooks.terminal import writable
from pytest_megacpp.desk.hooks.verdict_text import VerdictText

_WORDS = {"failed": ("f", "FAILED"), "error": ("E", "ERROR")}  # by pytest's category: its letter in -r, its word
_OF_A_CI = ("CI", "BUILD_NUMBER")
_TITLE = "short test summary info"


class ShortSummary:
    """Reports are taken from pytest's statistics when all other sections are written, and given back at the end."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._all: dict[str, list[pytest.TestReport]] = {}
        self._taken: dict[str, list[pytest.TestReport]] = {}
        config.pluginmanager.register(_Take(self), "megacpp-short-summary-take")

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_terminal_summary(self, terminalreporter: "pytest.TerminalReporter") -> Iterator[None]:
        if self._config.getoption("tbstyle", None) == "line":
            _leave_out_output(terminalreporter)
        try:
            return (yield)
        finally:
            self._write(terminalreporter)

    def take(self, reporter: "pytest.TerminalReporter") -> None:
        """Of all lane failures, if one of their lines would be cut."""
        if getattr(reporter, "no_summary", False) or self._is_uncut():
            return
        mine = {category: _lane_failures(reporter, category) for category in _WORDS}
        width = self._width()
        lines = (self._line(category, report) for category, reports in mine.items() for report in reports)
        if all(len(start) + len(briefs[0]) <= width for start, briefs in lines):
            return
        self._all = {category: reporter.stats.get(category, []) for category in _WORDS}
        self._taken = {c: reports for c, reports in mine.items() if _WORDS[c][0] in reporter.reportchars}
        for category, reports in self._taken.items():
            mine_here = set(map(id, reports))
            reporter.stats[category] = [r for r in self._all[category] if id(r) not in mine_here]

    def _width(self) -> int:
        return self._config.get_terminal_writer().fullwidth

    def _is_uncut(self) -> bool:
        """As pytest itself decides."""
        option = self._config.option
        wanted = any(os.environ.get(name) for name in _OF_A_CI) or option.verbose >= 2
        return wanted and not getattr(option, "force_short_summary", False)

    def _write(self, reporter: "pytest.TerminalReporter") -> None:
        left = any(reporter.stats.get(category) for category in _WORDS)
        reporter.stats.update({category: reports for category, reports in self._all.items() if reports})
        taken, self._all, self._taken = self._taken, {}, {}
        if any(taken.values()) and not left:
            reporter.section(_TITLE, cyan=True, bold=True)
        for category, reports in taken.items():
            for report in reports:
                self._write_line(reporter, category, report)

    def _write_line(self, reporter: "pytest.TerminalReporter", category: str, report: pytest.TestReport) -> None:
        start, briefs = self._line(category, report)
        word, _, node = start.partition(" ")
        path, colons, name = node.removesuffix(" - ").partition("::")
        brief = fitting(briefs, self._width(), len(start))
        reporter.write(word, red=True)
        reporter.write(f" {path}{colons}")
        reporter.write(name, bold=True)
        reporter.line(f" - {brief}")

    def _line(self, category: str, report: pytest.TestReport) -> tuple[str, Sequence[str]]:
        """How the line begins, and how it can go on, as the terminal can write it."""
        assert isinstance(report.longrepr, VerdictText)
        writer = self._config.get_terminal_writer()  # what it escapes is longer
        start = f"{_WORDS[category][1]} {self._from_here(report.nodeid)} - "
        return writable(writer, start), [writable(writer, brief) for brief in report.longrepr.briefs]

    def _from_here(self, nodeid: str) -> str:
        """With its file as seen from where pytest was started."""
        file, colons, name = nodeid.partition("::")
        started_in, root = Path(self._config.invocation_params.dir), self._config.rootpath
        return nodeid if started_in == root else f"{os.path.relpath(root / file, started_in)}{colons}{name}"


class _Take:
    """The last of all plugins that write sections."""

    def __init__(self, summary: ShortSummary) -> None:
        self._summary = summary

    @pytest.hookimpl(trylast=True)
    def pytest_terminal_summary(self, terminalreporter: "pytest.TerminalReporter") -> None:
        self._summary.take(terminalreporter)


def fitting(briefs: Sequence[str], width: int, indent: int) -> str:
    """Returns the longest one that fits into the line after `indent` columns; if none does, into two lines; if none
    does that either, the shortest.
    """
    fits = (b for room in (width - indent, 2 * width - indent) for b in briefs if len(b) <= room)
    return next(fits, min(briefs, key=len))


def _lane_failures(reporter: "pytest.TerminalReporter", category: str) -> list[pytest.TestReport]:
    return [r for r in reporter.stats.get(category, []) if isinstance(getattr(r, "longrepr", None), VerdictText)]


def _leave_out_output(reporter: "pytest.TerminalReporter") -> None:
    """With `--tb=line` a failure is one line. Files have their reports by now."""
    for category in _WORDS:
        for report in _lane_failures(reporter, category):
            report.sections = []
