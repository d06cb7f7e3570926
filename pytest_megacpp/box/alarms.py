"""Owns the rules by which a box ends a test early; must not know blame: it says when and what it saw, not why.

Pure: a test's view, clocks that add up, the time. Who waits for whom is what `recording.waits` says.

*Who waits.* A rank waits while the flight recorder has it in a collective and its main thread is idle (on a device:
while the recorder says so, since a waiting host burns a core), or while its stack shows it in a call of torch's that
communicates. One that started a collective and is seen in ordinary code meanwhile does not wait. One that gave up, by a
time-out of its own, still lacks its peer, and that peer's time goes on.

*Which clock runs.* Each wait has two: `compiling_s` runs while a rank that holds the wait up compiles (limit `skew`),
`plain_s` while one that does not compile holds it up (limit `stall`). A rank that loads the compiler looks like
ordinary code until its stack is seen; its time is moved from one clock to the other then. No clock runs while the box
itself stood still (`pauses`) or somebody talks to a debugger (`debugged`), in whose test there is no alarm meanwhile. A
compile has a limit of its own (`compile`), and one in which nothing moves for `stall` counts as stalled. A test's own
clock (`test`) stops while ranks warm up. What counts as moving is decided where looks are folded
(`recording.fold_looks`): CPU time, files, output, compile counters, collectives.

*When the box acts at once.* A rank's process ended; ranks issued collectives that don't match; or a rank failed or left
and everybody else waits for one that doesn't come, so that nothing can free them (decision 0004). Where all members
entered a collective, bytes may be on their way, and a call that only a stack shows may be answered by whatever a rank
left behind: that only the stall limit ends. After a failure of a rank's own the test is red already, and less will do
(decision 0081). The waits below let companions of such an event arrive first.

*Before it acts on looks*, which may be a second old, the box looks again, and an alarm that is gone by then is dropped
(`ActReason.rests_on_looks`, decision 0008). Since when a rank waits that only its stack shows, is since its thread last
ran (decision 0009), or, where the kernel counts no runs, since the stack was first seen (decision 0060).
"""

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field

from pytest_megacpp.recording.agreement import disagreements
from pytest_megacpp.recording.collectives import Number
from pytest_megacpp.recording.errors import classify
from pytest_megacpp.recording.events import Acted, Collective
from pytest_megacpp.recording.reports import is_strict_xpass
from pytest_megacpp.recording.views import RankView, TestView
from pytest_megacpp.recording.vocabulary import ActReason, WarmUp
from pytest_megacpp.recording.waits import (
    NO_NUMBER,
    Moment,
    Wait,
    WaitGraph,
    late,
    other_ends,
    wait_graph,
)

SETTLE_S = 0.15  # between a first sign and acting on it: its companions come within one look of 0.1 s
STUCK_S = 0.35  # looks come every 0.1 s after a failure, so three of them saw the same (decision 0004)
STUCK_BY_STACK_S = 0.8
PROBE_SHARE = 0.2  # of the quiet time between two looks at a stack
AWAITED_S = 1.0  # so long others wait before the missing one's stack is looked at
AWAITED_SHARE = 0.05  # of that time between two looks
FRESH_S = 1.0  # a stack of a rank that computes says nothing about what it does later
KEPT_CLOCKS = 512
QUIET_S = 0.25  # a main thread that used no CPU for so long is blocked


