"""Owns what collectives each rank issued, in which groups, and whether ranks agree; must not know who waits, limits or
blame.

Pure: flight-recorder entries in, frozen findings out. A collective is named by (group, sequence number), and a group by
its world, name, how often the world was left before and how often that name was given before: ranks may be members of
several worlds (default groups) in one launch, whose groups have names in common and nothing else, and torch gives the
name of a destroyed group again. The launch's own world has no name of its own; another one is named by what its members
found in its store (`0~5f3a`). Messages (`p2p`; only NCCL's recorder has them) count
differently on each rank, so `waits` matches them by their partners.
"""

from collections import Counter, defaultdict, deque
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from itertools import islice
from typing import Any, TypeAlias, assert_never

from pytest_megacpp.recording.events import Collective, FlightRecorded, GroupStatus
from pytest_megacpp.recording.flight import GLOO, without_backend
from pytest_megacpp.recording.issued import Digests, hashed, stretches
from pytest_megacpp.recording.ranks import rank_list
from pytest_megacpp.recording.vocabulary import FlightOrigin

Number: TypeAlias = tuple[str, int]  # group and sequence number

KEPT_ENTRIES = 512  # of a rank, in worlds of up to 128
KEPT_IN_ALL = 65_536  # of a test
KEPT_LEAST = 32
KEPT_GROUPS = 512
NOBODY = -1
COMPARED_TAILS = 64  # different digests of a stretch; of more only the whole is compared: each is with each
KEPT_LIVES = 128  # of groups of one name; as many collectives of a rank are looked at when a test ends

# Operations whose ranks must agree on the element count of their input; others may differ by design
# (all_to_all with splits, gather and scatter seen from the root, coalesced and v-variants).
_SAME_INPUT = {
    "all_reduce",
    "allreduce",
    "broadcast",
    "reduce",
    "all_gather",
    "allgather",
    "_all_gather_base",
    "all_gather_into_tensor",
    "reduce_scatter",
    "_reduce_scatter_base",
    "reduce_scatter_tensor",
}


@dataclass(frozen=True, slots=True)
class Life:
    """A group of a rank, from when it began to make it: the `number`th of its name in its `world`."""

    since_s: float
    world: str
    number: int

    @property
    def added(self) -> str:
        """What tells its name from those of others."""
        return f" ({self.number}){self.world}" if self.number > 1 else self.world


