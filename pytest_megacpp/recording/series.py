"""Owns numbers over time in bounded memory; must not know what they measure or how much of it is enough."""

from array import array
from dataclasses import dataclass, field

MOST = 2.0**63


@dataclass(slots=True)
class Series:
    """A number at growing times in seconds. The first and the newest point are always there, and of those between them
    every `_stride`th: twice as few whenever there are too many.
    """

    _times_s: "array[float]" = field(default_factory=lambda: array("d"))
    _values: "array[float]" = field(default_factory=lambda: array("d"))
    _count: int = 0  # beyond it the arrays, which never shrink, hold nothing
    _added: int = 0
    _stride: int = 1

    def add(self, time_s: float, value: float, most: int) -> None:
        """Adds a point, so that there are no more than `most`, which is at least 2. One that isn't later than the last
        is left out.
        """
        if self._count and time_s <= self._times_s[self._count - 1]:
            return
        if self._added and (self._added - 1) % self._stride:
            self._count -= 1  # the newest was there only as such
        elif self._count >= most:
            self._halve()
        if self._count == len(self._times_s):
            self._times_s.append(0.0)
            self._values.append(0.0)
        self._times_s[self._count], self._values[self._count] = time_s, min(value, MOST)
        self._count += 1
        self._added += 1

    def _halve(self) -> None:
        half = len(range(0, self._count, 2))
        self._times_s[:half] = self._times_s[: self._count : 2]
        self._values[:half] = self._values[: self._count : 2]
        self._count, self._stride = half, 2 * self._stride

    def points(self) -> list[tuple[float, float]]:
        """Times and values, in order."""
        return list(zip(self._times_s[: self._count], self._values[: self._count], strict=True))
