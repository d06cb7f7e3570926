"""Owns slicing what ranks wrote to their log files by test; must not interpret it."""

import os
from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import TypeAlias

from pytest_megacpp.box.logs.size import (
    KEPT_HEAD_BYTES,
    KEPT_TAIL_BYTES,
    MAX_LOG_BYTES,
    between_lines,
    cut_out,
    give_back,
    shorten,
)
from pytest_megacpp.recording.events import OutputRead
from pytest_megacpp.recording.vocabulary import Stream

HEAD_BYTES = 8_000
TAIL_BYTES = 24_000
_Key: TypeAlias = tuple[int, Stream]


class OutputMarks:
    """Remembers how long each log was when a test began. `logs` are (stdout, stderr) per rank."""

    def __init__(self, logs: Mapping[int, tuple[str, str]]) -> None:
        self._logs = logs
        self._marks: dict[_Key, int] = {}
        self._trimmed: dict[_Key, int] = defaultdict(int)  # up to where the middle was given back
        self._cut: dict[_Key, int] = defaultdict(int)  # bytes that were cut out, where nothing can be given back
        self._cut_before: dict[_Key, int] = {}  # of them, those of earlier tests

    def begin(self) -> None:
        """Marks the ends of the logs. What earlier tests wrote has been read, so the middle of it isn't needed."""
        self._marks, self._cut_before = {}, {}
        self.trim()
        self._cut_before = dict(self._cut)
        self._marks = {key: _size(path) for key, path in self._each()}

    def trim(self) -> None:
        """Frees the disk space of what a test wrote between its first and its last megabytes (decision 0010)."""
        for key, path in self._each():
            start, end = self._marks.get(key, 0) + KEPT_HEAD_BYTES, _size(path) - KEPT_TAIL_BYTES
            new = max(start, self._trimmed[key])
            if end - new <= MAX_LOG_BYTES:
                continue
            new, new_end = between_lines(path, new, end)
            if give_back(path, new, new_end):
                self._trimmed[key] = new_end
            else:
                self._cut[key] += cut_out(path, *between_lines(path, start, end), self._cut_of_test(key))

    def shorten(self) -> None:
        """Shortens logs that nobody writes any more."""
        for key, path in self._each():
            shorten(path, self._cut[key])

    def read(self, test: int | None) -> Iterator[OutputRead]:
        """Yields what was written since `begin`; streams without anything are left out."""
        for (rank, stream), path in self._each():
            start, end = self._marks.get((rank, stream), 0), _size(path)
            if end > start:
                text, cut_bytes = _slice(path, start, end, self._cut_of_test((rank, stream)))
                yield OutputRead(rank, test, stream, text, cut_bytes)

    def _cut_of_test(self, key: _Key) -> int:
        return self._cut[key] - self._cut_before.get(key, 0)

    def _each(self) -> Iterator[tuple[_Key, str]]:
        for rank, paths in self._logs.items():
            for stream, path in zip(Stream, paths, strict=True):
                yield (rank, stream), path


def _size(path: str) -> int:
    try:
        return os.stat(path).st_size
    except OSError:
        return 0


def _slice(path: str, start: int, end: int, already_cut_bytes: int) -> tuple[str, int]:
    try:
        with open(path, "rb") as f:
            f.seek(start)
            if end - start <= HEAD_BYTES + TAIL_BYTES:
                return f.read(end - start).decode(errors="replace"), 0
            head = f.read(HEAD_BYTES)
            f.seek(end - TAIL_BYTES)
            tail = f.read(TAIL_BYTES)
        head, tail = _whole_lines(head, tail)
    except OSError:
        return "", end - start + already_cut_bytes
    cut_bytes = end - start - len(head) - len(tail) + already_cut_bytes
    mark = f"\n… {cut_bytes} bytes cut …\n"
    return head.decode(errors="replace") + mark + tail.decode(errors="replace"), cut_bytes


def _whole_lines(head: bytes, tail: bytes) -> tuple[bytes, bytes]:
    """Returns both parts without the lines that the cut goes through, which may hold half of a secret."""
    head_end, tail_start = head.rfind(b"\n"), tail.find(b"\n") + 1
    return head[:head_end] if head_end > 0 else head, tail[tail_start:]
