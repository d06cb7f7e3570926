"""Owns what many documents of a run have in common, so that it is made once; must not know documents."""

from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

from pytest_megacpp.recording.events import Json

T = TypeVar("T")
KEPT = 4  # lanes whose tests take turns in a session


class SharedFields(dict[str, Json]):
    """Fields that nobody changes any more, free of secrets. `encoded` keeps what who writes them made of them first."""

    encoded: str | None = None


class Made(Generic[T]):
    """Values with what they were made of, for as long as that is the same: to compare it takes less time than to hash
    it.
    """

    def __init__(self) -> None:
        self._made: deque[tuple[tuple[object, ...], T]] = deque(maxlen=KEPT)

    def of(self, parts: tuple[object, ...], make: Callable[..., T]) -> T:
        """What `make` made of these parts, or of equal ones."""
        for known, value in self._made:
            if known == parts:
                return value
        value = make(*parts)
        self._made.appendleft((parts, value))
        return value
