"""Owns collections that stop growing; must not know what they hold, or how much of it is enough."""

from typing import Any, TypeVar

K = TypeVar("K")
V = TypeVar("V")


def keep(kept: dict[K, V], key: K, value: V, most: int) -> None:
    """Sets `key`, unless it were one too many."""
    if len(kept) < most or key in kept:
        kept[key] = value


def append(kept: list[V], value: V, most: int) -> None:
    """Appends `value`, unless it were one too many."""
    if len(kept) < most:
        kept.append(value)


def newest(kept: list[V], value: V, most: int) -> list[V]:
    """The newest of `kept`, and then `value`."""
    return [*kept[max(0, len(kept) - most + 1) :], value]


def drop_oldest(kept: dict[Any, Any], most: int) -> None:
    """Takes out what was added first, until no more than `most` are left."""
    while len(kept) > most:
        del kept[next(iter(kept))]
