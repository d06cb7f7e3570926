"""Owns the conversation with a running sandbox: following its recording, sending the desk's words, reconnecting after a
lost connection; must not know how it was started, nor what is left when it has ended.
"""

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, assert_never

from pytest_megacpp.recording.commands import Word, word_line
from pytest_megacpp.surfaces.inbox import Inbox
from pytest_megacpp.surfaces.modal import client, failures
from pytest_megacpp.surfaces.modal.config import RUN_DIR, ModalConfig
from pytest_megacpp.surfaces.modal.order import module_command
from pytest_megacpp.surfaces.stream import End, FollowerStream, Lines, Log, UpToDate
from pytest_megacpp.surfaces.unseen import Unseen

GIVEN_BACK_S = 20.0  # for a sandbox whose box has ended
LOOK_S = 2.0  # between two checks whether the sandbox is running
SAY_S = 5.0  # between two signs of life to the box
SILENT_S = 10.0  # a follower writes something every 2 s
OUTPUT_SILENT_S = 30.0  # a sandbox may have nothing to write; whether it is running is asked as well
AGAIN_S = 0.5
FOLLOWERS_TRIED = 2
FETCHED = b'{"fetched":true}'
_ENDED_ERRORS = frozenset({"NotFoundError", "ConflictError", "ClientClosed"})  # of calls to an ended sandbox


class _Refused(Exception):
    """No follower could be started."""


