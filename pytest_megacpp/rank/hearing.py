"""Owns of which process groups the newest collective is known to have succeeded, because whoever issued it heard so;
must not know recorders or digests.

gloo's recorder calls a collective that failed complete. So success counts only where it was said: by `Work.wait`, or by
`Work.is_success`. What C++ issues (DDP's reducer, functional collectives) passes through no Python, and isn't heard.
Threads may issue and wait at once: what one overwrites of another's can only make less known.
"""

from dataclasses import dataclass, field
from typing import Any
from weakref import WeakKeyDictionary

from pytest_megacpp.rank.known_calls import LEFT_TO_THE_RING, MESSAGES


@dataclass(slots=True)
class _Group:
    """One life of a process group."""

    issued: int = 0  # collectives that Python issued
    heard: int = 0  # the newest of them of which success was heard
    several: bool = False  # a call may have been any number of collectives
    open: set[int] = field(default_factory=set)  # those that were open when the test last asked


_UNKNOWN = _Group(), 0


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
        one, number = self._known(work)
        one.open.discard(number)
        if number and number == one.issued:
            one.heard = number

    def polled(self, work: Any, is_over: bool) -> None:
        """The test asked whether a collective is over here. That it is doesn't say that it succeeded."""
        one, number = self._known(work)
        if is_over:
            one.open.discard(number)
        elif number:
            one.open.add(number)

    @property
    def saw_open(self) -> bool:
        """Whether the test saw a collective open, and didn't see it end."""
        return any(one.open for one in list(self._groups.values()))

    def _known(self, work: Any) -> tuple[_Group, int]:
        try:
            return self._works.get(work, _UNKNOWN)
        except Exception:  # a user's own class of works may be unlike others: it was not issued here
            return _UNKNOWN

    def of(self, name: str, count: int) -> bool:
        """Whether the newest of the group's `count` collectives is known to have succeeded."""
        one = self._groups.get(name)
        return one is not None and not one.several and one.heard == one.issued == count
