"""Owns what a surface is: something that runs a box somewhere and hands its recording over; must not know any."""

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from pytest_megacpp.recording.commands import Word
from pytest_megacpp.recording.events import ProblemFound
from pytest_megacpp.recording.plan import Plan
from pytest_megacpp.recording.vocabulary import RunEnd


@dataclass(frozen=True, slots=True)
class Ended:
    """The box is no more. `problem` is what the surface knows of its end, for a recording that has no end itself."""

    problem: ProblemFound | None = None


@dataclass(frozen=True, slots=True)
class Address:
    """What the surface calls the box; None what it has no name for."""

    app: str | None = None
    sandbox: str | None = None


class RunningBox(Protocol):
    """A box at work. No method blocks for long, `end` excepted, which has a deadline of its own."""

    def read(self) -> bytes:
        """What came of the recording since the last call; may be empty."""

    def ended(self) -> Ended | None:
        """None while the box runs. Read once more afterwards."""

    def address(self) -> Address:
        """As far as it is known by now."""

    def say(self, word: Word) -> None:
        """What the box is to hear, once at least, in order; lost on one that has ended or belongs to another desk."""

    def stop(self, reason: RunEnd) -> None:
        """Asks the box to end in order."""

    def end(self) -> None:
        """Makes sure that nothing of the box is left; what it recorded can still be read."""


class Surface(Protocol):
    """Where boxes run."""

    def start(self, plan: Plan, run: Path) -> RunningBox:
        """Starts the plan; `run` is the run's directory at the desk. Raises SurfaceFailed."""


class SurfaceFailed(Exception):
    """The surface could not start a box; the text says why and how to mend it."""