class Conversation:
    """The conversation with one sandbox, over as many connections as it takes. `words` may grow meanwhile; each new
    follower is sent all of them. `is_reached`: there has been a connection. `is_up_to_date`: all that had been recorded
    by then has arrived, as far as a follower says so. `is_complete`: the box has ended and everything has arrived.
    """

    def __init__(
        self,
        run_id: str,
        sandbox: Any,
        config: ModalConfig,
        inbox: Inbox,
        words: Sequence[Word],
        is_cancelled: Callable[[], bool],
    ) -> None:
        self.is_complete = False
        self.is_up_to_date = False
        self._run_id = run_id
        self._sandbox = sandbox
        self._config = config
        self._inbox = inbox
        self._words = words
        self._is_cancelled = is_cancelled
        self._run_finished = False
        self._reached_s: float | None = None  # when it was first connected
        self._answered_s = 0.0  # when Modal last reported whether the sandbox is running
        self._stream = FollowerStream()

    @property
    def is_reached(self) -> bool:
        return self._reached_s is not None

    def follow(self) -> int | None:
        """Follows until the box has ended and everything has arrived, or until it is cancelled. Returns the exit code
        of a sandbox that ended before that. Raises SurfaceError if the connection stays lost.
        """
        began_s = received_s = time.monotonic()
        refused, started = 0, False
        while not self.is_complete and not self._is_cancelled():
            try:
                for received_bytes in self._listen(refused):
                    received_s, refused = time.monotonic(), 0
                    if received_bytes and not started:
                        started = True
                        self._inbox.report("start", f"{received_s - began_s:.1f} s")
            except _Refused:
                refused += 1
            except (failures.Cancelled, failures.CallTimeout):
                raise
            except Exception as e:
                if not failures.is_transient(e) and type(e).__name__ not in _ENDED_ERRORS:
                    raise
            if self.is_complete or self._is_cancelled():
                return None
            code = self._exit_code()
            if code is not None:
                return code
            self._wait_to_reconnect(received_s)
        return None

    def _wait_to_reconnect(self, received_s: float) -> None:
        """Raises SurfaceError when reconnecting has taken too long."""
        lost_s = time.monotonic() - max(received_s, self._reached_s or 0.0)
        if lost_s > self._patience_s():
            raise failures.SurfaceError(failures.unreachable_box(self._run_id, lost_s, self._config.lease_s))
        self._inbox.report("reconnect", f"lost for {lost_s:.1f} s, at byte {self._stream.resume()}")
        time.sleep(AGAIN_S)

    def _patience_s(self) -> float:
        """Seconds to try to reconnect. A box that was never reached may still be waiting for its machine."""
        if self._reached_s is None:
            return self._config.capacity_s
        return 1.5 * self._config.lease_s or 90.0

    def _listen(self, refused: int) -> Iterator[int]:
        """Takes the box's output, yielding the number of bytes; ends when it falls silent or the sandbox is gone.
        Where no follower can be started, it reads the copy that the box writes to its own output.
        """
        if refused < FOLLOWERS_TRIED:
            yield from self.converse(self._follower(), self._take, beats=True)
        else:
            self._inbox.report("fallback", "no follower can be started: reading the sandbox's own output")
            unseen = self._inbox.unseen()
            take = lambda data: self._take_output(data, unseen)  # noqa: E731
            yield from self.converse(client.Following(self._sandbox), take, beats=False)

    def _follower(self) -> client.Following:
        """Raises _Refused. The first one has to wait until the sandbox has its machine, which `create` need not do."""
        command = (*module_command("remote.follow"), RUN_DIR, str(self._stream.resume()))
        reached = self.is_reached
        limits = ("a follower", client.CALL_S) if reached else ("the machine", self._config.capacity_s)
        try:
            following = client.follower(self._sandbox, command, *limits, self._is_cancelled)
        except (failures.Cancelled, failures.CallTimeout) as e:
            if isinstance(e, failures.CallTimeout) and reached:
                raise _Refused from e
            raise
        except Exception as e:
            raise _Refused from e
        self._mark_reached()
        return following

    def _mark_reached(self) -> None:
        self._reached_s = self._reached_s or time.monotonic()

    def converse(self, following: client.Following, take: Callable[[bytes], None], *, beats: bool) -> Iterator[int]:
        """Runs one connection to its end, yielding the numbers of bytes that arrive. Without `beats` of a follower,
        Modal's answer that the sandbox is running is the sign of life.
        """
        silent_s = SILENT_S if beats else OUTPUT_SILENT_S
        received_s = looked_s = said_s = time.monotonic()
        following.say(b"{}")
        words_said = 0
        try:
            while not self.is_complete and not self._is_cancelled():
                data = following.next(0.05)
                now_s = time.monotonic()
                if data is None or now_s - received_s > silent_s:
                    return
                if data:
                    received_s = now_s
                    take(data)
                    yield len(data)
                for word in self._words[words_said:]:
                    words_said += 1
                    following.say(word_line(word).rstrip())
                if self._run_finished:
                    following.say(FETCHED)
                if now_s - said_s > self._say_s():
                    said_s = now_s
                    following.say(b"{}")
                if now_s - looked_s > LOOK_S and now_s - received_s > LOOK_S / 2:
                    looked_s = now_s
                    if self._exit_code() is not None:
                        return
                    if not beats and self._answered_s > received_s:
                        received_s = self._answered_s
                        yield 0
            following.say(FETCHED)
        finally:
            following.leave()

    def _say_s(self) -> float:
        """Seconds between two signs of life to the box: several within its lease."""
        return min(SAY_S, self._config.lease_s / 5) if self._config.lease_s else SAY_S

    def _take(self, data: bytes) -> None:
        for piece in self._stream.feed(data):
            match piece:
                case Lines():
                    self._inbox.take(piece.data)
                case Log():
                    self._inbox.write_log(piece.path, piece.data)
                case UpToDate():
                    self.is_up_to_date = True
                case End():
                    self.is_complete = True
                case _:
                    assert_never(piece)

    def _take_output(self, data: bytes, unseen: Unseen) -> None:
        """Takes one line of the sandbox's output, which has no logs."""
        self._mark_reached()
        if data.endswith(b"\n") and unseen.is_new(data):
            self._inbox.take(data)
            self._run_finished = b'"kind":"run-finished"' in data

    def _exit_code(self) -> int | None:
        """Returns None while the sandbox is running, or while Modal does not answer."""
        try:
            code = client.exit_code(self._sandbox)
        except Exception as e:
            if failures.is_transient(e):
                return None
            raise
        self._answered_s = time.monotonic()
        return code

    def ends_by_itself(self) -> bool:
        """Waits for the sandbox of a box that has ended: a regular exit commits the records. Returns whether it did."""
        deadline = time.monotonic() + GIVEN_BACK_S
        with contextlib.suppress(Exception):
            while time.monotonic() < deadline:
                if self._exit_code() is not None:
                    return True
                time.sleep(0.1)
        return False
