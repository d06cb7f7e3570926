"""Owns how large a rank's log may get: its beginning and its end are kept, the disk gets the middle back; must not know
what stands in it.

While ranks write, a hole is punched, so that no offset moves. Where a file system has no holes (gVisor's), the middle
is cut out in place, which works because ranks append (`rank/crash.py`): what they write in the milliseconds that this
takes may be lost, or stand before the end that is kept. Afterwards the log is rewritten as its two ends.

All of it cuts between lines, since half a secret is none that `recording/redact.py` would know. Only a line that is
longer than `LINE_BYTES` is cut within.
"""

import contextlib
import ctypes
import os
import shutil

KEPT_HEAD_BYTES = 4 << 20
KEPT_TAIL_BYTES = 12 << 20
MAX_LOG_BYTES = KEPT_HEAD_BYTES + KEPT_TAIL_BYTES
LINE_BYTES = 16 << 10
LOOKS = 256  # for the end of a log that grows
_KEEP_SIZE, _PUNCH_HOLE = 1, 2  # fallocate(2)


def between_lines(path: str, start: int, end: int) -> tuple[int, int]:
    """Returns the part from `start` to `end`, widened to whole lines; unchanged where the log can't be read."""
    try:
        with open(path, "rb") as log:
            before = max(0, start - LINE_BYTES)
            log.seek(before)
            line_start = log.read(start - before).rfind(b"\n") + 1
            log.seek(max(0, end - 1))
            line_end = log.read(LINE_BYTES + 1).find(b"\n")
    except OSError:
        return start, end
    return (before + line_start if line_start else start), (end + line_end if line_end >= 0 else end)


def give_back(path: str, start: int, end: int) -> bool:
    """Frees the space between the two offsets, which reads as zeros from then on. Returns False where the file system
    can't.
    """
    try:
        log = os.open(path, os.O_RDWR)
    except OSError:
        return False
    try:
        offset, length = ctypes.c_int64(start), ctypes.c_int64(end - start)
        return bool(ctypes.CDLL(None).fallocate(log, _KEEP_SIZE | _PUNCH_HOLE, offset, length) == 0)
    except AttributeError:
        return False
    finally:
        os.close(log)


def cut_out(path: str, start: int, end: int, cut_bytes: int = 0) -> int:
    """Removes what lies between the two offsets, although others append meanwhile, and puts a mark there, which counts
    `cut_bytes` of earlier cuts as well. Returns by how many bytes the log got shorter, 0 where it can't be written.
    """
    try:
        log = os.open(path, os.O_RDWR | os.O_APPEND)
    except OSError:
        return 0
    try:
        tail, size = _read_to_end(log, end)
        cut = f"{size - len(tail) - start + cut_bytes} bytes cut while the rank wrote on, some lines may be missing"
        kept = f"\n… {cut} …\n".encode() + tail
        os.ftruncate(log, start)
        try:
            _append(log, kept)
        except OSError:  # it does not fit on the disk any more
            return max(0, size - os.fstat(log).st_size)
        return size - start - len(kept)
    except OSError:
        return 0
    finally:
        os.close(log)


def _line_behind(read: bytearray, offset: int) -> int:
    """Returns where the first line behind an offset begins; the offset itself where there is nothing before it, or no
    line end.
    """
    return read.find(b"\n", offset, offset + LINE_BYTES) + 1 or offset if offset > 0 else 0


def _read_to_end(log: int, offset: int) -> tuple[bytes, int]:
    """Returns the newest `MAX_LOG_BYTES` behind an offset, and where they end. What was written meanwhile is in them:
    only what comes after the last look is lost, or what a rank writes faster than it can be read.
    """
    read = bytearray()
    for _ in range(LOOKS):
        os.lseek(log, offset, os.SEEK_SET)  # ranks append through descriptors of their own
        if not (part := os.read(log, 1 << 20)):
            break
        offset += len(part)
        read += part
        del read[: _line_behind(read, len(read) - MAX_LOG_BYTES)]
    return bytes(read), offset


def _append(log: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(log, view) :]


def shorten(path: str, cut_bytes: int = 0) -> None:
    """Rewrites a log that nobody writes any more as its two ends, when it is too long. `cut_bytes` went before."""
    beside = f"{path}.tmp"
    try:
        size = os.stat(path).st_size
        if size <= MAX_LOG_BYTES:
            return
        start, end = between_lines(path, KEPT_HEAD_BYTES, size - KEPT_TAIL_BYTES)
        with open(path, "rb") as log, open(beside, "wb") as copy:
            copy.write(log.read(start))
            copy.write(f"\n… {end - start + cut_bytes} bytes cut …\n".encode())
            log.seek(end)
            shutil.copyfileobj(log, copy)
        os.replace(beside, path)
    except OSError:
        with contextlib.suppress(OSError):
            os.unlink(beside)
