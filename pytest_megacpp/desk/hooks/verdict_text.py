"""Owns a failure as pytest prints and keeps it; must not know how its text is made."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pytest


@dataclass(frozen=True, slots=True)
class Crash:
    """What pytest's summary line, `--tb=line`, JUnit and annotations read from a failure."""

    path: str
    lineno: int
    message: str

    def __str__(self) -> str:
        return f"{self.path}:{self.lineno}: {self.message}"


class VerdictText:
    """`briefs`: what the short summary may say of it, the longest first. `is_error`: as pytest calls what isn't a
    failure of the test's own body.
    """

    def __init__(
        self, text: str, crash: Crash, briefs: Sequence[str], config: pytest.Config, *, is_error: bool
    ) -> None:
        self._text = text
        self._config = config
        self._is_error = is_error
        self.reprcrash = crash
        self.briefs = briefs

    def __str__(self) -> str:
        return self._text

    def toterminal(self, tw: Any) -> None:
        """With `--tb=line` one line, which pytest itself writes for failures, but not for errors. Files that are
        written in this way have the whole.
        """
        if self._config.getoption("tbstyle", None) == "line" and _is_terminal(tw, self._config):
            if self._is_error:
                tw.line(str(self.reprcrash))
            return
        first, _, rest = self._text.partition("\n")
        tw.line(first, red=True, bold=True)
        tw.line(rest)


def _is_terminal(tw: object, config: pytest.Config) -> bool:
    """Whether it is what pytest writes to the terminal with, which a plugin may have taken away."""
    return config.pluginmanager.has_plugin("terminalreporter") and tw is config.get_terminal_writer()