@dataclass
class Clocks:
    """Seconds that add up while a test runs, per wait: for peers that compile, for others, and for any (`lasted_s`,
    which only who watches reads). `graph` and `waits` are of the last time that they were advanced, `late` names the
    ranks that hold up each open wait, `waiting` those known to wait.
    The time of a collective goes on when ranks give up on it; messages have no number. During `pauses` the box itself
    stood still and saw nothing, so no limit counts them, nor the time while somebody talks to a debugger of the rank
    that was chosen for it (`debugged`).
    """

    pauses: list[tuple[float, float]] = field(default_factory=list)
    debugged_rank: int | None = None
    debugged: list[tuple[float, float]] = field(default_factory=list)
    compiling_s: dict[Number, float] = field(default_factory=dict)
    plain_s: dict[Number, float] = field(default_factory=dict)
    lasted_s: dict[Number, float] = field(default_factory=dict)
    graph: WaitGraph = field(default_factory=lambda: WaitGraph((), {}, (), ()))
    waits: tuple[Wait, ...] = ()
    late: dict[Number, tuple[int, ...]] = field(default_factory=dict)
    waiting: set[int] = field(default_factory=set)
    importing: set[Number] = field(default_factory=set)  # waits for peers that load the compiler
    mismatch_since_s: float | None = None
    suspects: set[Number] = field(default_factory=set)
    compared: dict[int, int] = field(default_factory=dict)  # changes per rank that were compared
    last_s: float | None = None

    def catch_up(self, view: TestView, now_s: float) -> None:
        """Counts waits that are open already from their beginning, for who comes to a test that runs. Which clock ran
        meanwhile isn't known: the one that runs now.
        """
        self.advance(view, now_s)
        for wait in self.waits:
            if (ranks := self.late.get(wait.number)) is not None:
                for clock in (self.compiling_s if all_compile(view, ranks, now_s) else self.plain_s, self.lasted_s):
                    clock[wait.number] = max(clock.get(wait.number, 0.0), now_s - wait.since_s)

    def advance(self, view: TestView, now_s: float) -> None:
        """Adds the time since the last call to the waits that are open now."""
        self.debugged = view.ranks[self.debugged_rank].debugged(now_s) if self.debugged_rank in view.ranks else []
        elapsed_s = 0.0 if self.last_s is None else max(0.0, self.since(self.last_s, now_s))
        self.last_s = now_s
        gave_up_s = _all_gave_up_s(view)
        self.waiting = {v.rank for v in view.ranks.values() if v.rank in gave_up_s or (not v.out and _waits(v, now_s))}
        self.graph = _graph(view, gave_up_s)
        self.waits = _open_waits(view, self.graph, gave_up_s)
        waits = [w for w in self.waits if w.missing and self.waiting & set(w.waiting)]
        self.late = late(waits, self.waiting)
        for clock in self.all:
            if NO_NUMBER not in self.late:
                clock.pop(NO_NUMBER, None)
            while len(clock) > KEPT_CLOCKS:
                del clock[next(iter(clock))]
        self.importing &= self.late.keys()
        for number, ranks in self.late.items():
            self._add(number, elapsed_s, [compiles(view.ranks[r], now_s) for r in ranks])
            loading = [view.ranks[r] for r in ranks if not view.ranks[r].compiling]
            if not loading or not all_compile(view, ranks, now_s):
                self.importing.discard(number)
            elif number not in self.importing:
                self.importing.add(number)
                self._was_compiling(number, min(now_s - _looked_before_s(rank) for rank in loading))
        self._new_messages(max((now_s - w.since_s for w in waits if (w.group, w.seq) == NO_NUMBER), default=0.0))

    @property
    def all(self) -> tuple[dict[Number, float], ...]:
        return self.compiling_s, self.plain_s, self.lasted_s

    def _add(self, number: Number, elapsed_s: float, compiling: list[bool]) -> None:
        for clock, runs in zip(self.all, (any(compiling), not all(compiling) or not compiling, True), strict=True):
            if runs:
                clock[number] = clock.get(number, 0.0) + elapsed_s

    def _new_messages(self, longest_s: float) -> None:
        """Bounds the clocks of messages, which share one number, by the time that the longest open wait for one has
        lasted.
        """
        for clock in self.all:
            if NO_NUMBER in clock:
                clock[NO_NUMBER] = min(clock[NO_NUMBER], longest_s)

    def _was_compiling(self, number: Number, seconds: float) -> None:
        """Moves up to `seconds` from one clock to the other: what looked like ordinary code was the import of the
        compiler.
        """
        moved_s = min(seconds, self.plain_s.get(number, 0.0))
        self.plain_s[number] = self.plain_s.get(number, 0.0) - moved_s
        self.compiling_s[number] = self.compiling_s.get(number, 0.0) + moved_s

    def waited_s(self, number: Number) -> float:
        return self.compiling_s.get(number, 0.0) + self.plain_s.get(number, 0.0)

    def since(self, time_s: float, now_s: float) -> float:
        """Returns the seconds since `time_s`, without pauses."""
        left_out = (*self.pauses, *self.debugged)
        return now_s - time_s - sum(max(0.0, min(end_s, now_s) - max(start_s, time_s)) for start_s, end_s in left_out)

    def to_compare(self, view: TestView) -> set[Number]:
        """Returns the collectives that ranks issued since the last call, and those that didn't match then."""
        numbers = self.suspects
        for rank in view.ranks.values():
            numbers |= set(rank.collectives.changed_since(self.compared.get(rank.rank, 0)))
            self.compared[rank.rank] = rank.collectives.changes
        return numbers


