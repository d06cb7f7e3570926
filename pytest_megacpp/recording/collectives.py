"""Owns what collectives each rank issued, in which groups, and whether ranks agree; must not know who waits, limits or
blame.

Pure: flight-recorder entries in, frozen findings out. A collective is named by (group, sequence number), and a group by
its world, name and how often the world was left before: ranks may be members of several worlds (default groups) in one
launch, whose groups have names in common and nothing else. The launch's own world has no name of its own; another one
is named by what its members found in its store (`0~5f3a`). Messages (`p2p`; only NCCL's recorder has them) count
differently on each rank, so `waits` matches them by their partners.
"""

import hashlib
from collections import Counter, defaultdict, deque
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from itertools import islice
from typing import TypeAlias, assert_never

from pytest_megacpp.recording.events import Collective, FlightRecorded, GroupStatus
from pytest_megacpp.recording.flight import GLOO
from pytest_megacpp.recording.ranks import rank_list
from pytest_megacpp.recording.vocabulary import FlightOrigin

Number: TypeAlias = tuple[str, int]  # group and sequence number

KEPT_ENTRIES = 512  # of a rank, in worlds of up to 128
KEPT_IN_ALL = 65_536  # of a test
KEPT_LEAST = 32
KEPT_GROUPS = 512

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


@dataclass(slots=True)
class RankCollectives:
    """What one rank did so far in one test; grows by `update`, bounded.

    Group names and numbers restart when the default group is destroyed, so later ones carry an incarnation
    (`0@1`), counted per world. Entries from before `floor_s` belong to an earlier test or incarnation. They are kept as
    they were recorded: whether one is over by now says `is_done`.
    """

    floor_s: float = 0.0
    kept: int = KEPT_ENTRIES
    scope: str = ""
    incarnations: dict[str, int] = field(default_factory=dict)  # by world
    extra: dict[str, str] = field(default_factory=dict)  # worlds beside the default group, by this rank's name
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
        while len(self.groups) > KEPT_GROUPS:
            del self.groups[next(iter(self.groups))]
        return rose

    def _is_open(self, message: Collective) -> bool:
        return not message.done and message.entered_s >= self.floor_s

    def _message(self, entry: Collective) -> Collective:
        return replace(entry, group=self.named(entry.group))

    def _is_unfinished(self, entry: Collective) -> bool:
        return (self.named(entry.group), entry.seq) in self.unfinished

    def _add(self, entry: Collective) -> Number:
        name = self.named(entry.group)
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

    def named(self, group: str) -> str:
        """The name under which all its members know a group that this rank knows by its number."""
        if self.extra and (extra := self.extra.get(group.removesuffix(GLOO))) is not None:
            return extra
        name = f"{group}~{self.scope}" if self.scope else group
        return f"{name}@{self.incarnation}" if self.incarnation else name

    def enter(self, scope: str) -> None:
        """Its groups are those of that world from now on."""
        if len(self.incarnations) < KEPT_GROUPS or scope in self.incarnations:
            self.scope = scope

    def enter_beside(self, name: str, scope: str) -> None:
        """It is a member of one more world, which has only this group."""
        if len(self.extra) < KEPT_GROUPS or name in self.extra:
            self.extra[name] = f"{name}~{scope}" if scope else name

    def restart(self, time_s: float) -> None:
        """The default group was destroyed at `time_s`."""
        self.floor_s, self.messages = time_s, ()
        self.incarnations[self.scope] = self.incarnation + 1
        self.scope = ""
        self.groups.clear()
        self.extra.clear()
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


def _raise_to(counts: dict[str, int], group: str, count: int) -> bool:
    """Counters only grow; of too many groups the ones that were not heard of for longest are forgotten. Whether
    anything is new.
    """
    known = counts.pop(group, None)
    counts[group] = now = max(known or 0, count)
    if len(counts) > KEPT_GROUPS:
        del counts[next(iter(counts))]
    return now != known


