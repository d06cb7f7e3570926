"""Owns waiting that nobody ended: for a compiling peer, for one that is elsewhere, for nobody; must not know errors.

Waiting ranks are followed to those they wait for, until somebody is found who doesn't wait: the *root*. Roots that
compile make a compile-skew, others a straggler; without a root it is a hang, or groups taken in different orders.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pytest_megacpp.judge import aftermath, deaths, mismatches
from pytest_megacpp.judge.case import Case
from pytest_megacpp.judge.findings import Doubt, Finding, Source
from pytest_megacpp.judge.phrases import joined, plain, seconds, was
from pytest_megacpp.judge.verdicts import Certainty, Code, Consequence, Evidence
from pytest_megacpp.recording.collectives import Wait, bare_op, incarnation
from pytest_megacpp.recording.ranks import ranks_named

_MESSAGES = frozenset({"send", "recv", "isend", "irecv", "batch_isend_irecv", "wait"})
_ROOTED = frozenset({"broadcast", "reduce", "gather", "scatter"})
KEPT_PLACES = 4
RECENT_S = 5.0  # progress this shortly before a limit is progress, whatever `stall` is
_RELIES = frozenset({Source.COLLECTIVES, Source.GROUPS, Source.STACKS, Source.CLOCKS})


@dataclass(frozen=True, slots=True)
class Standstill:
    """Who waits, for whom, at the moment. `cycle`: waits that wait for each other. `guessed`: partners not known."""

    waits: tuple[Wait, ...]
    waiting: tuple[int, ...]
    roots: tuple[int, ...]
    cycle: tuple[Wait, ...] = ()
    guessed: bool = False
    by_box: bool = False

    @property
    def what(self) -> str:
        """What is waited in, as the object of a sentence."""
        return str(self.waits[0]) if self.waits else ""


def standstill(case: Case) -> Standstill:
    """Follows the waits of the moment to their roots."""
    starts = _started_long_ago(case)
    roots, visited = _follow(case, starts)
    waiting = tuple(sorted({*case.waiting_in, *case.blocked}))
    if roots:
        return Standstill(tuple(visited), waiting, roots)
    if cycle := _cycle(case, visited):
        return Standstill(tuple(visited), waiting, (), cycle)
    if case.blocked or any(not case.knows_members(w.group) for w in visited):
        elsewhere = _elsewhere(case) or _outnumbered(case, waiting)
        waiting = tuple(r for r in waiting if r not in elsewhere)
        return Standstill(tuple(visited), waiting, elsewhere, guessed=bool(elsewhere))
    return _as_box_saw(case) or Standstill(tuple(visited), waiting, ())


def _started_long_ago(case: Case) -> list[Wait]:
    """The waits that count: those at least half as old as the oldest."""
    if not case.waits:
        return []
    oldest_s = case.waits[0].since_s
    return [w for w in case.waits if case.moment_s - w.since_s >= (case.moment_s - oldest_s) / 2]


def _follow(case: Case, starts: Iterable[Wait]) -> tuple[tuple[int, ...], list[Wait]]:
    """The ranks at the end of the waits that don't wait themselves, and the waits on the way."""
    todo, visited, roots = list(starts), dict[tuple[str, int], Wait](), set[int]()
    while todo:
        wait = todo.pop(0)
        if wait.number in visited:
            continue
        visited[wait.number] = wait
        for rank in wait.missing:
            if rank in case.waiting_in:
                todo.append(case.waiting_in[rank])
            elif rank not in case.blocked:
                roots.add(rank)
    return tuple(sorted(roots)), list(visited.values())


def _cycle(case: Case, visited: Sequence[Wait]) -> tuple[Wait, ...]:
    """Waits of different groups whose missing ranks sit in another of them."""
    tangled = [w for w in visited if any(r in case.waiting_in for r in w.missing)]
    return tuple(tangled) if len({w.group for w in tangled}) > 1 else ()


def _elsewhere(case: Case) -> tuple[int, ...]:
    """Ranks that don't wait: those still in the test, or when all others left it, these."""
    idle = [r for r in sorted(case.ranks) if r not in case.waiting_in and r not in case.blocked]
    idle = [r for r in idle if r not in case.troubles]
    present = tuple(r for r in idle if not case.has_left(r))
    return present or tuple(idle)


