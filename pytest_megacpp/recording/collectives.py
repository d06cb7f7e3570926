"""Owns what collectives one rank issued in a test, and which of them are not finished; must not know its peers, who
waits, limits or blame.

Pure: flight records in, views out. A collective is named by (group, sequence number), and a group by its world, name,
how often the world was left before and how often that name was given before: ranks may be members of several worlds
(default groups) in one launch, whose groups have names in common and nothing else, and torch gives the name of a
destroyed group again (docs/decisions/0075 and 0077). The launch's own world has no name of its own; another one is
named by what its members found in its store (`0~5f3a`). Messages (`p2p`; only NCCL's recorder has them) count
differently on each rank, so `waits` matches them by their partners.
"""

from collections import deque
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import TypeAlias

from pytest_megacpp.recording.bounded import drop_oldest
from pytest_megacpp.recording.events import Collective, FlightRecorded, GroupStatus
from pytest_megacpp.recording.flight import GLOO, without_backend
from pytest_megacpp.recording.groups import KEPT_GROUPS
from pytest_megacpp.recording.vocabulary import FlightOrigin

Number: TypeAlias = tuple[str, int]  # group and sequence number
_Message: TypeAlias = tuple[str, str, int, float]  # group, operation, number and time: no two of a rank have all alike

# How many entries are kept of each rank: docs/decisions/0040 says what that costs in large worlds.
KEPT_ENTRIES = 512  # in worlds of up to 128 ranks
KEPT_IN_ALL = 65_536  # of all ranks of a test together
KEPT_LEAST = 32
KEPT_LIVES = 128  # of groups of one name; as many collectives of a rank are looked at when a test ends


