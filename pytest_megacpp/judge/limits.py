"""Owns what it means that a limit of the test or the run passed: the last progress decides; must not know errors."""

from collections.abc import Iterable, Sequence
from dataclasses import replace

from pytest_megacpp.judge import aftermath, stalls, wait_roots
from pytest_megacpp.judge.case import Case
from pytest_megacpp.judge.causes import VerdictCause
from pytest_megacpp.judge.findings import Finding, Source, Uncertainty
from pytest_megacpp.judge.phrases import plain, seconds, was
from pytest_megacpp.judge.verdicts import Certainty, Code, Evidence, Witness
from pytest_megacpp.judge.wait_roots import WaitAnalysis, analyze_waits
from pytest_megacpp.recording.operations import bare_op
from pytest_megacpp.recording.ranks import ranks_named
from pytest_megacpp.recording.vocabulary import ActReason, TestPhase

RECENT_S = 5.0  # a rank that made progress this shortly before a limit counts as active, however short `stall` is
QUIET_SHARE = 0.25  # of the test's time: after more of it without progress, the test may have been stuck


def find(case: Case) -> Finding | None:
    """Returns the finding for a test that the box ended at a limit of the test or the run; None for any other."""
    return _limit(case) if case.why is not None and case.why.is_limit else None


def _limit(case: Case) -> Finding:
    """Returns the finding by which ranks made progress last before the limit passed."""
    present = [r for r in sorted(case.ranks) if not case.is_through(r)]
    quiet_s = min((wait_roots.quiet_s(case, r) for r in present), default=0.0)
    stall_s = case.test.limits.stall
    if not present or not _was_watched(case, present):
        return _unclear(case, present, "the ranks were never observed")
    if quiet_s >= stall_s:
        return _no_progress(case, present, quiet_s)
    if case.why is ActReason.TEST_LIMIT and (waited := _waited_for_somebody(case)):
        return waited
    if quiet_s < min(stall_s, max(RECENT_S, case.test.limits.test / 4)):
        return _overtime(case, present)
    return _unclear(
        case, present, f"no rank made progress for {seconds(quiet_s)}, but that is shorter than the stall limit"
    )


def _was_watched(case: Case, present: Iterable[int]) -> bool:
    return any(case.ranks[r].sample is not None for r in present)


def _no_progress(case: Case, present: Sequence[int], quiet_s: float) -> Finding:
    """Returns the finding for ranks of which none made progress for `stall`: the roots of a wait, a busy device, or a
    hang.
    """
    analysis = analyze_waits(case)
    if analysis.cycle or (analysis.roots and (analysis.waits or analysis.waiting)):
        return stalls.finding_for(case, analysis)
    if busy := tuple(r for r in present if case.has_only_queued(r)):
        return _devices_busy(case, analysis, busy, quiet_s)
    waiting = analysis.waiting or tuple(present)
    blamed = wait_roots.hung(case, waiting) or waiting
    where = dict.fromkeys(w for r in blamed[:16] if (w := case.location(r)))
    at = f", in {next(iter(where))}" if len(where) == 1 else ""
    return Finding(
        Code.HANG,
        f"{ranks_named(blamed)} had made no progress for {seconds(quiet_s)} when the {_name(case)} limit passed{at}",
        blamed,
        None,
        case.phase_of(blamed[0]),
        (
            *wait_roots.wait_evidence(case, analysis),
            *aftermath.first_few(blamed, lambda r: stalls.root_evidence(case, r)),
        ),
        wait_roots.waiters(case, analysis, blamed),
        uncertainties=wait_roots.hung_uncertainties(case, analysis, waiting, blamed),
        relies=wait_roots.relies(case, analysis) | {Source.COUNTERS},
        certainty=Certainty.CERTAIN if analysis.waiting else Certainty.GUESS,
        time_s=case.end_s,
    )


def _waited_for_somebody(case: Case) -> Finding | None:
    """Returns the finding for ranks that waited in one call for half of the test or more, while others made progress.

    The recording doesn't show which ranks they waited for, so the others may be slow or may never come. Only a wait
    that exceeds the limit of the box is blamed on them. None if there is no such wait.
    """
    analysis = analyze_waits(case)
    if not (analysis.is_guessed and case.graph.calls) or any(case.is_compiling(r) for r in analysis.roots):
        return None
    waited_s = case.end_s - min(since_s for _, since_s in case.graph.calls.values())
    if waited_s >= case.test.limits.stall:
        return replace(stalls.finding_for(case, analysis), certainty=Certainty.GUESS)
    if waited_s < (case.end_s - case.test.started_s) / 2:
        return None
    present = [r for r in sorted(case.ranks) if not case.is_through(r)]
    return _unclear(
        case, present, f"the longest wait was {seconds(waited_s)}, but that is shorter than the stall limit"
    )


