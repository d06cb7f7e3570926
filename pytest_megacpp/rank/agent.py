"""Owns a rank's line to the box: facts out, commands in; must not know pytest, torch or what facts mean.

A rank waits for nobody but the box, and only between tests. When the line breaks the box is gone, so the process ends.
"""

import contextlib
import os
import socket
import threading
from os import getpid  # a test may replace what the modules `os` and `time` have
from time import monotonic

from pytest_megacpp.recording.codec import from_json
from pytest_megacpp.recording.events import RankFact
from pytest_megacpp.recording.greeting import Channel, greeting
from pytest_megacpp.recording.oversize import encoded
from pytest_megacpp.recording.plan import Go, Leave
from pytest_megacpp.recording.wire import dump_line, encode_fact, read_object

BOX_GONE = 71


class Agent:
    """The connection to the box. `send` is safe from any thread, and does nothing in forked children. Times are the
    box's, in seconds; `origin_s` and `epoch_s` are box time zero on the monotonic and on the wall clock,
    the latter as the box found it when the test began.
    """

    def __init__(self, path: str, token: str, rank: int, origin_s: float, epoch_s: float) -> None:
        self.rank = rank
        self.epoch_s = epoch_s
        self._origin_s = origin_s
        self._pid = getpid()
        self._lock = threading.Lock()
        self._held: list[bytes] = []
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.connect(path)
        self._socket.sendall(greeting(token, Channel.FACTS))
        os.register_at_fork(after_in_child=self._in_child)
        self._lines = self._socket.makefile("rb")

    def _in_child(self) -> None:
        """Closes the line in a forked child, which must neither report as the rank nor keep its line open."""
        self._socket.close()
        self._lock = threading.Lock()

    def now_s(self) -> float:
        return monotonic() - self._origin_s

    def send(self, fact: RankFact, at_s: float | None = None, *, hold: bool = False, wait: bool = True) -> None:
        """Sends a fact; `hold` lets it travel with the next one, which must follow at once. Without `wait` it is
        dropped where another thread is sending.
        """
        if self.is_forked:
            return
        head = {"t": round(self.now_s() if at_s is None else at_s, 6)}
        _, line = encoded(fact, lambda shortened: dump_line(head | encode_fact(shortened)))
        if not self._lock.acquire(wait):
            return
        try:
            self._held.append(line)
            if not hold:
                data, self._held = b"".join(self._held), []
                self._write(data)
        finally:
            self._lock.release()

    def _write(self, data: bytes) -> None:
        try:
            self._socket.sendall(data)
        except OSError as e:
            _leave_word(e)
            os._exit(BOX_GONE)

    @property
    def is_forked(self) -> bool:
        """Whether this process is a child that a test forked."""
        return getpid() != self._pid

    def receive(self) -> Go | Leave:
        """Waits for the box's next command and returns it. The end of the line is a `Leave`."""
        try:
            line = self._lines.readline()
        except OSError:
            line = b""
        if not line:
            return Leave()
        data = read_object(line)
        if "test" not in data:
            return Leave()
        go = from_json(Go, data)
        self.epoch_s = go.epoch_s if go.epoch_s is not None else self.epoch_s
        return go


def _leave_word(error: OSError) -> None:
    """Writes to the log why the line broke: either the box is gone, or the test closed a descriptor
    that isn't its own.
    """
    why = f"megacpp: this rank's line to the box broke ({error.strerror}), so it ends with status {BOX_GONE}"
    remedy = "does the test close file descriptors that it didn't open, such as os.closerange or a daemon's start?"
    with contextlib.suppress(OSError):
        os.write(2, f"{why}; {remedy}\n".encode())
