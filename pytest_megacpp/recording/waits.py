"""Owns who waits for whom in a test at one moment; must not know limits, clocks, or whose fault it is.

Box and judge ask here: the box at every look, to decide *when* to end a test; the judge once, at the moment that
decides, to say *why*. Pure: views and a moment in, a graph out.

What counts as waiting, the surest first:

* *A collective.* torch's flight recorder names it by group and number. A rank waits in it from entering it to its end;
  missing are the members that have not entered it, on a device also those whose device has not begun it while others'
  have. What hosts have only queued, behind a kernel or an earlier collective, is no wait. A rank that gave up (its own
  time-out) is in what was open then and what it had entered last: its peer is still missing.
* *A message* of NCCL, by its partner. Devices that have begun it wait for one that has not, as in collectives.
* *The making of a group.* A rank announces it before it begins. Missing are the members that did not announce the same
  group: the same world, name and members. One that failed in it is missing only where nobody else is: it had come. A
  world of its own has known members only when all have come: until then, its making is a call like the next ones.
* *A call that only a stack shows* (`recv` of gloo, a store, rpc): its innermost library frame is one of torch's that
  communicate, and the thread did not run since. Whom it waits for is not recorded: the ranks that don't wait themselves
  are a guess; of a world that lacks members, those of them that could be one. A collective of a group without a name is
  no better: a process group that was made without torch's help (`ProcessGroupGloo(store, 0, 2)`) has none, so that
  several in one launch look like one.

Waiting for anything else (a child process, a queue, a file) is no wait for a peer. A rank that is stopped by a signal,
has left the test, or failed on its own is in nothing, and has not arrived anywhere; but one that failed goes on (to its
teardown, or after a subtest), and arrives where it issues what the others wait in.

What counts as progress is decided in `fold_tests` and `fold_looks`; which clock runs when, and why each threshold is
what it is, is said at the top of `box.alarms`. Decisions: 0004 (a test that is provably stuck ends at once), 0008 (look
again before acting), 0011 (who waits is whose device began), 0060 (sampled CPU time), 0074 (what a frame is), 0075
(which groups are the same).

Waits lead from rank to rank; the ranks at their end that don't wait are the *roots*. A rank whose own wait is young,
and may end, is on its way: it is a root too, and nobody behind it is (decision 0034). Without a root, waits of
different groups whose missing ranks sit in one another are a *cycle*.
"""

import re
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

from pytest_megacpp.recording.collectives import Number, RankCollectives
from pytest_megacpp.recording.events import Collective
from pytest_megacpp.recording.flight import tells_start, without_backend
from pytest_megacpp.recording.groups import Groups
from pytest_megacpp.recording.operations import ROOTED, bare_op, signature_of
from pytest_megacpp.recording.stacks import communication_call
from pytest_megacpp.recording.views import Joining, RankView, TestView

NO_NUMBER: Number = ("", 0)  # of all calls that only stacks show
_MESSAGE = re.compile(r"(?:^|:)(send|recv) (\d{1,6})(?:->|<-)(\d{1,6})$")


@dataclass(frozen=True, slots=True)
class Wait:
    """`waiting` ranks are in collective `seq` of `group` (the first since `since_s`); `missing` members aren't. Or one
    rank waits for the `partner` of a message, or ranks make a group (`seq` 0, `op` is the call). `began`: it is known
    whose devices are in it, not just who queued it. `members` of a group that is being made. `otherwise`: other
    operations that some of the waiting ranks issued under the number. `came_s`: when each of the waiting ranks began,
    as far as that is known.
    """

    group: str
    seq: int
    op: str
    waiting: tuple[int, ...]
    missing: tuple[int, ...]
    since_s: float
    partner: int | None = None
    began: bool = False
    members: tuple[int, ...] = ()
    came_s: Mapping[int, float] = field(default_factory=dict, compare=False)
    otherwise: tuple[tuple[str, tuple[int, ...]], ...] = ()

    @property
    def number(self) -> Number:
        """A number that distinguishes this wait from every other one."""
        if self.partner is not None:
            return f"{self.group} {self.op} {self.waiting}", self.seq
        return (f"{self.group} {self.op} {self.members}" if self.makes_group else self.group), self.seq

    @property
    def makes_group(self) -> bool:
        return self.op in ("init_process_group", "new_group") and not self.seq

    def __str__(self) -> str:
        return f"{self.op} #{self.seq}" if self.seq else self.op  # messages seen by stacks have no number


