"""Owns a failure as pytest prints and keeps it; must not know how its text is made."""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pytest

from pytest_megacpp.desk.hooks.terminal import writable
from pytest_megacpp.report.clean import clean
from pytest_megacpp.report.layout import WIDTH
from pytest_megacpp.report.tones import Tone, TonedLine, text_of

LEAST_COLUMNS = 40
_MARKUP: Mapping[Tone, Mapping[str, bool]] = {
    Tone.PLAIN: {},
    Tone.HEADLINE: {"red": True, "bold": True},
    Tone.TITLE: {"bold": True},
    Tone.BLAMED: {"red": True, "bold": True},
    Tone.EVIDENCE: {"red": True},
    Tone.RAISED: {"red": True},
    Tone.COMMAND: {"cyan": True},
}

Lines = Callable[[int, bool], Sequence[TonedLine]]
"""The lines of a text for so many columns; whether it is to be short."""


@dataclass(frozen=True, slots=True)
class Crash:
    """What pytest's summary line, `--tb=line`, JUnit and annotations read from a failure."""

    path: str
    lineno: int
    message: str

    def __str__(self) -> str:
        return f"{self.path}:{self.lineno}: {self.message}"


class VerdictText:
    """Laid out for the terminal; files have it as wide as a page. What ranks and boxes wrote in it is cleaned.

    `briefs`: what the short summary may say of it, the longest first. `is_error`: as pytest calls what isn't a failure
    of the test's own body.
    """

    def __init__(
        self, lines: Lines, crash: Crash, briefs: Sequence[str], config: pytest.Config, *, is_error: bool
    ) -> None:
        page = lines(WIDTH, False)
        self._text = clean("\n".join(map(text_of, page)))
        self._style = config.getoption("tbstyle", None)
        width, is_short = columns(config), self._style == "short"
        # now, not when it is shown: a recording may go on
        self._lines = page if (width, is_short) == (WIDTH, False) else lines(width, is_short)
        self._config = config
        self.is_error = is_error
        self.reprcrash = crash
        self.briefs = briefs

    def __str__(self) -> str:
        return self._text

    def toterminal(self, tw: Any) -> None:
        """With `--tb=line` one line, which pytest itself writes for failures, but not for errors. What writes files in
        this way has the whole.
        """
        if not _is_terminal(tw, self._config):
            tw.line(self._text)
        elif self._style != "line":
            for line in self._lines:
                _write(tw, line)
        elif self.is_error:
            tw.line(writable(tw, str(self.reprcrash)))


def _write(tw: Any, line: TonedLine) -> None:
    """Parts whose line acts on a terminal lose their tones: what is cleaned is the line."""
    text = text_of(line)
    shown = clean(text)
    for part, tone in line if shown == text else ((shown, Tone.PLAIN),):
        tw.write(writable(tw, part), **(_MARKUP[tone] if part.strip() else {}))
    tw.line()


def columns(config: pytest.Config) -> int:
    """How wide texts on the terminal are: as it is, or as `COLUMNS` says; in a log as wide as in a file."""
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    if reporter is None or not (reporter.isatty or os.environ.get("COLUMNS")):
        return WIDTH
    return max(LEAST_COLUMNS, config.get_terminal_writer().fullwidth)


def _is_terminal(tw: object, config: pytest.Config) -> bool:
    """Whether it is what pytest writes to the terminal with, which a plugin may have taken away."""
    return config.pluginmanager.has_plugin("terminalreporter") and tw is config.get_terminal_writer()