Rule = Callable[[TestView, Clocks, float], Acted | None]


def alarm(view: TestView, clocks: Clocks, now_s: float) -> Acted | None:
    """Returns the first reason to end this test now, or None while it may go on."""
    clocks.advance(view, now_s)
    if clocks.debugged_rank in view.ranks and view.ranks[clocks.debugged_rank].is_debugged:
        return None
    for rule in (_exit, _mismatch, _stuck_on_failure, _waited_too_long, _compiled_too_long, _nobody_moves, _overtime):
        acted = rule(view, clocks, now_s)
        if acted is not None:
            return acted
    return None


def _open_waits(view: TestView, graph: WaitGraph, gave_up_s: Mapping[int, float]) -> tuple[Wait, ...]:
    """Returns who waits for whom now, by whatever shows it."""
    return tuple(w for w in graph.waits if _goes_on(view, w, gave_up_s)) + _unnumbered(view, graph, gave_up_s)


def _graph(view: TestView, gave_up_s: Mapping[int, float]) -> WaitGraph:
    failed_s = {r: t for r, t in gave_up_s.items() if not view.ranks[r].gone}
    over = frozenset(v.rank for v in view.ranks.values() if v.out and v.rank not in failed_s)
    return wait_graph(view, Moment(over=over, left=over, failed_s=failed_s, gave_up=frozenset(failed_s)))


def _goes_on(view: TestView, wait: Wait, gave_up_s: Mapping[int, float]) -> bool:
    """Returns whether the wait is still open. Where all of its ranks gave up, it is over once no
    missing one can come.
    """
    waits = any(r not in gave_up_s for r in wait.waiting)
    return waits or not wait.missing or any(not view.ranks[r].out for r in wait.missing)


def _unnumbered(view: TestView, graph: WaitGraph, gave_up_s: Mapping[int, float]) -> tuple[Wait, ...]:
    """Returns the wait, if any, of ranks that wait only by their stacks or by the call they failed in, or that use a
    world to which not all have come. For whom they wait is a guess.
    """
    lacking = [w for w in graph.waits if not w.missing and view.groups.lacks_members(w.group)]
    blocked = {r: since_s for r, (_, since_s) in graph.calls.items()}
    blocked |= {r: w.since_s for w in lacking for r in w.waiting}
    blocked |= {r: t for r, t in gave_up_s.items() if r not in graph.waiting_in}
    if not blocked:
        return ()
    missing = graph.present or graph.idle
    since_s = min(blocked.values())
    return (Wait(*NO_NUMBER, "point-to-point", tuple(sorted(blocked)), missing, since_s, came_s=blocked),)


def _all_gave_up_s(view: TestView) -> dict[int, float]:
    return {v.rank: t for v in view.ranks.values() if (t := _gave_up_s(v)) is not None}


def _gave_up_s(rank: RankView) -> float | None:
    """Returns when this rank failed because a peer didn't come or is gone; None where it didn't."""
    if rank.failure is None or (error := rank.failure[1].error) is None:
        return None
    return rank.failure[0] if classify(error).secondary else None


def _waits(rank: RankView, now_s: float) -> bool:
    """Returns whether the rank is known to wait for a peer. On a device, where a waiting host burns a core, the
    recorder decides alone.
    """
    if rank.spins:
        return True
    if not rank.collectives.pending():
        return rank.blocked_since() is not None
    return now_s - rank.busy_s > QUIET_S and not rank.elsewhere()


def _begun(rank: RankView) -> bool:
    """Returns whether the device is known to have begun all that the rank waits for; else it may still compute."""
    return all(e.started for e in (*rank.collectives.pending(), *rank.collectives.messages))


def _acted(view: TestView, why: ActReason, detail: str, wait: Wait | None = None, now_s: float = 0.0) -> Acted:
    if wait is None:
        return Acted(view.index, why, detail)
    return Acted(
        test=view.index,
        why=why,
        detail=detail,
        waiting=wait.waiting,
        missing=wait.missing,
        compiling=tuple(r for r in view.ranks if compiles(view.ranks[r], now_s) and r not in wait.waiting),
        waited_s=round(max(0.0, now_s - wait.since_s), 3),
    )


def compiles(rank: RankView, now_s: float) -> bool:
    """Returns whether the rank compiles, by its counters or, before these begin, by a fresh stack."""
    fresh = bool(rank.stacks) and now_s - rank.stacks[-1][0] < FRESH_S
    return rank.compiling or (fresh and not rank.out and rank.imports_compiler())


