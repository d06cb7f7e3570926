"""Owns which versions of packages ranks need; must not ask the machine which it has. Desks look at it too."""

from collections.abc import Mapping

SUPPORTED: Mapping[str, tuple[tuple[int, int], tuple[int, int] | None]] = {
    "pytest": ((8, 2), None),
    "torch": ((2, 11), (3, 0)),
}
"""By package: the oldest version that will do, and the first that is too new to be known."""
