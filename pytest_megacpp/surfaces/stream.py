"""Owns the output of a follower (`box.remote.follow`): bytes in, pieces out, in any portions; must not do I/O.

The box may run an untrusted pull request, so nothing here is trusted: sizes are bounded, names are checked, and what is
neither a line of a recording nor a known frame is dropped.
"""

import json
import re
from dataclasses import dataclass, field

MAX_LINE_BYTES = 2 << 20
MAX_LOGS_BYTES = 96 << 20
MAX_RECORDING_BYTES = 512 << 20  # read at once, after the end of a box
_LOG_PATH = re.compile(r"(?:ranks/[\w.-]{1,80}/\d{1,6}/(?:stdout|stderr)|box)\.log")


def is_log(path: str) -> bool:
    """Returns whether a path names a log of a run, and no other file."""
    return _LOG_PATH.fullmatch(path) is not None and ".." not in path


@dataclass(frozen=True, slots=True)
class Lines:
    """Whole lines of the recording."""

    data: bytes


@dataclass(frozen=True, slots=True)
class Log:
    """A log's end, `path` relative to the run's directory."""

    path: str
    data: bytes


@dataclass(frozen=True, slots=True)
class UpToDate:
    """All that was recorded when the follower began has arrived."""


@dataclass(frozen=True, slots=True)
class End:
    """The box has ended, and the follower has sent everything. `status` is the guard's exit status; None where that
    isn't said.
    """

    status: int | None = None


Piece = Lines | Log | UpToDate | End


@dataclass
class FollowerStream:
    """`offset` counts the recording's bytes in whole lines: where a later follower begins. A new one starts clean.

    `_tail` is a bytearray, which grows at its end and shrinks at its front without moving what is in it: a log takes
    the same time however small the portions are that it comes in.
    """

    offset: int = 0
    _tail: bytearray = field(default_factory=bytearray)
    _searched: int = 0  # so much of it has no end of a line
    _log: str | None = None
    _log_bytes: int = 0
    _logs_bytes: int = 0

    def resume(self) -> int:
        """Forgets an incomplete line or log. Returns the offset for the next follower."""
        self._drop()
        self._log = None
        return self.offset

    def feed(self, data: bytes) -> list[Piece]:
        """Returns the pieces that `data` completes."""
        self._tail += data
        pieces: list[Piece] = []
        while (piece := self._next()) is not None:
            pieces += piece
        return pieces

    def _next(self) -> list[Piece] | None:
        """Returns the pieces of one line or log, or None until more has arrived."""
        if self._log is not None:
            return self._rest_of_log(self._log)
        end = self._tail.find(b"\n", self._searched)
        if end < 0:
            self._searched = len(self._tail)
            if self._searched > MAX_LINE_BYTES:
                self._drop()
            return None
        if self._tail.startswith(b"#"):
            return self._frame(self._take(end + 1))
        return self._recorded()

    def _recorded(self) -> list[Piece]:
        """Returns all whole lines up to the next frame."""
        frame = self._tail.find(b"\n#")
        data = self._take((frame if frame >= 0 else self._tail.rfind(b"\n")) + 1)
        self.offset += len(data)
        return [Lines(data)]

    def _take(self, size: int) -> bytes:
        """Removes the first bytes and returns them."""
        data = bytes(self._tail[:size])
        del self._tail[:size]
        self._searched = 0
        return data

    def _drop(self) -> None:
        self._tail.clear()
        self._searched = 0

    def _frame(self, line: bytes) -> list[Piece]:
        word, _, rest = line.rstrip(b"\n").partition(b" ")
        if word == b"#end":
            return [End(_status_in(rest))]
        if word == b"#up-to-date":
            return [UpToDate()]
        if word == b"#file":
            self._begin_log(rest)
        return []

    def _begin_log(self, line: bytes) -> None:
        try:
            header = json.loads(line)
            path, size = str(header["path"]), int(header["bytes"])
        except (ValueError, TypeError, KeyError, RecursionError, OverflowError):  # 1e999 is infinite
            return
        if 0 <= size <= MAX_LOGS_BYTES - self._logs_bytes:
            self._log, self._log_bytes = path, size
            self._logs_bytes += size

    def _rest_of_log(self, path: str) -> list[Piece] | None:
        if len(self._tail) < self._log_bytes:
            return None
        data, self._log = self._take(self._log_bytes), None
        return [Log(path, data)] if is_log(path) else []


def _status_in(line: bytes) -> int | None:
    try:
        status = json.loads(line)["status"]
    except (ValueError, TypeError, KeyError, RecursionError):
        return None
    return status if type(status) is int else None
