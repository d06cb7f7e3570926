"""Owns ranks that compile for too long, while others wait or by themselves; must not know other reasons to wait."""

from collections.abc import Sequence

from pytest_megacpp.judge import aftermath, wait_roots
from pytest_megacpp.judge.case import Case
from pytest_megacpp.judge.causes import VerdictCause
from pytest_megacpp.judge.findings import Finding, Source, Uncertainty
from pytest_megacpp.judge.phrases import joined, place, plain, seconds, was
from pytest_megacpp.judge.verdicts import Code, Consequence, Evidence, Witness
from pytest_megacpp.judge.wait_roots import WaitAnalysis
from pytest_megacpp.recording.ranks import ranks_named
from pytest_megacpp.recording.stacks import imports_compiler, user_frame
from pytest_megacpp.recording.vocabulary import ActReason, TestPhase

SHORT_CHARS = 32
ALONE = "alone"
"""Variant of the finding: the waiting ranks compiled nothing, so a warm cache would not help."""


def without_progress(case: Case, compiling: Sequence[int]) -> tuple[int, ...]:
    """Returns the compiling ranks, if none of them makes progress.

    A rank that only waits for another's file lock isn't one of them.
    """
    own = tuple(r for r in compiling if not case.ranks[r].awaits_file_lock)
    resting = case.why is ActReason.STALL and all(wait_roots.quiet_s(case, r) >= case.test.limits.stall for r in own)
    return own if resting else ()


def skew(case: Case, analysis: WaitAnalysis, blamed: tuple[int, ...], *, is_stuck: bool) -> Finding:
    """Returns the finding for ranks that compiled while others waited. `is_stuck`: they make no progress."""
    wait = analysis.kept_by(blamed)
    what = f" in {wait}" if wait is not None and set(analysis.waiting) <= set(wait.waiting) else ""
    alone = _compiled_nothing(case, analysis, blamed)
    others = tuple(Consequence(r, "was also missing", Code.STRAGGLER) for r in analysis.roots if r not in blamed)
    return Finding(
        Code.COMPILE_SKEW,
        joined(
            (
                f"{was(blamed)} {_compile_state(case, blamed, is_stuck=is_stuck)}{_called_from(case, blamed)} while "
                f"{wait_roots.wait_text(case, analysis)}{what}",
                _only(blamed, alone) if alone else "",
            )
        ),
        blamed,
        VerdictCause.NO_PROGRESS if is_stuck else None,
        wait_roots.phase(case, analysis, blamed),
        (*wait_roots.wait_evidence(case, analysis), *aftermath.first_few(blamed, lambda r: _compile_evidence(case, r))),
        (*wait_roots.waiters(case, analysis, blamed), *others),
        frozenset({Source.COLLECTIVES, Source.GROUPS, Source.COUNTERS, Source.CLOCKS}),
        (*wait_roots.uncertainties(case, analysis), *_compile_uncertainties(case, blamed)),
        time_s=wait_roots.since_s(case, analysis),
        variant=ALONE if alone and not is_stuck else "",
    )


def _compiled_nothing(case: Case, analysis: WaitAnalysis, blamed: Sequence[int]) -> tuple[int, ...]:
    """Returns the waiting ranks, if the counters show that none of them compiled in this test; else nothing."""
    views = [case.ranks[r] for r in analysis.waiting if r not in blamed]
    asked = all(v.answered_s is not None and not v.has_compiled and v.compiled is None for v in views)
    return tuple(v.rank for v in views) if asked else ()


def _only(blamed: Sequence[int], alone: Sequence[int]) -> str:
    """Returns `only rank 1 compiles: ranks 0,2,3 compiled nothing in this test`.

    Long lists of ranks are replaced, because the sentence before has them already.
    """
    who, others = ranks_named(blamed), ranks_named(alone)
    who = "these" if len(who) > SHORT_CHARS else who
    others = "those that waited" if len(others) > SHORT_CHARS else others
    return f"only {who} {'compiles' if len(blamed) == 1 else 'compile'}: {others} compiled nothing in this test"


def _called_from(case: Case, blamed: Sequence[int]) -> str:
    """Returns the user's line that compiles, if it is known and the same on all ranks. Dumps of deep stacks don't reach
    it.
    """
    stacks = [taken[1] for r in blamed[:16] if (taken := case.ranks[r].stack()) is not None]
    where = dict.fromkeys(place(frame) for stack in stacks if (frame := user_frame(stack)) is not None)
    return f" in {next(iter(where))}" if len(where) == 1 else ""