def _devices_busy(case: Case, analysis: WaitAnalysis, busy: tuple[int, ...], quiet_s: float) -> Finding:
    """Returns the finding for a collective behind kernels that don't end, which may hang or only be slow."""
    its = "its GPU has" if len(busy) == 1 else "their GPUs have"
    queued = case.ranks[busy[0]].collectives.pending()[0]
    what = f"{bare_op(plain(queued.op, 60))} #{queued.seq}"
    where = case.location(busy[0])
    at = f", in {where}" if where else ""
    return Finding(
        Code.HANG,
        f"{ranks_named(busy)} queued {what} {seconds(quiet_s)} before the {_name(case)} limit passed, but {its} not "
        f"started it: an earlier kernel is still running{at}",
        busy,
        VerdictCause.DEVICE_BUSY,
        case.phase_of(busy[0]),
        (*_limit_evidence(case, busy), *(aftermath.wait_evidence(w) for w in analysis.waits[:2])),
        relies=frozenset({Source.COLLECTIVES}),
        certainty=Certainty.LIKELY,
        time_s=case.end_s,
    )


def _name(case: Case) -> str:
    return "run" if case.why is ActReason.RUN_LIMIT else "test"


def _limit_evidence(case: Case, present: Sequence[int]) -> tuple[Evidence, ...]:
    acted = case.test.acted
    text = f"ended the test ({acted.why}): {plain(acted.detail)}" if acted else ""
    box = (Evidence(None, case.end_s, Witness.BOX, text),) if acted else ()
    return (*box, *aftermath.first_few(present, lambda r: _progress_evidence(case, r)))


def _progress_evidence(case: Case, rank: int) -> Evidence:
    where = case.location(rank)
    compiling = ", compiling" if case.is_compiling(rank) else ""
    return Evidence(
        rank,
        case.ranks[rank].progress_s,
        Witness.COUNTERS,
        f"last progress{compiling}{f', in {where}' if where else ''}",
    )


def _overtime(case: Case, present: Sequence[int]) -> Finding:
    limit = f"its limit of {seconds(case.test.limits.test)}" if _name(case) == "test" else "the limit of the whole run"
    compiling = [r for r in present if case.is_compiling(r)]
    analysis = analyze_waits(case)
    doing = f"; {was(compiling)} still compiling" if compiling else _who_waited(analysis)
    quiet_s = min(wait_roots.quiet_s(case, r) for r in present)
    of_the_test = case.why is ActReason.TEST_LIMIT  # that of the run may come as soon as the test has begun
    was_quiet = of_the_test and quiet_s > QUIET_SHARE * (case.end_s - case.test.started_s)
    what = f"had made no progress for {seconds(quiet_s)}" if was_quiet else "was still making progress"
    doubts = (Uncertainty(Source.COUNTERS, f"no rank made progress for {seconds(quiet_s)}"),) if was_quiet else ()
    return Finding(
        Code.OVERTIME,
        f"the test {what} when {limit} passed{doing}",
        (),
        VerdictCause.RUN_LIMIT if case.why is ActReason.RUN_LIMIT else None,
        case.phase_of(present[0]),
        _limit_evidence(case, present),
        relies=frozenset({Source.COUNTERS, Source.CLOCKS}),
        uncertainties=doubts,
        time_s=case.end_s,
    )


def _who_waited(analysis: WaitAnalysis) -> str:
    if not analysis.roots or not (analysis.waits or analysis.is_guessed):
        return ""
    one_of = "one or more of " if analysis.is_guessed and len(analysis.roots) > 1 else ""
    return (
        f"; {ranks_named(analysis.waiting)} waited for {one_of}{ranks_named(analysis.roots)}"
        if analysis.waiting
        else ""
    )


def _unclear(case: Case, present: Sequence[int], why: str) -> Finding:
    analysis = analyze_waits(case)
    return Finding(
        Code.UNCLEAR,
        f"the {_name(case)} limit passed and the evidence is inconclusive: {why}{_who_waited(analysis)}",
        (),
        None,
        case.phase_of(present[0]) if present else TestPhase.CALL,
        (*_limit_evidence(case, present), *(aftermath.wait_evidence(w) for w in analysis.waits[:2])),
        certainty=Certainty.GUESS,
        time_s=case.end_s,
    )
