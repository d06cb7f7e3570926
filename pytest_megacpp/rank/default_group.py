"""Owns whether a rank's default process group stays from one test to the next; must not know who makes other groups.

Every test has a TCPStore of its own (decision 0001). A group that the plugin made may serve the next test where every
rank left it provably clean; one that a fixture made stays with its fixture; any other is dropped.
"""

import contextlib
import os

from pytest_megacpp.rank.observers import Counters, Observers
from pytest_megacpp.rank.torch_state import group_exists
from pytest_megacpp.recording.plan import Go


class DefaultGroup:
    """The default process group of this process, if there is one."""

    def __init__(self, observers: Observers) -> None:
        self._observers = observers
        self._is_ours = False  # the plugin made it
        self._leaked = False  # a test made it and left it behind
        self._existed_before_call = False
        self._groups_at_start = 0

    def prepare(self, go: Go) -> None:
        """Drops the group of an earlier test, unless it is the plugin's and the box lets it stay."""
        if self._leaked or (self._is_ours and not go.keep_group):
            self._drop()
        os.environ["MASTER_PORT"] = str(go.store_port)

    def _drop(self) -> None:
        self._is_ours = self._leaked = False
        if group_exists():
            with contextlib.suppress(Exception):
                import torch.distributed as dist

                dist.destroy_process_group()

    def made_by_plugin(self) -> None:
        """Takes note that the lane handle has just made it."""
        self._is_ours = True
        self._groups_at_start = self._observers.groups_created

    def before_call(self) -> None:
        """Takes note of whether it exists as a test's body begins: then a fixture made it."""
        self._existed_before_call = group_exists()

    def after_test(self, counted: Counters) -> tuple[bool, bool]:
        """Returns (clean, foreign): whether the plugin's own group can serve the next test, and whether a fixture's
        group stays.
        """
        if not group_exists():
            self._is_ours = False
            return False, False
        if not self._is_ours:
            self._leaked = not self._existed_before_call
            return False, not self._leaked
        alone = self._observers.groups_created == self._groups_at_start
        return alone and nothing_in_flight(counted), False


def nothing_in_flight(counted: Counters) -> bool:
    """Returns whether all collectives that were entered are complete."""
    return all(entered == completed for entered, completed in counted.values())
