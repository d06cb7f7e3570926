"""Owns what a machine on which no box can run says when it is asked for one; must not know where else boxes run.

A box is made of what Linux has (/proc, subreapers, parent-death signals): macOS and Windows are desks only. WSL is a
Linux machine.
"""

import sys
from collections.abc import Iterator

import pytest

from pytest_megacpp.surfaces.registry import AUTO, HERE, SURFACES

_SYSTEMS = {"darwin": "macOS", "win32": "Windows"}


def refuse(surface: str) -> None:
    """Raises UsageError with the next step where this machine can't run a box; `surface` is what was asked for."""
    if sys.platform == "linux":
        return
    asked = f"--surface {surface}"
    why = f"{asked} finds no other surface that is ready, and" if surface == AUTO else f"{asked}:"
    raise pytest.UsageError(f"{why} {_what_is_here()}. {_next_step()}")


def _what_is_here() -> str:
    return f"this machine runs {_SYSTEMS.get(sys.platform, sys.platform)}, and a box takes Linux"


def _next_step() -> str:
    named = " or ".join(f"--surface {name}" for name in SURFACES if name != HERE)
    looks = " or ".join(f"megacpp doctor --surface {name}" for name in SURFACES if name != HERE)
    return f"Run it elsewhere with {named} ({looks} says what that needs), or start pytest on a Linux machine"


class NoBoxHere:
    """See `Examination`: of a machine that is a desk only."""

    ready = False

    def lines(self) -> Iterator[str]:
        yield "wrong or missing"
        yield f"  no lane can run here: {_what_is_here()}"
        yield f"  {_next_step()}"
        yield ""
        yield "everything else works here: collecting, --surface elsewhere, --attach, --replay, and megacpp on runs"