def _outnumbered(case: Case, waiting: Sequence[int]) -> tuple[int, ...]:
    """Where everybody waits and most of all ranks in one thing: the few that wait in another are missing there."""
    together: dict[object, list[int]] = defaultdict(list)
    for rank in waiting:
        wait, call = case.waiting_in.get(rank), case.blocked.get(rank)
        together[wait.number if wait else "message" if call in _MESSAGES else call].append(rank)
    most = max(together.values(), key=len, default=[])
    return tuple(r for r in waiting if r not in most) if 2 * len(most) > len(case.ranks) else ()


def _as_box_saw(case: Case) -> Standstill | None:
    """What the box had seen when it acted, where the recording shows less."""
    acted = case.test.acted
    if acted is None or case.waits or not acted.waiting:
        return None
    waiting = tuple(r for r in acted.waiting if r in case.ranks)
    missing = tuple(r for r in acted.missing if r in case.ranks and r not in waiting)
    return Standstill((), waiting, missing, by_box=True) if waiting else None


# -- verdicts ----------------------------------------------------------------------------------------------


def find(case: Case) -> Finding | None:
    """The finding for a test that the box ended for waiting or a limit, or whose ranks gave up waiting."""
    if aftermath.victims(case):
        return _gave_up(case)
    match case.why:
        case "skew" | "stall" | "failure-stuck":
            return _waited(case, standstill(case))
        case "compile":
            return _compile_stall(case)
        case "test-limit" | "run-limit":
            return _limit(case)
    return None


def _gave_up(case: Case) -> Finding:
    """Ranks stopped waiting by their own time-out, or found their peer gone."""
    still = standstill(case)
    if still.roots or still.cycle:
        return _waited(case, still)
    return _bystanders(case) or deaths.gave_up(case, "ranks lost contact with each other")


def _bystanders(case: Case) -> Finding | None:
    """Without collectives to go by: the ranks that met no error had left, or are elsewhere."""
    busy = case.troubles.keys() | case.blocked.keys() | case.waiting_in.keys()
    others = [r for r in sorted(case.ranks) if r not in busy]
    left = tuple(r for r in others if case.has_left(r))
    roots = tuple(r for r in others if r not in left) or left
    if not roots:
        return None
    waiting = tuple(sorted(case.troubles))
    return _straggler(case, Standstill((), waiting, roots, guessed=True))


def _waited(case: Case, still: Standstill) -> Finding:
    if still.cycle:
        return mismatches.across_groups(case, still.cycle)
    compiling = tuple(r for r in still.roots if case.is_compiling(r))
    plain_roots = tuple(r for r in still.roots if r not in compiling)
    if compiling and (case.why == "skew" or not plain_roots):
        at_rest = _at_rest(case, compiling)
        return _compile_skew(case, still, at_rest or compiling, at_rest=bool(at_rest))
    if still.roots:
        return _straggler(case, still)
    return _hang(case, still)


def _doubts(case: Case, still: Standstill) -> tuple[Doubt, ...]:
    found = []
    if still.guessed:
        found.append(Doubt(Source.GROUPS, "whom they waited for is not recorded"))
    if still.by_box:
        found.append(Doubt(Source.COLLECTIVES, "only the box saw the wait, the recording doesn't show it"))
    unknown = [w.group for w in still.waits if not case.knows_members(w.group)]
    if unknown:
        found.append(Doubt(Source.GROUPS, f"the members of group {plain(unknown[0], 40)} are not known"))
    disputed = [w.group for w in still.waits if case.test.groups.disputes(w.group)]
    if disputed:
        found.append(Doubt(Source.GROUPS, f"ranks told different members of group {plain(disputed[0], 40)}"))
    return (*found, *_contradictions(case, still))


def _contradictions(case: Case, still: Standstill) -> Iterable[Doubt]:
    """The box named others as missing than the recording does."""
    acted = case.test.acted
    if acted is None or not acted.missing or still.guessed or still.by_box or case.moment_s < case.end_s:
        return ()
    first = still.waits[0].missing if still.waits else ()
    if set(acted.missing) & {*still.roots, *first}:
        return ()
    return (Doubt(Source.COLLECTIVES, f"the box saw {ranks_named(acted.missing)} missing, the recording doesn't"),)


