"""Owns which connection belongs to which rank: it listens, and admits whoever greets with a rank's secret; must not
know what is said afterwards.
"""

import socket
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from pytest_megacpp.recording.greeting import GREETING_BYTES, Channel, opened_by

BACKLOG = 1024
SILENT_CONNECTIONS = 64  # that are kept beside those still expected; a rank greets in the moment it connects

Admit: TypeAlias = Callable[[Channel, socket.socket], None]


@dataclass
class _Guest:
    """A rank that may still open the channels in `closed`."""

    token: str
    admit: Admit
    closed: set[Channel] = field(default_factory=lambda: set(Channel))


class Admission:
    """The socket on which ranks connect. `register` and `forget` are the pump's: a handler for each descriptor that has
    something to read.
    """

    def __init__(self, path: str, register: Callable[[Any, Callable[[], object]], None], forget: Callable[[Any], None]):
        self._register = register
        self._forget = forget
        self._guests: dict[str, _Guest] = {}
        self._silent: list[socket.socket] = []
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(path)
        self._listener.listen(BACKLOG)
        self._listener.setblocking(False)  # whoever was at the door may have been admitted meanwhile
        register(self._listener, self._accept)

    def expect(self, name: str, token: str, admit: Admit) -> None:
        """Calls `admit` with each connection that greets with `token`, once for each channel."""
        self._guests[name] = _Guest(token, admit)

    def dismiss(self, name: str) -> None:
        """Refuses all further connections of this rank."""
        self._guests.pop(name, None)

    def catch_up(self) -> None:
        """Admits all connections that are waiting: a process that ended may have sent its last report through a new
        one.
        """
        for _ in range(BACKLOG):
            if not self._accept():
                break
        for connection in list(self._silent):
            if _has_spoken(connection):
                self._greeted(connection)

    def _accept(self) -> bool:
        """Accepts a connection; returns whether there was one."""
        try:
            connection, _ = self._listener.accept()
        except OSError:
            return False
        self._silent.append(connection)
        self._register(connection, lambda: self._greeted(connection))
        while len(self._silent) > SILENT_CONNECTIONS + len(Channel) * len(self._guests):
            self._turn_away(self._silent[0])
        return True

    def _greeted(self, connection: socket.socket) -> None:
        """Admits or refuses a connection by its greeting. A greeting is sent in one piece, so one that arrives in two
        is refused.
        """
        try:
            data = connection.recv(GREETING_BYTES, socket.MSG_DONTWAIT)
        except BlockingIOError:  # select(2): what is said to be ready may not be
            return
        except OSError:
            data = b""
        for guest in self._guests.values():
            channel = opened_by(data, guest.token)
            if channel in guest.closed:
                guest.closed.remove(channel)
                self._part_with(connection)
                guest.admit(channel, connection)
                return
        self._turn_away(connection)

    def _part_with(self, connection: socket.socket) -> None:
        self._forget(connection)
        self._silent.remove(connection)

    def _turn_away(self, connection: socket.socket) -> None:
        self._part_with(connection)
        connection.close()

    def close(self) -> None:
        for connection in list(self._silent):
            self._turn_away(connection)
        self._forget(self._listener)
        self._listener.close()


def _has_spoken(connection: socket.socket) -> bool:
    """Returns whether something can be read, its end included."""
    try:
        connection.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
    except BlockingIOError:
        return False
    except OSError:
        pass
    return True
