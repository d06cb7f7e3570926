"""Owns which ranks wait for which at the moment that decides, and the text about it; must not know what the missing
ranks do.

Waiting ranks are followed to those they wait for, until a rank is found that doesn't wait: the *root*.
"""

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from pytest_megacpp.judge import aftermath, messages
from pytest_megacpp.judge.case import Case
from pytest_megacpp.judge.findings import Source, Uncertainty
from pytest_megacpp.judge.phrases import plain, seconds
from pytest_megacpp.judge.verdicts import Consequence, Evidence, Witness
from pytest_megacpp.recording.operations import ROOTED
from pytest_megacpp.recording.ranks import ranks_named
from pytest_megacpp.recording.reports import is_xfail
from pytest_megacpp.recording.vocabulary import ActReason, TestPhase
from pytest_megacpp.recording.waits import Wait, young_since

_RELIES = frozenset({Source.COLLECTIVES, Source.GROUPS, Source.STACKS, Source.CLOCKS})
_KEPT_WAITS = 4
_SPREAD_S = 1.0  # between the first and the last to wait: more is worth a word, as on the board
_MESSAGES = frozenset({"send", "recv", "isend", "irecv", "batch_isend_irecv", "wait"})
_BARRIER = "monitored_barrier"  # which no recorder shows
_FOR_ALL = frozenset({"Store.barrier", "rpc.init_rpc", "rpc.shutdown"})


def is_message(call: str) -> bool:
    """Returns whether a call that only a stack shows sends or receives; `wait` may wait for anything."""
    return call in _MESSAGES


def is_for_one(call: str) -> bool:
    """Returns whether a call that only a stack shows is answered by one rank: a message, a key of a store, an rpc."""
    return is_message(call) or (call.startswith(("Store.", "rpc.")) and call not in _FOR_ALL)


@dataclass(frozen=True, slots=True)
class WaitAnalysis:
    """Which ranks wait, and for which, at the moment.

    `cycle` has waits that wait for each other. `is_guessed`: the recording doesn't show which ranks were waited for.
    `is_from_box`: only the box saw the wait. `moving`: roots that wait themselves, for others, but not for long;
    `beyond`: the ranks to which these waits lead, or may lead where roots are guessed. `brief`: ranks through whose
    waits roots were found, and which had not waited for long.
    """

    waits: tuple[Wait, ...]
    waiting: tuple[int, ...]
    roots: tuple[int, ...]
    cycle: tuple[Wait, ...] = ()
    is_guessed: bool = False
    is_from_box: bool = False
    moving: tuple[int, ...] = ()
    beyond: tuple[int, ...] = ()
    brief: tuple[int, ...] = ()

    def kept_by(self, ranks: Collection[int]) -> Wait | None:
        """Returns the first wait in which all of these ranks are missing; None if there is none."""
        return next((wait for wait in self.waits if set(ranks) <= set(wait.missing)), None)


def analyze_waits(case: Case) -> WaitAnalysis:
    """Returns who waited for whom at the moment: by time-outs that name who didn't come, else by what is recorded."""
    return from_barrier_timeouts(case) or _from_graph(case)


def _from_graph(case: Case) -> WaitAnalysis:
    """Follows the waits of the moment to their roots."""
    # Recorded waits come first, since they name their members. Without a root in them, a wait whose partner isn't
    # recorded is explained by the ranks that don't wait; only if lines are lost does the box's own report count.
    graph = case.graph
    waiting = tuple(sorted({*case.waiting_in, *case.blocked}))
    followed = follow(case, oldest_waits(case), waiting)
    if followed.roots or followed.cycle:
        return followed
    visited = followed.waits
    if case.blocked or any(not case.knows_members(w.group) for w in visited):
        idle = graph.present or graph.idle
        ends = tuple(sorted(case.blocked.keys() & {r for w in visited for r in w.missing}))
        if idle and ends:  # for whom these wait is a guess, that the others wait for them is not
            waiting = tuple(r for r in waiting if r not in ends)
            return WaitAnalysis(visited, waiting, ends, is_guessed=True, beyond=idle)
        elsewhere = idle or _outnumbered(case, waiting)
        waiting = tuple(r for r in waiting if r not in elsewhere)
        return WaitAnalysis(visited, waiting, elsewhere, is_guessed=bool(elsewhere))
    return _from_box_report(case) or WaitAnalysis(visited, waiting, ())


