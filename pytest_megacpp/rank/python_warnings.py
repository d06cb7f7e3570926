"""Owns what a rank sends of the warnings that pytest recorded in it; must not know filters, peers or the desk.

pytest has applied the user's filters by then, and hands over what is left at the end of each test. A loop may warn
thousands of times: the same text from the same place is sent once per test, and so many different ones.
"""

import contextlib
import linecache
import warnings

import pytest

from pytest_megacpp.rank.agent import Agent
from pytest_megacpp.recording.events import Warned
from pytest_megacpp.recording.texts import beginning, text_of

KEPT = 64
TEXT_CHARS = 8_000
SOURCE_CHARS = 300


class Warnings:
    """Sends each warning once per test. Before the first `begin` it takes those that are raised while conftests and
    tests are imported.
    """

    def __init__(self, agent: Agent) -> None:
        self._agent = agent
        self._test: int | None = None
        self._sent: set[Warned] = set()

    def begin(self, test: int) -> None:
        self._test, self._sent = test, set()

    def report(self, raised: warnings.WarningMessage, when: str) -> None:
        """Sends the warning, unless it was sent. `when` is pytest's: config, collect or runtest."""
        if when == "config" and issubclass(raised.category, pytest.PytestWarning):
            return  # pytest's own about its set-up, which ranks have from the desk
        rank, test = self._agent.rank, self._test
        category = f"{raised.category.__module__}.{raised.category.__name__}"
        text = beginning(text_of(raised.message), TEXT_CHARS)
        warned = Warned(rank, test, category, text, raised.filename, raised.lineno, _source(raised))
        if warned in self._sent or len(self._sent) > KEPT:
            return
        self._sent.add(warned)
        if len(self._sent) > KEPT:
            left_out = f"this rank raised more than {KEPT} different warnings; the others are left out"
            warned = Warned(rank, test, "pytest.PytestWarning", left_out, raised.filename, raised.lineno)
        self._agent.send(warned, hold=test is not None)


def _source(raised: warnings.WarningMessage) -> str:
    line = raised.line
    with contextlib.suppress(Exception):  # the name of a file is whatever its warning says
        line = line if line is not None else linecache.getline(raised.filename, raised.lineno)
    return beginning((line or "").strip(), SOURCE_CHARS)
