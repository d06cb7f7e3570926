"""Owns debuggers in a rank: who may talk to one, and through which terminal; must not know the box's limits.

One rank of a box on the desk's machine has the desk's terminal while its debugger waits for a command, and only then:
the box hears of both ends, so that no limit runs meanwhile, and the desk leaves the terminal alone. Other ranks go on
at a `breakpoint()` and wait in their next collective. Where no rank has a terminal, `breakpoint()` fails in one line.
"""

import contextlib
import importlib
import os
import pdb
import sys
import time
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any

import pytest

from pytest_megacpp.rank.agent import Agent
from pytest_megacpp.recording.events import Debugged
from pytest_megacpp.recording.plan import Debugger

PATIENCE_S = 10.0  # for the desk to leave the terminal; one that doesn't is gone
LOOK_S = 0.01


class NoTerminal(RuntimeError):
    """A debugger was asked for in a rank that has no terminal."""

    def __init__(self) -> None:
        super().__init__(
            "a debugger was asked for, and ranks have no terminal; --surface local --pdb-rank 0 opens it in rank 0"
        )


class RankDebugger:
    """Of one rank. `test_of` says which test runs."""

    def __init__(self, agent: Agent, plan: Debugger | None, test_of: Callable[[], int | None]) -> None:
        self._agent = agent
        self._plan = plan
        self._test_of = test_of
        self._turn = 0

    @property
    def _has_terminal(self) -> bool:
        return self._plan is not None and self._plan.rank == self._agent.rank and not self._agent.is_forked

    def enter(self, debugger: Any) -> None:
        """Prepares one that pytest made for `breakpoint()` or one of its kin. Raises NoTerminal."""
        if self._plan is None:
            raise NoTerminal
        if not self._has_terminal:
            debugger.set_trace = lambda *_, **__: None
            return
        self._lend_terminal(debugger)

    def examine(self, raised: pytest.ExceptionInfo[BaseException], config: pytest.Config) -> None:
        """Opens one where a test failed, if that was asked for."""
        if self._plan is None or not self._plan.on_failure or not self._has_terminal:
            return
        debugger = _chosen(config)()
        self._lend_terminal(debugger)
        debugger.reset()
        debugger.interaction(None, _innermost(raised))
        if getattr(debugger, "quitting", False):
            pytest.exit("Quitting debugger")

    def _lend_terminal(self, debugger: Any) -> None:
        talk = debugger.interaction

        def interaction(*arguments: Any, **more: Any) -> Any:
            with self._terminal(debugger):
                return talk(*arguments, **more)

        debugger.interaction = interaction

    @contextlib.contextmanager
    def _terminal(self, debugger: Any) -> Iterator[None]:
        """Standard input and output are the terminal's meanwhile, for whatever a command prints."""
        assert self._plan is not None
        self._turn += 1
        self._say(is_open=True)
        try:
            self._wait_for_it()
            with _as_standard_streams(self._plan.terminal):
                yield
        finally:
            self._say(is_open=False, quit=bool(getattr(debugger, "quitting", False)))

    def _say(self, *, is_open: bool, quit: bool = False) -> None:
        self._agent.send(Debugged(self._agent.rank, self._test_of(), self._turn, is_open, quit))

    def _wait_for_it(self) -> None:
        assert self._plan is not None
        until_s = time.monotonic() + PATIENCE_S
        while time.monotonic() < until_s:
            with contextlib.suppress(OSError), open(self._plan.handed_over, encoding="ascii") as file:
                if file.read() == str(self._turn):
                    return
            time.sleep(LOOK_S)


@contextlib.contextmanager
def _as_standard_streams(path: str) -> Iterator[None]:
    sys.stdout.flush()
    kept = [os.dup(number) for number in (0, 1)]
    terminal = os.open(path, os.O_RDWR | os.O_NOCTTY)
    before = sys.stdin
    try:
        for number in (0, 1):
            os.dup2(terminal, number)
        with open(0, encoding=sys.stdout.encoding, closefd=False) as sys.stdin:  # the rank's own may be at its end
            yield
    finally:
        sys.stdin = before
        sys.stdout.flush()
        for number, saved in enumerate(kept):
            os.dup2(saved, number)
            os.close(saved)
        os.close(terminal)


def _chosen(config: pytest.Config) -> Callable[[], Any]:
    """The class of `--pdbcls`."""
    if not config.getoption("usepdb_cls", None):
        return pdb.Pdb
    module, name = config.getoption("usepdb_cls")
    found: Any = importlib.import_module(module)
    for part in name.split("."):
        found = getattr(found, part)
    return found  # type: ignore[no-any-return]


def _innermost(raised: pytest.ExceptionInfo[BaseException]) -> TracebackType | BaseException | None:
    return raised.value if sys.version_info >= (3, 13) else raised.value.__traceback__