def follow(case: Case, starts: Iterable[Wait], waiting: Sequence[int]) -> WaitAnalysis:
    """Follows these waits, in which these ranks wait, to their roots, or to a cycle."""
    graph, young_s = case.graph, _young_s(case)
    roots, visited = graph.roots(starts, young_s)
    moving = tuple(r for r in roots if graph.is_on_its_way(r, young_s))
    brief: Collection[int] = ()
    if followed := _late_because_of_others(case, roots, moving):
        ends, further = graph.roots(graph.waiting_in[r] for r in followed)
        brief = () if case.why is ActReason.SKEW else followed
        moving = tuple(r for r in moving if r not in followed)
        roots = tuple(sorted({*roots, *ends}.difference(followed)))
        visited = tuple({w.number: w for w in (*visited, *further)}.values())
    cycle = () if roots else graph.cycle(visited)
    beyond, _ = graph.roots(graph.waiting_in[r] for r in moving if r in graph.waiting_in)
    beyond = tuple(r for r in beyond if r not in roots)
    waits = tuple(r for r in waiting if r not in moving)
    return WaitAnalysis(visited, waits, roots, cycle, moving=moving, beyond=beyond, brief=tuple(sorted(brief)))


def _late_because_of_others(case: Case, roots: Collection[int], moving: Collection[int]) -> frozenset[int]:
    """Returns the ranks on their way that are late only because of others: their own waits lead to nobody but ranks
    that are missing without them, or that compile.
    """
    # If the box acted since compiling held up a chain, its clock counted for how long, so one that compiles is enough.
    found = set()
    for rank in (r for r in moving if r in case.graph.waiting_in):
        ends, _ = case.graph.roots([case.graph.waiting_in[rank]])
        compiling = {r for r in ends if case.is_compiling(r)}
        explained = compiling.union(set(roots).difference(moving))
        if ends and (explained.issuperset(ends) or (compiling and case.why is ActReason.SKEW)):
            found.add(rank)
    return frozenset(found)


def from_barrier_timeouts(case: Case) -> WaitAnalysis | None:
    """Returns the waits by the time-outs of monitored barriers, which name the ranks that did not come.

    Those of them that wait themselves are followed to their roots. None if no time-out names a rank.
    """
    words = tuple(_barrier_timeouts(case))
    named = {rank for word in words for rank in _named_absent(case, *word)}
    if not named:
        return None
    failed = tuple(t.rank for t in aftermath.victims(case) if t.rank not in named)
    barrier = Wait("", 0, _BARRIER, failed, tuple(sorted(named)), min(time_s for _, time_s, _ in words))
    roots, visited = case.graph.roots([barrier])
    waiting = tuple(sorted({*case.waiting_in, *case.blocked, *failed} - set(roots)))
    return WaitAnalysis(visited, waiting, roots) if roots else None


def _barrier_timeouts(case: Case) -> Iterable[tuple[int, float, str]]:
    """Yields which rank reported such a time-out, when, and its message; also one that had failed before, in its
    teardown. A failure that was expected is no victim, and says nothing of the moment.
    """
    for rank, view in case.ranks.items():
        for time_s, report in view.reports.values():
            counts = report.error is not None and time_s <= case.cutoff_s and not is_xfail(report)
            said = report.error.message if report.error is not None and counts else ""
            if messages.absent(said) is not None:
                yield rank, time_s, said


def _named_absent(case: Case, speaker: int, time_s: float, said: str) -> frozenset[int]:
    """Returns the ranks that a time-out names and that had not failed by then.

    The numbers are those of a group that has all failed ranks as members and the reporting rank in that place. Empty if
    several groups fit and disagree.
    """
    absent = messages.absent(said)
    if absent is None:
        return frozenset()
    place, numbers = absent
    victims = aftermath.victims(case)
    failed = {t.rank for t in victims}
    known = case.test.groups.orders(speaker)
    fit = [m for m in known if failed <= set(m) and m[place : place + 1] == (speaker,) and max(numbers) < len(m)]
    found = {frozenset(members[n] for n in numbers) for members in fit}
    return found.pop() - {t.rank for t in victims if t.time_s <= time_s} if len(found) == 1 else frozenset()


