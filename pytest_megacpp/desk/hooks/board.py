"""Owns drawing the board below what pytest has written; must not know what its rows say.

pytest may be in the middle of a line (`test_step.py ..`), and writes on at the cursor. So the board is drawn on the
lines below, in one write, and the cursor goes back to where it was: what pytest writes next stands where it would have
stood, and taking the board away is erasing from the cursor to the end of the screen. Nothing is saved in the terminal,
so a resize, a scroll or an end in the middle leaves no state behind. Only the desk's main thread writes here, and only
while it waits: no test of the desk runs then.
"""

import os
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pytest

from pytest_megacpp.report.clean import clean
from pytest_megacpp.report.reporter import Board, Span, Style

if TYPE_CHECKING:
    from rich.console import Console

SPARE_LINES = 2  # pytest's own line, and one above it
SPARE_COLUMNS = 1  # a character in the last one may or may not move the cursor to the next line
MIN_COLUMNS = 20
ERASE = "\x1b[J"  # from the cursor to the end of the screen
_END_OF_LINE = "\x1b[K"
_STYLES = {
    Style.PLAIN: "",
    Style.STRONG: "bold",
    Style.FAINT: "dim",
    Style.AWAITED: "bold yellow",
    Style.FAILED: "bold red",
}
_KEY = pytest.StashKey["TerminalBoard"]()


class TerminalBoard:
    """The board of a session. `problem` says why it is drawn no more."""

    def __init__(self, config: pytest.Config, environ: Mapping[str, str] = os.environ) -> None:
        self._config = config
        self._is_wanted = _is_looked_at(environ)
        self._boards: dict[str, Board] = {}
        self._is_drawn = False
        self.problem: str | None = None

    @classmethod
    def of(cls, config: pytest.Config) -> "TerminalBoard":
        """The one of a session."""
        if _KEY not in config.stash:
            config.stash[_KEY] = cls(config)
        return config.stash[_KEY]

    def is_possible(self) -> bool:
        """Whether there is a terminal that nobody else writes to meanwhile."""
        reporter = self._reporter()
        return bool(
            self._is_wanted
            and self.problem is None
            and reporter is not None
            and type(reporter).__module__ == "_pytest.terminal"  # another may move the cursor itself
            and reporter.isatty
            and reporter.verbosity >= 0
            and not self._config.pluginmanager.has_plugin("dsession")
            and not self._logs_to_the_terminal()
            and self._has_room()
            and self._is_in_the_foreground()
        )

    def _has_room(self) -> bool:
        """A pseudo-terminal whose size nobody set has none: 0 lines of 0 columns."""
        try:
            columns, lines = os.get_terminal_size(self._reporter()._tw._file.fileno())
        except (OSError, ValueError):
            return False
        return columns >= MIN_COLUMNS and lines > SPARE_LINES

    def _is_in_the_foreground(self) -> bool:
        """After `bg`, a shell writes at the cursor. A terminal that controls no session has no shell."""
        if sys.platform == "win32":
            return True
        try:
            return os.tcgetpgrp(self._reporter()._tw._file.fileno()) == os.getpgrp()
        except (OSError, ValueError):
            return True

    def _logs_to_the_terminal(self) -> bool:
        config = self._config
        if not config.pluginmanager.has_plugin("logging-plugin"):
            return False
        return bool(config.getini("log_cli") or config.getoption("log_cli_level", None) is not None)

    def _reporter(self) -> Any:
        return self._config.pluginmanager.get_plugin("terminalreporter")

    def show(self, board: Board) -> None:
        """Draws this board in place of the last one of its run; one without rows is taken away. What goes wrong ends
        drawing.
        """
        self._note(board)
        try:
            rows = self._rows()
            if rows and self.is_possible():
                self._draw(rows)
            else:
                self.hide()
        except Exception as e:
            self._is_drawn, self._boards = False, {}
            self.problem = f"{type(e).__name__}: {e}"

    def _note(self, board: Board) -> None:
        if board.rows:
            self._boards[board.of] = board
        elif board.of:
            self._boards.pop(board.of, None)
        else:
            self._boards.clear()

    def _rows(self) -> list[Sequence[Span]]:
        """Of all runs, in the order in which they began to be shown."""
        return [row for board in self._boards.values() for row in board.rows]

    def hide(self) -> None:
        """Takes it away until `show_again`."""
        if self._is_drawn:
            self._is_drawn = False
            self._write(ERASE)

    def show_again(self) -> None:
        """What was hidden."""
        if self._boards:
            self.show(next(iter(self._boards.values())))

    def _draw(self, rows: Sequence[Sequence[Span]]) -> None:
        terminal = self._reporter()._tw
        columns, lines = os.get_terminal_size(terminal._file.fileno())
        written = terminal.width_of_current_line
        if written and written % columns == 0:
            self.hide()  # the cursor is where only the next character shows on which line
            return
        drawn = rendered(rows, columns - SPARE_COLUMNS, colours=terminal.hasmarkup)[: lines - SPARE_LINES]
        below = [
            *([""] if written else []),
            *(f"{row}{_END_OF_LINE}" for row in drawn),
        ]  # an empty line has room for one
        up, column = len(below) - 1, written % columns
        back = (f"\x1b[{up}A" if up else "") + "\r" + (f"\x1b[{column}C" if column else "")
        self._is_drawn = True
        self._write("\r\n".join(below) + ERASE + back)

    def _write(self, text: str) -> None:
        file = self._reporter()._tw._file
        encoding = getattr(file, "encoding", None) or "utf-8"
        file.write(text.encode(encoding, "replace").decode(encoding))
        file.flush()


