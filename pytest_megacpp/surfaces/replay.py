"""Owns a recording in place of a box; must not start anything, nor read it: who replays a run has read it before."""

import shutil
from pathlib import Path

from pytest_megacpp.recording.commands import Word
from pytest_megacpp.recording.plan import Plan
from pytest_megacpp.recording.vocabulary import RunEnd
from pytest_megacpp.surfaces.protocol import Address, Ended, SurfaceFailed


class ReplaySurface:
    """See `Surface`: every plan gets the same recording, of which the run keeps a copy."""

    def __init__(self, recording: Path) -> None:
        self._recording = recording

    def start(self, plan: Plan, run: Path) -> "ReplayedBox":
        copy = run / "recording.jsonl"
        try:
            shutil.copyfile(self._recording, copy)
        except OSError as e:
            raise SurfaceFailed(f"the recording could not be copied: {e}") from e
        return ReplayedBox()


class ReplayedBox:
    """See `RunningBox`: a box that ended long ago."""

    def read(self) -> bytes:
        return b""

    def ended(self) -> Ended | None:
        return Ended()

    def address(self) -> Address:
        return Address()

    def say(self, word: Word) -> None:
        """Does nothing: the box has ended."""

    def stop(self, reason: RunEnd, why: str = "") -> None:
        """Does nothing: the box has ended."""

    def end(self) -> None:
        """Does nothing: the box has ended."""