def oldest_waits(case: Case) -> list[Wait]:
    """Returns the waits that count: those at least half as old as the oldest."""
    # A young wait is ordinary progress: its members may be on their way, and following it would blame one of them.
    if not case.waits:
        return []
    oldest_s = case.waits[0].since_s
    return [w for w in case.waits if case.moment_s - w.since_s >= (case.moment_s - oldest_s) / 2]


def _young_s(case: Case) -> float:
    """Returns the time since which ranks that others wait for may have been in waits of their own and yet be on their
    way: they are younger than half of the oldest wait, and than the limit on a wait (decision 0034).
    """
    # Where the box saw that nothing can free anybody, the end of the chain decides, however young it is.
    if not case.waits or (case.why is ActReason.FAILURE_STUCK and case.acted_on_wait):
        return float("inf")
    return young_since(case.waits[0].since_s, case.moment_s, case.test.limits.stall)


def _outnumbered(case: Case, waiting: Sequence[int]) -> tuple[int, ...]:
    """Returns the few that wait in something else, if every rank waits and most of all ranks wait in the same and
    it is not recorded that none is missing there.
    """
    # More than half of *all* ranks: with fewer it isn't clear which of two groups of ranks went the wrong way.
    if any(r not in waiting and case.stays(r) for r in case.ranks):
        return ()
    together: dict[object, list[int]] = defaultdict(list)
    for rank in waiting:
        wait, call = case.waiting_in.get(rank), case.blocked.get(rank)
        together[wait.number if wait else "message" if call in _MESSAGES else call].append(rank)
    most = max(together.values(), key=len, default=[])
    wait = case.waiting_in.get(most[0]) if most else None
    if wait is not None and not wait.missing and case.knows_members(wait.group):
        return ()
    return tuple(r for r in waiting if r not in most) if 2 * len(most) > len(case.ranks) else ()


def _from_box_report(case: Case) -> WaitAnalysis | None:
    """Returns the waits that the box reported when it acted, if lines of the recording about them are lost."""
    acted = case.test.acted
    if acted is None or case.waits or not acted.waiting:
        return None
    waiting = tuple(r for r in acted.waiting if r in case.ranks)
    missing = tuple(r for r in acted.missing if r in case.ranks and r not in waiting)
    return WaitAnalysis((), waiting, missing, is_from_box=True) if waiting else None


def hung(case: Case, waiting: Sequence[int]) -> tuple[int, ...]:
    """Returns, of ranks that all wait, those in a call from which none is missing, if there are some: others may only
    wait for them. Members that are through with it count where they may have named another root. A rank that came
    through after all is never among them.
    """
    still = tuple(r for r in waiting if not case.came_through(r))
    whole = {r for w in case.waits if not w.missing for r in _agreeing(case, w)}
    return tuple(r for r in still if r in whole) or _ends_in_calls(case, still) or still


def _ends_in_calls(case: Case, waiting: Sequence[int]) -> tuple[int, ...]:
    """Returns the ranks in calls that only stacks show, if all others wait for them: these go on when those do."""
    recorded = [w for w in case.waits if {*w.waiting} & {*waiting}]
    awaited = {r for w in recorded for r in w.missing}
    if len(awaited) < 2 or not awaited <= case.blocked.keys() or not all(w.missing for w in recorded):
        return ()
    return tuple(r for r in waiting if r in case.blocked)


def _agreeing(case: Case, wait: Wait) -> Collection[int]:
    """Returns the ranks that have to agree on what all of them entered, and may not."""
    return case.test.groups.of(wait.group, wait.waiting) if wait.op in ROOTED else wait.waiting


def hung_uncertainties(
    case: Case, analysis: WaitAnalysis, waiting: Sequence[int], blamed: Sequence[int]
) -> tuple[Uncertainty, ...]:
    """Returns why these may not be the ones that hang."""
    through = [r for r in waiting if case.came_through(r)]
    by_stack = [r for r in waiting if r in case.blocked and r not in through]
    awaited = {r for w in case.waits for r in w.missing if case.test.size > 2}  # one of two waits for the other
    by_stack = [r for r in by_stack if r not in blamed or r in awaited]
    found = []
    if through:
        found.append(
            Uncertainty(Source.COLLECTIVES, f"{ranks_named(through)} came through while the box ended the test")
        )
    if by_stack:
        found.append(Uncertainty(Source.GROUPS, f"whom {ranks_named(by_stack)} waited for is not recorded"))
    if gone := _went_without(case, blamed):
        text = f"{ranks_named(gone)} left the test while what the others wait in had not completed there"
        found.append(Uncertainty(Source.COLLECTIVES, text))
    if other := next((w for w in analysis.waits if w.otherwise and {*w.waiting} & {*blamed}), None):
        ranks = [r for _, ranks in other.otherwise for r in ranks]
        found.append(Uncertainty(Source.COLLECTIVES, f"{ranks_named(ranks)} issued something else than {other}"))
    return (*uncertainties(case, analysis), *found)