@dataclass(slots=True)
class RankCollectives:
    """What one rank did so far in one test; grows by `update`, bounded.

    Group names and numbers restart when the default group is destroyed, so later ones carry an incarnation
    (`0@1`), counted per world. A group that is made again under its name (`4be1 (2)`) starts from 1 as well; an entry
    belongs to the one that was begun last before it. Entries from before `floor_s` belong to an earlier test or
    incarnation. They are kept as they were recorded: whether one is over by now says `is_done`.
    """

    floor_s: float = 0.0
    kept: int = KEPT_ENTRIES
    scope: str = ""
    incarnations: dict[str, int] = field(default_factory=dict)  # by world
    world_since_s: float | None = None  # when it began the default group that it has
    lives: dict[str, list[Life]] = field(default_factory=dict)  # by name
    given: dict[str, int] = field(default_factory=dict)  # names with their worlds: how often
    entries: dict[Number, Collective] = field(default_factory=dict)
    enqueued: dict[str, int] = field(default_factory=dict)
    completed: dict[str, int] = field(default_factory=dict)
    groups: dict[int, str] = field(default_factory=dict)
    unfinished: dict[Number, None] = field(default_factory=dict)  # a set in order
    messages: tuple[Collective, ...] = ()  # open ones, as last seen
    held: bool = False  # the box acted: from now on only its own evidence ends a wait
    changes: int = 0
    changed: deque[Number] = field(init=False)  # newest last

    def __post_init__(self) -> None:
        self.changed = deque(maxlen=self.kept)

    def update(self, seen: FlightRecorded) -> bool:
        """Takes in what was seen; whether a counter rose."""
        if self.held and seen.origin is not FlightOrigin.EVIDENCE:
            seen = replace(seen, entries=tuple(e for e in seen.entries if not self._is_unfinished(e)))
        else:
            self.messages = tuple([self._message(e) for e in seen.entries if e.p2p and self._is_open(e)])
        rose = False
        listed: set[Number] = set()
        for entry in seen.entries:
            if not entry.p2p and entry.entered_s >= self.floor_s:
                key = self._add(entry)
                listed.add(key)
                rose |= _raise_to(self.enqueued, *key)
        for status in seen.status:
            name = self.groups.get(status.pg)
            if name is not None:  # others were used before this test only
                rose |= _raise_to(self.enqueued, name, status.enqueued)
                rose |= _raise_to(self.completed, name, status.completed)
        if seen.origin is FlightOrigin.POLL and not self.held:
            self._close([key for key in self.unfinished if key not in listed], seen.status)
        while len(self.entries) > self.kept:
            self._drop(next(iter(self.entries)))
        _trim(self.groups)
        return rose

    def _is_open(self, message: Collective) -> bool:
        return not message.done and message.entered_s >= self.floor_s

    def _message(self, entry: Collective) -> Collective:
        return replace(entry, group=self.named(entry.group, entry.entered_s))

    def _is_unfinished(self, entry: Collective) -> bool:
        return (self.named(entry.group, entry.entered_s), entry.seq) in self.unfinished

    def _add(self, entry: Collective) -> Number:
        name = self.named(entry.group, entry.entered_s)
        key = name, entry.seq
        known = self.entries.get(key)
        if known is None or (known.op, known.dtype, known.numel_in) != (entry.op, entry.dtype, entry.numel_in):
            self.changes += 1
            self.changed.append(key)
        over = known is not None and known.entered_s == entry.entered_s and key not in self.unfinished
        started = entry.started or (known is not None and known.started and known.entered_s == entry.entered_s)
        as_it_is = name == entry.group and started == entry.started
        self.groups[entry.pg] = name
        self.entries[key] = entry if as_it_is else replace(entry, group=name, started=started)
        if entry.done or over:
            self.unfinished.pop(key, None)
        else:
            self.unfinished[key] = None
        return key

    def _close(self, unlisted: Collection[Number], counted: Iterable[GroupStatus]) -> None:
        """A poll lists all that is unfinished in the groups it counts, so what it leaves out is done."""
        alive = {self.groups.get(status.pg) for status in counted} if unlisted else ()
        for key in unlisted:
            if key[0] in alive:
                del self.unfinished[key]

    def _drop(self, key: Number) -> None:
        del self.entries[key]
        self.unfinished.pop(key, None)

    @property
    def incarnation(self) -> int:
        """How often it left this world before."""
        return self.incarnations.get(self.scope, 0)

    def named(self, group: str, at_s: float = float("inf")) -> str:
        """The name under which all its members know a group that this rank knew as `group` at that time."""
        lives = self.lives.get(group.removesuffix(GLOO))
        if not lives:
            return group + self._of_this_world
        return group + next((life for life in reversed(lives) if life.since_s <= at_s), lives[0]).added

    @property
    def _of_this_world(self) -> str:
        """What is added to names of its groups."""
        name = f"~{self.scope}" if self.scope else ""
        return f"{name}@{self.incarnation}" if self.incarnation else name

    def enter(self, scope: str, time_s: float) -> None:
        """Its groups are those of that world from now on. The one that it was in it has aborted, if not destroyed."""
        if self.world_since_s is not None and self.world_since_s < time_s:
            self.restart(time_s)
        self.world_since_s = time_s
        if len(self.incarnations) < KEPT_GROUPS or scope in self.incarnations:
            self.scope = scope

    def begin(self, name: str, time_s: float, beside: str | None = None) -> None:
        """It makes a group beside its default one; `beside`: which is all of that world."""
        if (known := self.lives.get(name)) and known[-1].since_s == time_s:  # said twice
            return
        world = self._of_this_world if beside is None else f"~{beside}" if beside else ""
        number = self.given[name + world] = self.given.get(name + world, 0) + 1
        before = self.named(name)
        lives = self.lives.pop(name, [])
        if lives and not self.held:  # what is open in it has gone with it
            self.unfinished = {key: None for key in self.unfinished if without_backend(key[0]) != before}
        self.lives[name] = [*lives[1 - KEPT_LIVES :], Life(time_s, world, number)]
        _trim(self.lives)
        _trim(self.given)

    def failed(self, name: str, *, default: bool) -> None:
        """That group was not made: the next one of this name is no other."""
        if default:
            self.world_since_s = None
        elif lives := self.lives.get(name):
            life = lives.pop()
            self.given[name + life.world] = life.number - 1

    def restart(self, time_s: float) -> None:
        """The default group was destroyed at `time_s`."""
        self.floor_s, self.messages = time_s, ()
        self.incarnations[self.scope] = self.incarnation + 1
        self.scope, self.world_since_s = "", None
        self.groups.clear()
        self.lives.clear()
        if not self.held:
            self.unfinished.clear()

    def changed_since(self, changes: int) -> Iterable[Number]:
        """What was issued since `changes` was so high."""
        return islice(reversed(self.changed), max(0, self.changes - changes))

    def is_done(self, entry: Collective) -> bool:
        """Whether one of `entries` is over by now."""
        return (entry.group, entry.seq) not in self.unfinished

    def pending(self) -> tuple[Collective, ...]:
        """Entered and not finished, oldest first."""
        return tuple(sorted((self.entries[key] for key in self.unfinished), key=lambda e: e.entered_s))

    def last(self, until_s: float = float("inf")) -> Collective | None:
        """The newest that it had entered by then."""
        entries = (e for e in self.entries.values() if e.entered_s <= until_s)
        return max(entries, key=lambda e: (e.entered_s, e.seq), default=None)


