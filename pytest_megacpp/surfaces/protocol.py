"""Owns what a surface is: something that runs a box somewhere and hands its recording over; must not know any."""

from pathlib import Path
from typing import Protocol

from pytest_megacpp.recording.plan import Plan


class RunningBox(Protocol):
    """A box at work. No method blocks for long, `end` excepted, which has a deadline of its own."""

    def read(self) -> bytes:
        """What came of the recording since the last call; may be empty."""

    def ended(self) -> str | None:
        """None while the box runs; else its last words, possibly empty. Read once more afterwards."""

    def stop(self, reason: str) -> None:
        """Asks the box to end in order."""

    def end(self) -> None:
        """Makes sure that nothing of the box is left; what it recorded can still be read."""


class Surface(Protocol):
    """Where boxes run."""

    def start(self, plan: Plan, run: Path) -> RunningBox:
        """Starts the plan; `run` is the run's directory at the desk. Raises SurfaceFailed."""


class SurfaceFailed(Exception):
    """The surface could not start a box; the text says why and how to mend it."""