def _went_without(case: Case, blamed: Collection[int]) -> tuple[int, ...]:
    """Returns the ranks that left what the blamed ones wait in before it was over: they may have given up on a rank
    that came later.
    """
    held = [w for w in case.waits if w.seq and w.partner is None and {*w.waiting} & {*blamed}]
    entries = {(r, e.group, e.seq): e for w in held for r in case.ranks if (e := case.test.entry_of(r, w.group, w.seq))}
    left = {r for r, _, _ in entries if case.is_through(r) or case.failed_as_expected(r)}
    open_ = (r for (r, _, _), e in entries.items() if not case.ranks[r].collectives.is_done(e))
    return tuple(sorted(left.intersection(open_)))


# -- as text and evidence ----------------------------------------------------------------------------------


def relies(case: Case, analysis: WaitAnalysis) -> frozenset[Source]:
    """Returns the sources on which the analysis rests.

    A wait that only a stack shows also rests on whether the thread slept since.
    """
    by_stack = case.blocked.keys() & set(analysis.waiting)
    return _RELIES | ({Source.WAKEUPS} if by_stack else frozenset())


def uncertainties(case: Case, analysis: WaitAnalysis) -> tuple[Uncertainty, ...]:
    """Returns why the analysis may be wrong."""
    found = []
    if analysis.is_guessed and analysis.beyond:
        who, whom = ranks_named(analysis.roots), ranks_named(analysis.beyond)
        found.append(Uncertainty(Source.GROUPS, f"whom {who} waited for is not recorded; it may be {whom}"))
    elif analysis.is_guessed:
        found.append(Uncertainty(Source.GROUPS, "the recording doesn't show which ranks they waited for"))
    if analysis.is_from_box:
        found.append(Uncertainty(Source.COLLECTIVES, "only the box saw the wait; the recording doesn't show it"))
    if young := (*analysis.moving, *analysis.brief):
        text = f"{ranks_named(young)} waited for others then, but not for long, and may have been on the way"
        found.append(Uncertainty(Source.COLLECTIVES, text))
    unknown = [w.group for w in analysis.waits if w.op != _BARRIER and not case.knows_members(w.group)]
    if unknown:
        found.append(Uncertainty(Source.GROUPS, f"the members of group {plain(unknown[0], 40)} are unknown"))
    disputed = [name for w in analysis.waits if case.test.groups.disputes(name := w.group.partition("[")[0])]
    if disputed:
        found.append(
            Uncertainty(Source.GROUPS, f"ranks announced different members for group {plain(disputed[0], 40)}")
        )
    return (*found, *_contradictions(case, analysis))


def _contradictions(case: Case, analysis: WaitAnalysis) -> Iterable[Uncertainty]:
    """Returns a reason for doubt if the box named other ranks as missing: lines were lost, or an older box had other
    rules.
    """
    acted = case.test.acted
    if acted is None or not acted.missing or analysis.is_guessed or analysis.is_from_box or case.moment_s < case.end_s:
        return ()
    first = analysis.waits[0].missing if analysis.waits else ()
    shown, _ = case.graph.roots(case.waits)  # the analysis may be of some waits only
    if set(acted.missing) & {*analysis.roots, *first, *shown}:
        return ()
    return (
        Uncertainty(
            Source.COLLECTIVES, f"the box saw {ranks_named(acted.missing)} missing, but the recording doesn't show it"
        ),
    )


def since_s(case: Case, analysis: WaitAnalysis) -> float:
    """Returns when the first of them began to wait."""
    acted = case.test.acted
    if analysis.waits:
        return analysis.waits[0].since_s
    return case.moment_s - (acted.waited_s if acted and case.moment_s == case.end_s else 0.0)


