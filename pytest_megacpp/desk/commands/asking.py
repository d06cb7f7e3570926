"""Owns asking a box that no desk follows, on behalf of a command; must not know what it is asked."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path

from pytest_megacpp.desk.commands.command import CannotDo, Desk
from pytest_megacpp.desk.commands.runs import Entry
from pytest_megacpp.recording.commands import Word
from pytest_megacpp.surfaces.protocol import SurfaceFailed
from pytest_megacpp.surfaces.registry import is_known, provider

REACH_S = 60.0  # for a box to be reached, and its recording to be read


class Asking:
    """A connection to the box of a detached run, whose recording comes into the directory `into`."""

    def __init__(self, desk: Desk, entry: Entry, into: Path) -> None:
        self._desk = desk
        self._entry = entry
        self._into = into
        self._began_s = time.monotonic()
        self._up_to_date_s: float | None = None

    def visit(self, words: Sequence[Word], is_over: Callable[[], bool]) -> bool:
        """See `Attaching.visit`. Raises CannotDo."""
        surface, run_id, tables = self._entry.text("surface"), self._entry.path.name, self._desk.settings
        attaching = provider(surface, tables).attaching if is_known(surface, tables) else None
        if attaching is None:
            return False

        def is_visit_over(is_up_to_date: bool) -> bool:
            if is_up_to_date and self._up_to_date_s is None:
                self._up_to_date_s = time.monotonic()
            return is_over()

        try:
            return attaching.visit(self._desk.configured(surface), run_id, self._into, words, is_visit_over)
        except SurfaceFailed as error:
            raise CannotDo(f"the box of run {run_id} can't be asked: {error}") from error

    def has_waited(self, limit_s: float) -> bool:
        """Whether the box was reached, and all that it had recorded was read, so long ago; or that takes too long."""
        now_s = time.monotonic()
        if self._up_to_date_s is None:
            return now_s - self._began_s > REACH_S
        return now_s - self._up_to_date_s >= limit_s
