"""Owns what becomes of snapshots that syrupy writes in ranks (`--snapshot-update`): rank 0's are kept, after each test.
Must not import syrupy.

A session that isn't ended in order, as that of a world with a failure, would lose all that it had compared.
"""

import sys
from typing import Any

import pytest

_STORAGE = "syrupy.extensions.base"


class Snapshots:
    """Of one rank."""

    def __init__(self, rank: int) -> None:
        self._rank = rank

    def begin(self) -> None:
        """Once plugins have been loaded. Ranks beside 0 compare as ever, and write nothing: the files are the same."""
        storage: Any = getattr(sys.modules.get(_STORAGE), "SnapshotCollectionStorage", None)
        if self._rank != 0 and storage is not None:
            storage.write_snapshot = classmethod(_write_nothing)

    @staticmethod
    def test_is_over(session: pytest.Session) -> None:
        flush = getattr(getattr(session.config, "_syrupy", None), "flush_snapshot_write_queue", None)
        if flush is not None:
            flush()


def _write_nothing(cls: type, /, **_: object) -> None:
    """In place of `write_snapshot`."""