def _looked_before_s(rank: RankView) -> float:
    """Returns when the stack before the newest one was taken."""
    return rank.stacks[-2][0] if len(rank.stacks) > 1 else float("-inf")


def to_look_at(view: TestView, acted: Acted) -> tuple[int, ...]:
    """Returns the ranks whose stack is needed before acting: missing ones that were busy since their stack was last
    taken, and ones known to wait only by a stack that may be old.
    """
    missing = acted.missing if acted.why is ActReason.STALL else ()
    unseen = {r for r in missing if not view.ranks[r].out and not view.ranks[r].looked_at()}
    unsure = {v.rank for v in view.unfinished() if v.blocked_since() is not None and not v.would_be_seen_moving()}
    return tuple(sorted(unseen | unsure))


def _exit(view: TestView, clocks: Clocks, now_s: float) -> Acted | None:
    exits = [v.exit_s for v in view.ranks.values() if v.exit_s is not None and v.exit and not v.exit.expected]
    if exits and now_s - min(exits) >= SETTLE_S:
        return _acted(view, ActReason.EXIT, "a rank's process ended")
    return None


def _mismatch(view: TestView, clocks: Clocks, now_s: float) -> Acted | None:
    ranks = {r: v.collectives for r, v in view.ranks.items()}
    found = disagreements(ranks, view.groups, clocks.to_compare(view))
    clocks.suspects = {(d.group, d.seq) for d in found}
    if not found:
        clocks.mismatch_since_s = None
        return None
    if clocks.mismatch_since_s is None:
        clocks.mismatch_since_s = now_s
    if now_s - clocks.mismatch_since_s < 2 * SETTLE_S:
        return None
    return _acted(view, ActReason.MISMATCH, f"{found[0].aspect} differs at #{found[0].seq} of group {found[0].group}")


def _stuck_on_failure(view: TestView, clocks: Clocks, now_s: float) -> Acted | None:
    """Acts when a rank failed or left and all others wait, so that nothing can free them (decision 0004)."""
    losses = [t for v in view.ranks.values() if (t := _lost_s(v)) is not None]
    if not losses:
        return None
    stuck = [_stuck_since(view, clocks.waits, v, now_s) for v in view.unfinished()]
    if not stuck or any(since is None for since in stuck):
        return None
    by_stack = any(not v.spins and not (v.collectives.pending() and v.looked_at()) for v in view.unfinished())
    since_s = max([*losses, *(s for s in stuck if s is not None)])
    if now_s - since_s < (STUCK_BY_STACK_S if by_stack else STUCK_S):
        return None
    wait = next((w for w in clocks.waits if w.missing), next(iter(clocks.waits), None))
    return _acted(view, ActReason.FAILURE_STUCK, "every rank left in the test waits", wait, now_s)


def _lost_s(rank: RankView) -> float | None:
    """Returns when this rank failed or left the test; None where it did neither."""
    times = [t for t in (rank.finished_s, rank.exit_s) if t is not None]
    if rank.failure:
        times.append(rank.failure[0])
    return min(times, default=None)


def _stuck_since(view: TestView, waits: Iterable[Wait], rank: RankView, now_s: float) -> float | None:
    """Since when this rank waits for what can't come, if everybody else in the test does so too. None where it may come
    through: what is recorded of it counts more than its stack.
    """
    if rank.frozen or not _waits(rank, now_s):
        return None
    held = [w for w in waits if rank.rank in w.waiting and (w.group, w.seq) != NO_NUMBER]
    if any(_failed_by_itself(v) for v in view.ranks.values()):
        return _stuck_in_a_red_test(view, held, rank)
    recorded = len(rank.collectives.pending()) + len(rank.collectives.messages)
    if not held or len(held) < recorded or not all(_never_ends(view, rank, w) for w in held):
        return None
    return max(*(w.since_s for w in held), rank.rests_s)


def _failed_by_itself(rank: RankView) -> bool:
    """Whether it reported a failure that is neither about a peer nor a test that should have failed."""
    return rank.failure is not None and _gave_up_s(rank) is None and not is_strict_xpass(rank.failure[1])


def _never_ends(view: TestView, rank: RankView, wait: Wait) -> bool:
    """Whether it is known that a peer has not come. One whose own message is over may have sent it before this rank's
    device began to receive, and one that left the test may still be sending.
    """
    if wait.partner is not None:
        answered = any(_other_ends(view, rank, m) for m in rank.collectives.messages)
        return bool(wait.missing) and _begun(rank) and not answered
    return bool(wait.missing) and (wait.makes_group or view.groups.knows(wait.group))


