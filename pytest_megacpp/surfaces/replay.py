"""Owns a recording in place of a box; must not start anything."""

from pathlib import Path


class ReplayedBox:
    """See `RunningBox`: a box that ended long ago."""

    def __init__(self, recording: Path) -> None:
        self._file = recording.open("rb")
        self._at_end = False

    def read(self) -> bytes:
        data = self._file.read(1 << 20)
        self._at_end = not data
        return data

    def ended(self) -> str | None:
        return "" if self._at_end else None

    def stop(self, reason: str) -> None:
        """There is nothing to stop."""

    def end(self) -> None:
        """There is nothing to end."""
