"""Owns what a rank says of all collectives that it issued, in few characters, so that ranks can be compared; must not
know recorders, worlds or blame.

A digest of a group is one of several stretches of its numbers, `1-1023:5f3a… 1024-1203:77c1…`. Where stretches end is
the same on every member: they get longer with the numbers, so that a million collectives make a hundred of them. What a
rank lost of its own recorder ends the stretch that it belongs to, which is left out then: the others can still be
compared. Where the newest collectives may not have completed (they are open, one of the test has failed, or nobody
heard what became of them), the digest also has what the stretch was before them, `1-4:77c1…|1-3:5f3a…`: a peer that
never issued them agrees with that. `?` stands for what is left out: a peer that is still shorter can't be compared.
"""

import hashlib
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

SHORTEST = 1024  # numbers
_SHORT_ONES = 5  # so many doublings of SHORTEST are cut into stretches of it
_PRIME = (1 << 61) - 1
KEPT_TAILS = 64  # of a group; as many collectives as a recorder keeps
KEPT_UNHEARD = 8  # where nothing is known to have failed or to be open: that is common (decision 0083)
TAILS_OF_ALL = 1024  # written at once, of about 25 characters each; a line has a million
CUT = "?"  # behind the tails that are written: there were more
OPEN = "|"  # before what a stretch was earlier
_BASE = 0x1B873593CC9E2D51 % _PRIME

Issue: TypeAlias = tuple[str, int, int, int]
"""Group, its number in the process, the collective's number, what members must agree on (see `hashed`)."""


def hashed(signature: object) -> int:
    """A hash that is the same in every process, whatever its hash seed."""
    return int.from_bytes(hashlib.blake2s(repr(signature).encode(), digest_size=8).digest()) % _PRIME


@dataclass(slots=True)
class _Group:
    """One life of a group: `pg` is another one when it is made anew under its name."""

    pg: int
    ended: list[str] = field(default_factory=list)  # digests of the stretches that are over
    first: int = 0  # of the open stretch; 0: there is none
    last: int = 0
    until: int = 0  # the last number that may be in it
    value: int = 0
    count: int = 0  # of all that were taken in
    torn: int | None = None  # a number of which a part may be lost
    before: deque[tuple[int, int, int]] = field(default_factory=lambda: deque(maxlen=KEPT_TAILS + 1))
    """Earlier ends of stretches: first and last number, value."""

    def add(self, seq: int, signature: int) -> bool:
        """Takes in one collective; returns whether it could be. Operations that are issued as one have one number."""
        if seq == self.torn:
            return False
        if self.last and not 0 <= seq - self.last <= 1:
            self.tear(seq)
            return False
        if self.first and seq > self.until:
            self.ended.append(self._open())
            self.first = 0
        if not self.first:
            self.first, self.until, self.value = seq, _end_of_stretch(seq), 0
        elif seq != self.last:
            self.before.append((self.first, self.last, self.value))
        self.count += seq != self.last
        self.last, self.value = seq, (self.value * _BASE + signature + 1) % _PRIME
        return True

    def tear(self, seq: int | None) -> None:
        """Entries are lost; `seq` is the first number of which one was seen again."""
        self.first, self.last, self.torn = 0, 0, seq

    def digest(self, complete: int | None = None, doubt: bool = False, kept: int = KEPT_TAILS) -> str:
        """`complete`: the number up to which all are over, if not all are. `doubt`: those that are over may
        have failed. `kept`: so many tails are written.
        """
        ends = [*self.ended, self._open()] if self.first else self.ended
        tails: dict[int, str] = defaultdict(str)
        for number, (first, last, value) in enumerate(reversed(self.before)):
            if not doubt and (complete is None or last < complete):
                break
            if number >= kept:
                tails |= {one: tails[one] + OPEN + CUT for one in map(_first, ends) if one <= first}
                break
            tails[first] += OPEN + _until(first, last, value)
        return " ".join(stretch + tails[_first(stretch)] for stretch in ends)

    def _open(self) -> str:
        return _until(self.first, self.last, self.value)


def _first(stretch: str) -> int:
    return int(stretch.partition("-")[0])


def _until(first: int, last: int, value: int) -> str:
    return f"{first}-{last}:{value:016x}"


def _end_of_stretch(seq: int) -> int:
    size = SHORTEST << (seq // SHORTEST >> _SHORT_ONES).bit_length()
    return (seq // size + 1) * size - 1


class Digests:
    """The digests of all groups in which one rank issued collectives."""

    def __init__(self) -> None:
        self._groups: dict[str, _Group] = {}
        self._torn: set[str] = set()
        self._lossy = False

    def add(self, issues: Iterable[Issue]) -> int:
        """Takes in collectives, in the order of their numbers per group. Returns of how many nothing can be said: also
        of those of a group that wasn't said to end (aborted, say), once another one has its name.
        """
        lost = 0
        for name, pg, seq, signature in issues:
            group = self._groups.get(name)
            if group is None or group.pg != pg:
                lost += group.count if group is not None else 0
                group = self._groups[name] = _Group(pg)
                if self._lossy:
                    self._torn.add(name)
            if self._torn and name in self._torn:
                self._torn.discard(name)
                group.tear(seq)
            lost += not group.add(seq, signature)
        self._lossy = False
        return lost

    def lose(self) -> None:
        """Entries are lost, of whichever groups; the next ones to be seen of each may be half of their number."""
        for group in self._groups.values():
            group.tear(None)
        self._torn.update(self._groups)
        self._lossy = True

    def end(
        self,
        name: str | None = None,
        complete: Callable[[int], int | None] = lambda _: None,
        doubt: Callable[[str, int, int], bool] = lambda *_: False,
    ) -> dict[str, str]:
        """Ends a group, or all of them; returns their digests, by group. `complete` is asked for a group's number: up
        to which collective all are over, None if all are. `doubt` is asked for name, number, and how many collectives
        it has: whether those that are over may have failed.
        """
        ended = [n for n in self._groups if name in (None, n)]
        groups = {n: self._groups.pop(n) for n in ended}
        each = max(1, TAILS_OF_ALL // max(len(groups), 1))
        digests = {n: _digest(g, complete(g.pg), doubt(n, g.pg, g.count), each) for n, g in groups.items()}
        return {n: digest for n, digest in digests.items() if digest}


def _digest(group: _Group, complete: int | None, doubt: bool, most: int) -> str:
    return group.digest(complete, doubt, min(most, KEPT_UNHEARD if complete is None else KEPT_TAILS))


def whole(stretch: str) -> str:
    """What a stretch was in the end."""
    return stretch.partition(OPEN)[0]


def before(stretch: str) -> tuple[str, ...]:
    """What a stretch was in the end, and before its newest collectives."""
    return tuple(stretch.split(OPEN))


def stretches(digest: str) -> Mapping[str, str]:
    """The stretches of a digest, `first-last:hash` with what each was before, by their first number. Before 2026-12 a
    digest was one stretch, and earlier it named no numbers: then there is none.
    """
    return {first: one for one in digest.split() if (first := one.partition("-")[0]) != one}
