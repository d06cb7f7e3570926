"""Owns what boxes elsewhere have in common for their desk: one thread starts or finds a box and follows it to the end,
and the desk reads what has arrived. Must not know how a box is reached.
"""

import contextlib
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable
from enum import StrEnum
from typing import Generic, TypeVar

from pytest_megacpp.recording.commands import Word
from pytest_megacpp.recording.events import ProblemFound
from pytest_megacpp.recording.plan import Stop
from pytest_megacpp.recording.vocabulary import RunEnd
from pytest_megacpp.surfaces.inbox import Inbox
from pytest_megacpp.surfaces.protocol import Ended

STOP_S = 30.0  # for a box to end in order, as its own grace periods allow
Found = TypeVar("Found")


class Stay(StrEnum):
    """What becomes of the box when the desk has no more use for it."""

    OWNER = "owner"  # it ends with the desk
    VISITOR = "visitor"  # it goes on, followed or not
    LEAVING = "leaving"  # it goes on, and nobody follows it from here


class FollowedBox(ABC, Generic[Found]):
    """All of `RunningBox` but its address. `given_back_s`: how long the box may take to be given back."""

    given_back_s: float

    def __init__(self, inbox: Inbox) -> None:
        self.inbox = inbox
        self._cancelled = threading.Event()
        self._words: list[Word] = []
        self._done = threading.Event()
        self._problem: ProblemFound | None = None
        self._stay = Stay.OWNER

    # -- what the desk asks --------------------------------------------------------------------------------

    def read(self) -> bytes:
        return self.inbox.read()

    def ended(self) -> Ended | None:
        return Ended(self._problem) if self._done.is_set() else None

    def say(self, word: Word) -> None:
        if self._stay is Stay.OWNER:
            self._words.append(word)

    def stop(self, reason: RunEnd, why: str = "") -> None:
        if self._stay is not Stay.OWNER:
            return
        self.say(Stop(reason, why=why))
        if not self._is_reached():
            self._cancelled.set()

    def end(self) -> None:
        """Ends the box gracefully if it can be reached, otherwise at once."""
        if self._stay is not Stay.OWNER:
            self._cancelled.set()
        elif not self._done.is_set():
            self.stop(RunEnd.INTERRUPTED)
            if not self._done.wait(STOP_S):
                self._cancelled.set()
        self._done.wait(self.given_back_s)

    # -- the thread ----------------------------------------------------------------------------------------

    def begin(self, order: Callable[[], Found], stay: Stay) -> None:
        """`order` returns what is to be followed."""
        self._stay = stay
        threading.Thread(target=self._work, args=(order,), daemon=True, name="megacpp-box").start()

    def _work(self, order: Callable[[], Found]) -> None:
        try:
            self._follow(order())
        except Exception as e:
            self._problem = self._problem_of(e)
        finally:
            with contextlib.suppress(Exception):
                self._give_back()
            self._done.set()

    def is_cancelled(self) -> bool:
        return self._cancelled.is_set()

    @abstractmethod
    def _is_reached(self) -> bool:
        """Whether the box can be asked to end."""

    @abstractmethod
    def _follow(self, found: Found) -> None:
        """Takes in what comes of the box until its end, unless it is left."""

    @abstractmethod
    def _problem_of(self, error: Exception) -> ProblemFound | None:
        """How the run ended by this; None where the desk had no more use for it."""

    @abstractmethod
    def _give_back(self) -> None:
        """Gives back what the box still holds, unless it stays."""