def _since_s(case: Case, still: Standstill) -> float:
    acted = case.test.acted
    if still.waits:
        return still.waits[0].since_s
    return case.moment_s - (acted.waited_s if acted and case.moment_s == case.end_s else 0.0)


def _wait_text(case: Case, still: Standstill) -> str:
    """`ranks 0,1,3 waited 120 s`, `rank 0 waited 3 s in recv`."""
    calls = sorted(set(case.blocked.values()))
    where = f" in {calls[0]}" if not still.waits and calls else ""
    waited_s = case.waited_s(_since_s(case, still))
    if not waited_s and aftermath.victims(case):
        return f"{ranks_named(still.waiting)} gave up waiting"
    return f"{ranks_named(still.waiting)} waited{f' {seconds(waited_s)}' if waited_s else ''}{where}"


def _wait_evidence(case: Case, still: Standstill) -> tuple[Evidence, ...]:
    acted = case.test.acted
    waits = tuple(aftermath.wait_evidence(w) for w in still.waits[:4])
    first = {w.waiting[0]: str(w) for w in reversed(still.waits[:4])} | case.blocked
    calls = aftermath.first_few(first, lambda r: _stack_evidence(case, r, f"waits in {first[r]}{_at(case, r)}"))
    told = (_wait_text(case, still) if still.waiting else plain(acted.detail)) if acted else ""
    box = (Evidence(None, case.end_s, "box", f"ended the test ({plain(acted.why, 40)}): {told}"),) if acted else ()
    return (*waits, *calls, *box)


def _at(case: Case, rank: int) -> str:
    where = case.location(rank)
    return f" at {where}" if where else ""


def _stack_evidence(case: Case, rank: int, text: str) -> Evidence | None:
    taken = case.ranks[rank].stack()
    return Evidence(rank, taken[0], "stack", text) if taken else None


def _waiters(case: Case, still: Standstill, blamed: Sequence[int]) -> tuple[Consequence, ...]:
    known = {c.rank: c for c in aftermath.consequences(case, blamed)}
    waited = _wait_text(case, still).partition(" waited")[2]
    for rank in still.waiting:
        if rank not in blamed:
            known.setdefault(rank, Consequence(rank, f"waited{waited}"))
    return tuple(known[r] for r in sorted(known))


# -- stragglers --------------------------------------------------------------------------------------------


def _straggler(case: Case, still: Standstill) -> Finding:
    blamed = _guilty(case, still)
    causes = {_cause(case, r) for r in blamed}
    return Finding(
        Code.STRAGGLER,
        joined((_where_they_were(case, still, blamed), _wait_text(case, still))),
        blamed,
        causes.pop() if len(causes) == 1 else None,
        _phase(case, still, blamed),
        (*_wait_evidence(case, still), *aftermath.first_few(blamed, lambda r: _late_evidence(case, still, r))),
        _waiters(case, still, blamed),
        _RELIES | {Source.COUNTERS},
        (*_doubts(case, still), *_root_doubts(case, blamed)),
        Certainty.LIKELY if still.guessed and len(blamed) > 1 else Certainty.CERTAIN,
        _since_s(case, still),
    )


def _guilty(case: Case, still: Standstill) -> tuple[int, ...]:
    """The roots that don't compile: a compiling one is only slow."""
    busy = tuple(r for r in still.roots if not case.is_compiling(r))
    return busy or still.roots


def _cause(case: Case, rank: int) -> str | None:
    if case.is_frozen(rank):
        return "frozen"
    if case.has_left(rank):
        return "left-early"
    if case.is_behind(rank):
        return "device-busy"
    return "gil-held" if case.holds_gil(rank) else None


def _where_they_were(case: Case, still: Standstill, blamed: Sequence[int]) -> str:
    """`rank 2 never entered all_reduce #4: it was in train.py:88 (load_batch)`."""
    head = f"{ranks_named(blamed)} {_what_they_did(case, still, blamed)}"
    states = dict.fromkeys(_state(case, still, r, len(blamed) == 1) for r in sorted(blamed)[:16])
    if len(states) == 1:
        return f"{head}: {next(iter(states))}"
    told = [f"rank {r} {_state(case, still, r, True).partition(' ')[2]}" for r in sorted(blamed)[:2]]
    return f"{head}: {', '.join(told)}{', …' if len(blamed) > 2 else ''}"


