"""Owns of which process groups the newest collective is known to have succeeded, because whoever issued it heard so;
must not know recorders or digests.

gloo's recorder calls a collective that failed complete. So success counts only where it was said: by `Work.wait`, or by
`Work.is_success`. What C++ issues (DDP's reducer, functional collectives) passes through no Python, and isn't heard.
"""

import weakref
from typing import Any

from pytest_megacpp.rank.known_calls import LEFT_TO_THE_RING, MESSAGES


class Hearing:
    """What one rank has heard of its collectives in a test."""

    def __init__(self) -> None:
        self._counts: dict[str, int] = {}  # collectives that Python issued, by group
        self._several: set[str] = set()  # groups in which a call may be any number of collectives
        self._newest: dict[str, tuple[weakref.ref[Any], int]] = {}  # of which nothing was heard yet, and its identity
        self._groups: dict[int, str] = {}  # by that identity, which another object may have by now

    def issued(self, group: Any, method: str, work: Any) -> None:
        """Python has issued a collective, which is on its way."""
        if method in MESSAGES:
            return
        name = str(group.group_name)
        if method in LEFT_TO_THE_RING:
            self._several.add(name)
            return
        newest = weakref.ref(work)  # first: of what has none nothing is ever heard, so it isn't counted
        self._counts[name] = self._counts.get(name, 0) + 1
        self._forget(name)
        self._newest[name] = newest, id(work)
        self._groups[id(work)] = name

    def made(self, name: str) -> None:
        """A group is made, maybe under the name of one that went: it begins again."""
        self._counts.pop(name, None)
        self._several.discard(name)
        self._forget(name)

    def _forget(self, name: str) -> None:
        _, identity = self._newest.pop(name, (None, 0))
        if self._groups.get(identity) == name:
            del self._groups[identity]

    def succeeded(self, work: Any) -> None:
        """A collective has completed here; who waits for a message or an older one tells nothing new."""
        name = self._groups.get(id(work), "")
        newest = self._newest.get(name)
        if newest is not None and newest[0]() is work:
            self._forget(name)

    def of(self, name: str, count: int) -> bool:
        """Whether the newest of the group's `count` collectives is known to have succeeded."""
        return name not in self._newest and name not in self._several and self._counts.get(name) == count
