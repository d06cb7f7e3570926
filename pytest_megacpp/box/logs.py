"""Owns how large a rank's log may get: its beginning and its end are kept, the disk gets the middle back; must not know
what stands in it.

While ranks write, a hole is punched, so that no offset moves; afterwards the log is rewritten without it.
"""

import contextlib
import ctypes
import os
import shutil

KEPT_HEAD_BYTES = 4 << 20
KEPT_TAIL_BYTES = 12 << 20
MAX_LOG_BYTES = KEPT_HEAD_BYTES + KEPT_TAIL_BYTES
_KEEP_SIZE, _PUNCH_HOLE = 1, 2  # fallocate(2)


def give_back(path: str, start: int, end: int) -> bool:
    """Frees what lies between the two offsets; reads as zeros from now on. False where the file system can't."""
    try:
        log = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        offset, length = ctypes.c_int64(start), ctypes.c_int64(end - start)
        return bool(ctypes.CDLL(None).fallocate(log, _KEEP_SIZE | _PUNCH_HOLE, offset, length) == 0)
    except AttributeError:
        return False
    finally:
        os.close(log)


def shorten(path: str) -> None:
    """Rewrites a log that nobody writes any more as its two ends, when it is too long."""
    beside = f"{path}.tmp"
    try:
        size = os.stat(path).st_size
        if size <= MAX_LOG_BYTES:
            return
        with open(path, "rb") as log, open(beside, "wb") as copy:
            copy.write(log.read(KEPT_HEAD_BYTES))
            copy.write(f"\n… {size - MAX_LOG_BYTES} bytes cut …\n".encode())
            log.seek(size - KEPT_TAIL_BYTES)
            shutil.copyfileobj(log, copy)
        os.replace(beside, path)
    except OSError:
        with contextlib.suppress(OSError):
            os.unlink(beside)