@dataclass(frozen=True, slots=True)
class Moment:
    """When waits are looked at, and what is known of ranks by then: which are in nothing any more (`over`: they
    finished the test or failed on their own), which are through with what the others are still in (`left`), when
    others failed (`failed_s`), and which of these for lack of a peer (`gave_up`).
    """

    at_s: float = float("inf")
    over: frozenset[int] = frozenset()
    left: frozenset[int] = frozenset()
    failed_s: Mapping[int, float] = field(default_factory=dict)
    gave_up: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True)
class Position:
    """What one rank is in at a moment: `inside` collectives and `messages` that are open, a group that it makes, or has
    `failed` to make.
    """

    seen: RankCollectives
    inside: tuple[Collective, ...] = ()
    messages: tuple[Collective, ...] = ()
    joining: Joining | None = None
    failed: Joining | None = None
    until_s: float = float("inf")
    frozen: bool = False
    goes_on_until_s: float = float("-inf")  # after its failure

    @classmethod
    def of(cls, view: RankView, moment: Moment, open_: "Open") -> "Position":
        """The position at the moment, of a rank that had these open."""
        failed_s = moment.failed_s.get(view.rank, float("inf"))
        seen, until_s, joining = view.collectives, min(moment.at_s, failed_s), view.not_joined(moment.at_s)
        failed = joining if joining is not None and joining.failed else None
        if view.rank in moment.over or view.frozen:
            return cls(seen, failed=failed, until_s=until_s, frozen=view.frozen, goes_on_until_s=moment.at_s)
        if view.rank in moment.gave_up:
            inside = _given_up(seen, moment.at_s, failed_s, open_)
            return cls(seen, inside, open_.messages, failed=failed, until_s=until_s)
        inside = tuple(sorted(open_.collectives, key=lambda e: e.entered_s))
        return cls(seen, inside, open_.messages, view.joining(moment.at_s), failed, until_s)

    def has_arrived(self, number: Number, others: Iterable[Collective]) -> bool:
        """Whether the rank entered the collective that others are in by then; a rank that is frozen in it has not."""
        entry = self.seen.entries.get(number)
        if entry is None:
            return self.seen.enqueued.get(number[0], 0) >= number[1]
        has_come = entry.entered_s <= self.until_s or self._goes_along(entry, others)
        return has_come and (self.seen.is_done(entry) or not self.frozen)

    def _goes_along(self, entry: Collective, others: Iterable[Collective]) -> bool:
        """Whether the rank entered it after its failure, as others did."""
        came_later = entry.entered_s <= self.goes_on_until_s
        return came_later and any(signature_of(entry) == signature_of(other) for other in others)


@dataclass(frozen=True, slots=True)
class Open:
    """What a rank had open at a moment: collectives that `still` are, those that `ended_later`, and messages."""

    still: tuple[Collective, ...] = ()
    ended_later: tuple[Collective, ...] = ()
    messages: tuple[Collective, ...] = ()

    @property
    def collectives(self) -> tuple[Collective, ...]:
        return *self.still, *self.ended_later


def _given_up(seen: RankCollectives, at_s: float, failed_s: float, open_: Open) -> tuple[Collective, ...]:
    """What a rank that gave up at `failed_s` was in by then: what was open, and what it had entered last; on a device,
    what that had begun, if it had begun anything.
    """
    last = seen.last(failed_s)
    # Giving up ends what only hosts know of: what ended after that, ended without this rank.
    later = (e for e in open_.ended_later if failed_s > at_s or e.started)
    begun = [e for e in (*open_.still, *later) if not _is_only_queued(e)]
    if last is not None and last.entered_s <= at_s and all((e.group, e.seq) != (last.group, last.seq) for e in begun):
        last = seen.as_of(last, at_s)
        if not begun or not _is_only_queued(last):
            begun.append(last)
    return tuple(sorted(begun, key=lambda e: e.entered_s))