def _is_looked_at(environ: Mapping[str, str]) -> bool:
    """Whether the environment speaks of a terminal on which the cursor can go back, and of somebody who looks at it: a
    CI system may have a terminal, too, and keeps all that was ever written to it.
    """
    return environ.get("TERM", "") not in ("", "dumb", "unknown") and not environ.get("CI")


def rendered(rows: Sequence[Sequence[Span]], columns: int, *, colours: bool) -> list[str]:
    """The rows as a terminal shows them, each at most so many columns wide."""
    from io import StringIO

    from rich.console import Console

    console = Console(
        file=StringIO(),
        width=columns,
        force_terminal=True,
        color_system="standard" if colours else None,
        legacy_windows=False,
        markup=False,
        emoji=False,
        highlight=False,
    )
    return [_row(row, columns, console) for row in rows]


def _row(row: Sequence[Span], columns: int, console: "Console") -> str:
    from rich.text import Text

    text = Text(no_wrap=True, end="")
    for span in _fitted([_cleaned(span) for span in row], columns):
        text.append(span.text, _STYLES[span.style])
    text.truncate(columns, overflow="ellipsis")
    with console.capture() as capture:
        console.print(text, end="", soft_wrap=True)
    return capture.get()


def _cleaned(span: Span) -> Span:
    """As it may reach a terminal, whoever wrote it."""
    return Span(clean(span.text).replace("\n", " "), span.style, span.cut)


def _fitted(row: Sequence[Span], columns: int) -> list[Span]:
    """The row with the middles of spans that may be cut left out, as far as they don't fit."""
    from rich.cells import cell_len

    over = sum(cell_len(span.text) for span in row) - columns
    fitted = []
    for span in row:
        width = cell_len(span.text)
        text = _without_middle(span.text, width - over) if over > 0 and span.cut else span.text
        over -= width - cell_len(text)
        fitted.append(Span(text, span.style))
    return fitted


def _without_middle(text: str, columns: int) -> str:
    """The beginning and the end: of a test, its file and its parameters or name."""
    from rich.cells import set_cell_size

    head = max(0, columns - 1) // 2
    tail = max(0, columns - 1 - head)
    end = set_cell_size(text[::-1], tail)[::-1] if tail else ""
    return f"{set_cell_size(text, head).rstrip()}…{end.lstrip()}"