def _what_they_did(case: Case, still: Standstill, blamed: Sequence[int]) -> str:
    if not still.waits:
        return "kept others waiting"
    if still.waits[0].partner is not None:
        return f"left {ranks_named(still.waits[0].waiting)} waiting in {still.what}"
    entered = [r for r in blamed if _entered(case, r, still.waits[0])]
    verb = "never began" if any(case.is_behind(r) for r in entered) else "stopped in" if entered else "never entered"
    return f"{verb} {still.what}"


def _entered(case: Case, rank: int, wait: Wait) -> bool:
    entry = case.ranks[rank].collectives.entries.get((wait.group, wait.seq)) if wait.partner is None else None
    return entry is not None and entry.entered_s <= case.moment_s


def _late_s(case: Case, still: Standstill, rank: int) -> float | None:
    """How long after the others it entered what they had given up by then (not: were made to give up by the box)."""
    wait = still.waits[0] if still.waits and case.moment_s < case.end_s else None
    number = (wait.group, wait.seq) if wait and wait.partner is None else None
    entry = case.ranks[rank].collectives.entries.get(number) if number else None
    return entry.entered_s - wait.since_s if entry and wait and entry.entered_s > case.moment_s else None


def _state(case: Case, still: Standstill, rank: int, alone: bool) -> str:
    """As a sentence about `it` or `they`."""
    it, is_, was_, had = ("it", "is", "was", "its") if alone else ("they", "are", "were", "their")
    where = case.location(rank)
    match _cause(case, rank):
        case "frozen":
            return f"{it} {is_} frozen (stopped by a signal)" + (f" in {where}" if where else "")
        case "left-early":
            return f"{it} had already finished the test"
        case "device-busy":
            return f"{it} queued it behind a kernel that {had} device has not ended" + (
                f", in {where}" if where else ""
            )
        case "gil-held":
            return f"{it} {was_} in native code that holds {had} GIL" + (f", called from {where}" if where else "")
    if rank in case.blocked:
        return f"{it} {was_} waiting in {case.blocked[rank]}" + (f" at {where}" if where else "")
    if (late_s := _late_s(case, still, rank)) is not None:
        return f"{it} came {seconds(late_s)} after the first"
    if where:
        destroyed = f"{had_ed} and " if (had_ed := _destroyed(case, still, rank, alone)) else f"{it} "
        return f"{destroyed}{was_} in {where}"
    return f"{it} {was_} elsewhere" if case.answers(rank) else f"{it} {was_} not answering"


def _destroyed(case: Case, still: Standstill, rank: int, alone: bool) -> str:
    """Whether it left the group in which the others wait."""
    group = still.waits[0].group if still.waits else ""
    its = case.ranks[rank].collectives.incarnation
    gone = bool(group) and its > incarnation(group)
    return f"{'it' if alone else 'they'} had destroyed {'its' if alone else 'their'} process group" if gone else ""


def _late_evidence(case: Case, still: Standstill, rank: int) -> Evidence | None:
    if (late_s := _late_s(case, still, rank)) is None:
        return _root_evidence(case, rank)
    since_s = still.waits[0].since_s
    return Evidence(
        rank, since_s + late_s, "flight-recorder", f"entered {still.what} {seconds(late_s)} after the first"
    )


def _root_evidence(case: Case, rank: int) -> Evidence | None:
    sample, view = case.ranks[rank].sample, case.ranks[rank]
    if case.is_frozen(rank) and sample is not None:
        return Evidence(rank, view.sample_s, "box", f"process state {sample.state}: stopped")
    if case.has_left(rank):
        called = view.reports.get("call")
        return Evidence(rank, called[0] if called else view.finished_s, "report", "finished the test")
    if case.is_behind(rank):
        told = "queued what the others wait in; its device has not begun it"
        return Evidence(rank, case.end_s, "flight-recorder", told)
    if case.holds_gil(rank):
        return Evidence(rank, view.stacks[-1][0], "stack", "its server answers, its interpreter doesn't")
    where = case.location(rank)
    if where:
        return _stack_evidence(case, rank, f"is in {where}")
    return (
        Evidence(rank, view.sample_s, "box", "answers" if case.answers(rank) else "doesn't answer") if sample else None
    )