@dataclass(frozen=True)
class WaitGraph:
    """`waits`, oldest first, are those whose missing ranks are known. `calls` are ranks that only their stack shows
    waiting: in what, and since when. `idle` ranks wait for nothing; `present` of them are still in the test. Ranks that
    can't be whom these calls are for are left out of both. `lost` ranks come to nothing that others are in: they
    failed, left or are frozen. `untimed`: since when they are in their call isn't known.
    """

    waits: tuple[Wait, ...]
    calls: Mapping[int, tuple[str, float]]
    idle: tuple[int, ...]
    present: tuple[int, ...]
    lost: frozenset[int] = frozenset()
    untimed: frozenset[int] = frozenset()

    @cached_property
    def waiting_in(self) -> Mapping[int, Wait]:
        """The oldest wait of each rank that is in one."""
        return {r: wait for wait in reversed(self.waits) for r in wait.waiting}

    def without(self, ranks: Collection[int]) -> "WaitGraph":
        """The waits of all other ranks for each other."""
        rest = (
            replace(w, waiting=_except(w.waiting, ranks), missing=_except(w.missing, ranks), came_s={})
            for w in self.waits
        )
        return replace(self, waits=tuple(w for w in rest if w.waiting))

    def roots(self, starts: Iterable[Wait], young_s: float = float("inf")) -> tuple[tuple[int, ...], tuple[Wait, ...]]:
        """The ranks at the end of these waits that don't wait themselves, or are on their way: their waits began after
        `young_s`; and the waits that lead there.
        """
        todo, visited, roots = list(starts), dict[Number, Wait](), set[int]()
        while todo:
            wait = todo.pop(0)
            if wait.number in visited:
                continue
            visited[wait.number] = wait
            for rank in wait.missing:
                if self.is_on_its_way(rank, young_s):
                    roots.add(rank)
                elif rank in self.waiting_in:
                    todo.append(self.waiting_in[rank])
                elif rank not in self.calls:
                    roots.add(rank)
        return tuple(sorted(roots)), tuple(visited.values())

    def is_on_its_way(self, rank: int, young_s: float) -> bool:
        """Whether the rank waits since later than that, and what it waits in may end."""
        if (wait := self.waiting_in.get(rank)) is not None:
            return wait.since_s > young_s and wait.number in self._may_end
        return rank in self.calls and rank not in self.untimed and self.calls[rank][1] > young_s

    @cached_property
    def _may_end(self) -> Collection[Number]:
        """Waits whose missing ranks may all come: none of them is lost, or in a wait that can't end."""
        lacking = {wait.number: len(wait.missing) for wait in self.waits}
        holds: dict[Number, list[int]] = defaultdict(list)
        awaited: dict[int, list[Wait]] = defaultdict(list)
        for rank, wait in self.waiting_in.items():
            holds[wait.number].append(rank)
        for wait in self.waits:
            for rank in wait.missing:
                awaited[rank].append(wait)
        todo = [rank for rank in awaited if rank not in self.waiting_in]
        todo += [rank for wait in self.waits if not wait.missing for rank in holds[wait.number]]
        while todo:
            rank = todo.pop()
            for wait in () if rank in self.lost else tuple(awaited.get(rank, ())):
                lacking[wait.number] -= 1
                if not lacking[wait.number]:
                    todo += holds[wait.number]
        return {number for number, count in lacking.items() if not count}

    def cycle(self, visited: Iterable[Wait]) -> tuple[Wait, ...]:
        """The waits of different groups whose missing ranks are in another of these waits, if one leads back to itself:
        a chain that ends in what all members came to is none.
        """
        tangled = [w for w in visited if any(r in self.waiting_in for r in w.missing)]
        is_one = len({w.number[0] for w in tangled}) > 1 and any(self._leads_back(w) for w in tangled)
        return tuple(tangled) if is_one else ()

    def _leads_back(self, wait: Wait) -> bool:
        """Whether a wait is followed to itself, by all that its missing ranks are in."""
        todo, seen = set(wait.missing), set[int]()
        while todo:
            rank = todo.pop()
            seen.add(rank)
            todo |= {r for w in self._holding.get(rank, ()) for r in w.missing} - seen
        return bool(seen & set(wait.waiting))

    def led_to(self, ranks: Iterable[int], waits: Iterable[Wait] = ()) -> frozenset[int]:
        """The ranks whose oldest wait is one of `waits` or for one of these ranks, directly or through others."""
        for_whom: dict[int, list[Wait]] = defaultdict(list)
        for wait in self.waits:
            for rank in wait.missing:
                for_whom[rank].append(wait)
        led = {r for wait in waits for r in self._oldest_in(wait)}
        todo = [*ranks, *led]
        while todo:
            further = {r for wait in for_whom.pop(todo.pop(), ()) for r in self._oldest_in(wait)} - led
            led |= further
            todo += further
        return frozenset(led)

    def _oldest_in(self, wait: Wait) -> Iterable[int]:
        """The ranks that have waited in nothing longer."""
        return (r for r in wait.waiting if self.waiting_in[r] is wait)

    @cached_property
    def _holding(self) -> Mapping[int, Sequence[Wait]]:
        """All waits of each rank."""
        found: dict[int, list[Wait]] = defaultdict(list)
        for wait in self.waits:
            for rank in wait.waiting:
                found[rank].append(wait)
        return found


