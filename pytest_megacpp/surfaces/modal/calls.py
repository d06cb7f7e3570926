"""Owns calling Modal without ever hanging: each call in a thread of its own, with a deadline."""

import contextlib
import threading
import time
from collections.abc import Callable
from typing import Generic, TypeVar

from pytest_megacpp.surfaces.modal.failures import Cancelled, Late

T = TypeVar("T")
POLL_S = 0.02


def call(
    what: str,
    limit_s: float,
    function: Callable[[], T],
    *,
    cancelled: Callable[[], bool] = lambda: False,
    too_late: Callable[[T], object] = lambda result: None,
) -> T:
    """What `function` returns or raises. Raises Late or Cancelled when that doesn't come; `too_late` gets a result that
    comes nevertheless.
    """
    attempt = _Attempt(function, too_late)
    deadline = time.monotonic() + limit_s
    while not attempt.done.wait(POLL_S):
        if cancelled():
            attempt.give_up()
            raise Cancelled(what)
        if time.monotonic() > deadline:
            attempt.give_up()
            raise Late(what, limit_s)
    return attempt.result()


class _Attempt(Generic[T]):
    """One call in its thread."""

    def __init__(self, function: Callable[[], T], too_late: Callable[[T], object]) -> None:
        self.done = threading.Event()
        self._function = function
        self._too_late = too_late
        self._results: list[T] = []
        self._error: BaseException | None = None
        self._lock = threading.Lock()
        self._given_up = False
        threading.Thread(target=self._run, daemon=True, name="megacpp-modal-call").start()

    def _run(self) -> None:
        try:
            result = self._function()
        except BaseException as e:  # the client raises SystemExit and KeyboardInterrupt of others, too
            self._error = e
        else:
            self._results.append(result)
        with self._lock:
            self.done.set()
            forgotten = self._given_up
        if forgotten and self._results:
            with contextlib.suppress(Exception):
                self._too_late(self._results[0])

    def give_up(self) -> None:
        """Nobody waits any more."""
        with self._lock:
            self._given_up = True
            came_after_all = self.done.is_set()
        if came_after_all and self._results:
            with contextlib.suppress(Exception):
                self._too_late(self._results[0])

    def result(self) -> T:
        if self._error is not None:
            raise self._error
        return self._results[0]