def _trim(kept: dict[Any, Any]) -> None:
    """The oldest go, beyond as many groups as are kept."""
    while len(kept) > KEPT_GROUPS:
        del kept[next(iter(kept))]


def _raise_to(counts: dict[str, int], group: str, count: int) -> bool:
    """Counters only grow; of too many groups the ones that were not heard of for longest are forgotten. Whether
    anything is new.
    """
    known = counts.pop(group, None)
    counts[group] = now = max(known or 0, count)
    if len(counts) > KEPT_GROUPS:
        del counts[next(iter(counts))]
    return now != known


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
    """What is told of a group in a world that isn't all of the launch: its `name` there, the world's `scope`, how many
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
            announced[by] = self._once.setdefault(told := Announced(ranks, at), told)
        self._announced[name] = announced
        if len(self.members) > KEPT_GROUPS:
            self._forget(next(iter(self.members)))

    def _set_of(self, ranks: tuple[int, ...]) -> frozenset[int]:
        if ranks not in self._lists:
            if len(self._lists) >= KEPT_GROUPS:
                self._lists.clear()
            self._lists[ranks] = frozenset(ranks) & self.everyone or self.everyone
        return self._lists[ranks]

    def join(self, name: str, rank: int, size: int, told: Scoped) -> None:
        """`rank` is one of `size` members of a group in a world of its own: they are known when all have said so."""
        self._tell(name, told).size = size
        announced = self._announced.setdefault(name, {})
        announced[rank] = Announced()
        if len(announced) == size:
            self.members[name] = frozenset(announced)
        if len(self._announced) > KEPT_GROUPS:
            self._forget(next(iter(self._announced)))

    def stay_out(self, name: str, rank: int, told: Scoped) -> None:
        """`rank` is no member of a group in its world."""
        self._tell(name, told).outside.add(rank)

    def _tell(self, name: str, told: Scoped) -> Scoped:
        scoped = self._scoped.setdefault(name, told)
        _trim(self._scoped)
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
        Everybody, where nothing is told of the group.
        """
        name = without_backend(name)
        scoped = self._scoped.get(name)
        if scoped is None:
            return self.everyone
        joined = frozenset(self._announced.get(name, ()))
        left = self.everyone - joined - scoped.outside
        fellows = self._came(told for told, other in self._scoped.items() if other.scope == scoped.scope)
        rivals = (t for t, other in self._scoped.items() if other.name == scoped.name and other.scope != scoped.scope)
        elsewhere = self._came(told for told in rivals if told in self.members)
        least = max(1, scoped.size - len(joined))
        return next((ranks for ranks in (left & fellows, left - elsewhere) if len(ranks) >= least), left)

    def _came(self, names: Iterable[str]) -> frozenset[int]:
        """The ranks that came to these groups."""
        return frozenset(rank for name in names for rank in self._announced.get(name, ()))

    def number(self, name: str, rank: int, number: int) -> None:
        """`rank` says what its number is in a world. Of several that say the same, it is that of the launch's rank of
        this number; where none of them is, nobody's.
        """
        told = self._numbers.setdefault(name, {})
        claims = {rank, told.get(number, rank)}
        told[number] = rank if claims == {rank} else number if number in claims else NOBODY
        _trim(self._numbers)

    def in_order(self, name: str, rank: int) -> tuple[int, ...]:
        """The members that `rank` means by this name, in the order of their numbers; empty where that isn't known. In a
        world ranks have the numbers that they give themselves, in other groups those of the list.
        """
        name = without_backend(name)
        if (announced := self.announced(name, rank)) is not None and announced.ranks:
            return announced.ranks
        members, told = tuple(sorted(self.of(name, ()))), self._numbers.get(name, {})
        if all(members[number : number + 1] == (rank,) for number, rank in told.items()):
            return members
        left = [rank for rank in members if rank not in told.values()]
        order = tuple(told[n] if n in told else left.pop() for n in range(len(members)) if n in told or len(left) == 1)
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
        _trim(self._made)

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

    def announced(self, name: str, rank: int) -> Announced | None:
        """What `rank` said of it."""
        return self._announced.get(without_backend(name), {}).get(rank)

    def named_by(self, name: str, rank: int) -> frozenset[int] | None:
        """The members that `rank` named; None when it named none of this group at all."""
        announced = self.announced(name, rank)
        return None if announced is None else self._set_of(announced.ranks)

    def contradictions(self) -> tuple[Contradiction, ...]:
        """The earliest first."""
        found = [self._contradiction(name, since_s) for name, since_s in self.disputed.items()]
        return tuple(sorted((c for c in found if c is not None), key=lambda c: c.since_s))

    def _contradiction(self, name: str, since_s: float) -> Contradiction | None:
        """Lists that exclude each other can't both be right; the one that more ranks named is."""
        by_list: dict[frozenset[int], list[int]] = defaultdict(list)
        for rank, announced in sorted(self._announced.get(name, {}).items(), key=lambda entry: entry[0]):
            by_list[self._set_of(announced.ranks)].append(rank)
        lists = sorted(by_list.items(), key=lambda entry: (-len(entry[1]), entry[1]))
        odd, tie, right, meant_by = list[int](), False, dict[int, int](), dict[int, list[int]]()
        # `right`: which list stands for a rank; `meant_by`: the standing lists that it is in.
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
        told = tuple((members, tuple(ranks)) for members, ranks in lists)
        return Contradiction(name, told, () if tie else tuple(sorted(odd)), since_s)

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
        """Whether the members were told, or are known as everybody is."""
        return without_backend(name) in self.members or is_default(name)


