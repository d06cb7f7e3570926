"""Owns the conversation with a running box: following its recording, sending the desk's words, reconnecting where a
command for that is configured; must not know how the box was started.
"""

import json
import time
from collections.abc import Callable, Sequence
from typing import assert_never

from pytest_megacpp.recording.commands import Word, word_line
from pytest_megacpp.recording.events import ProblemFound
from pytest_megacpp.recording.plan import Stop
from pytest_megacpp.surfaces import box_end
from pytest_megacpp.surfaces.command import failures
from pytest_megacpp.surfaces.command.connection import Connection
from pytest_megacpp.surfaces.command.failures import Failed, Lost
from pytest_megacpp.surfaces.command.launch import Caller, Far, Refused
from pytest_megacpp.surfaces.inbox import Inbox
from pytest_megacpp.surfaces.stream import End, FollowerStream, Lines, Log, UpToDate

SAY_S = 5.0  # between two signs of life to the box
SILENT_S = 15.0  # a follower writes something every 2 s; then another connection is made
AGAIN_S = 1.0
REACH_S = 30.0  # for a connection that is made again
WAIT_S = 0.05
ERRORS_S = 1.0  # for the words of a command that are behind those of the box
FETCHED = b'{"fetched":true}'
GIVEN_BACK_S = 90.0  # for a far side whose box has ended, or has to