def _root_doubts(case: Case, blamed: Sequence[int]) -> tuple[Doubt, ...]:
    """A living rank is blamed for where it is, so that should be known."""
    found = []
    lost = [r for r in blamed if case.location(r) is None and _cause(case, r) is None and r not in case.troubles]
    mute = [r for r in blamed if not case.answers(r) and not case.is_frozen(r)]
    if lost:
        found.append(Doubt(Source.STACKS, f"there is no stack of {ranks_named(lost)}"))
    if mute:
        found.append(Doubt(Source.COUNTERS, f"{was(mute)} not answering, so whether it compiled is not known"))
    return tuple(found)


def _phase(case: Case, still: Standstill, blamed: Sequence[int]) -> str:
    """Where the blamed ranks are; when they left, where the others wait for them."""
    present = [r for r in blamed if not case.has_left(r)] or list(still.waiting)
    failed = [case.troubles[r].phase for r in present if r in case.troubles]
    return failed[0] if failed else case.phase_of(present[0]) if present else "call"


# -- hangs -------------------------------------------------------------------------------------------------


def _hang(case: Case, still: Standstill) -> Finding:
    waiting = still.waiting or tuple(r for r in case.ranks if not case.is_through(r))
    waited = seconds(case.waited_s(_since_s(case, still)))
    return Finding(
        Code.HANG,
        joined((f"everybody waits and nobody is missing: {_in_what(case, waiting, waited)}", _rooted(still))),
        waiting,
        None,
        case.phase_of(waiting[0]) if waiting else "call",
        _wait_evidence(case, still),
        relies=_RELIES,
        doubts=_doubts(case, still),
        time_s=_since_s(case, still),
    )


def _in_what(case: Case, waiting: Sequence[int], waited: str) -> str:
    """`ranks 0,1 waited 2 s in broadcast #2, ranks 2,3 in recv`."""
    places: dict[str, list[int]] = defaultdict(list)
    for rank in waiting:
        wait = case.waiting_in.get(rank)
        places[str(wait) if wait else case.blocked.get(rank, "a distributed call")].append(rank)
    told = [f"{ranks_named(ranks)} in {what}" for what, ranks in list(places.items())[:KEPT_PLACES]]
    more = ", …" if len(places) > KEPT_PLACES else ""
    return ", ".join(told).replace(" in ", f" waited {waited} in ", 1) + more


def _rooted(still: Standstill) -> str:
    """What the flight recorder can't show."""
    whole = [w for w in still.waits if not w.missing and w.op in _ROOTED]
    return f"all entered {whole[0]}, so they may not agree on its root" if whole else ""


# -- compiling ---------------------------------------------------------------------------------------------


def _at_rest(case: Case, compiling: Sequence[int]) -> tuple[int, ...]:
    """Those whose compile makes no progress, when none does; who only waits for another's lock is no part of it."""
    own = tuple(r for r in compiling if not case.ranks[r].awaits_file_lock)
    resting = case.why == "stall" and all(_quiet_s(case, r) >= case.test.limits.stall for r in own)
    return own if resting else ()


def _compile_skew(case: Case, still: Standstill, blamed: tuple[int, ...], *, at_rest: bool) -> Finding:
    what = f" in {still.what}" if still.waits else ""
    others = tuple(Consequence(r, "was missing as well", "straggler") for r in still.roots if r not in blamed)
    return Finding(
        Code.COMPILE_SKEW,
        f"{was(blamed)} {_compile_state(case, blamed, at_rest=at_rest)} while {_wait_text(case, still)}{what}",
        blamed,
        "no-progress" if at_rest else None,
        _phase(case, still, blamed),
        (*_wait_evidence(case, still), *aftermath.first_few(blamed, lambda r: _compile_evidence(case, r))),
        (*_waiters(case, still, blamed), *others),
        frozenset({Source.COLLECTIVES, Source.GROUPS, Source.COUNTERS, Source.CLOCKS}),
        (*_doubts(case, still), *_compile_doubts(case, blamed)),
        time_s=_since_s(case, still),
    )