def _except(ranks: Iterable[int], others: Collection[int]) -> tuple[int, ...]:
    return tuple(r for r in ranks if r not in others)


@dataclass(frozen=True, slots=True)
class Counted:
    """`seconds` that count towards the limit that users call `name`. Of a limit on a wait: the `wait`, the ranks that
    hold it up, and for how long it has lasted by any limit (`waited_s`); of one on compiles, or on one in which nothing
    moves: the ranks. `guessed`: for whom the wait is, isn't recorded.
    """

    name: str
    limit_s: float
    seconds: float
    wait: Wait | None = None
    ranks: tuple[int, ...] = ()
    guessed: bool = False
    waited_s: float = 0.0

    @property
    def left_s(self) -> float:
        return max(0.0, self.limit_s - self.seconds)

    @property
    def the_wait(self) -> Wait:
        """The wait of a limit on one."""
        assert self.wait is not None
        return self.wait


def wait_graph(view: TestView, moment: Moment) -> WaitGraph:
    """The graph of who waits for whom, by whatever shows it."""
    open_ = open_at(view, moment.at_s)
    positions = {v.rank: Position.of(v, moment, open_[v.rank]) for v in view.ranks.values()}
    waits = find_waits(positions, view.groups)
    pending = {r for wait in waits for r in wait.waiting}
    away = moment.over | moment.failed_s.keys() | pending
    free = (v for v in view.ranks.values() if v.rank not in away and not v.spins)  # on a device, its recorder tells
    calls = {v.rank: call for v in free if (call := _call(v, moment.at_s)) is not None}
    busy = calls.keys() | pending | moment.failed_s.keys()
    sought = {_sought(positions[r], view.groups) for r in calls.keys() | (moment.gave_up - pending)}
    sought |= {w.group for w in waits if not w.missing and view.groups.lacks_members(w.group)}
    could_be = frozenset().union(*map(view.groups.could_be_lacking, sought)) if sought else view.groups.everyone
    idle = tuple(r for r in sorted(view.ranks) if r not in busy and r in could_be)
    frozen = {v.rank for v in view.ranks.values() if v.frozen}
    lost = moment.over | moment.left | moment.failed_s.keys() | frozen
    untimed = frozenset(r for r in calls if not view.ranks[r].counts_runs)
    return WaitGraph(waits, calls, idle, tuple(r for r in idle if r not in moment.left), lost, untimed)


def open_at(view: TestView, at_s: float) -> Mapping[int, Open]:
    """Per rank what was open at that time. Since the box acted, views hold what was open then."""
    looks_back = at_s < (float("inf") if view.acted_s is None else view.acted_s)
    ended_later = _ended_later(view, at_s) if looks_back else {}
    found = {}
    for rank, seen in ((r, v.collectives) for r, v in view.ranks.items()):
        entered = (e for e in seen.pending() if e.entered_s <= at_s)
        if looks_back:
            still = tuple(seen.as_of(e, at_s) for e in entered)
            ended = tuple(seen.as_of(e, at_s) for e in ended_later.get(rank, ()))
            found[rank] = Open(still, ended, seen.messages_at(at_s))
        else:
            found[rank] = Open(tuple(entered), (), tuple(m for m in seen.messages if m.entered_s <= at_s))
    return found


