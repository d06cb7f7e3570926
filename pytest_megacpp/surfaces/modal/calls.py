"""Owns calling Modal without ever hanging: each call in a thread of its own, with a deadline."""

import contextlib
import threading
import time
from collections.abc import Callable
from typing import Generic, TypeVar

from pytest_megacpp.surfaces.modal.failures import CallTimeout, Cancelled

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
    """Returns or raises what `function` does. Raises CallTimeout after `limit_s` and Cancelled when `cancelled` says
    so; `too_late` then gets a result that still arrives.
    """
    attempt = _Attempt(function, too_late)
    deadline = time.monotonic() + limit_s
    while not attempt.done.wait(POLL_S):
        if cancelled():
            attempt.give_up()
            raise Cancelled(what)
        if time.monotonic() > deadline:
            attempt.give_up()
            raise CallTimeout(what, limit_s)
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
            is_unwanted = self._given_up
        if is_unwanted and self._results:
            with contextlib.suppress(Exception):
                self._too_late(self._results[0])

    def give_up(self) -> None:
        """Marks the result as no longer wanted; one that has arrived goes to `too_late`."""
        with self._lock:
            self._given_up = True
            has_arrived = self.done.is_set()
        if has_arrived and self._results:
            with contextlib.suppress(Exception):
                self._too_late(self._results[0])

    def result(self) -> T:
        if self._error is not None:
            raise self._error
        return self._results[0]