@dataclass
class Groups:
    """Members of each process group by name, as its members announced them. Equal lists of members are one object: in a
    world of a thousand ranks each rank announces each list.
    """

    world_size: int
    members: dict[str, frozenset[int]] = field(default_factory=dict)
    disputed: set[str] = field(default_factory=set)
    everyone: frozenset[int] = field(init=False)
    _announced: dict[str, dict[int, tuple[int, ...]]] = field(default_factory=dict)  # members, by group and rank
    _made: dict[str, dict[int, tuple[int, ...]]] = field(default_factory=dict)
    _lists: dict[tuple[int, ...], frozenset[int]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.everyone = frozenset(range(self.world_size))

    def announce(self, name: str, ranks: tuple[int, ...], by: int | None = None) -> None:
        """Members of group `name`, by the word of one of them; no ranks means everybody. `disputed` are groups of which
        two ranks named different members.
        """
        known, announced = self.members.pop(name, None), self._announced.pop(name, {})
        self.members[name] = members = self._set_of(ranks)
        newest = next(reversed(announced), by)
        if newest != by and by is not None and known != members:
            self.disputed.add(name)
        if by is not None:
            announced.pop(by, None)
            announced[by] = ranks
        self._announced[name] = announced
        if len(self.members) > KEPT_GROUPS:
            self._forget(next(iter(self.members)))

    def _set_of(self, ranks: tuple[int, ...]) -> frozenset[int]:
        if ranks not in self._lists:
            if len(self._lists) >= KEPT_GROUPS:
                self._lists.clear()
            self._lists[ranks] = frozenset(ranks) & self.everyone or self.everyone
        return self._lists[ranks]

    def join(self, name: str, rank: int, size: int) -> None:
        """`rank` is one of `size` members of a group in a world of its own: they are known when all have said so."""
        announced = self._announced.setdefault(name, {})
        announced[rank] = ()
        if len(announced) == size:
            self.members[name] = frozenset(announced)
        if len(self._announced) > KEPT_GROUPS:
            self._forget(next(iter(self._announced)))

    def begin(self, name: str, rank: int) -> None:
        """`rank` makes that group, whatever it made under this name before."""
        self._made.get(name, {}).pop(rank, None)

    def made(self, name: str, rank: int, members: tuple[int, ...]) -> None:
        """`rank` is through with making that group, of these members."""
        self._made.setdefault(name, {})[rank] = members
        if len(self._made) > KEPT_GROUPS:
            del self._made[next(iter(self._made))]

    def made_by(self, name: str, members: tuple[int, ...]) -> frozenset[int]:
        """The ranks that are through with making it of these members."""
        return frozenset(r for r, made in self._made.get(name, {}).items() if made == members)

    def as_named_by(self, rank: int, name: str) -> str:
        """The group that a rank means by a name: where ranks named different members, each list is a group of its own
        (`1[0-2]`).
        """
        if not self.disputes(name):
            return name
        members = self._announced.get(name.replace(GLOO, ""), {}).get(rank)
        if not members:
            return name
        own = f"{name}[{rank_list(members)}]"
        self.members.setdefault(own.replace(GLOO, ""), self._set_of(members))
        return own

    def _forget(self, name: str) -> None:
        self.members.pop(name, None)
        self._announced.pop(name, None)
        self.disputed.discard(name)

    def disputes(self, name: str) -> bool:
        return name.replace(GLOO, "") in self.disputed

    def of(self, name: str, seen: Iterable[int]) -> frozenset[int]:
        """The members; for a group that nobody announced, those seen using it (the default group: everybody)."""
        name = name.replace(GLOO, "")
        if name in self.members:
            return self.members[name]
        return self.everyone if is_default(name) else frozenset(seen)

    def knows(self, name: str) -> bool:
        """Whether the members were told, or are known as everybody is."""
        return name.replace(GLOO, "") in self.members or is_default(name)


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
    """What members of a group must agree on: operation, and for most of them dtype and elements."""
    op = bare_op(entry.op)
    return (op, entry.dtype, entry.numel_in) if op in _SAME_INPUT else (op, "", 0)


def _aspect(entries: Iterable[Collective]) -> Aspect | None:
    """The first in which they differ."""
    ops, dtypes, sizes = (set(part) for part in zip(*map(_signature, entries), strict=True))
    if len(ops) > 1:
        return Aspect.OPERATION
    return Aspect.DTYPE if len(dtypes) > 1 else Aspect.SIZE if len(sizes) > 1 else None


def digests(entries: Iterable[Collective]) -> dict[str, str]:
    """Per group, what `disagreements` would compare, in few characters: `first-last:hash` of its numbers. Of several
    groups that had one name after each other only the newest counts. Those that begin at different numbers can't be
    compared.
    """
    by_group: dict[str, list[Collective]] = defaultdict(list)
    for entry in sorted(entries, key=lambda e: (e.pg, e.seq)):
        if entry.p2p:
            continue
        if by_group[entry.group][-1:] and by_group[entry.group][-1].pg != entry.pg:
            by_group[entry.group].clear()
        by_group[entry.group].append(entry)
    return {group: _stretch(issued) for group, issued in by_group.items()}


def _stretch(issued: Sequence[Collective]) -> str:
    return f"{issued[0].seq}-{issued[-1].seq}:{_hash([(e.seq, _signature(e)) for e in issued])}"


def differing(
    told: Mapping[int, Mapping[str, str]], groups: Groups
) -> tuple[tuple[str, str, dict[str, tuple[int, ...]]], ...]:
    """Groups whose members have different `digests` from one number on: (group, that number, ranks by digest). Before
    2026-12 digests took groups of one name for one group; they had no last number.
    """
    stretches: dict[tuple[str, str], dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
    for rank in sorted(told):
        for group, digest in told[rank].items():
            first, dash, _ = digest.partition("-")
            own = groups.as_named_by(rank, group)
            if dash and rank in groups.of(own, (rank,)):
                stretches[own, first][digest].append(rank)
    return tuple(
        (group, first, {hashed: tuple(ranks) for hashed, ranks in found.items()})
        for (group, first), found in sorted(stretches.items())
        if len(found) > 1
    )


def _hash(value: object) -> str:
    return hashlib.blake2s(repr(value).encode(), digest_size=6).hexdigest()


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