def _ended_later(view: TestView, at_s: float) -> Mapping[int, Sequence[Collective]]:
    """Per rank the collectives that were open at that time, and are done by now: it had entered them by then, and
    another member entered them only later, or its device began them later. One with a root doesn't wait for all.
    """
    late: set[Number] = set()
    for rank, entry in _entries(view):
        begun_s = view.ranks[rank].collectives.begun_s.get((entry.group, entry.seq), entry.entered_s)
        if max(entry.entered_s, begun_s) > at_s:
            late.add((view.groups.as_named_by(rank, entry.group), entry.seq))
    found: dict[int, list[Collective]] = defaultdict(list)
    for rank, entry in _entries(view) if late else ():
        number = view.groups.as_named_by(rank, entry.group), entry.seq
        is_done = view.ranks[rank].collectives.is_done(entry)
        if number in late and entry.entered_s <= at_s and is_done and bare_op(entry.op) not in ROOTED:
            found[rank].append(entry)
    return found


def _entries(view: TestView) -> Iterator[tuple[int, Collective]]:
    return ((r, entry) for r, seen in view.ranks.items() for entry in seen.collectives.entries.values())


def _call(view: RankView, at_s: float) -> tuple[str, float] | None:
    """The call in which its stack shows the rank blocked, and since when. The stack may be newer than that time, and
    show what the rank has entered since.
    """
    since_s, taken = view.blocked_since(), view.stack()
    if view.frozen or since_s is None or taken is None:
        return None
    if since_s > at_s and any(e.entered_s > at_s for e in view.collectives.pending()):
        return None
    return communication_call(taken[1]) or "a distributed call", since_s


def _sought(position: Position, groups: Groups) -> str:
    """The group that a rank makes, or failed to make, of members that aren't known; else of no name."""
    joining = position.joining or position.failed
    return joining.group if joining is not None and not groups.knows(joining.group) else ""


def find_waits(positions: Mapping[int, Position], groups: Groups) -> tuple[Wait, ...]:
    """Collectives, messages and makings of groups that ranks are in, the oldest first; `missing` is empty when
    everybody has arrived. Where devices are known to have begun something, nobody is in what no device has begun.
    """
    inside: dict[Number, dict[int, Collective]] = defaultdict(dict)
    users: dict[str, set[int]] = defaultdict(set)
    for rank, position in positions.items():
        for name in position.seen.enqueued:
            users[groups.as_named_by(rank, name)].add(rank)
        for entry in filter(_has_named_group, position.inside):
            inside[groups.as_named_by(rank, entry.group), entry.seq][rank] = entry
    waits = []
    are_timed = any(entry.started for p in positions.values() for entry in (*p.inside, *p.messages))
    for (group, seq), arrived in inside.items():
        if are_timed and all(map(_is_only_queued, arrived.values())):
            continue
        issued = next(iter(arrived.values())).group, seq
        named = {r for r in positions if groups.as_named_by(r, issued[0]) == group}
        there = {r for r in named if positions[r].has_arrived(issued, arrived.values())}
        waits.append(_collective((group, seq), arrived, groups.of(group, users[group]) - there))
    waits += _messages({r: p.messages for r, p in positions.items()}, groups, are_timed=are_timed)
    waits += _makings(positions, groups)
    return tuple(sorted(waits, key=lambda w: (w.since_s, *w.number)))


def _is_only_queued(entry: Collective) -> bool:
    """Whether its device has not begun it, of a backend whose recorder tells."""
    return tells_start(entry.op) and not entry.started


def _has_named_group(entry: Collective) -> bool:
    """Whether there is more than what is added to names."""
    return without_backend(entry.group)[:1] not in ("", "~", "@")


def _collective(number: Number, arrived: Mapping[int, Collective], absent: frozenset[int]) -> Wait:
    """Where some devices have begun it, those that haven't are missing as well as the `absent`."""
    begun = {r: e for r, e in arrived.items() if e.started} or arrived
    missing = {*(absent - arrived.keys()), *(arrived.keys() - begun.keys())}
    first = min((begun[r] for r in sorted(begun)), key=lambda e: e.entered_s)
    by_op: dict[str, list[int]] = defaultdict(list)
    for rank in sorted(begun):
        by_op[bare_op(begun[rank].op)].append(rank)
    op = bare_op(first.op)
    return Wait(
        *number,
        op,
        tuple(sorted(begun)),
        tuple(sorted(missing)),
        first.entered_s,
        began=first.started,
        came_s={r: e.entered_s for r, e in begun.items()},
        otherwise=tuple((other, tuple(ranks)) for other, ranks in by_op.items() if other != op),
    )


