"""Owns of which process groups the newest collective is known to have succeeded, because whoever issued it heard so;
must not know recorders or digests.

gloo's recorder calls a collective that failed complete. So success counts only where it was said: by `Work.wait`, or by
`Work.is_success`. What C++ issues (DDP's reducer, functional collectives) passes through no Python, and isn't heard.
Threads may issue and wait at once: what one overwrites of another's can only make less known.
"""

from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

from pytest_megacpp.rank.known_calls import LEFT_TO_THE_RING, MESSAGES


@dataclass(slots=True)
class _Group:
    """One life of a process group."""

    issued: int = 0  # collectives that Python issued
    heard: int = 0  # the newest of them of which success was heard
    several: bool = False  # a call may have been any number of collectives


class Hearing:
    """What one rank has heard of its collectives in a test."""

    def __init__(self) -> None:
        self._groups: dict[str, _Group] = {}
        self._works: WeakKeyDictionary[Any, tuple[_Group, int]] = WeakKeyDictionary()  # which collective each is

    def issued(self, group: Any, method: str, work: Any) -> None:
        """Python has issued a collective, which is on its way. Raises TypeError for a work that no reference can be
        made to, since nothing is ever heard of it.
        """
        if method in MESSAGES:
            return
        one = self._groups.setdefault(str(group.group_name), _Group())
        if method in LEFT_TO_THE_RING:
            one.several = True
            return
        self._works[work] = one, one.issued + 1
        one.issued += 1

    def made(self, name: str) -> None:
        """A group is made, maybe under the name of one that went: it begins again."""
        self._groups.pop(name, None)

    def succeeded(self, work: Any) -> None:
        """A collective has completed here; who waits for a message or an older one tells nothing new."""
        try:
            one, number = self._works.get(work, (None, 0))
        except Exception:  # a user's own class of works may be unlike others: it was not issued here
            return
        if one is not None and number == one.issued:
            one.heard = number

    def of(self, name: str, count: int) -> bool:
        """Whether the newest of the group's `count` collectives is known to have succeeded."""
        one = self._groups.get(name)
        return one is not None and not one.several and one.heard == one.issued == count
