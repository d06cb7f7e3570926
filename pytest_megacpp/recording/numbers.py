"""Owns sets of test numbers that take little space, in memory and as JSON; must not know what is numbered.

What a rank collected is nearly always the whole plan: one span, however many tests that is. A few bytes can also name
a set of billions, so a set is asked about a number and never listed.
"""

from array import array
from bisect import bisect_right
from collections.abc import Iterable
from typing import TypeAlias

Span: TypeAlias = tuple[int, int]  # first and last number
MAX_NUMBER = (1 << 32) - 1
_WORTH_A_SPAN = 3  # `[4,6]` is no longer than `4,5,6`


class Numbers:
    """An immutable set of whole numbers from 0 to MAX_NUMBER. Raises ValueError when it is made of others."""

    __slots__ = ("_firsts", "_lasts")

    def __init__(self, numbers: Iterable[int] = (), spans: Iterable[Span] = ()) -> None:
        joined = _joined([*((n, n) for n in numbers), *spans])
        try:
            self._firsts = array("I", [first for first, _ in joined])
            self._lasts = array("I", [last for _, last in joined])
        except OverflowError:
            raise ValueError(f"a number is not from 0 to {MAX_NUMBER}") from None

    def __contains__(self, number: int) -> bool:
        at = bisect_right(self._firsts, number) - 1
        return at >= 0 and number <= self._lasts[at]

    def __len__(self) -> int:
        return sum(self._lasts) - sum(self._firsts) + len(self._firsts)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Numbers):
            return NotImplemented
        return self._firsts == other._firsts and self._lasts == other._lasts

    def __hash__(self) -> int:
        return hash((self._firsts.tobytes(), self._lasts.tobytes()))

    def __repr__(self) -> str:
        return f"Numbers.from_json({self.to_json()})"

    def to_json(self) -> list[int | list[int]]:
        """`[0, 1, [4, 9]]`: numbers, and the first and last of many in a row."""
        spans: list[int | list[int]] = []
        for first, last in zip(self._firsts, self._lasts, strict=True):
            spans += [[first, last]] if last - first + 1 >= _WORTH_A_SPAN else range(first, last + 1)
        return spans

    @classmethod
    def from_json(cls, value: object) -> "Numbers":
        """Raises ValueError."""
        if not isinstance(value, list):
            raise ValueError(f"expected a list, got {type(value).__name__}")
        return cls(spans=map(_span, value))


def _span(value: object) -> Span:
    match value:
        case [first, last] if type(first) is type(last) is int and first <= last:
            return first, last
        case _ if type(value) is int:
            return value, value
    raise ValueError("expected a number, or the first and last of some")


def _joined(spans: list[Span]) -> list[Span]:
    """In order, those that touch made one."""
    joined: list[Span] = []
    for first, last in sorted(spans):
        if joined and first <= joined[-1][1] + 1:
            joined[-1] = joined[-1][0], max(last, joined[-1][1])
        else:
            joined.append((first, last))
    return joined


NO_NUMBERS = Numbers()
