"""Owns waiting that nobody ended: for a compiling peer, for one that is elsewhere, for nobody; must not know errors.

Roots of a standstill that compile make a compile-skew, others a straggler; without a root it is a hang, or groups taken
in different orders.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal, TypeAlias, assert_never

from pytest_megacpp.judge import aftermath, compiles, deaths, mismatches, wait_roots
from pytest_megacpp.judge.case import Case, Trouble
from pytest_megacpp.judge.causes import VerdictCause
from pytest_megacpp.judge.findings import Doubt, Finding, Source
from pytest_megacpp.judge.phrases import joined, seconds, was
from pytest_megacpp.judge.verdicts import Certainty, Code, Evidence, Witness
from pytest_megacpp.judge.wait_roots import Standstill, standstill
from pytest_megacpp.recording.collectives import incarnation
from pytest_megacpp.recording.ranks import ranks_named
from pytest_megacpp.recording.vocabulary import ActReason, Stage, TestPhase
from pytest_megacpp.recording.waits import Wait

KEPT_PLACES = 4


def find(case: Case) -> Finding | None:
    """The finding for a test that the box ended for waiting or compiling, or whose ranks gave up waiting."""
    if aftermath.victims(case):
        return _gave_up(case)
    match case.why:
        case ActReason.SKEW | ActReason.STALL | ActReason.FAILURE_STUCK:
            return waited(case, standstill(case))
        case ActReason.COMPILE:
            return compiles.stall(case)
        case ActReason.TEST_LIMIT | ActReason.RUN_LIMIT | ActReason.STARTUP_LIMIT | ActReason.STOP:
            return None  # limits, and ends of a run, have families of their own
        case ActReason.EXIT | ActReason.MISMATCH | None:
            return None  # a rank's trouble or a mismatch, which are looked for before
        case _:
            assert_never(case.why)


def _gave_up(case: Case) -> Finding:
    """Ranks stopped waiting by their own time-out, or found their peer gone."""
    still = wait_roots.as_victims_say(case) or standstill(case)
    if still.cycle:
        return waited(case, still)
    absent = _absent(case, still.roots)
    if (began := deaths.began(case)) and not _explained(still, absent):
        return began
    if absent:
        return waited(case, replace(still, roots=absent))
    if still.roots:
        return deaths.gave_up(case, [t for t in aftermath.victims(case) if t.rank in still.roots])
    return _bystanders(case) or deaths.gave_up(case, aftermath.victims(case), "ranks lost contact with each other")


def _absent(case: Case, roots: Sequence[int]) -> tuple[int, ...]:
    """The roots that were at large. One that had failed itself kept nobody waiting who wasn't waited for before; where
    it was the first of all, neither had those to which the same happened later.
    """
    first = aftermath.victims(case)[0]
    alike = [r for r in roots if first.rank in roots and r in case.troubles]
    alike = [r for r in alike if case.troubles[r].signature == first.signature]
    return tuple(r for r in roots if r not in alike and not case.had_given_up(r))


def _explained(still: Standstill, absent: Sequence[int]) -> bool:
    """Whether ranks that others are recorded to wait for are enough of a cause. Where more are missing than came, those
    that came went another way.
    """
    return bool(absent) and not still.guessed and bool(still.waits) and len(absent) <= len(still.waits[0].waiting)


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


def waited(case: Case, still: Standstill) -> Finding:
    """What a standstill is called: by its roots, or by having none."""
    if still.cycle:
        return mismatches.across_groups(case, still.cycle)
    if together := _looking_for_each_other(case, still):
        return _not_together(case, still, together)
    compiling = tuple(r for r in still.roots if case.is_compiling(r))
    plain_roots = tuple(r for r in still.roots if r not in compiling)
    if compiling and (case.why is ActReason.SKEW or not plain_roots):
        at_rest = compiles.at_rest(case, compiling)
        return compiles.skew(case, still, at_rest or compiling, at_rest=bool(at_rest))
    if still.roots:
        return _straggler(case, still)
    return _hang(case, still)


# -- stragglers --------------------------------------------------------------------------------------------


def _straggler(case: Case, still: Standstill) -> Finding:
    blamed = _guilty(case, still)
    causes = {_cause(case, r) for r in blamed}
    return Finding(
        Code.STRAGGLER,
        joined((_where_they_were(case, still, blamed), wait_roots.wait_text(case, still))),
        blamed,
        causes.pop() if len(causes) == 1 else None,
        wait_roots.phase(case, still, blamed),
        (
            *wait_roots.wait_evidence(case, still),
            *aftermath.first_few(blamed, lambda r: _late_evidence(case, still, r)),
        ),
        wait_roots.waiters(case, still, blamed),
        wait_roots.relies(case, still) | {Source.COUNTERS},
        (*wait_roots.doubts(case, still), *_root_doubts(case, blamed), *aftermath.patience_doubts(case)),
        Certainty.LIKELY if still.guessed and len(blamed) > 1 else Certainty.CERTAIN,
        wait_roots.since_s(case, still),
    )


def _guilty(case: Case, still: Standstill) -> tuple[int, ...]:
    """The roots that don't compile: a compiling one is only slow."""
    busy = tuple(r for r in still.roots if not case.is_compiling(r))
    return busy or still.roots


