"""Owns what a call of Python's is in the recorder, learned from the recorder: reading an entry costs several times as
much as making the call again; must not know when the recorder is read, or what for.

A call is known by its group, method and tensors. What it was recorded as is learned where the ring holds as many new
entries of a group as there were calls, of one thread, one number each. Later calls like it need no read: where the
counters of all groups rose by just these calls, nothing else can have been issued. Anything that isn't as simple
(messages, coalesced calls, several threads, C++'s own, recorders whose counters number operations of any kind) is left
to the ring.
"""

import itertools
import threading
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch

from pytest_megacpp.recording.flight import HOOKED
from pytest_megacpp.recording.issued import Issue

KEPT = 4096  # different calls
_LISTS = (list, tuple)
MESSAGES = frozenset({"send", "recv", "recv_anysource"})
LEFT_TO_THE_RING = MESSAGES | {"_start_coalescing"}

Place: TypeAlias = tuple[str, int]  # recorder, and the number that a group has there
Call: TypeAlias = tuple[Any, ...]  # group, method, and of each tensor what tells it apart


@dataclass(frozen=True, slots=True)
class Recorded:
    """An entry of this rank; `group` is the name that Python knows it by."""

    place: Place
    group: str
    issue: Issue
    numel: int


class KnownCalls:
    """The calls of one rank since its recorders were last read."""

    def __init__(self) -> None:
        self._calls: list[Call] | None = []
        self._learned: dict[Call, Recorded | None] = {}  # None: it isn't always the same
        self._thread = threading.get_ident()

    def begin(self) -> None:
        """Begins anew: the recorders were read."""
        self._calls = []

    def add(self, group: Any, method: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        """Adds a call that has returned."""
        thread = threading.get_ident()
        if thread != self._thread:
            self._thread, self._calls = thread, None
        elif self._calls is not None:
            call = None if kwargs or method in LEFT_TO_THE_RING else _call(group, method, args)
            if call is None:
                self._calls = None
            else:
                self._calls.append(call)

    def lose(self) -> None:
        """Takes note that something else was issued."""
        self._calls = None

    def issued(self, before: Mapping[Place, int], now: Mapping[Place, int]) -> list[Issue] | None:
        """Returns what was issued while the groups' counters rose so; None where only the ring can tell."""
        if self._calls is None:
            return None
        found = [self._learned.get(call) for call in self._calls]
        if None in found:
            return None
        rose = {place: n - before.get(place, 0) for place, n in now.items() if n != before.get(place, 0)}
        if Counter(one.place for one in found if one) != rose:
            return None
        numbers = {place: itertools.count(before.get(place, 0) + 1) for place in rose}
        return [(*one.issue[:2], next(numbers[one.place]), one.issue[3]) for one in found if one]

    def learn(self, entries: Iterable[Recorded], now: Mapping[Place, int]) -> None:
        """Learns what calls look like in the recorders. `entries` are all that are new, by their numbers; `now` the
        counters that were read with them.
        """
        calls: dict[str, list[Call]] = defaultdict(list)
        for call in self._calls or ():
            calls[call[0]].append(call)
        recorded: dict[str, list[Recorded]] = defaultdict(list)
        for one in entries:
            recorded[one.group].append(one)
        for group, made in calls.items():
            if _are(made, recorded[group], now):
                for call, one in zip(made, recorded[group], strict=True):
                    self._learn(call, one)

    def _learn(self, call: Call, one: Recorded) -> None:
        known = self._learned.get(call, one)
        same = known is not None and (known.issue[3] == one.issue[3] or known.place != one.place)
        fits = one.numel in (0, *call[2:][1::2], sum(call[2:][1::2]))
        if len(self._learned) < KEPT or call in self._learned:
            self._learned[call] = one if same and fits else None


def _are(made: Sequence[Call], recorded: Sequence[Recorded], now: Mapping[Place, int]) -> bool:
    """Returns whether calls and entries are the same, one by one."""
    if len(made) != len(recorded) or len({one.place for one in recorded}) != 1 or recorded[0].place[0] in HOOKED:
        return False
    last = now.get(recorded[0].place, 0)
    return [one.issue[2] for one in recorded] == list(range(last - len(made) + 1, last + 1))


def _call(group: Any, method: str, args: Sequence[Any]) -> Call | None:
    signature: list[Any] = [group.group_name, method]
    for arg in args:
        for one in arg if type(arg) in _LISTS else (arg,):
            if isinstance(one, torch.Tensor):
                signature += (one.dtype, one.layout, one.is_cuda), one.numel()
            elif type(one) in _LISTS:  # of tensors, or nobody knows
                return None
    return tuple(signature)
