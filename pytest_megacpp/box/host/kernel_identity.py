"""Owns whether the kernel below is gVisor's, which answers some questions with constants; must not know who asks.

A gVisor shows itself in one of these ways, and a Linux in none: its release (`4.19.0-gvisor`, since 2026-04), a file
that only its /proc has, the fixed build date that it reports before that, and its kernel log, which begins with a
greeting.
"""

import contextlib
import ctypes
import os
from collections.abc import Callable
from functools import cache
from pathlib import Path

GREETING = "[    0.000000] Starting gVisor"
BUILT = "#1 SMP Sun Jan 10 15:06:54 PST 2016"
_READ_ALL = 3  # syslog(2)
_LOG_BYTES = 16 << 10  # the whole log of a gVisor has about 700 bytes


def kernel_log_head() -> str:
    """Returns the beginning of the kernel log as syslog(2) reads it; empty where that is refused."""
    log = ctypes.create_string_buffer(_LOG_BYTES)
    with contextlib.suppress(AttributeError):
        got = ctypes.CDLL(None).klogctl(_READ_ALL, log, _LOG_BYTES)
        return log.raw[: max(0, got)].decode(errors="replace")
    return ""


def names_gvisor(release: str, version: str, proc: Path, log: Callable[[], str]) -> bool:
    """Returns whether one of the four witnesses names gVisor; the log is asked last."""
    if "gvisor" in release.lower() or BUILT in version:
        return True
    return os.path.exists(proc / "sentry-meminfo") or log().startswith(GREETING)


@cache
def is_gvisor() -> bool:
    """Returns whether this process runs on gVisor's kernel; false where nothing shows it."""
    system = os.uname()
    return names_gvisor(system.release, system.version, Path("/proc"), kernel_log_head)
