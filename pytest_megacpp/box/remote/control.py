"""Owns how a remote desk gives commands to its box: files in the run's directory, written by its followers.

`lease` is touched whenever the desk says anything, `words` grows by each line that is for the box (some come twice,
from a follower after the other), `fetched` says that the desk has everything, `ended` is the box's own: nothing of it
is left but its records.
"""

import contextlib
import io
import os
import threading
import time
from collections.abc import Iterable
from pathlib import Path

from pytest_megacpp.recording.codec import CodecError
from pytest_megacpp.recording.commands import Word, read_word, word_line
from pytest_megacpp.recording.wire import read_object

WORDS_BYTES = 1 << 20


class Control:
    """The desk's commands, left in files by its followers."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory / "control"

    def lease_age_s(self) -> float:
        """Returns the seconds since a desk last said anything; infinite when there never was one."""
        try:
            return time.time() - (self.directory / "lease").stat().st_mtime
        except OSError:
            return float("inf")

    def listening(self) -> None:
        (self.directory / "lease").touch()

    def pass_on(self, word: Word) -> None:
        """Appends a command in one write, since two followers may read from the same desk."""
        with (self.directory / "words").open("ab", buffering=0) as words:
            words.write(word_line(word))

    def words(self, offset: int) -> bytes:
        """Returns the whole lines since the byte `offset`."""
        try:
            with (self.directory / "words").open("rb") as words:
                words.seek(offset)
                data = words.read(WORDS_BYTES)
        except OSError:
            return b""
        return data[: data.rfind(b"\n") + 1]

    def say_fetched(self) -> None:
        self._write("fetched", "")

    def fetched(self) -> bool:
        return (self.directory / "fetched").exists()

    def say_ended(self, status: int) -> None:
        self._write("ended", str(status))

    def ended(self) -> int | None:
        """Returns the guard's exit status once nothing of the box is left; None before."""
        try:
            return int((self.directory / "ended").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None

    def _write(self, name: str, text: str) -> None:
        beside = self.directory / f".{name}.{os.getpid()}"
        beside.write_text(text, encoding="utf-8")
        beside.replace(self.directory / name)


class Desk:
    """Reads what the desk says, in a thread of its own. `heard_s` is when it last said anything, `is_gone` whether it
    has closed its end.

    It reads standard input itself: a thread that waits in Python's own buffered reader aborts the process at its end.
    """

    def __init__(self, control: Control, lines: Iterable[bytes] | None = None) -> None:
        self._control = control
        self._lines = io.FileIO(0, closefd=False) if lines is None else lines
        self.heard_s = time.monotonic()
        self.is_gone = False
        self.thread = threading.Thread(target=self._listen, daemon=True)
        self.thread.start()

    def _listen(self) -> None:
        try:
            for line in self._lines:
                self.heard_s = time.monotonic()
                with contextlib.suppress(CodecError, OSError):
                    self._control.listening()
                    self._handle_command(line)
        finally:
            self.is_gone = True

    def _handle_command(self, line: bytes) -> None:
        word = read_word(line)
        if word is not None:
            self._control.pass_on(word)
        elif read_object(line).get("fetched"):
            self._control.say_fetched()
