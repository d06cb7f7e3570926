"""Owns how long this rank's process groups wait before they give up; must not know who makes them or why they wait.

The box decides first: what a group gets outlasts the limits of the test. While ranks warm up, every group has the time
that a compile may take, also one with a shorter time-out of its own, which it gets back afterwards.
"""

import contextlib
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

from pytest_megacpp.recording.events import Limits

BOX_FIRST_S = 600.0  # a group without a time-out of its own outlasts every limit by this


class _Implied(timedelta):
    """The time-out of a group whose maker named none; torch's own would be `default`."""

    default: timedelta


class Patience:
    """Time-outs of all groups of this process. Not for several threads at once."""

    def __init__(self) -> None:
        self._steady = self._warm = timedelta()
        self._warming = False
        self._afterwards: dict[Any, timedelta] = {}  # by backend: what it has when the warm-up is over

    def begin(self, limits: Limits) -> None:
        """A test with these limits begins; groups that stay from the last one follow."""
        before, self._steady = self._steady, _outlast(limits.skew, limits.stall, limits.test)
        self._warm = max(self._steady, _outlast(limits.compile))
        if before != self._steady:
            for backend in _backends():
                if _timeout(backend) == before:
                    _give(backend, self._steady)

    def implied(self, default: timedelta) -> timedelta:
        """The time-out of a group that is made without one, torch's own being `default`."""
        ours = self._warm if self._warming else self._steady
        made = _Implied(seconds=max(default, ours).total_seconds())
        made.default = default
        return made

    def created(self, timeout: timedelta | None) -> None:
        """A group was made with this time-out."""
        if self._warming:
            self._extend(max(timeout.default, self._steady) if isinstance(timeout, _Implied) else timeout)

    @contextlib.contextmanager
    def warming(self) -> Iterator[None]:
        """While it lasts, every group has at least the time that a compile may take."""
        if self._warming:  # a warm-up within a warm-up
            yield
            return
        self._warming = True
        self._extend()
        try:
            yield
        finally:
            self._warming = False
            for backend in _backends():
                if backend in self._afterwards:
                    _give(backend, self._afterwards[backend])
            self._afterwards.clear()

    def _extend(self, afterwards: timedelta | None = None) -> None:
        """All that aren't extended yet; `afterwards` they get this, or what they have."""
        for backend in _backends():
            has = _timeout(backend)
            if has is not None and backend not in self._afterwards:
                self._afterwards[backend] = afterwards or has
                _give(backend, max(has, self._warm))


def _outlast(*limits_s: float) -> timedelta:
    return timedelta(seconds=max(limits_s) + BOX_FIRST_S)


def _backends() -> list[Any]:
    """Those of all groups that this process is a member of."""
    from torch.distributed import distributed_c10d as c10d

    found: dict[Any, None] = {}
    for group in list(c10d._world.pg_map):
        with contextlib.suppress(Exception):  # one without a backend of its own has no time-out either
            found |= {group._get_backend(device): None for device in group._device_types}
    return list(found)


def _timeout(backend: Any) -> timedelta | None:
    return getattr(getattr(backend, "options", None), "_timeout", None)


def _give(backend: Any, timeout: timedelta) -> None:
    with contextlib.suppress(Exception):  # a backend that can't change it keeps what it has
        backend._set_default_timeout(timeout)
