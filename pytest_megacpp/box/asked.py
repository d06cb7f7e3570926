"""Owns how a second process on the desk's machine asks something of a run: words in a file of the run's directory, read
by a box that works there, or by the desk of a box elsewhere; must not know how they are carried out.

Whoever can write into the directory can write the file, or put something else in its place. So it says only what a
command may ask for, nothing in its place blocks a reader or a writer, and a look at it costs little whatever it holds.
"""

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO, TypeAlias

from pytest_megacpp.box.host.plain_files import open_plain
from pytest_megacpp.recording.codec import CodecError
from pytest_megacpp.recording.commands import Word, read_word, word_line
from pytest_megacpp.recording.plan import Look, Stop
from pytest_megacpp.recording.vocabulary import RunEnd

FILE = "control/asked"  # in the run's directory
EVERY_S = 0.2  # between two looks at it
MAX_BYTES = 1 << 12  # of one look; a word has some fifty
MAX_LINES = 16  # of one look, without empty ones

Question: TypeAlias = Look | Stop


def ask(run: Path, word: Word) -> None:
    """Leaves a word for whoever works on the run, on a line of its own whatever is in the file. Raises OSError."""
    path = run / FILE
    path.parent.mkdir(exist_ok=True)
    with _opened(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, "ab") as file:
        file.write(b"\n" + word_line(word))


class Asked:
    """Reads what was asked of a run since the last look."""

    def __init__(self, run: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self._path = run / FILE
        self._clock = clock
        self._offset = 0
        self._looked_s = clock() - EVERY_S

    def words(self) -> list[Question]:
        """Returns the new words; looks every EVERY_S only. What no command may ask for is passed over."""
        now_s = self._clock()
        if now_s - self._looked_s < EVERY_S:
            return []
        self._looked_s = now_s
        return [word for line in self._lines() if (word := _question(line)) is not None]

    def _lines(self) -> list[bytes]:
        """Returns the next complete lines that aren't empty."""
        *lines, tail = self._read().split(b"\n")
        found: list[bytes] = []
        for line in lines:
            if len(found) == MAX_LINES:
                break
            self._offset += len(line) + 1
            found += [line] if line else []
        if not lines and len(tail) == MAX_BYTES:
            self._offset += len(tail)
        return found

    def _read(self) -> bytes:
        try:
            with _opened(self._path, os.O_RDONLY, "rb") as file:
                if os.fstat(file.fileno()).st_size < self._offset:
                    self._offset = 0  # it was emptied, or is another one
                file.seek(self._offset)
                return file.read(MAX_BYTES)
        except OSError:
            return b""


def _opened(path: Path, flags: int, mode: str) -> IO[bytes]:
    """Returns a regular file. Anything else, links included, is an OSError, and nothing that could block is waited
    for.
    """
    return os.fdopen(open_plain(path, flags), mode, buffering=0)


def _question(line: bytes) -> Question | None:
    """Returns what a command may ask for: all else is said by the run's own desk, elsewhere."""
    try:
        word = read_word(line)
    except CodecError:
        return None
    match word:
        case Look():
            return word
        case Stop(reason=RunEnd.INTERRUPTED):
            return Stop(RunEnd.INTERRUPTED, by_command=True)
        case _:
            return None