_Cause: TypeAlias = Literal[
    VerdictCause.FROZEN, VerdictCause.LEFT_EARLY, VerdictCause.DEVICE_BUSY, VerdictCause.GIL_HELD
]


def _cause(case: Case, rank: int) -> _Cause | None:
    if case.is_frozen(rank):
        return VerdictCause.FROZEN
    if case.has_left(rank):
        return VerdictCause.LEFT_EARLY
    if case.is_behind(rank):
        return VerdictCause.DEVICE_BUSY
    return VerdictCause.GIL_HELD if case.holds_gil(rank) else None


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
        return "or one of them kept others waiting" if still.guessed and len(blamed) > 1 else "kept others waiting"
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
    where, cause = case.location(rank), _cause(case, rank)
    match cause:
        case VerdictCause.FROZEN:
            return f"{it} {is_} frozen (stopped by a signal)" + (f" in {where}" if where else "")
        case VerdictCause.LEFT_EARLY:
            return f"{it} had already finished the test"
        case VerdictCause.DEVICE_BUSY:
            return f"{it} queued it behind a kernel that {had} device has not ended" + (
                f", in {where}" if where else ""
            )
        case VerdictCause.GIL_HELD:
            return f"{it} {was_} in native code that holds {had} GIL" + (f", called from {where}" if where else "")
        case None:
            return _place(case, still, rank, alone)
        case _:
            assert_never(cause)


def _place(case: Case, still: Standstill, rank: int, alone: bool) -> str:
    """As a sentence about one with no excuse."""
    it, was_ = ("it", "was") if alone else ("they", "were")
    where = case.location(rank)
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
        return root_evidence(case, rank)
    since_s = still.waits[0].since_s
    return Evidence(
        rank, since_s + late_s, Witness.FLIGHT_RECORDER, f"entered {still.what} {seconds(late_s)} after the first"
    )


def root_evidence(case: Case, rank: int) -> Evidence | None:
    sample, view = case.ranks[rank].sample, case.ranks[rank]
    if case.is_frozen(rank) and sample is not None:
        return Evidence(rank, view.sample_s, Witness.BOX, f"process state {sample.state}: stopped")
    if case.has_left(rank):
        called = view.reports.get(TestPhase.CALL)
        return Evidence(rank, called[0] if called else view.finished_s, Witness.REPORT, "finished the test")
    if case.is_behind(rank):
        told = "queued what the others wait in; its device has not begun it"
        return Evidence(rank, case.end_s, Witness.FLIGHT_RECORDER, told)
    if case.holds_gil(rank):
        return Evidence(rank, view.stacks[-1][0], Witness.STACK, "its server answers, its interpreter doesn't")
    where = case.location(rank)
    if where:
        return wait_roots.stack_evidence(case, rank, f"is in {where}")
    return (
        Evidence(rank, view.sample_s, Witness.BOX, "answers" if case.answers(rank) else "doesn't answer")
        if sample
        else None
    )


