"""Owns asking a box that no desk follows, on behalf of a command; must not know what it is asked."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path

from pytest_megacpp.desk.commands.command import CannotDo, Desk
from pytest_megacpp.desk.commands.runs import Entry
from pytest_megacpp.desk.run.directory import RECORDING
from pytest_megacpp.recording.commands import Word
from pytest_megacpp.surfaces.protocol import SurfaceFailed
from pytest_megacpp.surfaces.registry import SURFACES, provider

QUIET_S = 1.0  # after which a recording that is fetched is up to date
REACH_S = 60.0  # for a box to be reached, and its recording to be read


class Asking:
    """A connection to the box of a detached run, whose recording comes into the directory `into`."""

    def __init__(self, desk: Desk, entry: Entry, into: Path) -> None:
        self._desk = desk
        self._entry = entry
        self._recording = into / RECORDING
        self._into = into
        self._began_s = self._grew_s = time.monotonic()
        self._bytes = 0

    def visit(self, words: Sequence[Word], is_over: Callable[[], bool]) -> bool:
        """See `Attaching.visit`. Raises CannotDo."""
        surface, run_id = self._entry.text("surface"), self._entry.path.name
        attaching = provider(surface).attaching if surface in SURFACES else None
        if attaching is None:
            return False
        try:
            return attaching.visit(self._desk.configured(surface), run_id, self._into, words, is_over)
        except SurfaceFailed as error:
            raise CannotDo(f"the box of run {run_id} can't be asked: {error}") from error

    @property
    def is_up_to_date(self) -> bool:
        """Whether the recording was fetched and hasn't grown for a moment, or could not be in time."""
        now_s = time.monotonic()
        size = self._recording.stat().st_size if self._recording.exists() else 0
        if size != self._bytes:
            self._bytes, self._grew_s = size, now_s
        return (size > 0 and now_s - self._grew_s > QUIET_S) or now_s - self._began_s > REACH_S
