"""Owns one run of a user's command: bytes to and from the far program, the words of both, and its end; must not know
what is said.

Reading and writing have threads of their own, since either may block for as long as the network likes.
"""

import contextlib
import os
import queue
import shlex
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from pytest_megacpp.surfaces.command.failures import Cancelled, Lost
from pytest_megacpp.surfaces.sweep import RUN_VARIABLE

PIECE_BYTES = 64 << 10
QUEUED = 32  # pieces that wait to be written
KEPT_BYTES = 16 << 10  # of what the command says on standard error
STALLED_S = 60.0  # a connection that takes nothing
ENDS_S = 2.0  # for a command that has closed its output
POLL_S = 0.05


class Connection:
    """A running command. Raises OSError where it can't be started."""

    def __init__(self, words: Sequence[str], run_id: str) -> None:
        self._words = words
        self._errors = bytearray()
        self._new_errors: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        self._received: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._to_send: queue.Queue[bytes | None] = queue.Queue(QUEUED)
        self._sent = 0
        self._child, self._life = _started(words, run_id)
        for work in (self._read, self._read_errors, self._write):
            threading.Thread(target=work, daemon=True, name="megacpp-command").start()

    # -- threads -------------------------------------------------------------------------------------------

    def _read(self) -> None:
        assert self._child.stdout is not None
        with contextlib.suppress(OSError, ValueError):
            while data := os.read(self._child.stdout.fileno(), PIECE_BYTES):
                self._received.put(data)
        self._received.put(None)

    def _read_errors(self) -> None:
        assert self._child.stderr is not None
        with contextlib.suppress(OSError, ValueError):
            while data := os.read(self._child.stderr.fileno(), PIECE_BYTES):
                self._errors += data
                del self._errors[:-KEPT_BYTES]
                if self._new_errors.qsize() < QUEUED:
                    self._new_errors.put(data[-KEPT_BYTES:])

    def _write(self) -> None:
        stdin = self._child.stdin
        assert stdin is not None
        with contextlib.suppress(OSError, ValueError):
            while (data := self._to_send.get()) is not None:
                stdin.write(data)
                stdin.flush()
                self._sent += 1
        with contextlib.suppress(OSError, ValueError):
            stdin.close()

    # -- bytes ---------------------------------------------------------------------------------------------

    def next(self, wait_s: float) -> bytes | None:
        """Returns some bytes, empty when none arrived in time, None at the end."""
        try:
            return self._received.get(timeout=wait_s)
        except queue.Empty:
            return b""

    def send(self, data: bytes, is_cancelled: Callable[[], bool]) -> None:
        """Queues bytes, and waits while many are. Raises Lost, and Cancelled."""
        sent, since_s = self._sent, time.monotonic()
        while True:
            try:
                self._to_send.put(data, timeout=POLL_S)
                return
            except queue.Full:
                now_s = time.monotonic()
                if is_cancelled():
                    raise Cancelled from None
                if self._sent != sent:
                    sent, since_s = self._sent, now_s
                if self.status() is not None or now_s - since_s > STALLED_S:
                    raise Lost(self.how_it_ended(f"took nothing for {STALLED_S:g} s")) from None

    def say(self, line: bytes) -> bool:
        """Queues a line; returns False where there is no room, as on a connection that stalls."""
        try:
            self._to_send.put_nowait(line + b"\n")
        except queue.Full:
            return False
        return True

    # -- its end -------------------------------------------------------------------------------------------

    def status(self) -> int | None:
        """Returns the exit status of a command that has ended."""
        return self._child.poll()

    def errors(self) -> str:
        """Returns what it said last on standard error."""
        return bytes(self._errors).decode(errors="replace")

    def forget_errors(self) -> None:
        """What was said until now is no reason for what comes."""
        self._errors.clear()

    def new_errors(self) -> str:
        """Returns what it has said there since the last call."""
        data = b""
        with contextlib.suppress(queue.Empty):
            while True:
                data += self._new_errors.get_nowait()
        return data.decode(errors="replace")

    def how_it_ended(self, otherwise: str) -> str:
        """Returns how the command ended; `otherwise` where it goes on."""
        name = f"`{shlex.join(self._words[:3])}{' …' if len(self._words) > 3 else ''}`"
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._child.wait(ENDS_S if otherwise == "" else 0)
        status = self.status()
        if status is None:
            return f"{name} {otherwise or 'closed its output'}"
        return f"{name} ended with status {status}"

    def leave(self, wait_s: float) -> bool:
        """Closes its input and waits for it to end; asks it to after `wait_s`. Returns whether it has ended by then."""
        self._put_end()
        in_time = self._wait(wait_s)
        with contextlib.suppress(OSError):
            if self._life is not None:
                with contextlib.suppress(OSError):
                    os.write(self._life, b"x")
                os.close(self._life)
            elif not in_time:
                self._child.terminate()
        self._life = None
        return in_time

    def end(self, wait_s: float) -> None:
        """Asks it to end at once, and waits for that; its holder kills it if it doesn't."""
        self.leave(0.0)
        self._wait(wait_s)

    def _put_end(self) -> None:
        """What was queued is written first, as long as it is taken."""
        deadline = time.monotonic() + ENDS_S
        while time.monotonic() < deadline:
            try:
                self._to_send.put(None, timeout=POLL_S)
                return
            except queue.Full:
                continue
        with contextlib.suppress(queue.Empty):
            while True:
                self._to_send.get_nowait()
        self._to_send.put(None)

    def _wait(self, limit_s: float) -> bool:
        try:
            self._child.wait(limit_s)
        except subprocess.TimeoutExpired:
            return False
        return True


def _started(words: Sequence[str], run_id: str) -> "tuple[subprocess.Popen[bytes], int | None]":
    """Returns the process, and the descriptor that holds it where a holder is used. It has no terminal: what asks for a
    password fails instead of waiting.
    """
    environment = {**os.environ, RUN_VARIABLE: run_id}
    if sys.platform == "win32":
        return _popen(words, environment), None
    reader, writer = os.pipe()
    try:
        holder = [sys.executable, "-I", "-S", str(Path(__file__).with_name("holder.py")), str(reader)]
        return _popen([*holder, *words], environment, pass_fds=(reader,), start_new_session=True), writer
    except BaseException:
        os.close(writer)
        raise
    finally:
        os.close(reader)


def _popen(words: Sequence[str], environment: dict[str, str], **more: Any) -> "subprocess.Popen[bytes]":
    pipes: dict[str, Any] = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    return subprocess.Popen(words, env=environment, **pipes, **more)
