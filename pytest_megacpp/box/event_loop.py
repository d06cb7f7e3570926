"""Owns waiting for descriptors and for what other threads hand over; must not know what any of it means.

One thread waits and handles. Others only hand over, which wakes it.
"""

import contextlib
import queue
import selectors
import socket
import time
from collections.abc import Callable
from typing import Any, Generic, TypeVar

TICK_S = 0.05

T = TypeVar("T")


class Pump(Generic[T]):
    """`take` is called with each thing that was handed over. `looked_s` is when, by `clock`, the last look began of
    which everything is handled: a process that is found to have ended later was alive then.
    """

    def __init__(self, take: Callable[[T], object], clock: Callable[[], float]) -> None:
        self.looked_s = 0.0
        self._take = take
        self._clock = clock
        self._selector = selectors.DefaultSelector()
        self._resting: dict[Any, tuple[float, Callable[[], object]]] = {}
        self._things: queue.SimpleQueue[T] = queue.SimpleQueue()
        self._wake_read, self._wake_write = socket.socketpair()
        self._wake_write.setblocking(False)
        self.register(self._wake_read, self.drain)

    def register(self, source: Any, handle: Callable[[], object]) -> None:
        """Calls `handle` whenever there is something to read at a descriptor, or an object that has one."""
        self._selector.register(source, selectors.EVENT_READ, handle)

    def forget(self, source: Any) -> None:
        """Stops listening to `source`, which may never have been registered, or be closed."""
        self._resting.pop(source, None)
        with contextlib.suppress(KeyError, ValueError):
            self._selector.unregister(source)

    def rest(self, source: Any, for_s: float) -> None:
        """Doesn't listen to `source` for `for_s` seconds. What it sends stays in its buffer, so its sender has to wait
        as well.
        """
        key = self._selector.unregister(source)
        self._resting[source] = time.monotonic() + for_s, key.data

    def hand_over(self, thing: T) -> None:
        """Has `take` called with `thing` by the thread that waits. May be called from any thread."""
        self._things.put(thing)
        with contextlib.suppress(OSError):
            self._wake_write.send(b".")

    def drain(self) -> None:
        """Takes all that was handed over."""
        with contextlib.suppress(BlockingIOError):
            self._wake_read.recv(65536, socket.MSG_DONTWAIT)
        while not self._things.empty():
            self._take(self._things.get())

    def once(self, wait_s: float = TICK_S) -> None:
        """Handles what happened, after waiting at most `wait_s` for something to happen."""
        ready = self._selector.select(self._rested(wait_s))
        looked_s = self._clock()
        for key, _ in ready:
            if self._selector.get_map().get(key.fd) is key:  # else an earlier handler closed it
                key.data()
        self.looked_s = looked_s

    def _rested(self, wait_s: float) -> float:
        """Listens again to sources that have rested long enough. Returns how long to wait, at most until the next one
        has.
        """
        now_s = time.monotonic()
        for source, (due_s, handle) in list(self._resting.items()):
            if due_s <= now_s:
                del self._resting[source]
                self.register(source, handle)
            else:
                wait_s = min(wait_s, due_s - now_s)
        return wait_s

    def until(self, done: Callable[[], bool], limit_s: float) -> bool:
        """Handles what happens until `done` returns true; returns whether it did within `limit_s`."""
        deadline = time.monotonic() + limit_s
        while not done():
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            self.once(min(left, TICK_S))
        return True

    def close(self) -> None:
        self._selector.close()
        self._wake_read.close()
        self._wake_write.close()
