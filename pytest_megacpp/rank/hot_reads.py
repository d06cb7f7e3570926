"""Owns noticing that a rank reads the source of a data set in place of its copy; must not know pytest.

An audit hook sees what Python opens and lists, in forked children (workers of a DataLoader) too. What C or C++ code
opens by itself it doesn't see, nor a path that leads there by a link of its own.
"""

import mmap
import os
import struct
import sys
from collections.abc import Sequence

from pytest_megacpp.rank.agent import Agent
from pytest_megacpp.rank.compiler import left_alone_by_compiler
from pytest_megacpp.recording.events import BucketRead
from pytest_megacpp.recording.plan import DataSet

_EVENTS = frozenset({"open", "os.listdir", "os.scandir"})
_COUNT = struct.Struct("<QH")  # reads, and the length of the first path
PATH_BYTES = 502
_SLOT_BYTES = _COUNT.size + PATH_BYTES


class HotReads:
    """Reports each data set's first read in a test at once, and the number of reads at its end. Forked children write
    into memory that they share with the rank; their numbers may lack what several read at the same moment.
    """

    def __init__(self, agent: Agent, data: Sequence[DataSet]) -> None:
        self._agent = agent
        self._names = [one.name for one in data if one.source]
        sources = [one.source for one in data if one.source]
        self._prefixes = tuple(
            (f"{path.rstrip('/')}/", at)
            for at, source in enumerate(sources)
            for path in {os.path.abspath(source), os.path.realpath(source)}
        )
        self._slots = mmap.mmap(-1, max(1, len(sources)) * _SLOT_BYTES)
        self._test: int | None = None

    def install(self) -> None:
        """Watches reads for the rest of the process; not at all where no data set has a source."""
        if self._prefixes:
            left_alone_by_compiler(self._audit.__code__)
            sys.addaudithook(self._audit)

    def begin(self, test: int) -> None:
        self._slots[:] = bytes(len(self._slots))
        self._test = test

    def end(self) -> None:
        for at in range(len(self._names)):
            self._tell(at, wait=True)
        self._test = None

    def _audit(self, event: str, args: tuple[object, ...], events: frozenset[str] = _EVENTS) -> None:
        """Counts a read of a data set. An audit hook outlives the names of its module: an interpreter that ends (3.12)
        has taken them away, so it gets `events` as a default.
        """
        if event not in events or self._test is None:
            return
        try:
            self._noticed(args[0])
        except Exception:  # a hook that raises would forbid the read
            return

    def _noticed(self, place: object) -> None:
        if isinstance(place, int) or place is None:
            return
        path = os.fsdecode(place)  # type: ignore[arg-type]
        path = path if path.startswith("/") else os.path.abspath(path)
        for prefix, at in self._prefixes:
            if path.startswith(prefix) or path == prefix[:-1]:
                self._count(at, path)
                return

    def _count(self, at: int, path: str) -> None:
        offset = at * _SLOT_BYTES
        reads, length = _COUNT.unpack_from(self._slots, offset)
        if not reads:
            first = os.fsencode(path)[:PATH_BYTES]
            length = len(first)
            self._slots[offset + _COUNT.size : offset + _COUNT.size + length] = first
        _COUNT.pack_into(self._slots, offset, reads + 1, length)
        if not reads:
            self._tell(at, wait=False)  # this may be a signal's handler, in the middle of another send

    def _tell(self, at: int, *, wait: bool) -> None:
        offset = at * _SLOT_BYTES
        reads, length = _COUNT.unpack_from(self._slots, offset)
        if reads and self._test is not None:
            path = os.fsdecode(self._slots[offset + _COUNT.size : offset + _COUNT.size + length])
            self._agent.send(BucketRead(self._agent.rank, self._test, self._names[at], path, reads), wait=wait)
