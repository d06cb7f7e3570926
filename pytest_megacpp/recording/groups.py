"""Owns who is in each process group of a test, by the word of the ranks that make it, and where they contradict each
other; must not know collectives, who waits, or blame.

A group is named as `collectives` says. Ranks of a world of their own (docs/decisions/0075) don't know its members as
ranks of the launch: those are known when all have come.
"""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field

from pytest_megacpp.recording.bounded import drop_oldest
from pytest_megacpp.recording.flight import GLOO, without_backend
from pytest_megacpp.recording.ranks import rank_list

KEPT_GROUPS = 512
NOBODY = -1


def is_default(group: str) -> bool:
    """Whether the name is that of the launch's own default group, in any incarnation."""
    return group.partition("@")[0].removesuffix(GLOO) in ("0", "default_pg")


def incarnation(group: str) -> int:
    """How often the default group had been destroyed when this one was made, as far as its name tells."""
    number = group.partition("[")[0].rpartition("@")[2] if "@" in group else "0"
    return int(number) if number.isdecimal() and number.isascii() else 0


@dataclass(frozen=True, slots=True)
class Announced:
    """What a rank said of a group: its members, none where that is everybody, and where it asked for it."""

    ranks: tuple[int, ...] = ()
    at: tuple[str, int] = ("", 0)


@dataclass(frozen=True, slots=True)
class Contradiction:
    """Ranks named different members of a group, first at `since_s`: not just each its own group under one name, but
    some named a rank as member that named others. `lists` holds members and who named these, the most frequent first;
    `odd` are the ranks outside the majority, empty on a tie.
    """

    group: str
    lists: tuple[tuple[frozenset[int], tuple[int, ...]], ...]
    odd: tuple[int, ...]
    since_s: float


@dataclass(slots=True)
class Scoped:
    """What is known of a group in a world that isn't all of the launch: its `name` there, the world's `scope`, how many
    members it is to have (0: nobody knows, so a peer may use another name; -1: no member said so yet), and who is not
    to be one.
    """

    name: str
    scope: str
    size: int = -1
    outside: set[int] = field(default_factory=set)


