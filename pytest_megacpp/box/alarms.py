"""Owns the rules by which a box ends a test early; must not know blame: it says when and what it saw, not why.

Pure: a test's view, clocks that add up, the time. A rank is *stuck* when it waits for peers, by the flight
recorder with an idle main thread or by its stack. Waiting is only what a rank is seen waiting in.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from pytest_megacpp.recording.collectives import Number, Wait, disagreements
from pytest_megacpp.recording.events import Acted
from pytest_megacpp.recording.timeline import RankView, TestView

SETTLE_S = 0.15  # between a first sign and acting on it: its companions are still on their way
STUCK_S = 0.35  # looks come every 0.1 s after a failure, so three of them saw the same
STUCK_BY_STACK_S = 0.8
PROBE_SHARE = 0.2  # of the quiet time between two looks at a stack
QUIET_S = 0.25  # a main thread that used no CPU for so long is blocked


@dataclass
class Clocks:
    """What adds up while a test runs: waiting seconds per wait, apart for a missing peer that compiles."""

    compiling_s: dict[Number, float] = field(default_factory=dict)
    plain_s: dict[Number, float] = field(default_factory=dict)
    mismatch_since_s: float | None = None
    suspects: set[Number] = field(default_factory=set)
    compared: dict[int, int] = field(default_factory=dict)  # changes per rank that were compared
    last_s: float | None = None

    def advance(self, view: TestView, now_s: float) -> None:
        """Adds the time since the last call to the waits that are open now."""
        elapsed_s = 0.0 if self.last_s is None else max(0.0, now_s - self.last_s)
        self.last_s = now_s
        waits = [w for w in (*view.waits(), *stack_waits(view)) if _is_waited_in(view, w, now_s)]
        for clock in (self.compiling_s, self.plain_s):
            for gone in clock.keys() - {(w.group, w.seq) for w in waits}:
                del clock[gone]
        for wait in waits:
            clock = self.compiling_s if compiling(view, wait) else self.plain_s
            clock[wait.group, wait.seq] = clock.get((wait.group, wait.seq), 0.0) + elapsed_s

    def to_compare(self, view: TestView) -> set[Number]:
        """Collectives that ranks issued since the last call, and those that didn't match then."""
        numbers = self.suspects
        for rank in view.ranks.values():
            numbers |= set(rank.collectives.changed_since(self.compared.get(rank.rank, 0)))
            self.compared[rank.rank] = rank.collectives.changes
        return numbers


Rule = Callable[[TestView, Clocks, float], Acted | None]


def alarm(view: TestView, clocks: Clocks, now_s: float) -> Acted | None:
    """The first reason to end this test now, None while it may go on."""
    clocks.advance(view, now_s)
    for rule in (_exit, _mismatch, _stuck_on_failure, _waited_too_long, _compiled_too_long, _nobody_moves, _overtime):
        acted = rule(view, clocks, now_s)
        if acted is not None:
            return acted
    return None


def stack_waits(view: TestView) -> tuple[Wait, ...]:
    """The wait of ranks that only their stacks show waiting (point to point); the others are missing from it."""
    pending = {r for w in view.waits() for r in w.waiting}
    blocked = (
        {v.rank: since for v in view.unfinished() if (since := v.blocked_since()) is not None}
        if (view.unfinished())
        else {}
    )
    blocked = {r: since for r, since in blocked.items() if r not in pending}
    if not blocked:
        return ()
    missing = tuple(r for r in sorted(view.ranks) if r not in blocked and r not in pending)
    return (Wait("", 0, "point-to-point", tuple(sorted(blocked)), missing, min(blocked.values())),)


def compiling(view: TestView, wait: Wait) -> tuple[int, ...]:
    """Which of the missing compile right now."""
    return tuple(r for r in wait.missing if view.ranks[r].compiling)


def _is_waited_in(view: TestView, wait: Wait, now_s: float) -> bool:
    waiting = [view.ranks[r] for r in wait.waiting]
    return bool(wait.missing) and any(not v.out and _is_quiet(v, now_s) for v in waiting)


def _is_quiet(rank: RankView, now_s: float) -> bool:
    """Its main thread is blocked. NCCL spins while it waits, so on a device the recorder alone must do."""
    spins = any(e.op.startswith("nccl") for e in rank.collectives.pending())
    return spins or now_s - rank.busy_s > QUIET_S