class Aspect(StrEnum):
    """In what collectives differ that ranks issued under one number."""

    OPERATION = "operation"
    DTYPE = "dtype"
    SIZE = "size"

    def of(self, entry: Collective) -> object:
        """What a rank issued, as far as this goes."""
        match self:
            case Aspect.OPERATION:
                return bare_op(entry.op)
            case Aspect.DTYPE:
                return entry.dtype
            case Aspect.SIZE:
                return entry.numel_in
            case _:
                assert_never(self)


@dataclass(frozen=True, slots=True)
class Disagreement:
    """Ranks issued different collectives under one number. `variants` maps a description to its ranks.

    `odd` holds the ranks outside the majority, empty on a tie.
    """

    group: str
    seq: int
    aspect: Aspect
    variants: tuple[tuple[str, tuple[int, ...]], ...]
    odd: tuple[int, ...]


def kept_entries(ranks: int) -> int:
    """How many collectives of each of so many ranks are remembered: memory is bounded for all of them together."""
    return min(KEPT_ENTRIES, max(KEPT_LEAST, KEPT_IN_ALL // ranks))


def is_default(group: str) -> bool:
    """Whether the name is that of the launch's own default group, in any incarnation."""
    return group.partition("@")[0].removesuffix(GLOO) in ("0", "default_pg")


def incarnation(group: str) -> int:
    """How often the default group had been destroyed when this one was made, as far as its name tells."""
    number = group.rpartition("@")[2] if "@" in group else "0"
    return int(number) if number.isdecimal() and number.isascii() else 0


def bare_op(op: str) -> str:
    """`gloo:all_reduce` → `all_reduce`."""
    return op.rsplit(":", 1)[-1]


def disagreements(
    ranks: Mapping[int, RankCollectives], groups: Groups, among: set[Number] | None = None
) -> tuple[Disagreement, ...]:
    """Numbers under which members of a group issued different operations, dtypes or sizes; the lowest number per group
    first. Groups whose members aren't known are left out. `among`: only these numbers are looked at.
    """
    table: dict[Number, dict[int, Collective]] = defaultdict(dict)
    for rank, seen in ranks.items():
        for group, seq in seen.entries if among is None else among & seen.entries.keys():
            own = groups.as_named_by(rank, group)
            if groups.knows(own) and rank in groups.of(own, ()):
                table[own, seq][rank] = seen.entries[group, seq]
    found = []
    for key in sorted(table):
        aspect = _aspect(table[key].values())
        if aspect:
            found.append(_disagreement(key, aspect, table[key]))
    return tuple(found)


def _signature(entry: Collective) -> tuple[str, str, int]:
    return signature(entry.op, entry.dtype, entry.numel_in)


def signature(op: str, dtype: str, numel_in: int) -> tuple[str, str, int]:
    """What members of a group must agree on: operation, and for most of them dtype and elements."""
    op = bare_op(op)
    return (op, dtype, numel_in) if op in _SAME_INPUT else (op, "", 0)


def _aspect(entries: Iterable[Collective]) -> Aspect | None:
    """The first in which they differ."""
    ops, dtypes, sizes = (set(part) for part in zip(*map(_signature, entries), strict=True))
    if len(ops) > 1:
        return Aspect.OPERATION
    return Aspect.DTYPE if len(dtypes) > 1 else Aspect.SIZE if len(sizes) > 1 else None


def digests(entries: Iterable[Collective]) -> dict[str, str]:
    """Per group, what `disagreements` would compare, in few characters (see `issued`). Of several groups that had one
    name after each other only the newest counts.
    """
    found = Digests()
    found.add(
        (e.group, e.pg, e.seq, hashed(_signature(e))) for e in sorted(entries, key=lambda e: (e.pg, e.seq)) if not e.p2p
    )
    return found.end()


def differing(
    told: Mapping[int, Mapping[str, str]], groups: Groups
) -> tuple[tuple[str, str, dict[str, tuple[int, ...]]], ...]:
    """Groups whose members have different `digests` from one number on: (group, that number, ranks by what each issued
    up to where its stretch ends). Groups whose members aren't known are left out.
    """
    found: dict[tuple[str, str], dict[int, str]] = defaultdict(dict)
    for group, by_rank in _by_group(told, groups).items():
        for rank, its in by_rank.items():
            if groups.knows(group) and rank in groups.of(group, ()):
                for first, stretch in its.items():
                    found[group, first][rank] = stretch
    compared = ((*number, _variants(its)) for number, its in sorted(found.items()))
    return tuple(one for one in compared if len(one[2]) > 1)


def uncompared(told: Mapping[int, Mapping[str, str]], groups: Groups) -> tuple[str, ...]:
    """Groups of which `differing` says nothing, or not all: nobody knows the members, one has no digest of the same
    stretches, or ranks agree only in what completed.
    """
    return tuple(
        sorted(
            group
            for group, by_rank in _by_group(told, groups).items()
            if not groups.knows(group) or not _all_equal(by_rank.get(rank, {}) for rank in groups.of(group, ()))
        )
    )


def _by_group(told: Mapping[int, Mapping[str, str]], groups: Groups) -> dict[str, dict[int, Mapping[str, str]]]:
    """The stretches of each rank."""
    found: dict[str, dict[int, Mapping[str, str]]] = defaultdict(dict)
    for rank in sorted(told):
        for group, digest in told[rank].items():
            if its := stretches(digest):  # the oldest recordings have others
                found[groups.as_named_by(rank, group)][rank] = its
    return found


def _all_equal(told: Iterable[Mapping[str, str]]) -> bool:
    """Whether members tell of the same stretches, and the same of each."""
    return len({tuple((first, its.partition("|")[0]) for first, its in one.items()) for one in told}) < 2


def _variants(told: Mapping[int, str]) -> dict[str, tuple[int, ...]]:
    """Ranks by what they issued in one stretch. Those belong together that agree with each other, or with a third."""
    ranks: dict[str, list[int]] = defaultdict(list)
    few = len(set(told.values())) <= COMPARED_TAILS
    for rank, stretch in told.items():
        ranks[stretch if few else stretch.partition("|")[0]].append(rank)
    left, found = list(ranks), dict[str, tuple[int, ...]]()
    while left:
        alike = [left.pop(0)]
        for one in alike if any("|" in stretch for stretch in ranks) else ():
            alike += (more := [other for other in left if _agree(one.split("|"), other.split("|"))])
            left = [other for other in left if other not in more]
        found[alike[0].partition("|")[0]] = tuple(sorted(rank for one in alike for rank in ranks[one]))
    return found


def _agree(ours: Sequence[str], theirs: Sequence[str]) -> bool:
    """Whether one is what the other was before collectives that may not have completed."""
    return ours[0] in theirs or theirs[0] in ours


def describe(entry: Collective) -> str:
    """`all_reduce(Float [[8]])`."""
    inner = " ".join(part for part in (entry.dtype, entry.sizes) if part)
    return f"{bare_op(entry.op)}({inner})"


def _disagreement(key: Number, aspect: Aspect, entries: Mapping[int, Collective]) -> Disagreement:
    votes = Counter(map(aspect.of, entries.values()))
    (top, count), *rest = votes.most_common()
    tie = bool(rest) and rest[0][1] == count
    odd = () if tie else tuple(r for r in sorted(entries) if aspect.of(entries[r]) != top)
    by_text: dict[str, list[int]] = defaultdict(list)
    for rank in sorted(entries):
        by_text[describe(entries[rank])].append(rank)
    return Disagreement(key[0], key[1], aspect, tuple((t, tuple(rs)) for t, rs in by_text.items()), odd)
