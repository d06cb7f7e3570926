"""Owns reading one rank's log while it grows, as lines without secrets; must not know whose it is or who shows it.

A secret is known by its whole text, so nothing is handed out that something may still follow: no piece of a line, no
line of a private key before its end. Where reading begins or goes on in the middle of a log, the rest of a line or of a
key that stands there is left out. A rank may have put anything in place of its log; only a plain file is read.
"""

import contextlib
import errno
import itertools
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from pytest_megacpp.box.host.plain_files import open_plain
from pytest_megacpp.recording.secret_shapes import KEY_ENDS, OPEN_KEY

PORTION_BYTES = 1 << 20
LINE_BYTES = 64 << 10  # of a longer line only the beginning is handed out
HEAD_BYTES = LINE_BYTES // 2
KEY_CHARS = 64 << 10  # a private key that has no end by then is none
_NO_FILE = (errno.ENOENT, errno.ELOOP, errno.ENXIO, None)  # nothing, a link, a socket, a pipe
_CUT = "[cut]"
_HOLE_BYTES = 64
_HOLE = re.compile(rb"\0{%d,}" % _HOLE_BYTES)  # where the disk got the middle of a log back
_LINE_END = re.compile(rb"\r\n|\n|\r(?!\Z)")  # behind the last \r a \n may come


def open_log(path: Path) -> int | None:
    """Returns a descriptor of a plain file; None if there is none. A pipe would make its reader wait for ever, and a
    link may lead anywhere. Raises OSError where a file can't be opened.
    """
    try:
        return open_plain(path, os.O_RDONLY)
    except ValueError:
        return None  # the name of a world may be any text, and that of a file has no lone surrogate and no null
    except OSError as e:
        if e.errno in _NO_FILE:
            return None
        raise


def _read_at(log: int, most: int, offset: int) -> bytes:
    os.lseek(log, offset, os.SEEK_SET)
    return os.read(log, most)


def _next_data(log: int, offset: int) -> int:
    """Where something other than a hole begins, as far as the file system can tell."""
    if sys.platform == "win32":
        return offset
    try:
        return max(offset, os.lseek(log, offset, os.SEEK_DATA))
    except OSError:  # no data behind it, or a file system that can't tell
        return offset


