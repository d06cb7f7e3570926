"""Owns how a second process on the desk's machine asks something of a run: words in a file of the run's directory, read
by a box that works there, or by the desk of a box elsewhere; must not know what any word means.
"""

import os
import time
from collections.abc import Callable
from pathlib import Path

from pytest_megacpp.recording.codec import CodecError
from pytest_megacpp.recording.commands import Word, read_word, word_line

FILE = "control/asked"  # in the run's directory
EVERY_S = 0.2  # between two looks at it
MAX_BYTES = 1 << 16  # of one look; a word has some fifty


def ask(run: Path, word: Word) -> None:
    """Leaves a word for whoever works on the run. Raises OSError."""
    path = run / FILE
    path.parent.mkdir(exist_ok=True)
    with path.open("ab", buffering=0) as file:
        file.write(word_line(word))


class Asked:
    """Reads what was asked of a run since the last look."""

    def __init__(self, run: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self._path = run / FILE
        self._clock = clock
        self._offset = 0
        self._looked_s = clock() - EVERY_S

    def words(self) -> list[Word]:
        """Returns the new words; looks every EVERY_S only. What isn't a word is passed over."""
        now_s = self._clock()
        if now_s - self._looked_s < EVERY_S:
            return []
        self._looked_s = now_s
        *lines, tail = self._read().split(b"\n")
        self._offset += sum(len(line) + 1 for line in lines) or (len(tail) if len(tail) == MAX_BYTES else 0)
        return [word for line in lines if (word := _word(line)) is not None]

    def _read(self) -> bytes:
        try:
            if os.stat(self._path).st_size <= self._offset:
                return b""
            with self._path.open("rb") as file:
                file.seek(self._offset)
                return file.read(MAX_BYTES)
        except OSError:
            return b""


def _word(line: bytes) -> Word | None:
    try:
        return read_word(line)
    except CodecError:
        return None