def kept_entries(ranks: int) -> int:
    """How many collectives of each of so many ranks are remembered: memory is bounded for all of them together."""
    return min(KEPT_ENTRIES, max(KEPT_LEAST, KEPT_IN_ALL // ranks))


@dataclass(frozen=True, slots=True)
class Life:
    """A group of a rank, from when it began to make it: the `number`th of its name in its `world`."""

    since_s: float
    world: str
    number: int

    @property
    def added(self) -> str:
        """What is added to its name to tell it from other groups of that name."""
        return f" ({self.number}){self.world}" if self.number > 1 else self.world


@dataclass(frozen=True, slots=True)
class PastMessage:
    """A message that is over, and when looks found that: its device had begun it, and it was over. One that was over
    when it was first seen has been so at any time since.
    """

    message: Collective
    begun_s: float
    over_s: float


@dataclass(slots=True)
class RankCollectives:
    """What one rank did so far in one test; grows by `update`, bounded.

    Group names and numbers restart when the default group is destroyed, so later ones carry an incarnation
    (`0@1`), counted per world. A group that is made again under its name (`4be1 (2)`) starts from 1 as well; an entry
    belongs to the one that was begun last before it. Entries from before `floor_s` belong to an earlier test or
    incarnation. Entries are kept as they were recorded: `is_done` says whether one has ended since, `as_of` what was
    known of it at a time in the past.
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
    past: dict[_Message, PastMessage] = field(default_factory=dict)  # the newest messages that are over
    begun_s: dict[Number | _Message, float] = field(default_factory=dict)  # when a look found that its device was in it
    over_s: dict[Number, float] = field(default_factory=dict)  # when a look found over what one before found open
    held: bool = False  # the box acted: from now on only its own evidence ends a wait
    changes: int = 0
    changed: deque[Number] = field(init=False)  # newest last

    def __post_init__(self) -> None:
        self.changed = deque(maxlen=self.kept)

    def update(self, seen: FlightRecorded, time_s: float) -> bool:
        """Takes in what was seen at that time; returns whether a counter rose."""
        if self.held and seen.origin is not FlightOrigin.EVIDENCE:
            seen = replace(seen, entries=tuple(e for e in seen.entries if not self._is_unfinished(e)))
        else:
            self._take_messages([e for e in seen.entries if e.p2p and e.entered_s >= self.floor_s], time_s)
        rose = False
        listed: set[Number] = set()
        for entry in seen.entries:
            if not entry.p2p and entry.entered_s >= self.floor_s:
                key = self._add(entry, time_s)
                listed.add(key)
                rose |= _raise_to(self.enqueued, *key)
        for status in seen.status:
            name = self.groups.get(status.pg)
            if name is not None:  # others were used before this test only
                rose |= _raise_to(self.enqueued, name, status.enqueued)
                rose |= _raise_to(self.completed, name, status.completed)
        if seen.origin is FlightOrigin.POLL and not self.held:
            self._close([key for key in self.unfinished if key not in listed], seen.status, time_s)
        while len(self.entries) > self.kept:
            self._drop(next(iter(self.entries)))
        drop_oldest(self.groups, KEPT_GROUPS)
        return rose

    def _take_messages(self, seen: Iterable[Collective], time_s: float) -> None:
        """Takes in all messages that a look listed: an open one that it doesn't list any more is over."""
        before = {_key(m): m for m in self.messages}
        listed = {_key(m): m for m in (replace(e, group=self.named(e.group, e.entered_s)) for e in seen)}
        if not before and not listed:
            return
        for key, message in listed.items():
            if (message.started or message.done) and key not in self.past:
                self.begun_s.setdefault(key, time_s if key in before else message.entered_s)
        over = {key: m for key, m in (before | listed).items() if key not in listed or m.done}
        for key, message in over.items():
            if key not in self.past:
                begun_s = self.begun_s.pop(key, time_s)
                self.past[key] = PastMessage(message, begun_s, time_s if key in before else message.entered_s)
        drop_oldest(self.past, self.kept)
        self.messages = tuple(m for m in listed.values() if not m.done)

    def _is_unfinished(self, entry: Collective) -> bool:
        return (self.named(entry.group, entry.entered_s), entry.seq) in self.unfinished

    def _add(self, entry: Collective, time_s: float) -> Number:
        name = self.named(entry.group, entry.entered_s)
        key = name, entry.seq
        known = self.entries.get(key)
        if known is None or (known.op, known.dtype, known.numel_in) != (entry.op, entry.dtype, entry.numel_in):
            self.changes += 1
            self.changed.append(key)
        over = known is not None and known.entered_s == entry.entered_s and key not in self.unfinished
        started = entry.started or (known is not None and known.started and known.entered_s == entry.entered_s)
        if known is None or known.entered_s != entry.entered_s:
            self._forget(key)
        if started and key not in self.begun_s:
            self.begun_s[key] = entry.entered_s if known is None else time_s
        as_it_is = name == entry.group and started == entry.started
        self.groups[entry.pg] = name
        self.entries[key] = entry if as_it_is else replace(entry, group=name, started=started)
        if entry.done or over:
            self._end(key, time_s)
        else:
            self.unfinished[key] = None
        return key

    def _end(self, key: Number, time_s: float) -> None:
        if key in self.unfinished:
            del self.unfinished[key]
            self.over_s[key] = time_s

    def _close(self, unlisted: Collection[Number], counted: Iterable[GroupStatus], time_s: float) -> None:
        """A poll lists all that is unfinished in the groups it counts, so what it leaves out is done."""
        alive = {self.groups.get(status.pg) for status in counted} if unlisted else ()
        for key in unlisted:
            if key[0] in alive:
                self._end(key, time_s)

    def _drop(self, key: Number) -> None:
        del self.entries[key]
        self.unfinished.pop(key, None)
        self._forget(key)

    def _forget(self, key: Number) -> None:
        self.begun_s.pop(key, None)
        self.over_s.pop(key, None)

    @property
    def incarnation(self) -> int:
        """How often the rank left this world before."""
        return self.incarnations.get(self.scope, 0)

    def named(self, group: str, at_s: float = float("inf")) -> str:
        """The name under which all its members know a group that this rank knew as `group` at that time."""
        lives = self.lives.get(group.removesuffix(GLOO))
        if not lives:
            return group + self._of_this_world
        return group + next((life for life in reversed(lives) if life.since_s <= at_s), lives[0]).added

    @property
    def _of_this_world(self) -> str:
        """What is added to the names of groups of the world that the rank is in."""
        name = f"~{self.scope}" if self.scope else ""
        return f"{name}@{self.incarnation}" if self.incarnation else name

    def enter(self, scope: str, time_s: float) -> None:
        """The rank begins the default group of a world: its groups are of that world from now on. A world that it did
        not destroy before, it has aborted.
        """
        if self.world_since_s is not None and self.world_since_s < time_s:
            self.restart(time_s)
        self.world_since_s = time_s
        if len(self.incarnations) < KEPT_GROUPS or scope in self.incarnations:
            self.scope = scope

    def begin(self, name: str, time_s: float, beside: str | None = None) -> None:
        """The rank makes a group beside its default one; `beside`: a group of all ranks of that world."""
        if (known := self.lives.get(name)) and known[-1].since_s == time_s:  # said twice
            return
        world = self._of_this_world if beside is None else f"~{beside}" if beside else ""
        number = self.given[name + world] = self.given.get(name + world, 0) + 1
        before = self.named(name)
        lives = self.lives.pop(name, [])
        if lives and not self.held:  # what is open in it has gone with it
            for key in [key for key in self.unfinished if without_backend(key[0]) == before]:
                self._end(key, time_s)
        self.lives[name] = [*lives[1 - KEPT_LIVES :], Life(time_s, world, number)]
        drop_oldest(self.lives, KEPT_GROUPS)
        drop_oldest(self.given, KEPT_GROUPS)

    def failed(self, name: str, *, default: bool) -> None:
        """The group was not made: the next one of this name takes its number."""
        if default:
            self.world_since_s = None
        elif lives := self.lives.get(name):
            life = lives.pop()
            self.given[name + life.world] = life.number - 1

    def restart(self, time_s: float) -> None:
        """The default group was destroyed at `time_s`."""
        self.floor_s = time_s
        self._take_messages((), time_s)
        self.incarnations[self.scope] = self.incarnation + 1
        self.scope, self.world_since_s = "", None
        self.groups.clear()
        self.lives.clear()
        for key in () if self.held else list(self.unfinished):
            self._end(key, time_s)

    def changed_since(self, changes: int) -> Iterable[Number]:
        """The collectives that were issued since `changes` had this value."""
        return islice(reversed(self.changed), max(0, self.changes - changes))

    def is_done(self, entry: Collective) -> bool:
        """Whether one of `entries` has ended by now."""
        return (entry.group, entry.seq) not in self.unfinished

    def pending(self) -> tuple[Collective, ...]:
        """The collectives that were entered and are not finished, the oldest first."""
        return tuple(sorted((self.entries[key] for key in self.unfinished), key=lambda e: e.entered_s))

    def messages_at(self, at_s: float) -> tuple[Collective, ...]:
        """The messages that were open at a time in the past, with what its device had begun by then. Looks find that a
        moment later than it was.
        """
        ended = (p for p in self.past.values() if p.over_s > at_s)
        over = (replace(p.message, started=p.begun_s <= at_s) for p in ended)
        open_ = (self._begun(m, _key(m), at_s) for m in self.messages)
        return tuple(m for m in (*over, *open_) if m.entered_s <= at_s)

    def as_of(self, entry: Collective, at_s: float) -> Collective:
        """One of `entries`, with whether its device had begun it by then."""
        return self._begun(entry, (entry.group, entry.seq), at_s)

    def _begun(self, entry: Collective, key: "Number | _Message", at_s: float) -> Collective:
        began_later = entry.started and self.begun_s.get(key, at_s) > at_s
        return replace(entry, started=False) if began_later else entry

    def last(self, until_s: float = float("inf")) -> Collective | None:
        """The newest collective that the rank had entered by then."""
        entries = (e for e in self.entries.values() if e.entered_s <= until_s)
        return max(entries, key=lambda e: (e.entered_s, e.seq), default=None)


def _key(message: Collective) -> _Message:
    return message.group, message.op, message.seq, message.entered_s


def _raise_to(counts: dict[str, int], group: str, count: int) -> bool:
    """Raises a counter, which never falls. Of too many groups those that were not seen for longest are forgotten.
    Returns whether anything is new.
    """
    known = counts.pop(group, None)
    counts[group] = now = max(known or 0, count)
    if len(counts) > KEPT_GROUPS:
        del counts[next(iter(counts))]
    return now != known
