"""Owns how long this rank's process groups wait before they give up; must not know who makes them or why they wait.

The box decides first: what a group gets outlasts the limits of the test. While ranks warm up, every group has the time
that a compile may take, also one with a shorter time-out of its own, which it gets back afterwards.

NCCL's monitor ends a process whose watchdog gives no sign of life. torch reads how long that may last from the
environment, once for each group, and offers nothing to change it later (the constructor of HeartbeatMonitor). So groups
have the relaxed heartbeat of the contract until the warm-up of their test is over, and those that are made afterwards a
strict one.
"""

import contextlib
import os
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

from pytest_megacpp.recording.events import Limits
from pytest_megacpp.recording.plan import RELAXED_HEARTBEAT_S

HEARTBEAT = "TORCH_NCCL_HEARTBEAT_TIMEOUT_SEC"
BOX_FIRST_S = 600.0  # a group without a time-out of its own outlasts every limit by this


class _Implied(timedelta):
    """The time-out of a group whose maker named none; `default` is what torch would use."""

    default: timedelta


class Patience:
    """The time-outs of all groups of this process. Not safe for several threads at once."""

    def __init__(self) -> None:
        self._steady = self._warm = timedelta()
        self._warming = self._has_warmed = False
        self._rules_heartbeat = os.environ.get(HEARTBEAT) == str(RELAXED_HEARTBEAT_S)  # else it is the user's
        self._afterwards: dict[Any, timedelta] = {}  # by backend: what it has when the warm-up is over

    def begin(self, limits: Limits) -> None:
        """Begins a test with these limits; groups that stay from the last one get them too."""
        before, self._steady = self._steady, _outlast(limits.skew, limits.stall, limits.test)
        self._warm = max(self._steady, _outlast(limits.compile))
        self._has_warmed = False
        self._set_heartbeat()
        if before != self._steady:
            for backend in _backends():
                if _is(_timeout(backend), before):
                    _give(backend, self._steady)

    def implied(self, default: timedelta) -> timedelta:
        """Returns the time-out for a group that is made without one; `default` is what torch would use."""
        ours = self._warm if self._warming else self._steady
        made = _Implied(seconds=max(default, ours).total_seconds())
        made.default = default
        return made

    def created(self, timeout: timedelta | None) -> None:
        """Takes note of a group that was made with this time-out."""
        if self._warming:
            self._extend(max(timeout.default, self._steady) if isinstance(timeout, _Implied) else timeout)

    @contextlib.contextmanager
    def warming(self) -> Iterator[None]:
        """Extends the time-outs of all groups, within this block, to at least the time that a compile may take."""
        if self._warming:  # a warm-up within a warm-up
            yield
            return
        self._warming = True
        self._set_heartbeat()
        self._extend()
        try:
            yield
        finally:
            self._warming, self._has_warmed = False, True
            self._set_heartbeat()
            for backend in _backends():
                if backend in self._afterwards:
                    _give(backend, self._afterwards[backend])
            self._afterwards.clear()

    def _set_heartbeat(self) -> None:
        """Sets the heartbeat of groups that are made from now on."""
        if self._rules_heartbeat:
            strict_s = int(self._steady.total_seconds())
            is_strict = self._has_warmed and not self._warming and strict_s < RELAXED_HEARTBEAT_S
            os.environ[HEARTBEAT] = str(strict_s if is_strict else RELAXED_HEARTBEAT_S)

    def _extend(self, afterwards: timedelta | None = None) -> None:
        """Extends the time-outs of all groups that aren't extended yet; afterwards they get `afterwards`, or what they
        have.
        """
        for backend in _backends():
            has = _timeout(backend)
            if has is not None and backend not in self._afterwards:
                self._afterwards[backend] = afterwards or has
                _give(backend, max(has, self._warm))


def _outlast(*limits_s: float) -> timedelta:
    return timedelta(seconds=max(limits_s) + BOX_FIRST_S)


def _backends() -> list[Any]:
    """Returns the backends of all groups that this process is a member of."""
    from torch.distributed import distributed_c10d as c10d

    found: dict[Any, None] = {}
    for group in list(c10d._world.pg_map):
        with contextlib.suppress(Exception):  # one without a backend of its own has no time-out either
            found |= {group._get_backend(device): None for device in group._device_types}
    return list(found)


def _timeout(backend: Any) -> timedelta | None:
    return getattr(getattr(backend, "options", None), "_timeout", None)


def _is(timeout: timedelta | None, given: timedelta) -> bool:
    """Returns whether two time-outs are the same: torch 2.14 returns some a millisecond shorter than they were given
    (9000 s: 8999.999 s).
    """
    return timeout is not None and abs(timeout - given) <= timedelta(milliseconds=1)


def _give(backend: Any, timeout: timedelta) -> None:
    with contextlib.suppress(Exception):  # a backend that can't change it keeps what it has
        backend._set_default_timeout(timeout)