class Conversation:
    """The conversation with one box, over as many connections as it takes. `words` may grow meanwhile; each new
    connection is sent all of them. `is_up_to_date`: all that had been recorded when it was reached has arrived.
    `is_complete`: the box has ended and everything has arrived; `status` is how.
    """

    def __init__(self, caller: Caller, inbox: Inbox, words: Sequence[Word], is_cancelled: Callable[[], bool]) -> None:
        self.is_complete = False
        self.is_up_to_date = False
        self.status: int | None = None
        self._caller = caller
        self._inbox = inbox
        self._words = words
        self._is_cancelled = is_cancelled
        self._stream = FollowerStream()
        self._is_started = False
        self._has_ended_unasked = False
        self._began_s = time.monotonic()
        self._received_s = self._began_s
        self._how = ""

    def follow(self, far: Far) -> ProblemFound | None:
        """Follows until the box has ended and everything has arrived, or until it is cancelled; the connection is given
        back. Returns why the box, or the connection to it, is lost; None where it isn't.
        """
        while True:
            try:
                words = self._listen(far)
            finally:
                far.connection.leave(GIVEN_BACK_S if self._may_wait else 0.0)
            if self.is_complete:
                return self._caller.clean(problem) if (problem := self._problem_of_end()) else None
            if self._is_cancelled():
                return None
            again = self._connected_again(words)
            if isinstance(again, ProblemFound):
                return self._caller.clean(again)
            if again is None:
                return None
            far = again

    @property
    def _may_wait(self) -> bool:
        """Whether the far side ends when its input does: a box that goes on isn't waited for."""
        return self.is_complete or not self._caller.config.attach

    def _problem_of_end(self) -> ProblemFound | None:
        return box_end.problem_of(self.status, "") if self.status else None

    # -- one connection ------------------------------------------------------------------------------------

    def _listen(self, far: Far) -> str:
        """Takes what the box says until the connection ends. Returns the words of the command."""
        connection = far.connection
        self._received_s = said_s = time.monotonic()
        connection.say(b"{}")
        words_said = 0
        self._take(far.answers.rest, connection)
        while not self.is_complete and not self._is_cancelled():
            data = connection.next(WAIT_S)
            now_s = time.monotonic()
            if data is None or (not data and connection.status() is not None):
                self._how = connection.how_it_ended("")
                break
            if now_s - self._received_s > self._silent_s:
                self._how = connection.how_it_ended(f"said nothing for {self._silent_s:g} s")
                break
            if data:
                self._received_s = now_s
                self._take(data, connection)
            while words_said < len(self._words) and connection.say(word_line(self._words[words_said]).rstrip()):
                words_said += 1
            if now_s - said_s > self._say_s:
                said_s = now_s
                connection.say(b"{}")
        if self.is_complete:
            connection.say(FETCHED)
        return connection.errors()

    @property
    def _say_s(self) -> float:
        return min(SAY_S, self._caller.config.lease_s / 5)

    @property
    def _silent_s(self) -> float:
        """A connection that can't be made again gets as much time as the box has without it."""
        return SILENT_S if self._caller.config.attach else max(SILENT_S, self._caller.config.lease_s)

    def _take(self, data: bytes, connection: Connection) -> None:
        for piece in self._stream.feed(data):
            match piece:
                case Lines():
                    self._take_lines(piece.data, connection)
                case Log():
                    self._inbox.write_log(piece.path, piece.data)
                case UpToDate():
                    self.is_up_to_date = True
                case End():
                    self.is_complete = True
                    self.status = piece.status
                case _:
                    assert_never(piece)

    def _take_lines(self, data: bytes, connection: Connection) -> None:
        if not self._is_started:
            self._is_started = True
            self._inbox.report("start", f"{time.monotonic() - self._began_s:.1f} s")
        for line in data.splitlines(keepends=True):
            if not self._has_ended_unasked and (end := unasked_end(line, self._words)) is not None:
                self._has_ended_unasked = True
                self._explain(end, connection)
            self._inbox.take(line)

    def _explain(self, end: tuple[float, str], connection: Connection) -> None:
        """Records, before the box's end, what ended it as far as the command's words say that."""
        deadline = time.monotonic() + ERRORS_S
        while not connection.errors() and connection.status() is None and time.monotonic() < deadline:
            time.sleep(WAIT_S)
        time_s, why = end
        problem = failures.ended_from_outside(why, connection.errors())
        self._inbox.record(self._caller.clean(problem), time_s)

    # -- another one ---------------------------------------------------------------------------------------

    def _connected_again(self, words: str) -> "Far | ProblemFound | None":
        """Returns another connection, or why there is none; None where the desk has no more use for it."""
        config = self._caller.config
        if not config.attach:
            return failures.lost(config, self._how, words)
        while not self._is_cancelled():
            lost_s = time.monotonic() - self._received_s
            if lost_s > 1.5 * config.lease_s:
                return failures.unreachable(config, self._caller.run_id, lost_s, self._how, words)
            offset = self._stream.resume()
            self._inbox.report("reconnect", f"lost for {lost_s:.1f} s, at byte {offset}")
            try:
                return reached(self._caller, self._is_cancelled, offset)
            except failures.Cancelled:
                return None
            except Refused as e:
                return failures.far_refusal(config, e.facts)
            except (Failed, Lost) as e:
                self._how = str(e)
            time.sleep(AGAIN_S)
        return None


def reached(caller: Caller, is_cancelled: Callable[[], bool], offset: int = 0) -> Far:
    """Returns a far program that follows the box of a run. Raises Failed, Lost, Cancelled and Refused."""
    far = caller.call({"wish": "follow", "offset": offset}, None, is_cancelled)
    try:
        far.wait_for("started", REACH_S, is_cancelled)
    except BaseException:
        far.connection.leave(0.0)
        raise
    return far


def unasked_end(line: bytes, words: Sequence[Word]) -> "tuple[float, str] | None":
    """Returns when and why the box began to end, where this line says so and no `Stop` of this desk asked for it."""
    if b'"interrupted"' not in line and b'"stop"' not in line:
        return None
    if any(isinstance(word, Stop) for word in words):
        return None
    try:
        event = json.loads(line)
        is_end = (event["kind"] == "run-finished" and event["reason"] == "interrupted") or (
            event["kind"] == "acted" and event["why"] == "stop"
        )
        return (float(event["t"]), str(event.get("detail", ""))) if is_end else None
    except (ValueError, TypeError, KeyError, RecursionError):
        return None