def _compile_state(case: Case, blamed: Sequence[int], *, at_rest: bool) -> str:
    if all(case.ranks[r].compiling_since_s is None and case.ranks[r].imports_compiler() for r in blamed):
        return "still loading torch's compiler"
    return f"{'in a compile that makes no progress' if at_rest else 'still compiling'} ({_compiled_for(case, blamed)})"


def _compile_doubts(case: Case, blamed: Sequence[int]) -> tuple[Doubt, ...]:
    """The box said that they compile, and neither counters nor stacks say so."""
    views = [case.ranks[r] for r in blamed]
    idle = [v.rank for v in views if v.compiling_since_s is None and not v.imports_compiler()]
    return (Doubt(Source.COUNTERS, f"the box saw {ranks_named(idle)} compile, the recording doesn't"),) if idle else ()


def _quiet_s(case: Case, rank: int) -> float:
    return case.end_s - case.ranks[rank].moved_s


def _compiled_for(case: Case, blamed: Sequence[int]) -> str:
    since = [s for r in blamed if (s := case.ranks[r].compiling_since_s) is not None]
    return seconds(max(0.0, case.moment_s - min(since))) if since else "not finished"


def _compile_evidence(case: Case, rank: int) -> Evidence | None:
    view = case.ranks[rank]
    if view.sample is None:
        return None
    names = ", ".join(plain(name, 60) for name in view.sample.compiling[:3])
    if not names and view.imports_compiler():
        return Evidence(rank, view.stacks[-1][0], "stack", "loads torch's compiler")
    total = f"; {seconds(view.sample.compile_s)} in all so far" if view.sample.compile_s else ""
    text = f"compiling: {names or 'until just now'}{total}"
    return Evidence(rank, view.compiling_since_s or view.sample_s, "counters", text)


def _compile_stall(case: Case) -> Finding:
    limit_s = case.test.limits.compile
    since = {r: s for r, v in case.ranks.items() if (s := v.compiling_since_s) is not None}
    long = tuple(sorted(r for r, s in since.items() if case.end_s - s >= limit_s - 1.0))
    blamed = long or tuple(sorted(since)) or tuple(r for r in (case.test.acted.missing if case.test.acted else ()))
    doubts = () if long else (Doubt(Source.COUNTERS, "the recording doesn't show who compiled for so long"),)
    waiting = set(aftermath.stuck(case, blamed))
    return Finding(
        Code.COMPILE_STALL,
        f"{ranks_named(blamed)} compiled for {_compiled_for(case, blamed)} in one go, the limit is {seconds(limit_s)}",
        blamed,
        None,
        case.phase_of(blamed[0]) if blamed else "call",
        (
            *aftermath.first_few(blamed, lambda r: _compile_evidence(case, r)),
            *(aftermath.wait_evidence(w) for w in case.waits[:2] if waiting & set(w.waiting)),
        ),
        aftermath.consequences(case, blamed),
        frozenset({Source.COUNTERS, Source.CLOCKS}),
        doubts,
        time_s=min((since[r] for r in blamed if r in since), default=case.end_s),
    )


# -- limits ------------------------------------------------------------------------------------------------


def _limit(case: Case) -> Finding:
    """A limit passed: who moved last decides."""
    present = [r for r in sorted(case.ranks) if not case.is_through(r)]
    quiet_s = min((_quiet_s(case, r) for r in present), default=0.0)
    stall_s = case.test.limits.stall
    if not present or not _was_watched(case, present):
        return _unclear(case, present, "nothing was seen of what they did")
    if quiet_s >= stall_s:
        return _nobody_moved(case, present, quiet_s)
    if quiet_s < min(stall_s, max(RECENT_S, case.test.limits.test / 4)):
        return _overtime(case, present)
    return _unclear(case, present, f"nobody had moved for {seconds(quiet_s)}, which is less than the stall limit")


def _was_watched(case: Case, present: Iterable[int]) -> bool:
    return any(case.ranks[r].sample is not None for r in present)


