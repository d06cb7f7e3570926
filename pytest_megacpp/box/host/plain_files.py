"""Owns opening files that somebody else may have put there; must not know whose they are or what is in them."""

import errno
import os
import stat
from pathlib import Path

# Windows has none of the first two, and would translate line ends without the third.
_FLAGS = getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
_KNOWS_LINKS = hasattr(os, "O_NOFOLLOW")


def open_plain(path: Path, flags: int, mode: int = 0o666) -> int:
    """Returns a descriptor of a plain file: a pipe would make its reader wait for ever, and a link may lead anywhere.

    Raises OSError for anything else (ELOOP for a link, no number for what opens and is no plain file), ValueError for
    what is no path.
    """
    if not _KNOWS_LINKS and path.is_symlink():
        raise OSError(errno.ELOOP, "it is a link", str(path))
    file = os.open(path, flags | _FLAGS, mode)
    if not stat.S_ISREG(os.fstat(file).st_mode):
        os.close(file)
        raise OSError(None, "it is no regular file", str(path))
    return file