def _messages(open_: Mapping[int, Iterable[Collective]], groups: Groups, *, are_timed: bool) -> list[Wait]:
    """Messages whose other end isn't there: a receive that nobody sends for, a send that nobody receives. Where devices
    are known to have begun something, an end is there when its device has begun it. Of several messages between two
    ranks in one direction, the oldest counts.
    """
    ends: dict[tuple[int, str, str, int], Collective] = {}
    for rank, entries in open_.items():
        begun = (e for e in entries if not (are_timed and _is_only_queued(e)))
        for entry in sorted(begun, key=lambda e: e.entered_s):
            if (end := _ends(rank, entry, groups)) is not None:
                ends.setdefault((rank, *end), entry)
    found = []
    for (rank, group, kind, partner), entry in ends.items():
        other = "recv" if kind == "send" else "send"
        if (partner, group, other, rank) not in ends:
            op = f"{kind} {'to' if kind == 'send' else 'from'} rank {partner}"
            missing = (partner,) if partner in groups.everyone else ()
            found.append(Wait(group, entry.seq, op, (rank,), missing, entry.entered_s, partner, began=entry.started))
    return found


def _ends(rank: int, entry: Collective, groups: Groups) -> tuple[str, str, int] | None:
    """(group, send or recv, the partner's global rank); None when the name says something else."""
    named = _MESSAGE.search(entry.op)
    members = groups.in_order(entry.group, rank) if named else ()
    if named is None or int(named[3]) >= len(members):
        return None
    return entry.group, named[1], members[int(named[3])]


def other_ends(
    groups: Groups, rank: int, message: Collective, open_: Mapping[int, Iterable[Collective]]
) -> tuple[Collective, ...]:
    """What its partner has open of a message of this rank, given the open messages of each rank; even if the partner
    has left the test, since its device goes on.
    """
    end = _ends(rank, message, groups)
    if end is None:
        return ()
    group, kind, partner = end
    wanted = group, "recv" if kind == "send" else "send", rank
    return tuple(e for e in open_.get(partner, ()) if _ends(partner, e, groups) == wanted)


def _makings(positions: Mapping[int, Position], groups: Groups) -> list[Wait]:
    """Groups of known members that ranks are making, and the members that don't make the same."""
    made: dict[tuple[str, tuple[int, ...]], dict[int, Joining]] = defaultdict(dict)
    for rank, position in positions.items():
        if position.joining is not None and (position.joining.members or groups.knows(position.joining.group)):
            made[position.joining.group, position.joining.members][rank] = position.joining
    found = []
    for (group, members), joining in made.items():
        expected = frozenset(members) or groups.of(group, joining)
        absent = expected - joining.keys() - groups.made_by(group, members)
        tried = {r for r, p in positions.items() if p.failed and (p.failed.group, p.failed.members) == (group, members)}
        missing = tuple(sorted(absent - tried or absent))
        came_s = {r: j.begun_s for r, j in joining.items()}
        call, ranks = next(iter(joining.values())).call, tuple(sorted(joining))
        found.append(Wait(group, 0, call, ranks, missing, min(came_s.values()), members=members, came_s=came_s))
    return found


def young_since(first_s: float, at_s: float, limit_s: float) -> float:
    """Since when a wait is young compared with one that began at `first_s`: it has lasted less than half as long, and
    less than the limit on a wait.
    """
    return at_s - min((at_s - first_s) / 2, limit_s)


def late(
    waits: Iterable[Wait], waiting: Collection[int], is_end: Callable[[Wait, int], bool] = lambda wait, rank: False
) -> dict[Number, tuple[int, ...]]:
    """Per wait the ranks that hold it up: the missing ones that aren't `waiting`, also behind others that are, but not
    behind those that are an end for this wait.
    """
    waits = tuple(waits)
    oldest = {r: w for w in reversed(waits) for r in w.waiting if r in waiting}
    return {w.number: _behind(w, oldest, is_end) for w in waits}


def _behind(wait: Wait, oldest: Mapping[int, Wait], is_end: Callable[[Wait, int], bool]) -> tuple[int, ...]:
    seen, todo, found = {wait.number}, [wait], set[int]()
    while todo:
        for rank in todo.pop().missing:
            further = oldest.get(rank)
            if further is None or is_end(wait, rank):
                found.add(rank)
            elif further.number not in seen:
                seen.add(further.number)
                todo.append(further)
    return tuple(sorted(found))