def _nobody_moved(case: Case, present: Sequence[int], quiet_s: float) -> Finding:
    still = standstill(case)
    if still.cycle or (still.roots and (still.waits or still.waiting)):
        return _waited(case, still)
    if busy := tuple(r for r in present if case.has_only_queued(r)):
        return _devices_busy(case, still, busy, quiet_s)
    blamed = still.waiting or tuple(present)
    where = dict.fromkeys(w for r in blamed[:16] if (w := case.location(r)))
    at = f" (in {next(iter(where))})" if len(where) == 1 else ""
    return Finding(
        Code.HANG,
        f"{was(blamed)} without progress for {seconds(quiet_s)} when the {_name(case)} limit passed{at}",
        blamed,
        None,
        case.phase_of(blamed[0]),
        (*_wait_evidence(case, still), *aftermath.first_few(blamed, lambda r: _root_evidence(case, r))),
        relies=frozenset({Source.COUNTERS, Source.STACKS, Source.CLOCKS}),
        certainty=Certainty.CERTAIN if still.waiting else Certainty.GUESS,
        time_s=case.end_s,
    )


def _devices_busy(case: Case, still: Standstill, busy: tuple[int, ...], quiet_s: float) -> Finding:
    """Hosts queued a collective behind kernels that don't end; whether they are hung or only long is not told."""
    its = "its device has" if len(busy) == 1 else "their devices have"
    queued = case.ranks[busy[0]].collectives.pending()[0]
    what = f"{bare_op(plain(queued.op, 60))} #{queued.seq}"
    where = case.location(busy[0])
    at = f", in {where}" if where else ""
    return Finding(
        Code.HANG,
        f"{ranks_named(busy)} queued {what} {seconds(quiet_s)} before the {_name(case)} limit passed, and {its} not "
        f"begun it: an earlier kernel does not end{at}",
        busy,
        "device-busy",
        case.phase_of(busy[0]),
        (*_limit_evidence(case, busy), *(aftermath.wait_evidence(w) for w in still.waits[:2])),
        relies=frozenset({Source.COLLECTIVES}),
        certainty=Certainty.LIKELY,
        time_s=case.end_s,
    )


def _name(case: Case) -> str:
    return "run" if case.why == "run-limit" else "test"


def _limit_evidence(case: Case, present: Sequence[int]) -> tuple[Evidence, ...]:
    acted = case.test.acted
    why = plain(acted.why, 40) if acted else ""
    box = (Evidence(None, case.end_s, "box", f"ended the test ({why}): {plain(acted.detail)}"),) if acted else ()
    return (*box, *aftermath.first_few(present, lambda r: _progress_evidence(case, r)))


def _progress_evidence(case: Case, rank: int) -> Evidence:
    where = case.location(rank)
    compiling = ", compiling" if case.is_compiling(rank) else ""
    return Evidence(
        rank, case.ranks[rank].progress_s, "counters", f"last progress{compiling}{f', in {where}' if where else ''}"
    )


def _overtime(case: Case, present: Sequence[int]) -> Finding:
    limit = f"its limit of {seconds(case.test.limits.test)}" if _name(case) == "test" else "the limit of the whole run"
    compiling = [r for r in present if case.is_compiling(r)]
    still = standstill(case)
    waited = (
        f"; {ranks_named(still.waiting)} waited for {ranks_named(still.roots)}" if still.roots and still.waits else ""
    )
    doing = f"; {ranks_named(compiling)} still compiled" if compiling else waited
    return Finding(
        Code.OVERTIME,
        f"the test was still making progress when {limit} passed{doing}",
        (),
        "run-limit" if case.why == "run-limit" else None,
        case.phase_of(present[0]),
        _limit_evidence(case, present),
        relies=frozenset({Source.COUNTERS, Source.CLOCKS}),
        time_s=case.end_s,
    )


def _unclear(case: Case, present: Sequence[int], why: str) -> Finding:
    still = standstill(case)
    roots = (
        f"; {ranks_named(still.waiting)} waited for {ranks_named(still.roots)}" if still.roots and still.waits else ""
    )
    return Finding(
        Code.UNCLEAR,
        f"the {_name(case)} limit passed and the evidence doesn't decide: {why}{roots}",
        (),
        None,
        case.phase_of(present[0]) if present else "call",
        (*_limit_evidence(case, present), *(aftermath.wait_evidence(w) for w in still.waits[:2])),
        certainty=Certainty.GUESS,
        time_s=case.end_s,
    )