def _compile_state(case: Case, blamed: Sequence[int], *, is_stuck: bool) -> str:
    if all(case.compiling_since_s(r) is None and case.ranks[r].imports_compiler() for r in blamed):
        return "still loading torch's compiler"
    before = ", after it had loaded torch's compiler" if len(blamed) == 1 and _had_loaded(case, blamed[0]) else ""
    return f"{'compiling without progress' if is_stuck else 'still compiling'} ({_compiled_for(case, blamed)}{before})"


def _had_loaded(case: Case, rank: int) -> bool:
    """Returns whether the rank was seen loading the compiler, which is no part of the seconds that it compiled for."""
    since_s = case.compiling_since_s(rank)
    stacks = case.ranks[rank].stacks
    return since_s is not None and any(s <= since_s and imports_compiler(taken.text) for s, taken in stacks)


def _compiled_for(case: Case, blamed: Sequence[int]) -> str:
    since = [s for r in blamed if (s := case.compiling_since_s(r)) is not None]
    return seconds(max(0.0, case.moment_s - min(since))) if since else "not finished"


def _compile_evidence(case: Case, rank: int) -> Evidence | None:
    view = case.ranks[rank]
    if view.sample is None:
        return None
    names = ", ".join(plain(name, 60) for name in view.sample.compiling[:3])
    if not names and view.imports_compiler():
        return Evidence(rank, view.stacks[-1][0], Witness.STACK, "loads torch's compiler")
    total = f"; {seconds(view.sample.compile_s)} in total so far" if view.sample.compile_s else ""
    compiled = case.compile_at_moment(rank)
    if compiled is not None and compiled.end_s is not None:
        text = f"compiled without a break for {seconds(compiled.end_s - compiled.start_s)}: {plain(compiled.name, 60)}"
        return Evidence(rank, compiled.start_s, Witness.COUNTERS, text)
    text = f"compiling: {names}{total}" if names else f"had just stopped compiling{total}"
    return Evidence(rank, view.compiling_since_s or view.sample_s, Witness.COUNTERS, text)


def stall(case: Case) -> Finding:
    """Returns the finding for ranks that compiled longer than their own limit, whether or not others waited."""
    limit_s = case.test.limits.compile
    since = {r: s for r, v in case.ranks.items() if (s := v.compiling_since_s) is not None}
    long = tuple(sorted(r for r, s in since.items() if case.end_s - s >= limit_s - 1.0))
    acted = case.test.acted
    blamed = long or tuple(sorted(since)) or tuple(r for r in (acted.missing if acted else ()) if r in case.ranks)
    who = ranks_named(blamed) if blamed else "a rank"
    how_long = f"for {_compiled_for(case, blamed)}" if since else "too long"
    uncertainties = (
        () if long else (Uncertainty(Source.COUNTERS, "the recording doesn't show which rank compiled that long"),)
    )
    waiting = set(aftermath.stuck(case, blamed))
    return Finding(
        Code.COMPILE_STALL,
        f"{who} compiled {how_long} without a break; the compile limit is {seconds(limit_s)}",
        blamed,
        None,
        case.phase_of(blamed[0]) if blamed else TestPhase.CALL,
        (
            *aftermath.first_few(blamed, lambda r: _compile_evidence(case, r)),
            *(aftermath.wait_evidence(w) for w in case.waits[:2] if waiting & set(w.waiting)),
        ),
        aftermath.consequences(case, blamed),
        frozenset({Source.COUNTERS, Source.CLOCKS}),
        uncertainties,
        time_s=min((since[r] for r in blamed if r in since), default=case.end_s),
    )


def _compile_uncertainties(case: Case, blamed: Sequence[int]) -> tuple[Uncertainty, ...]:
    """Returns a reason to doubt that the ranks compiled: the box said so, and neither counters nor stacks show it."""
    idle = [r for r in blamed if case.compiling_since_s(r) is None and not case.ranks[r].imports_compiler()]
    return (
        (Uncertainty(Source.COUNTERS, f"the box saw {ranks_named(idle)} compiling, but the recording doesn't show it"),)
        if idle
        else ()
    )