def _acted(view: TestView, why: str, detail: str, wait: Wait | None = None, now_s: float = 0.0) -> Acted:
    if wait is None:
        return Acted(view.index, why, detail)
    return Acted(
        test=view.index,
        why=why,
        detail=detail,
        waiting=wait.waiting,
        missing=wait.missing,
        compiling=compiling(view, wait),
        waited_s=round(max(0.0, now_s - wait.since_s), 3),
    )


def _exit(view: TestView, clocks: Clocks, now_s: float) -> Acted | None:
    exits = [v.exit_s for v in view.ranks.values() if v.exit_s is not None and v.exit and not v.exit.expected]
    if exits and now_s - min(exits) >= SETTLE_S:
        return _acted(view, "exit", "a rank's process ended")
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
    return _acted(view, "mismatch", f"{found[0].aspect} differs at #{found[0].seq} of group {found[0].group}")


def _stuck_on_failure(view: TestView, clocks: Clocks, now_s: float) -> Acted | None:
    """Somebody failed or left, and everybody else waits: nothing can free them."""
    losses = [t for v in view.ranks.values() if (t := _lost_s(v)) is not None]
    if not losses:
        return None
    waits = [w for w in view.waits() if w.missing]
    stuck = [_stuck_since(waits, v, now_s) for v in view.unfinished()]
    if not stuck or any(since is None for since in stuck):
        return None
    by_stack = any(not v.collectives.pending() for v in view.unfinished())
    since_s = max([*losses, *(s for s in stuck if s is not None)])
    if now_s - since_s < (STUCK_BY_STACK_S if by_stack else STUCK_S):
        return None
    wait = next(iter((*view.waits(), *stack_waits(view))), None)
    return _acted(view, "failure-stuck", "every rank left in the test waits", wait, now_s)


def _lost_s(rank: RankView) -> float | None:
    """When this rank failed or left the test."""
    times = [t for t in (rank.finished_s, rank.exit_s) if t is not None]
    if rank.failure:
        times.append(rank.failure[0])
    return min(times, default=None)


def _stuck_since(waits: Iterable[Wait], rank: RankView, now_s: float) -> float | None:
    """Since when this rank waits, in one of `waits` or by its stack, for a peer that isn't there."""
    since = [w.since_s for w in waits if rank.rank in w.waiting]
    if since and _is_quiet(rank, now_s):
        return max(max(since), rank.busy_s)
    return rank.blocked_since()


def _waited_too_long(view: TestView, clocks: Clocks, now_s: float) -> Acted | None:
    for wait in (*view.waits(), *stack_waits(view)):
        key = wait.group, wait.seq
        if clocks.compiling_s.get(key, 0.0) > view.limits.skew:
            return _acted(view, "skew", f"{wait} while a missing peer compiles", wait, now_s)
        if clocks.plain_s.get(key, 0.0) > view.limits.stall:
            return _acted(view, "stall", f"{wait} waits for a missing peer", wait, now_s)
    return None


def _compiled_too_long(view: TestView, clocks: Clocks, now_s: float) -> Acted | None:
    for rank in view.unfinished():
        if rank.compiling_since_s is not None and now_s - rank.compiling_since_s > view.limits.compile:
            return _acted(view, "compile", f"rank {rank.rank} compiles in one go")
    return None


def _nobody_moves(view: TestView, clocks: Clocks, now_s: float) -> Acted | None:
    """All wait and nobody is missing: everybody receives, or a collective that all entered doesn't end."""
    ranks = view.unfinished()
    if not ranks or now_s - max(v.busy_s for v in ranks) <= view.limits.stall:
        return None
    if all(v.collectives.pending() or v.blocked_since() is not None for v in ranks):
        everybody = Wait("", 0, "", tuple(v.rank for v in ranks), (), max(v.busy_s for v in ranks))
        return _acted(view, "stall", "everybody waits", everybody, now_s)
    return None


def _overtime(view: TestView, clocks: Clocks, now_s: float) -> Acted | None:
    if now_s - view.started_s > view.limits.test:
        return _acted(view, "test-limit", f"the test ran longer than {view.limits.test:g} s")
    return None


def to_probe(view: TestView, now_s: float) -> tuple[int, ...]:
    """Ranks whose stack is worth a look: quiet, in no collective that the recorder shows, not looked at lately."""
    failed = any(_lost_s(v) is not None for v in view.ranks.values())
    after_s = 0.3 if failed else min(2.0, view.limits.stall / 3)
    return tuple(
        v.rank
        for v in view.unfinished()
        if now_s - v.busy_s > after_s
        and not v.collectives.pending()
        and now_s - max((t for t, _ in v.stacks), default=v.busy_s) > max(after_s, PROBE_SHARE * (now_s - v.busy_s))
    )
