"""Owns waits that nothing ended: for a compiling peer, for one that is elsewhere, for none; must not know errors.

The roots of the waits decide: roots that compile are a compile-skew, others are stragglers. Without a root it is a
hang, or groups used in different orders.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal, TypeAlias, assert_never

from pytest_megacpp.judge import aftermath, compiles, deaths, lateness, mismatches, unrelated, wait_roots
from pytest_megacpp.judge.case import Case, FailureSource, RankFailure
from pytest_megacpp.judge.causes import VerdictCause
from pytest_megacpp.judge.findings import Finding, Source, Uncertainty
from pytest_megacpp.judge.phrases import joined, seconds, was
from pytest_megacpp.judge.verdicts import Certainty, Code, Consequence, Evidence, Witness
from pytest_megacpp.judge.wait_roots import WaitAnalysis, analyze_waits
from pytest_megacpp.recording.errors import Kind
from pytest_megacpp.recording.groups import incarnation
from pytest_megacpp.recording.operations import ROOTED
from pytest_megacpp.recording.ranks import ranks_named
from pytest_megacpp.recording.vocabulary import ActReason, Stage, TestPhase
from pytest_megacpp.recording.waits import Wait

KEPT_PLACES = 4


def find(case: Case) -> Finding | None:
    """Returns the finding for a test that the box ended because ranks waited or compiled, or whose ranks gave up
    waiting.
    """
    if aftermath.victims(case):
        return _timed_out(case)
    match case.why:
        case ActReason.SKEW | ActReason.STALL | ActReason.FAILURE_STUCK:
            return finding_for(case, analyze_waits(case))
        case ActReason.COMPILE:
            return compiles.stall(case)
        case ActReason.TEST_LIMIT | ActReason.RUN_LIMIT | ActReason.STARTUP_LIMIT | ActReason.STOP:
            return None  # judged by limits.py; the end of a run by startup.py
        case ActReason.EXIT | ActReason.MISMATCH | None:
            return None  # judged before, by deaths.py and mismatches.py
        case _:
            assert_never(case.why)


def _timed_out(case: Case) -> Finding:
    """Returns the finding for ranks that stopped waiting by their own time-out, or found their peer gone."""
    analysis = analyze_waits(case)
    if analysis.cycle:
        return finding_for(case, analysis)
    absent = _absent(case, analysis.roots)
    if (own := deaths.handled_own_error(case)) and not _is_explained(analysis, absent):
        return own
    if absent:
        return finding_for(case, replace(analysis, roots=absent))
    if analysis.roots:
        return deaths.only_peers_errors(case, [t for t in aftermath.victims(case) if t.rank in analysis.roots])
    if bystanders := _bystanders(case):
        return bystanders
    lost = aftermath.victims(case)
    with_each_other = len(lost) > 1 and any(t.kind is not Kind.JOIN for t in lost)
    return deaths.only_peers_errors(case, lost, "ranks lost contact with each other" if with_each_other else "")


def _absent(case: Case, roots: Sequence[int]) -> tuple[int, ...]:
    """Returns the roots that kept others waiting.

    A root that had failed itself kept only those waiting that waited before. If it was the first of all failures, the
    same holds for the roots to which the same happened later.
    """
    first = aftermath.victims(case)[0]
    alike = [r for r in roots if first.rank in roots and r in case.failures]
    alike = [r for r in alike if case.failures[r].signature == first.signature]
    return tuple(r for r in roots if r not in alike and not case.had_given_up(r))


def _is_explained(analysis: WaitAnalysis, absent: Sequence[int]) -> bool:
    """Returns whether the ranks that others are recorded to wait for explain the failure.

    If more ranks are missing than came, those that came are the ones that went another way.
    """
    return (
        bool(absent)
        and not analysis.is_guessed
        and bool(analysis.waits)
        and len(absent) <= len(analysis.waits[0].waiting)
    )


def _bystanders(case: Case) -> Finding | None:
    """Returns a finding without collectives to go by: the ranks that met no error had left, or were elsewhere. Not
    where most ranks passed without what a store did not give to the others.
    """
    busy = case.failures.keys() | case.blocked.keys() | case.waiting_in.keys()
    others = [r for r in sorted(case.ranks) if r not in busy]
    left = tuple(r for r in others if case.has_left(r))
    roots = tuple(r for r in others if r not in left) or left
    waiting = tuple(sorted(case.failures))
    of_store = all(t.kind is Kind.JOIN for t in case.failures.values())
    if not roots or (roots == left and of_store and len(left) > len(waiting)):
        return None
    return _straggler(case, WaitAnalysis((), waiting, roots, is_guessed=True))


def finding_for(case: Case, analysis: WaitAnalysis) -> Finding:
    """Returns the finding for ranks that wait: by what the roots do, or, without roots, a hang."""
    if analysis.cycle:
        return mismatches.across_groups(case, analysis.cycle)
    if together := _all_in_init(case, analysis):
        return _could_not_meet(case, analysis, together)
    # If some roots don't compile, it is a skew only if the box ended the test for that: a rank that sleeps while
    # another one compiles is a straggler.
    compiling = tuple(r for r in analysis.roots if case.is_compiling(r))
    plain_roots = tuple(r for r in analysis.roots if r not in compiling)
    if compiling and (case.why is ActReason.SKEW or not plain_roots):
        stuck = compiles.without_progress(case, compiling)
        return compiles.skew(case, analysis, stuck or compiling, is_stuck=bool(stuck))
    if analysis.roots:
        return _straggler(case, analysis)
    return _hang(case, analysis)


def with_other_waits(case: Case, found: Finding) -> Finding:
    """Returns the failure of ranks that live, with the waits that it does not explain and why these last (decisions
    0084 and 0092).
    """
    found = _doubted(case, found)
    analysis = unrelated.find(case, found.blamed) if _leaves_others(case, found) else None
    late = finding_for(case, analysis) if analysis else None
    if analysis is None or late is None or late.code is Code.UNCLEAR:
        return found
    kept = tuple(Consequence(r, _part_in(case, analysis, r), late.code) for r in late.blamed)
    known = [c for c in found.consequences if c.rank not in late.blamed]
    named = {*found.blamed, *late.blamed, *(c.rank for c in known)}
    more = [c for c in late.consequences if c.rank not in named]
    return replace(
        found,
        summary=joined((found.summary, late.summary)),
        evidence=(*found.evidence, *late.evidence),
        consequences=tuple(sorted((*known, *more, *kept), key=lambda c: c.rank)),
        relies=found.relies | late.relies,
        uncertainties=(*found.uncertainties, *late.uncertainties, _is_apart(analysis, late)),
    )


def _leaves_others(case: Case, found: Finding) -> bool:
    """Returns whether it is about ranks that raised or skipped, and others may wait for something else.

    Where others waited for those that raised, only if the box acted on a wait: after a death, and when ranks lost their
    peers, others may wait for a moment.
    """
    raised = _raised(case)
    if found.code is Code.TEST_FAILED:
        return found.cause is VerdictCause.SKIPPED_ON_SOME_RANKS or set() < {*found.blamed} <= raised
    return found.code is Code.RANK_DEATH and case.acted_on_wait and raised.issuperset(found.blamed)


def _raised(case: Case) -> set[int]:
    """Returns the ranks that raised by themselves."""
    return {r for r, t in case.failures.items() if t.source is FailureSource.REPORT and not t.is_secondary}


def _doubted(case: Case, found: Finding) -> Finding:
    """Returns the finding, less certain where only stacks show that ranks waited, and others than the blamed could be
    whom they waited for.
    """
    if found.code is not Code.RANK_DEATH or not _raised(case).issuperset(found.blamed) or not case.graph.idle:
        return found
    waiting = set(aftermath.stuck(case, found.blamed))
    if not waiting or not waiting <= case.blocked.keys() or aftermath.victims(case):
        return found
    # The same doubt as of waits that are reported apart, so it counts once.
    doubt = Uncertainty(Source.COLLECTIVES, "the recording doesn't show which ranks the others waited for")
    return replace(found, uncertainties=(*found.uncertainties, doubt))


def _part_in(case: Case, analysis: WaitAnalysis, rank: int) -> str:
    if not analysis.roots:
        return aftermath.waited(case, rank)
    wait = analysis.kept_by((rank,))
    return f"kept others waiting in {wait}" if wait is not None else "kept others waiting"


def _is_apart(analysis: WaitAnalysis, late: Finding) -> Uncertainty:
    """Returns the doubt that remains, since a failure may keep others busy by ways that nothing records."""
    text = (
        f"{ranks_named(late.blamed)} kept others waiting, and had not failed"
        if analysis.roots
        else f"{ranks_named(analysis.waiting)} waited, and for no rank that had failed"
    )
    return Uncertainty(Source.COLLECTIVES, text)


# -- stragglers --------------------------------------------------------------------------------------------


def _straggler(case: Case, analysis: WaitAnalysis) -> Finding:
    blamed = _not_compiling(case, analysis)
    causes = {_cause(case, analysis, r) for r in blamed}
    return Finding(
        Code.STRAGGLER,
        joined((_where_they_were(case, analysis, blamed), wait_roots.wait_text(case, analysis))),
        blamed,
        causes.pop() if len(causes) == 1 else None,
        wait_roots.phase(case, analysis, blamed),
        _straggler_evidence(case, analysis, blamed),
        wait_roots.waiters(case, analysis, blamed),
        wait_roots.relies(case, analysis) | {Source.COUNTERS},
        (
            *wait_roots.uncertainties(case, analysis),
            *_root_uncertainties(case, analysis, blamed),
            *aftermath.patience_uncertainties(case, blamed),
        ),
        Certainty.LIKELY if analysis.is_guessed and (len(blamed) > 1 or analysis.beyond) else Certainty.CERTAIN,
        wait_roots.since_s(case, analysis),
    )


def _straggler_evidence(case: Case, analysis: WaitAnalysis, blamed: Sequence[int]) -> tuple[Evidence, ...]:
    """Returns who waited, where the blamed ranks were, and where those that kept a blamed rank waiting."""
    waits = wait_roots.wait_evidence(case, analysis)
    shown = {(e.rank, e.time_s, e.source) for e in waits}
    late = aftermath.first_few(blamed, lambda r: _late_evidence(case, analysis, r))
    ends = aftermath.first_few(analysis.beyond, lambda r: root_evidence(case, r))
    return (*waits, *(e for e in (*late, *ends) if (e.rank, e.time_s, e.source) not in shown))


def _not_compiling(case: Case, analysis: WaitAnalysis) -> tuple[int, ...]:
    """Returns the roots that don't compile, if there are any: a compiling rank is only slow. Of those, the ones that
    were not held up themselves.
    """
    busy = tuple(r for r in analysis.roots if not case.is_compiling(r)) or analysis.roots
    return tuple(r for r in busy if not lateness.was_held_up(case, analysis, r)) or busy


_Cause: TypeAlias = Literal[
    VerdictCause.FROZEN, VerdictCause.LEFT_EARLY, VerdictCause.DEVICE_BUSY, VerdictCause.GIL_HELD
]


def _cause(case: Case, analysis: WaitAnalysis, rank: int) -> _Cause | None:
    if case.is_frozen(rank):
        return VerdictCause.FROZEN
    if case.has_left(rank) or _went_without(case, analysis, rank):
        return VerdictCause.LEFT_EARLY
    if (case.is_behind(rank) or case.has_only_queued(rank)) and not case.is_in_something(rank):
        return VerdictCause.DEVICE_BUSY
    return VerdictCause.GIL_HELD if case.holds_gil(rank) else None


def _went_without(case: Case, analysis: WaitAnalysis, rank: int) -> bool:
    """Returns whether the rank came through the test without the collective on which the others gave up."""
    wait = analysis.kept_by((rank,))
    if wait is None or not wait.seq or wait.partner is not None or case.moment_s >= case.end_s:
        return False
    return case.came_through(rank) and case.test.issued(rank, wait.group) < wait.seq


def _where_they_were(case: Case, analysis: WaitAnalysis, blamed: Sequence[int]) -> str:
    """Returns for example `rank 2 never entered all_reduce #4: it was in train.py:88 (load_batch)`."""
    is_one_of_them = not analysis.waits and analysis.is_guessed and len(blamed) > 1
    head = (
        f"{'one or more of ' if is_one_of_them else ''}{ranks_named(blamed)} {_what_they_did(case, analysis, blamed)}"
    )
    distinct = dict.fromkeys(_state(case, analysis, r, len(blamed) == 1) for r in sorted(blamed)[:16])
    if len(distinct) == 1:
        return f"{head}: {next(iter(distinct))}"
    states = [f"rank {r} {_state(case, analysis, r, True).partition(' ')[2]}" for r in sorted(blamed)[:2]]
    return f"{head}: {', '.join(states)}{', …' if len(blamed) > 2 else ''}"


def _what_they_did(case: Case, analysis: WaitAnalysis, blamed: Sequence[int]) -> str:
    wait = analysis.kept_by(blamed)
    if wait is None:
        return "kept others waiting"
    if wait.partner is not None:
        return f"left {ranks_named(wait.waiting)} waiting in {wait}"
    if all(lateness.delay_s(case, wait, r) is not None for r in blamed):
        return f"entered {wait} too late"
    entered = [r for r in blamed if _entered(case, r, wait)]
    if entered and any(lateness.has_just_come(case, analysis, r) for r in entered):
        return f"came to {wait} too late"
    verb = "never started" if any(case.is_behind(r) for r in entered) else "stopped in" if entered else "never entered"
    return f"{verb} {wait}"


def _entered(case: Case, rank: int, wait: Wait) -> bool:
    entry = case.test.entry_of(rank, wait.group, wait.seq) if wait.partner is None else None
    return entry is not None and entry.entered_s <= case.moment_s


def _state(case: Case, analysis: WaitAnalysis, rank: int, alone: bool) -> str:
    """Returns a sentence about `it` or `they`: why these ranks did not come."""
    it, is_, was_, had = ("it", "is", "was", "its") if alone else ("they", "are", "were", "their")
    plural = "" if alone else "s"
    where, cause = case.location(rank), _cause(case, analysis, rank)
    match cause:
        case VerdictCause.FROZEN:
            return f"{it} {is_} frozen (stopped by a signal)" + (f" in {where}" if where else "")
        case VerdictCause.LEFT_EARLY:
            what = "had already finished the test" if case.has_left(rank) else "finished the test without it"
            return f"{it} {what}"
        case VerdictCause.DEVICE_BUSY:
            what = f"this {_kind(analysis.kept_by((rank,)))}" if case.is_behind(rank) else "another collective"
            return f"{it} queued {what} behind a kernel that is still running on {had} GPU{plural}" + (
                f", in {where}" if where else ""
            )
        case VerdictCause.GIL_HELD:
            return f"{it} {was_} in native code that holds the GIL" + (f", called from {where}" if where else "")
        case None:
            return _place(case, analysis, rank, alone)
        case _:
            assert_never(cause)


def _kind(wait: Wait | None) -> str:
    return "message" if wait is not None and wait.partner is not None else "collective"


def _place(case: Case, analysis: WaitAnalysis, rank: int, alone: bool) -> str:
    """Returns a sentence about ranks without any cause: where they were."""
    it, was_ = ("it", "was") if alone else ("they", "were")
    where = case.location(rank)
    if rank in case.blocked:
        unknown = ", for whom isn't recorded" if analysis.is_guessed and analysis.beyond else ""
        return f"{it} {was_} waiting in {case.blocked[rank]}{f' at {where}' if where else ''}{unknown}"
    if (wait := case.waiting_in.get(rank)) is not None and rank not in case.failures:
        whom = f" for {ranks_named(wait.missing)}" if rank in analysis.moving and wait.missing else ""
        return f"{it} {was_} waiting in {wait}{whom}" + (f" at {where}" if where else "")
    if (late_s := lateness.delay_s(case, analysis.kept_by((rank,)), rank)) is not None:
        return f"{it} arrived {seconds(late_s)} after the first rank"
    if rank in case.failures and not where:
        return f"{it} had failed: {aftermath.described(case.failures[rank])}"
    if where:
        destroyed = f"{had_ed} and " if (had_ed := _destroyed(case, analysis, rank, alone)) else f"{it} "
        return f"{destroyed}{was_} in {where}"
    return f"{it} {was_} elsewhere" if case.answers(rank) else f"{it} {was_} not responding"


def _destroyed(case: Case, analysis: WaitAnalysis, rank: int, alone: bool) -> str:
    """Returns a sentence if the rank destroyed the group in which the others wait; else empty."""
    wait = analysis.kept_by((rank,))
    group = wait.group if wait is not None else ""
    its = case.ranks[rank].collectives.incarnation
    gone = bool(group) and its > incarnation(group)
    return f"{'it' if alone else 'they'} had destroyed {'its' if alone else 'their'} process group" if gone else ""


def _late_evidence(case: Case, analysis: WaitAnalysis, rank: int) -> Evidence | None:
    wait = analysis.kept_by((rank,))
    late_s = lateness.delay_s(case, wait, rank)
    if not case.has_left(rank) and _went_without(case, analysis, rank):
        return Evidence(rank, case.ranks[rank].finished_s, Witness.REPORT, "finished the test")
    if wait is None or late_s is None:
        return root_evidence(case, rank)
    text = f"entered {wait} {seconds(late_s)} after the first rank"
    return Evidence(rank, wait.since_s + late_s, Witness.FLIGHT_RECORDER, text)


def root_evidence(case: Case, rank: int) -> Evidence | None:
    """Returns what shows where a rank was that others waited for."""
    sample, view = case.ranks[rank].sample, case.ranks[rank]
    if case.is_frozen(rank) and sample is not None:
        return Evidence(rank, view.sample_s, Witness.BOX, f"process state {sample.state}: stopped")
    if case.has_left(rank):
        called = view.reports.get(TestPhase.CALL)
        return Evidence(rank, called[0] if called else view.finished_s, Witness.REPORT, "finished the test")
    if case.is_behind(rank):
        what = _kind(next((w for w in case.waits if rank in w.missing), None))
        text = f"queued the {what} that the others wait in, but its GPU has not started it"
        return Evidence(rank, case.end_s, Witness.FLIGHT_RECORDER, text)
    if case.holds_gil(rank):
        return Evidence(
            rank, view.stacks[-1][0], Witness.STACK, "its worker server responds, but its interpreter does not"
        )
    where = case.location(rank)
    if where:
        return wait_roots.stack_evidence(case, rank, f"is in {where}")
    return (
        Evidence(rank, view.sample_s, Witness.BOX, "responds" if case.answers(rank) else "does not respond")
        if sample
        else None
    )


def _root_uncertainties(case: Case, analysis: WaitAnalysis, blamed: Sequence[int]) -> tuple[Uncertainty, ...]:
    """Returns reasons for doubt about where the blamed ranks were, since a living rank is blamed for that."""
    found = [
        Uncertainty(Source.REPORTS, f"rank {t.rank} began to wait while it handled {t.own_error}")
        for t in _astray(case, blamed)
    ]
    nowhere = (r for r in blamed if case.location(r) is None and r not in case.failures and r not in case.waiting_in)
    lost = [r for r in nowhere if _cause(case, analysis, r) is None]
    apart = [r for r in blamed if r in case.failures and case.failures[r].kind is Kind.JOIN]
    mute = [r for r in blamed if not case.answers(r) and not case.is_frozen(r)]
    expected = [r for r in blamed if case.failed_as_expected(r)]
    found += lateness.uncertainties(case, analysis, blamed)
    if (wait := _perhaps_one_too_many(case, analysis, blamed)) is not None:
        text = (
            f"no fewer ranks left than wait, so {ranks_named(wait.waiting)} may have issued one {_kind(wait)} too many"
        )
        found.append(Uncertainty(Source.COLLECTIVES, text))
    if busy := [r for r in blamed if case.is_in_something(r) and r not in case.waiting_in]:
        text = f"{ranks_named(busy)} had begun something else that had all it needed, and may have been on the way"
        found.append(Uncertainty(Source.COLLECTIVES, text))
    if lost:
        found.append(Uncertainty(Source.STACKS, f"no stack of {ranks_named(lost)} was recorded"))
    if expected:
        found.append(Uncertainty(Source.REPORTS, f"{ranks_named(expected)} failed as expected, and may not be why"))
    if apart:
        found.append(Uncertainty(Source.GROUPS, f"{ranks_named(apart)} failed to join the group, and may not be why"))
    if mute:
        found.append(Uncertainty(Source.COUNTERS, f"{was(mute)} not responding, so a compilation can't be ruled out"))
    return tuple(found)


def _perhaps_one_too_many(case: Case, analysis: WaitAnalysis, blamed: Sequence[int]) -> Wait | None:
    """Returns the first wait for a blamed rank that no fewer ranks left than wait in it: only the data can tell which
    of them are right. Of a message too, there may be one too few or one too many.
    """
    kept = {wait.number: wait for r in blamed if (wait := analysis.kept_by((r,))) is not None and wait.seq}
    for wait in kept.values():
        left = {r for r in wait.missing if _cause(case, analysis, r) is VerdictCause.LEFT_EARLY}
        if not left.isdisjoint(blamed) and len(left) >= len(_issuers(case, wait)):
            return wait
    return None


def _issuers(case: Case, wait: Wait) -> set[int]:
    """Returns the ranks that wait in it, those whose host has queued it, and those that came to it later."""
    if wait.partner is not None:
        return {*wait.waiting}
    return {*wait.waiting, *(r for r in wait.missing if case.test.entry_of(r, wait.group, wait.seq) is not None)}


def _astray(case: Case, blamed: Sequence[int]) -> tuple[RankFailure, ...]:
    """Returns the first rank that began its wait while it handled an error of its own: the others may never come to
    that wait.
    """
    return tuple(t for t in aftermath.victims(case) if t.own_error and t.rank not in blamed)[:1]


# -- hangs -------------------------------------------------------------------------------------------------


def _hang(case: Case, analysis: WaitAnalysis) -> Finding:
    waiting = analysis.waiting or tuple(r for r in case.ranks if not case.is_through(r))
    waited = seconds(case.waited_s(wait_roots.since_s(case, analysis)))
    if not analysis.waits and {case.blocked.get(r) for r in waiting} == {"init_process_group"}:
        return _could_not_meet(case, analysis, waiting)
    blamed = wait_roots.hung(case, waiting)
    if waiting and not blamed:
        return _overtaken(case, waiting)
    what = f"{_why_all_wait(analysis, blamed)}: {_in_what(case, blamed, waited)}"
    return Finding(
        Code.HANG,
        joined((what, aftermath.sentence(case, blamed), _rooted(analysis))),
        blamed,
        None,
        case.phase_of(blamed[0]) if blamed else TestPhase.CALL,
        wait_roots.wait_evidence(case, analysis),
        wait_roots.waiters(case, analysis, blamed),
        relies=wait_roots.relies(case, analysis),
        uncertainties=wait_roots.hung_uncertainties(case, analysis, waiting, blamed),
        time_s=wait_roots.since_s(case, analysis),
    )


def _overtaken(case: Case, waiting: Sequence[int]) -> Finding:
    """Returns the finding for ranks that all came through while the box was ending the test: none of them hung."""
    return Finding(
        Code.UNCLEAR,
        f"the box ended the test ({case.why}) when {ranks_named(waiting)} were about to finish it",
        evidence=(Evidence(None, case.end_s, Witness.BOX, f"ended the test ({case.why})"),),
        certainty=Certainty.GUESS,
        time_s=case.end_s,
    )


def _why_all_wait(analysis: WaitAnalysis, waiting: Sequence[int]) -> str:
    """Returns why ranks wait although none is missing.

    A collective that all its ranks entered can also fail to complete for reasons outside the test; other waits are
    deadlocks.
    """
    have_entered = {r for w in analysis.waits if not w.missing and w.partner is None for r in w.waiting}
    if analysis.waits and set(waiting) <= have_entered:
        return "no rank is missing, but the collective did not complete"
    return "deadlock: every rank is waiting and none is missing"


def _all_in_init(case: Case, analysis: WaitAnalysis) -> tuple[int, ...]:
    """Returns the ranks that create the default group and the missing ones, if these are in the same call."""
    missing = {r for w in analysis.waits for r in w.missing}
    in_init = all(w.op == "init_process_group" and w.makes_group for w in analysis.waits)
    if not (
        analysis.waits and missing and in_init and {case.blocked.get(r) for r in missing} == {"init_process_group"}
    ):
        return ()
    return tuple(sorted({*analysis.waiting, *missing}))


def _could_not_meet(case: Case, analysis: WaitAnalysis, waiting: Sequence[int]) -> Finding:
    """Returns the finding for ranks that all wait in init_process_group, so some went to another place.

    If some still look for the store that the others found, those are blamed.
    """
    lost = tuple(r for r in waiting if case.seeks_store(r))
    are_told_apart = 0 < len(lost) < len(waiting)
    blamed = lost if are_told_apart else tuple(waiting)
    what = (
        f"{ranks_named(lost)} did not reach the store that the other ranks found"
        if are_told_apart
        else "ranks could not join the process group"
    )
    return Finding(
        Code.STARTUP_FAILURE,
        joined((what, wait_roots.wait_text(case, analysis))),
        blamed,
        Stage.RENDEZVOUS,
        TestPhase.SETUP,
        (*wait_roots.wait_evidence(case, analysis), *aftermath.first_few(lost, lambda r: _seeking_evidence(case, r))),
        wait_roots.waiters(case, analysis, blamed),
        relies=frozenset({Source.STACKS, Source.WAKEUPS, Source.CLOCKS}),
        uncertainties=(Uncertainty(Source.GROUPS, "the recording doesn't show which ranks they waited for"),),
        time_s=wait_roots.since_s(case, analysis),
    )


def _seeking_evidence(case: Case, rank: int) -> Evidence | None:
    return wait_roots.stack_evidence(case, rank, "is still looking for the store, in torch.distributed.rendezvous")


def _in_what(case: Case, waiting: Sequence[int], waited: str) -> str:
    """Returns for example `ranks 0,1 waited 2 s in broadcast #2, ranks 2,3 in recv`."""
    places: dict[str, list[int]] = defaultdict(list)
    for rank in waiting:
        wait = case.waiting_in.get(rank)
        places[str(wait) if wait else case.blocked.get(rank, "a distributed call")].append(rank)
    waits = [f"{ranks_named(ranks)} in {what}" for what, ranks in list(places.items())[:KEPT_PLACES]]
    more = ", …" if len(places) > KEPT_PLACES else ""
    return ", ".join(waits).replace(" in ", f" waited {waited} in ", 1) + more


def _rooted(analysis: WaitAnalysis) -> str:
    """Returns a hint about a root on which ranks may disagree, since the flight recorder doesn't show it."""
    whole = [w for w in analysis.waits if not w.missing and w.op in ROOTED]
    return f"all ranks entered {whole[0]}, so they may disagree on its root" if whole else ""