def _other_ends(view: TestView, rank: RankView, message: Collective) -> tuple[Collective, ...]:
    return other_ends(view.groups, rank.rank, message, {r: v.collectives.messages for r, v in view.ranks.items()})


def _stuck_in_a_red_test(view: TestView, held: Iterable[Wait], rank: RankView) -> float | None:
    """Since when this rank waits after a failure of another's own. One wait in vain will do, whatever its host queued
    behind it; so will a call that only its stack shows, also in a group of unknown members. What all have come to (on
    devices, have begun) may end, and then they go on.
    """
    collectives, messages = [w for w in held if w.partner is None], rank.collectives.messages
    known = (w for w in collectives if w.makes_group or view.groups.knows(w.group))
    runs = any(not w.missing and (w.began or not rank.spins) for w in known)
    if runs or any(m.started and any(e.started for e in _other_ends(view, rank, m)) for m in messages):
        return None
    in_vain = [w.since_s for w in collectives if w.missing] + [m.entered_s for m in messages if m.started]
    if in_vain:
        return max(*in_vain, rank.rests_s)
    issued = (*rank.collectives.pending(), *messages)
    return None if any(view.groups.knows(e.group) for e in issued) else rank.blocked_since()


def _waited_too_long(view: TestView, clocks: Clocks, now_s: float) -> Acted | None:
    for wait in clocks.waits:
        number = wait.number
        if number not in clocks.late:
            continue
        if clocks.compiling_s.get(number, 0.0) > skew_s(view, clocks.late[number]):
            return _acted(view, ActReason.SKEW, f"{wait} while a missing peer compiles", wait, now_s)
        if clocks.plain_s.get(number, 0.0) > view.limits.stall and not all_compile(view, clocks.late[number], now_s):
            return _acted(view, ActReason.STALL, f"{wait} waits for a missing peer", wait, now_s)
        waited_s = clocks.compiling_s.get(number, 0.0)
        if waited_s > view.limits.stall and compile_rest_s(view, clocks, number, now_s) > view.limits.stall:
            return _acted(view, ActReason.STALL, f"{wait} waits for a compile that makes no progress", wait, now_s)
    return None


def skew_s(view: TestView, late_ranks: Collection[int]) -> float:
    """Returns how many seconds others may wait for ranks that compile or have compiled; in a warm-up, as long as a
    compile may take.
    """
    warm_up = bool(late_ranks) and all(view.ranks[r].warms_up for r in late_ranks)
    return max(view.limits.skew, view.limits.compile) if warm_up else view.limits.skew


def all_compile(view: TestView, ranks: Collection[int], now_s: float) -> bool:
    """Returns whether all of these ranks compile now: then the limit `skew` holds, whatever they did before."""
    return bool(ranks) and all(compiles(view.ranks[r], now_s) for r in ranks)


def compile_rest_s(view: TestView, clocks: Clocks, number: Number, now_s: float) -> float:
    """Returns for how many seconds nothing moved in the ranks that compile. A rank that waits for another's file lock
    can't move, and one that sleeps moves when it chose to, so both are left out.
    """
    late_ranks = [view.ranks[r] for r in clocks.late[number]]
    compiling = [v for v in late_ranks if v.compiling and not v.awaits_file_lock]
    if any(v.sleeps() for v in compiling):
        return 0.0
    return min((clocks.since(v.progress_s, now_s) for v in compiling), default=0.0)


def _compiled_too_long(view: TestView, clocks: Clocks, now_s: float) -> Acted | None:
    for rank in view.unfinished():
        started_s = rank.compiling_since_s
        if started_s is not None and clocks.since(started_s, now_s) > view.limits.compile:
            return _acted(view, ActReason.COMPILE, f"rank {rank.rank} compiles in one go")
    return None


def _nobody_moves(view: TestView, clocks: Clocks, now_s: float) -> Acted | None:
    """Acts when all wait and nobody is missing: every rank receives, or a collective that all entered doesn't end. Time
    counts from when the last rank came, since one that came and went at once is known before those that it freed are
    seen free.
    """
    wait = everybody(view, now_s)
    if wait is None or clocks.since(wait.since_s, now_s) <= view.limits.stall:
        return None
    return _acted(view, ActReason.STALL, "everybody waits", wait, now_s)


