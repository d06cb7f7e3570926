"""Owns the directory for what a run needs only while it runs; must not know what that is.

Sockets lie in it, whose paths may have 107 characters. So it is made in the temporary directory if that is short
enough, else in the first of a few places that are.

Whoever works in it holds a lock, and so do processes forked from it. Guard and box remove it at their end; where both
were killed, the next run on the machine finds a directory that nobody holds, and removes it. A lock on the directory
itself keeps systemd-tmpfiles away (tmpfiles.d(5)); whatever else removes it is noticed by `lost`.
"""

import contextlib
import fcntl
import glob
import os
import shutil
import tempfile
from collections.abc import Iterable

PREFIX = "megacpp-"
MAX_PLACE_CHARS = 48  # `/megacpp-…` and `/pymp-…/listener-…` of multiprocessing come behind it
SHORT_PLACES = ("/tmp", "/var/tmp", "/dev/shm")
LOCK = "held"


def make() -> str:
    """Returns a new directory, locked until this process and all that are forked from it have ended."""
    unborn = tempfile.mkdtemp(prefix=f"new-{PREFIX}", dir=_place())
    lock = os.open(os.path.join(unborn, LOCK), os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
    except OSError:  # where there are no locks, a sweep of somebody who has them would take it for abandoned
        return unborn
    place, name = os.path.split(unborn)
    born = os.path.join(place, name.removeprefix("new-"))
    os.rename(unborn, born)  # only now a sweep can see it
    with contextlib.suppress(OSError):  # where a directory can't be locked, nobody looks for a lock on one
        fcntl.flock(os.open(born, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC), fcntl.LOCK_SH)
    return born


def lost(directory: str, names: Iterable[str]) -> list[str]:
    """Returns those of `names` that somebody has removed from the directory."""
    return [name for name in names if not os.path.lexists(os.path.join(directory, name))]


def _place() -> str:
    """Returns where to make it; the temporary directory where none is short enough."""
    usual = tempfile.gettempdir()
    fitting = (p for p in (usual, *SHORT_PLACES) if len(os.fsencode(p)) <= MAX_PLACE_CHARS and os.access(p, os.W_OK))
    return next(fitting, usual)


def sweep() -> None:
    """Removes directories of earlier runs whose lock nobody holds any more."""
    for directory in glob.glob(os.path.join(glob.escape(_place()), f"{PREFIX}*")):
        with contextlib.suppress(OSError):
            lock = os.open(os.path.join(directory, LOCK), os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(directory, ignore_errors=True)
            finally:
                os.close(lock)