def wait_text(case: Case, analysis: WaitAnalysis) -> str:
    """Returns for example `ranks 0,1,3 waited 120 s` or `rank 0 waited 3 s in recv`; of ranks that came one after the
    other `ranks 0,1,3 waited up to 120 s`.
    """
    calls = sorted(set(case.blocked.values()))
    where = f" in {calls[0]}" if not analysis.waits and calls else ""
    waited_s = case.waited_s(since_s(case, analysis))
    if not waited_s and set(analysis.waiting) <= {t.rank for t in aftermath.victims(case)}:
        return f"{ranks_named(analysis.waiting)} gave up waiting"
    how_long = f" {_up_to(analysis)}{seconds(waited_s)}" if waited_s else ""
    return f"{ranks_named(analysis.waiting)} waited{how_long}{where}"


def _up_to(analysis: WaitAnalysis) -> str:
    came_s = [s for wait in analysis.waits for rank, s in wait.came_s.items() if rank in analysis.waiting]
    return "up to " if came_s and max(came_s) - min(came_s) >= _SPREAD_S else ""


def wait_evidence(case: Case, analysis: WaitAnalysis) -> tuple[Evidence, ...]:
    """Returns which ranks are in which call, where in the code, and what the box reported."""
    acted = case.test.acted
    recorded = [w for w in (*analysis.waits, *_waits_beyond(case, analysis)) if w.op != _BARRIER][:_KEPT_WAITS]
    waits = tuple(aftermath.wait_evidence(w) for w in recorded)
    first = {w.waiting[0]: str(w) for w in reversed(recorded)} | case.blocked
    reason = (wait_text(case, analysis) if analysis.waiting else plain(acted.detail)) if acted else ""
    box = (Evidence(None, case.end_s, Witness.BOX, f"ended the test ({acted.why}): {reason}"),) if acted else ()
    return (*waits, *call_evidence(case, first), *box)


def _waits_beyond(case: Case, analysis: WaitAnalysis) -> tuple[Wait, ...]:
    """Returns the waits behind the ranks that are on their way."""
    own = [case.waiting_in[r] for r in analysis.moving if r in case.waiting_in]
    return case.graph.roots(own)[1]


def call_evidence(case: Case, calls: Mapping[int, str]) -> tuple[Evidence, ...]:
    """Returns where in the code these ranks wait, each in its call, as far as stacks show that."""
    return aftermath.first_few(calls, lambda r: stack_evidence(case, r, f"waits in {calls[r]}{_at(case, r)}"))


def _at(case: Case, rank: int) -> str:
    where = case.location(rank)
    return f" at {where}" if where else ""


def stack_evidence(case: Case, rank: int, text: str) -> Evidence | None:
    """Returns evidence from the newest stack of a rank; None if there is no stack."""
    taken = case.last_stack(rank)
    return Evidence(rank, taken[0], Witness.STACK, text) if taken else None


def waiters(case: Case, analysis: WaitAnalysis, blamed: Sequence[int]) -> tuple[Consequence, ...]:
    """Returns the consequences for ranks that waited and aren't blamed."""
    known = {c.rank: c for c in aftermath.consequences(case, blamed)}
    waited = wait_text(case, analysis).partition(" waited")[2]
    for rank in analysis.waiting:
        if rank not in blamed:
            own = aftermath.waited(case, rank) if rank in case.waiting_in else f"waited{waited}"
            known.setdefault(rank, Consequence(rank, own))
    for rank in analysis.beyond:
        if (text := _held_up(case, analysis, rank)) and rank not in blamed:
            known.setdefault(rank, Consequence(rank, text))
    return tuple(known[r] for r in sorted(known))


def _held_up(case: Case, analysis: WaitAnalysis, rank: int) -> str:
    """Returns whom a rank kept waiting to which the wait of one leads that is on its way; empty if it kept nobody."""
    wait = next((w for w in _waits_beyond(case, analysis) if rank in w.missing), None)
    return f"kept {ranks_named(wait.waiting)} waiting in {wait}" if wait is not None else ""


def phase(case: Case, analysis: WaitAnalysis, blamed: Sequence[int]) -> TestPhase:
    """Returns the phase of the blamed ranks; if they had left, the phase in which the others wait for them."""
    present = [r for r in blamed if not case.has_left(r)] or list(analysis.waiting)
    failed = [case.failures[r].phase for r in present if r in case.failures]
    return failed[0] if failed else case.phase_of(present[0]) if present else TestPhase.CALL


def quiet_s(case: Case, rank: int) -> float:
    """Returns for how many seconds a rank had made no progress when the test was ended."""
    return case.end_s - case.ranks[rank].moved_s