def _root_doubts(case: Case, blamed: Sequence[int]) -> tuple[Doubt, ...]:
    """A living rank is blamed for where it is, so that should be known."""
    found = [Doubt(Source.REPORTS, f"rank {t.rank} waited while it handled {t.began}") for t in _astray(case, blamed)]
    lost = [r for r in blamed if case.location(r) is None and _cause(case, r) is None and r not in case.troubles]
    mute = [r for r in blamed if not case.answers(r) and not case.is_frozen(r)]
    if lost:
        found.append(Doubt(Source.STACKS, f"there is no stack of {ranks_named(lost)}"))
    if mute:
        found.append(Doubt(Source.COUNTERS, f"{was(mute)} not answering, so whether it compiled is not known"))
    return tuple(found)


def _astray(case: Case, blamed: Sequence[int]) -> tuple[Trouble, ...]:
    """The first of those that came to their wait out of an error of their own: it may be no wait of the others'."""
    return tuple(t for t in aftermath.victims(case) if t.began and t.rank not in blamed)[:1]


# -- hangs -------------------------------------------------------------------------------------------------


def _hang(case: Case, still: Standstill) -> Finding:
    waiting = still.waiting or tuple(r for r in case.ranks if not case.is_through(r))
    waited = seconds(case.waited_s(wait_roots.since_s(case, still)))
    if not still.waits and {case.blocked.get(r) for r in waiting} == {"init_process_group"}:
        return _not_together(case, still, waiting)
    blamed = wait_roots.hung(case, waiting)
    if waiting and not blamed:
        return _overtaken(case, waiting)
    what = f"everybody waits and nobody is missing: {_in_what(case, blamed, waited)}"
    return Finding(
        Code.HANG,
        joined((what, aftermath.sentence(case, blamed), _rooted(still))),
        blamed,
        None,
        case.phase_of(blamed[0]) if blamed else TestPhase.CALL,
        wait_roots.wait_evidence(case, still),
        wait_roots.waiters(case, still, blamed),
        relies=wait_roots.relies(case, still),
        doubts=(*wait_roots.doubts(case, still), *wait_roots.hung_doubts(case, waiting, blamed)),
        time_s=wait_roots.since_s(case, still),
    )


def _overtaken(case: Case, waiting: Sequence[int]) -> Finding:
    """All of them came through while the box was ending the test: nobody hung."""
    return Finding(
        Code.UNCLEAR,
        f"the box ended the test ({case.why}) when {ranks_named(waiting)} were about to end it themselves",
        evidence=(Evidence(None, case.end_s, Witness.BOX, f"ended the test ({case.why})"),),
        certainty=Certainty.GUESS,
        time_s=case.end_s,
    )


def _looking_for_each_other(case: Case, still: Standstill) -> tuple[int, ...]:
    """Ranks that make the default group and the missing ones, where these are on their way to it as well."""
    missing = {r for w in still.waits for r in w.missing}
    in_init = all(w.op == "init_process_group" and w.makes_group for w in still.waits)
    if not (still.waits and missing and in_init and {case.blocked.get(r) for r in missing} == {"init_process_group"}):
        return ()
    return tuple(sorted({*still.waiting, *missing}))


def _not_together(case: Case, still: Standstill, waiting: Sequence[int]) -> Finding:
    """All wait to be joined, so some went elsewhere: those that still look for the store when others have it."""
    lost = tuple(r for r in waiting if case.seeks_store(r))
    told_apart = 0 < len(lost) < len(waiting)
    blamed = lost if told_apart else tuple(waiting)
    what = (
        f"{ranks_named(lost)} did not reach the store that the others found" if told_apart else "ranks could not join"
    )
    return Finding(
        Code.STARTUP_FAILURE,
        joined((what, wait_roots.wait_text(case, still))),
        blamed,
        Stage.RENDEZVOUS,
        TestPhase.SETUP,
        (*wait_roots.wait_evidence(case, still), *aftermath.first_few(lost, lambda r: _seeking_evidence(case, r))),
        wait_roots.waiters(case, still, blamed),
        relies=frozenset({Source.STACKS, Source.WAKEUPS, Source.CLOCKS}),
        doubts=(Doubt(Source.GROUPS, "whom they waited for is not recorded"),),
        time_s=wait_roots.since_s(case, still),
    )


def _seeking_evidence(case: Case, rank: int) -> Evidence | None:
    return wait_roots.stack_evidence(case, rank, "is on its way to the store, in torch.distributed.rendezvous")


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
    whole = [w for w in still.waits if not w.missing and w.op in wait_roots.ROOTED]
    return f"all entered {whole[0]}, so they may not agree on its root" if whole else ""
