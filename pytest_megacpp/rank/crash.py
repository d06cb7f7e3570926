"""Owns how a crash is reported: the dump goes to the box, which looks at the process before it reads on.

The line is so narrow that faulthandler blocks after its first words. Until the box reads on, the process stands still
inside its signal handler, and its worker server can still say in which collective it was; then it dies. Where the
kernel makes no line that narrow (gVisor: 4,096 bytes), a short dump doesn't block, and the last look may come too late:
the capability `crash_look`.
"""

import contextlib
import faulthandler
import fcntl
import os
import socket

from pytest_megacpp.recording.greeting import Channel, greeting

NARROWEST_BYTES = 1  # Linux makes it some four kilobytes, bookkeeping included: a few short writes


class CrashLine:
    """The connection for the dump of a crash (decision 0007). Lives as long as the process. Raises OSError when the box
    isn't there.
    """

    def __init__(self, path: str, token: str) -> None:
        self._line = socket.socket(socket.AF_UNIX)
        _narrow(self._line)
        self._line.connect(path)
        self._line.sendall(greeting(token, Channel.CRASH))
        for log in (1, 2):  # the box will write there as well
            fcntl.fcntl(log, fcntl.F_SETFL, fcntl.fcntl(log, fcntl.F_GETFL) | os.O_APPEND)

    def use(self) -> None:
        """Directs dumps there from now on; pytest's own plugin directs them elsewhere."""
        faulthandler.enable(file=self._line.fileno(), all_threads=True)


def _narrow(line: socket.socket) -> None:
    with contextlib.suppress(OSError):
        line.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, NARROWEST_BYTES)
