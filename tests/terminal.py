"""Owns a terminal that a program writes to, and what somebody would see on it; must not know what is written.

The bytes go through a real pseudo-terminal, whose line discipline acts on them, to an emulator.
"""

import fcntl
import os
import pty
import re
import struct
import termios
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Any

import pyte

ERASING = re.compile(rb"(?=\x1b\[J)")


class Terminal:
    """`seen` gets the different states of the screen, as lines without blanks at their ends: what there is whenever
    something arrived, and before anything below the cursor is erased. `program` is the file
    descriptor for whoever writes.
    """

    def __init__(self, columns: int = 80, lines: int = 24) -> None:
        self.seen: list[list[str]] = []
        self.raw = b""
        self._screen = pyte.HistoryScreen(columns, lines, history=10_000, ratio=0.5)
        self._stream = pyte.ByteStream(self._screen)
        self._emulator, self.program = pty.openpty()
        self.resize(columns, lines)
        self._reader = threading.Thread(target=self._read, daemon=True)

    def __enter__(self) -> "Terminal":
        self._reader.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()
        os.close(self._emulator)

    def close(self) -> None:
        """Nobody writes any more; returns once all of it is on the screen."""
        if self.program >= 0:
            os.close(self.program)
            self.program = -1
        self._reader.join(30)
        assert not self._reader.is_alive()

    def resize(self, columns: int, lines: int) -> None:
        fcntl.ioctl(self.program, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))

    def attributes(self) -> list[Any]:
        return termios.tcgetattr(self.program)

    def types(self, keys: bytes) -> None:
        os.write(self._emulator, keys)

    def _read(self) -> None:
        while True:
            try:
                data = os.read(self._emulator, 1 << 16)
            except OSError:  # the other side is closed
                return
            if not data:
                return
            self.raw += data
            for portion in ERASING.split(data):
                self._stream.feed(portion)
                now = self.screen()
                if not self.seen or self.seen[-1] != now:
                    self.seen.append(now)

    def screen(self) -> list[str]:
        """What is on the screen now."""
        return [line.rstrip() for line in self._screen.display]

    def everything(self) -> list[str]:
        """What scrolled away, and the screen."""
        width = self._screen.columns
        above = ["".join(line[x].data for x in range(width)).rstrip() for line in self._screen.history.top]
        return [*above, *self.screen()]

    def has_seen(self, wanted: Callable[[list[str]], bool]) -> bool:
        return any(map(wanted, self.seen))

    @property
    def is_cursor_hidden(self) -> bool:
        return bool(self._screen.cursor.hidden)
