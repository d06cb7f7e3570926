"""Owns the directory for what a run needs only while it runs; must not know what that is.

Whoever works in it holds a lock, and so do processes forked from it. Guard and box remove it at their end; where both
were killed, the next run on the machine finds a directory that nobody holds, and removes it.
"""

import contextlib
import fcntl
import glob
import os
import shutil
import tempfile

PREFIX = "megacpp-"
LOCK = "held"


def make() -> str:
    """A new directory, held until this process and all that are forked from it have ended."""
    unborn = tempfile.mkdtemp(prefix=f"new-{PREFIX}")
    lock = os.open(os.path.join(unborn, LOCK), os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    with contextlib.suppress(OSError):  # where there are no locks, nothing is swept either
        fcntl.flock(lock, fcntl.LOCK_EX)
    born = unborn.replace(f"new-{PREFIX}", PREFIX)
    os.rename(unborn, born)  # only now can a sweep see it
    return born


def sweep() -> None:
    """Removes what nobody holds any more."""
    for directory in glob.glob(os.path.join(glob.escape(tempfile.gettempdir()), f"{PREFIX}*")):
        with contextlib.suppress(OSError):
            lock = os.open(os.path.join(directory, LOCK), os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(directory, ignore_errors=True)
            finally:
                os.close(lock)
