"""Owns one object for all that is equal on the ranks of a run; must not know which facts it comes from.

A thousand ranks collect the same tests and announce the same groups: without this, memory would grow with the number
of ranks times the size of the plan.
"""

from dataclasses import dataclass, field
from typing import TypeVar

from pytest_megacpp.recording.groups import KEPT_GROUPS
from pytest_megacpp.recording.numbers import Numbers

T = TypeVar("T")
KEPT_TEXTS = 262_144  # of what ranks collected, in all worlds; what they have in common counts once


@dataclass(slots=True)
class Interned:
    """Each method returns the first value that was equal to its argument."""

    _texts: dict[tuple[object, ...], tuple[object, ...]] = field(default_factory=dict)
    _texts_kept: int = 0
    _numbers: dict[Numbers, Numbers] = field(default_factory=dict)
    _members: dict[tuple[int, ...], tuple[int, ...]] = field(default_factory=dict)

    def texts(self, texts: tuple[T, ...]) -> tuple[T, ...] | None:
        """Returns None when these would be more than is kept."""
        known = self._texts.get(texts)
        if known is not None:
            return known  # type: ignore[return-value]  # equal, so of the same types
        if self._texts_kept + len(texts) > KEPT_TEXTS:
            return None
        self._texts_kept += len(texts)
        self._texts[texts] = texts
        return texts

    def numbers(self, numbers: Numbers) -> Numbers:
        return self._numbers.setdefault(numbers, numbers)

    def members(self, ranks: tuple[int, ...], world_size: int) -> tuple[int, ...]:
        """The ranks of that list which a world of this size has, each once."""
        members = tuple(dict.fromkeys(r for r in ranks if 0 <= r < world_size))
        if len(self._members) >= KEPT_GROUPS:
            self._members.clear()
        return self._members.setdefault(members, members)