def everybody(view: TestView, now_s: float) -> Wait | None:
    """Returns the wait of all that are left in the test for nobody of them; None where one of them doesn't wait."""
    ranks = view.unfinished()
    if not ranks or not all(_begun(v) if v.spins else _waits(v, now_s) for v in ranks):
        return None
    gone_s = (v.finished_s for v in view.ranks.values() if v.finished_s is not None)
    since_s = max([*(_rests_s(v) or now_s for v in ranks), *gone_s])
    return Wait("", 0, "", tuple(v.rank for v in ranks), (), since_s)


def _rests_s(rank: RankView) -> float | None:
    """Returns since when the rank does nothing but wait; None where it doesn't wait."""
    return rank.rests_s if rank.spins or rank.collectives.pending() else rank.blocked_since()


def _overtime(view: TestView, clocks: Clocks, now_s: float) -> Acted | None:
    """Acts when the test took longer than its limit. Warm-ups have additional time, as much as a compile may take,
    unless the whole test is a warm-up: its limit includes that already (`attempts.warm_up_limits`).
    """
    limit_s = view.limits.test
    if clocks.since(view.started_s, now_s) <= limit_s or spent_s(view, clocks, now_s) <= limit_s:
        return None
    return _acted(view, ActReason.TEST_LIMIT, f"the test ran longer than {limit_s:g} s")


def spent_s(view: TestView, clocks: Clocks, now_s: float) -> float:
    """Returns the seconds that count towards the limit `test`."""
    extra_s = 0.0 if view.warmup is WarmUp.RUNS else view.limits.compile
    return clocks.since(view.started_s, now_s) - min(_warmed_s(view, clocks, now_s), extra_s)


def _warmed_s(view: TestView, clocks: Clocks, now_s: float) -> float:
    """Returns for how many seconds at least one rank warmed up, without pauses."""
    warmed_s, until_s = 0.0, view.started_s
    for start_s, end_s in sorted(span for rank in view.ranks.values() for span in rank.warmups(now_s)):
        start_s = max(start_s, until_s)
        if end_s > start_s:
            warmed_s += clocks.since(start_s, now_s) - clocks.since(end_s, now_s)
            until_s = end_s
    return warmed_s


def to_probe(view: TestView, clocks: Clocks, now_s: float) -> tuple[int, ...]:
    """Returns the ranks whose stack is worth a look: quiet ones, ones that others wait for, and ones about to compile;
    none whose stack was taken lately.
    """
    failed = any(_lost_s(v) is not None for v in view.ranks.values())
    after_s = 0.3 if failed else min(2.0, view.limits.stall / 3)
    awaited_s = _awaited_s(view, clocks)
    return tuple(
        v.rank
        for v in view.unfinished()
        if _is_quiet(v, after_s, now_s) or _is_awaited(v, awaited_s, now_s) or _was_importing(v, now_s)
    )


def _awaited_s(view: TestView, clocks: Clocks) -> dict[int, float]:
    """Returns, by rank, for how many seconds others have waited for it; short waits are left out."""
    after_s = min(AWAITED_S, view.limits.stall / 4, view.limits.skew / 4)
    waits = [(ranks, clocks.waited_s(number)) for number, ranks in clocks.late.items()]
    return {r: waited_s for ranks, waited_s in waits for r in ranks if waited_s > after_s}


def _is_quiet(rank: RankView, after_s: float, now_s: float) -> bool:
    """Returns whether a stack of a quiet rank is due: when it becomes quiet, again when it moved and is quiet again,
    and from time to time, ever more rarely.
    """
    quiet_s = now_s - rank.busy_s
    looked_s = _looked_s(rank) if rank.stacks else rank.busy_s
    again = looked_s < rank.ran_s and now_s - rank.ran_s > after_s
    lately = now_s - looked_s <= max(after_s, PROBE_SHARE * quiet_s)
    return quiet_s > after_s and not rank.spins and (again or not lately)


def _is_awaited(rank: RankView, awaited_s: Mapping[int, float], now_s: float) -> bool:
    """Returns whether a stack of an awaited rank is due. One that compiles shows that by its counters."""
    waited_s = awaited_s.get(rank.rank)
    if waited_s is None or rank.compiling:
        return False
    return now_s - _looked_s(rank) > max(FRESH_S, AWAITED_SHARE * waited_s)


def _was_importing(rank: RankView, now_s: float) -> bool:
    return bool(rank.stacks) and now_s - _looked_s(rank) > FRESH_S / 2 and rank.imports_compiler()


def _looked_s(rank: RankView) -> float:
    return max((t for t, _ in rank.stacks), default=float("-inf"))