@dataclass
class Groups:
    """Members of each process group by name, as its members announced them. Equal lists of members are one object: in a
    world of a thousand ranks each rank announces each list.
    """

    world_size: int
    members: dict[str, frozenset[int]] = field(default_factory=dict)
    disputed: dict[str, float] = field(default_factory=dict)  # since when
    everyone: frozenset[int] = field(init=False)
    _announced: dict[str, dict[int, Announced]] = field(default_factory=dict)  # by group and rank
    _once: dict[Announced, Announced] = field(default_factory=dict)
    _scoped: dict[str, Scoped] = field(default_factory=dict)
    _made: dict[str, dict[int, tuple[int, ...]]] = field(default_factory=dict)
    _numbers: dict[str, dict[int, int]] = field(default_factory=dict)  # ranks of a world, by their numbers in it
    _lists: dict[tuple[int, ...], frozenset[int]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.everyone = frozenset(range(self.world_size))

    def announce(
        self,
        name: str,
        ranks: tuple[int, ...],
        by: int | None = None,
        time_s: float = 0.0,
        at: tuple[str, int] = ("", 0),
    ) -> None:
        """Members of group `name`, by the word of one of them; no ranks means everybody. `at`: file and line.
        `disputed` are groups of which two ranks named different members.
        """
        known, announced = self.members.pop(name, None), self._announced.pop(name, {})
        self.members[name] = members = self._set_of(ranks)
        newest = next(reversed(announced), by)
        if newest != by and by is not None and known != members:
            self.disputed.setdefault(name, time_s)
        if by is not None:
            announced.pop(by, None)
            if len(self._once) >= KEPT_GROUPS:
                self._once.clear()
            word = Announced(ranks, at)
            announced[by] = self._once.setdefault(word, word)
        self._announced[name] = announced
        if len(self.members) > KEPT_GROUPS:
            self._forget(next(iter(self.members)))

    def _set_of(self, ranks: tuple[int, ...]) -> frozenset[int]:
        if ranks not in self._lists:
            if len(self._lists) >= KEPT_GROUPS:
                self._lists.clear()
            self._lists[ranks] = frozenset(ranks) & self.everyone or self.everyone
        return self._lists[ranks]

    def join(self, name: str, rank: int, size: int, scoped: Scoped) -> None:
        """`rank` is one of `size` members of a group in a world of its own: they are known when all have said so."""
        self._keep_scoped(name, scoped).size = size
        announced = self._announced.setdefault(name, {})
        announced[rank] = Announced()
        if len(announced) == size:
            self.members[name] = frozenset(announced)
        if len(self._announced) > KEPT_GROUPS:
            self._forget(next(iter(self._announced)))

    def stay_out(self, name: str, rank: int, scoped: Scoped) -> None:
        """`rank` is no member of a group in its world."""
        self._keep_scoped(name, scoped).outside.add(rank)

    def _keep_scoped(self, name: str, scoped: Scoped) -> Scoped:
        """What is known of the group; `scoped` unless something was."""
        scoped = self._scoped.setdefault(name, scoped)
        drop_oldest(self._scoped, KEPT_GROUPS)
        return scoped

    def lacks_members(self, name: str) -> bool:
        """Whether fewer have come to a group in a world of its own than it is to have."""
        name = without_backend(name)
        scoped = self._scoped.get(name)
        if scoped is None or any(other.scope == scoped.scope and not other.size for other in self._scoped.values()):
            return False
        return len(self._announced.get(name, ())) < scoped.size

    def could_be_lacking(self, name: str) -> frozenset[int]:
        """The ranks among which the members are that a group in a world of its own still lacks: the others of its
        world; where these are too few, ranks that are in no other group of this name to which all came; else any.
        Everybody, where nothing is known of the group.
        """
        name = without_backend(name)
        scoped = self._scoped.get(name)
        if scoped is None:
            return self.everyone
        joined = frozenset(self._announced.get(name, ()))
        left = self.everyone - joined - scoped.outside
        fellows = self._came(other_name for other_name, other in self._scoped.items() if other.scope == scoped.scope)
        rivals = (t for t, other in self._scoped.items() if other.name == scoped.name and other.scope != scoped.scope)
        elsewhere = self._came(rival for rival in rivals if rival in self.members)
        least = max(1, scoped.size - len(joined))
        return next((ranks for ranks in (left & fellows, left - elsewhere) if len(ranks) >= least), left)

    def _came(self, names: Iterable[str]) -> frozenset[int]:
        """The ranks that came to these groups."""
        return frozenset(rank for name in names for rank in self._announced.get(name, ()))

    def number(self, name: str, rank: int, number: int) -> None:
        """`rank` says what its number is in a world. Of several that say the same, it is that of the launch's rank of
        this number; where none of them is, nobody's.
        """
        ranks = self._numbers.setdefault(name, {})
        claims = {rank, ranks.get(number, rank)}
        ranks[number] = rank if claims == {rank} else number if number in claims else NOBODY
        drop_oldest(self._numbers, KEPT_GROUPS)

    def in_order(self, name: str, rank: int) -> tuple[int, ...]:
        """The members that `rank` means by this name, in the order of their numbers; empty where that isn't known. In a
        world ranks have the numbers that they give themselves, in other groups those of the list.
        """
        name = without_backend(name)
        if (announced := self.announced(name, rank)) is not None and announced.ranks:
            return announced.ranks
        members, by_number = tuple(sorted(self.of(name, ()))), self._numbers.get(name, {})
        if all(members[number : number + 1] == (rank,) for number, rank in by_number.items()):
            return members
        left = [rank for rank in members if rank not in by_number.values()]
        order = tuple(
            by_number[n] if n in by_number else left.pop()
            for n in range(len(members))
            if n in by_number or len(left) == 1
        )
        return order if sorted(order) == list(members) else ()

    def orders(self, rank: int) -> frozenset[tuple[int, ...]]:
        """The members of each group that `rank` knows, in the order of their numbers, where that is known."""
        return frozenset(self.in_order(name, rank) for name in ("0", *self.members)) - {()}

    def begin(self, name: str, rank: int) -> None:
        """`rank` makes that group, whatever it made under this name before."""
        self._made.get(name, {}).pop(rank, None)

    def made(self, name: str, rank: int, members: tuple[int, ...]) -> None:
        """`rank` is through with making that group, of these members."""
        self._made.setdefault(name, {})[rank] = members
        drop_oldest(self._made, KEPT_GROUPS)

    def made_by(self, name: str, members: tuple[int, ...]) -> frozenset[int]:
        """The ranks that are through with making it of these members."""
        return frozenset(r for r, made in self._made.get(name, {}).items() if made == members)

    def as_named_by(self, rank: int, name: str) -> str:
        """The group that a rank means by a name: where ranks named different members, each list is a group of its own
        (`1[0-2]`).
        """
        if not self.disputes(name):
            return name
        announced = self.announced(name, rank)
        if announced is None or not announced.ranks:
            return name
        own = f"{name}[{rank_list(announced.ranks)}]"
        self.members.setdefault(without_backend(own), self._set_of(announced.ranks))
        return own

    def name_to(self, rank: int, group: str) -> str | None:
        """The name by which a rank knows a group, itself named as `as_named_by` does; None where the rank means other
        members by it.
        """
        listed = group.rpartition("[")[0]
        name = listed if self.disputes(listed) else group
        return name if self.as_named_by(rank, name) == group else None

    def announced(self, name: str, rank: int) -> Announced | None:
        """What `rank` said of the group; None where it said nothing."""
        return self._announced.get(without_backend(name), {}).get(rank)

    def named_by(self, name: str, rank: int) -> frozenset[int] | None:
        """The members that `rank` named; None when it named none of this group at all."""
        announced = self.announced(name, rank)
        return None if announced is None else self._set_of(announced.ranks)

    def contradictions(self) -> tuple[Contradiction, ...]:
        """The groups of which ranks named members that exclude each other; the earliest first."""
        found = [self._contradiction(name, since_s) for name, since_s in self.disputed.items()]
        return tuple(sorted((c for c in found if c is not None), key=lambda c: c.since_s))

    def _contradiction(self, name: str, since_s: float) -> Contradiction | None:
        """Lists that exclude each other can't both be right; the one that more ranks named is."""
        by_list: dict[frozenset[int], list[int]] = defaultdict(list)
        for rank, announced in sorted(self._announced.get(name, {}).items(), key=lambda entry: entry[0]):
            by_list[self._set_of(announced.ranks)].append(rank)
        lists = sorted(by_list.items(), key=lambda entry: (-len(entry[1]), entry[1]))
        odd, tie, right, meant_by = list[int](), False, dict[int, int](), dict[int, list[int]]()
        # `right`: the list that counts for a rank; `meant_by`: the lists that count and have it as a member.
        for number, (members, ranks) in enumerate(lists):
            rivals = {right[r] for r in members if r in right} | {n for r in ranks for n in meant_by.get(r, ())}
            if rivals:
                odd += ranks
                tie |= max(len(lists[n][1]) for n in rivals) == len(ranks)
                continue
            right |= dict.fromkeys(ranks, number)
            for rank in members:
                meant_by.setdefault(rank, []).append(number)
        if not odd:
            return None
        named = tuple((members, tuple(ranks)) for members, ranks in lists)
        return Contradiction(name, named, () if tie else tuple(sorted(odd)), since_s)

    def _forget(self, name: str) -> None:
        self.members.pop(name, None)
        self._announced.pop(name, None)
        self._scoped.pop(name, None)
        self.disputed.pop(name, None)

    def disputes(self, name: str) -> bool:
        return without_backend(name) in self.disputed

    def of(self, name: str, seen: Iterable[int]) -> frozenset[int]:
        """The members; for a group that nobody announced, those seen using it (the default group: everybody)."""
        name = without_backend(name)
        if name in self.members:
            return self.members[name]
        return self.everyone if is_default(name) else frozenset(seen)

    def knows(self, name: str) -> bool:
        """Whether the members are known: they were announced, or the group is the default one."""
        return without_backend(name) in self.members or is_default(name)
