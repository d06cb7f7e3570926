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
        self._newest: dict[str, weakref.ref[Any]] = {}  # by group, of which nothing was heard yet
        self._groups: dict[int, str] = {}  # of the works in `_newest`, by their identity

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
        if (before := self._newest.get(name)) is not None and (old := before()) is not None:
            self._groups.pop(id(old), None)
        self._newest[name] = newest
        self._groups[id(work)] = name

    def succeeded(self, work: Any) -> None:
        """A collective has completed here; who waits for a message or an older one tells nothing new."""
        name = self._groups.get(id(work), "")
        newest = self._newest.get(name)
        if newest is not None and newest() is work:
            del self._newest[name], self._groups[id(work)]

    def of(self, name: str, count: int) -> bool:
        """Whether the newest of the group's `count` collectives is known to have succeeded."""
        return name not in self._newest and name not in self._several and self._counts.get(name) == count