class GrowingLog:
    """A log as far as it was read. One that `stays_open` is read to its end although it is replaced meanwhile, as a box
    does that takes secrets out of it. `starts_at`: from which byte on.
    """

    def __init__(
        self, path: Path, redact: Callable[[str], str], *, stays_open: bool = True, starts_at: int = 0
    ) -> None:
        self.path = path
        self._redact = redact
        self._stays_open = stays_open
        self._log: int | None = None
        self._offset = 0
        self._starts_at = starts_at
        self._held: list[str] = []  # lines of a private key whose end has not come
        self._tail = b""  # of a line whose end has not come
        self._long_head: str | None = None
        self._long_bytes = 0  # of a line of which no more is kept
        self._skips_line = False
        self._skips_key_chars = 0
        self._in_hole = False

    def behind(self) -> int:
        """How many bytes there are that weren't read. Raises OSError."""
        with self._opened() as log:
            return max(0, os.fstat(log).st_size - self._offset) if log is not None else 0

    def read(self, most: int = PORTION_BYTES) -> list[str] | None:
        """The lines that are new among so many bytes; None where nothing was written. Raises OSError."""
        with self._opened() as log:
            if log is None:
                return None
            size = os.fstat(log).st_size
            before = []
            if size < self._offset:  # its box cut something out of it
                before = [*self._released(self._held), "…"]
                self._go_to(log, max(0, size - most))
            data = self._data(log, most)
        return [*before, *self._handed_out(data)] if before or data else None

    def skip_to_last(self, most: int) -> list[str]:
        """Goes on so many bytes before the end; returns what is to be shown in place of what is left out."""
        with self._opened() as log:
            if log is None:
                return []
            before = self._offset
            lines = self._released(self._held)
            self._go_to(log, max(before, os.fstat(log).st_size - most))
            left_out = self._offset - before
        return [*lines, f"… {left_out} bytes left out: {self.path.name} of the rank has them …"]

    def finish(self) -> list[str]:
        """What is left when nobody writes any more: a line without an end, a key without one."""
        lines = [*self._held, *self._line_so_far()]
        self._forget_line()
        if self._log is not None:
            os.close(self._log)
            self._log = None
        return self._released(lines)

    # -- the file ----------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _opened(self) -> Iterator[int | None]:
        log = self._log if self._log is not None else open_log(self.path)
        if log is None:
            yield None
            return
        if self._stays_open:
            self._log = log
        try:
            if self._starts_at:
                self._starts_at, offset = 0, self._starts_at
                self._go_to(log, offset)
            yield log
        finally:
            if not self._stays_open:
                os.close(log)

    def _go_to(self, log: int, offset: int) -> None:
        """Goes on behind the first line end from there, unless that is the beginning of a line."""
        self._forget_line()
        if offset > 0:
            line_end = _read_at(log, LINE_BYTES, offset - 1).find(b"\n")
            self._skips_line = line_end < 0
            offset += max(0, line_end)
        before = _read_at(log, min(offset, KEY_CHARS), max(0, offset - KEY_CHARS))
        self._skips_key_chars = KEY_CHARS if OPEN_KEY.search(before.decode(errors="replace")) else 0
        self._offset = offset

    def _forget_line(self) -> None:
        self._held, self._tail, self._long_head, self._long_bytes = [], b"", None, 0
        self._skips_line = self._in_hole = False

    def _data(self, log: int, most: int) -> bytes:
        """What is read next. Zeros at its end may be the beginning of a hole: they are read again with what follows."""
        data = _read_at(log, most, self._offset)
        text = data.rstrip(b"\0")
        if not text and len(data) >= _HOLE_BYTES:
            self._offset = _next_data(log, self._offset + len(data))
            return data
        self._offset += len(text)
        return text

    # -- lines -------------------------------------------------------------------------------------------------

    def _handed_out(self, data: bytes) -> list[str]:
        lines: list[str] = []
        if self._in_hole:
            data = data.lstrip(b"\0")
        for number, part in enumerate(_HOLE.split(data)):
            if number and not self._in_hole:
                lines += [*self._released(self._held), _CUT]
                self._skips_key_chars = KEY_CHARS if self._held else self._skips_key_chars
                self._forget_line()
                self._in_hole = self._skips_line = True
            if part:
                self._in_hole = False
                self._add(part)
                lines += self._released(self._whole())
        return lines

    def _add(self, part: bytes) -> None:
        """Adds lines to those that are held."""
        if self._skips_line or self._long_head is not None:
            line_end = _LINE_END.search(part)
            if line_end is None:
                self._long_bytes += len(part)
                return
            self._long_bytes += line_end.start()
            self._hold(self._line_so_far())
            self._long_head, self._long_bytes, self._skips_line = None, 0, False
            part = part[line_end.end() :]
        *lines, self._tail = _LINE_END.split(self._tail + part)
        self._hold(map(self._text, lines))
        if len(self._tail) > LINE_BYTES:
            self._long_head, self._long_bytes, self._tail = self._head(self._tail), len(self._tail), b""

    def _hold(self, lines: Sequence[str] | Iterator[str]) -> None:
        for line in lines:
            if self._skips_key_chars > 0:
                self._skips_key_chars = 0 if KEY_ENDS in line else self._skips_key_chars - len(line) - 1
            else:
                self._held.append(line)

    def _line_so_far(self) -> list[str]:
        if self._long_head is not None:
            return [_shortened(self._long_head, self._long_bytes)]
        return [self._text(self._tail.rstrip(b"\r"))] if self._tail else []

    def _text(self, line: bytes) -> str:
        return line.decode(errors="replace") if len(line) <= LINE_BYTES else _shortened(self._head(line), len(line))

    def _head(self, line: bytes) -> str:
        """The beginning of a long line, up to a secret that its cut goes through: from there on the part before the cut
        is redacted differently from a longer part.
        """
        more, head = (self._redact(line[:size].decode(errors="replace")) for size in (LINE_BYTES, HEAD_BYTES))
        alike = itertools.takewhile(lambda chars: chars[0] == chars[1], zip(more, head, strict=False))
        return "".join(char for char, _ in alike)

    def _whole(self) -> list[str]:
        """Takes out the held lines that belong to no private key that goes on."""
        text = "\n".join([*self._held, self._tail.decode(errors="replace")])
        key = OPEN_KEY.search(text)
        whole = len(self._held)
        if key is not None and len(text) - key.start() <= KEY_CHARS:
            whole = min(whole, text.count("\n", 0, key.start()))
        lines, self._held = self._held[:whole], self._held[whole:]
        return lines

    def _released(self, lines: Sequence[str]) -> list[str]:
        """Lines are redacted together: a key has several."""
        return self._redact("\n".join(lines)).split("\n") if lines else []


def _shortened(head: str, line_bytes: int) -> str:
    return f"{head} … {line_bytes - HEAD_BYTES} bytes of a long line …"
