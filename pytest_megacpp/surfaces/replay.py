"""Owns a recording in place of a box; must not start anything."""

import shutil
from pathlib import Path

from pytest_megacpp.recording.plan import Plan
from pytest_megacpp.surfaces.protocol import Address, Ended, SurfaceFailed


class ReplaySurface:
    """See `Surface`: every plan gets the same recording, of which the run keeps a copy."""

    def __init__(self, recording: Path) -> None:
        self._recording = recording

    def start(self, plan: Plan, run: Path) -> "ReplayedBox":
        copy = run / "recording.jsonl"
        try:
            shutil.copyfile(self._recording, copy)
            return ReplayedBox(copy)
        except OSError as e:
            raise SurfaceFailed(f"the recording could not be copied: {e}") from e


class ReplayedBox:
    """See `RunningBox`: a box that ended long ago."""

    def __init__(self, recording: Path) -> None:
        self._file = recording.open("rb")
        self._at_end = False

    def read(self) -> bytes:
        data = self._file.read(1 << 20)
        self._at_end = not data
        return data

    def ended(self) -> Ended | None:
        return Ended() if self._at_end else None

    def address(self) -> Address:
        return Address()

    def stop(self, reason: str) -> None:
        """There is nothing to stop."""

    def end(self) -> None:
        """There is nothing to end."""
