"""Owns the TCPStores of a world and the process that hosts them; must not know ranks, nor which test a store is for.

It is a fork of an interpreter that has torch anyway, so that the box needs none: the import costs seconds. No rank
hosts a store, or its death would look like everybody's.
"""

import contextlib
import multiprocessing
import os
import signal
from collections.abc import Callable
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any, TypeAlias

from pytest_megacpp.box.host.process import die_with_parent

ADDRESS = "127.0.0.1"
ANSWER_S = 60.0
_NEW, _DROP = b"new", b"drop"

Start: TypeAlias = Callable[[Callable[..., None], tuple[object, ...]], BaseProcess]


class StoresLost(OSError):
    """The process that hosts the stores doesn't answer."""


class Stores:
    """The TCPStores of a world. `start` makes a process of a function and its arguments. A host that was killed has a
    successor.
    """

    def __init__(self, start: Start) -> None:
        self._start = start
        self._line: Connection | None = None
        self._host: BaseProcess | None = None

    def new(self) -> int:
        """Returns the port of a new store. Raises OSError."""
        with contextlib.suppress(StoresLost):
            if self._line is not None:
                return self._ask(self._line)
        return self._ask(self._begin())

    def drop(self) -> None:
        """Closes all but the newest store."""
        with contextlib.suppress(OSError):
            if self._line is not None:
                self._line.send_bytes(_DROP)

    def _begin(self) -> Connection:
        self.close()
        self._line, far_end = multiprocessing.Pipe()
        with far_end:
            self._host = self._start(host, (far_end,))
        return self._line

    @staticmethod
    def _ask(line: Connection) -> int:
        try:
            line.send_bytes(_NEW)
            if line.poll(ANSWER_S):
                return int(line.recv_bytes())
        except (EOFError, OSError):
            raise StoresLost("the process that hosts torch's store ended: see box.log in the run's directory") from None
        raise StoresLost(f"the process that hosts torch's store gave no answer for {ANSWER_S:.0f} s")

    def close(self) -> None:
        """Ends the host, and with it all stores."""
        if self._line is not None:
            self._line.close()
        if self._host is not None:
            self._host.kill()
            self._host.join(1.0)
        self._line = self._host = None


def host(line: Connection) -> None:
    """Opens stores and answers with their ports, or closes all but the newest one, as the box asks;
    until it hangs up.
    """
    die_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    from torch.distributed import TCPStore  # type: ignore[attr-defined]

    stores: list[Any] = []
    with contextlib.suppress(EOFError, OSError):
        while True:
            if line.recv_bytes() == _NEW:
                stores.append(TCPStore(ADDRESS, 0, is_master=True, wait_for_workers=False))
                line.send_bytes(str(stores[-1].port).encode())
            else:
                del stores[:-1]
    os._exit(0)
