"""Owns the one result of several attempts at a test; must not judge any of them.

The last attempt that counts decides. A warm-up only prepares the measured attempt, and an attempt that looks for a
cause adds to a verdict without replacing it. A failure remains until a measured attempt passes.
"""

from collections.abc import Sequence
from dataclasses import replace

from pytest_megacpp.judge.causes import VerdictCause
from pytest_megacpp.judge.next_steps import DIAGNOSTIC_PASSES, INFRASTRUCTURE, SAME_AT_BOTH_SIZES, Commands, fill
from pytest_megacpp.judge.verdicts import Attempt, Certainty, Code, Evidence, TestResult, Verdict, Witness
from pytest_megacpp.recording.operations import describe
from pytest_megacpp.recording.timeline import Timeline
from pytest_megacpp.recording.vocabulary import Purpose

KEPT_REPORTS = 4


def settle(
    results: Sequence[TestResult], attempts: Sequence[Attempt], timeline: Timeline, command: Commands
) -> TestResult:
    """Returns the result of a test from the results of all attempts at it, in their order."""
    counting = [attempt for attempt in attempts if attempt.purpose.counts]
    decides, last = _deciding(counting), attempts[-1]
    result = next(result for result in results if result.index == decides.number)
    verdict = result.verdict
    if last.purpose is Purpose.DIAGNOSTIC:
        verdict = _after_diagnostic(verdict, last, command, alike=_are_alike(timeline, decides.number, last.number))
    elif last.purpose is Purpose.DETAIL:
        verdict = _after_detail(verdict, last)
    first = results[0].index
    return replace(result, index=first, verdict=verdict, attempt=decides.number, attempts=tuple(attempts))


def _deciding(counting: Sequence[Attempt]) -> Attempt:
    """Returns the last attempt, unless it proves nothing against a failure before it."""
    *before, last = counting
    failed = [attempt for attempt in before if not attempt.verdict.code.is_green]
    return last if not failed or _proves(last) else failed[-1]


def _proves(attempt: Attempt) -> bool:
    """Returns whether an attempt says more than the failure before it: it is no warm-up, and it could run for as long
    as it may.
    """
    verdict = attempt.verdict
    if verdict.code.is_green:
        return attempt.purpose is Purpose.MEASURED and verdict.code is not Code.SKIPPED
    return verdict.code.traits.was_tested and verdict.cause != VerdictCause.RUN_LIMIT


# -- the diagnostic preset ---------------------------------------------------------------------------------


def _after_diagnostic(verdict: Verdict, tried: Attempt, command: Commands, *, alike: bool) -> Verdict:
    """Returns the verdict after an attempt with the diagnostic preset. `alike`: nothing shows that the preset made a
    difference.
    """
    if tried.verdict.code.is_green:
        evidence = _evidence("the diagnostic preset passes: the cause is this model or its size, not the machine")
        step = fill(DIAGNOSTIC_PASSES, command, verdict.blamed_ranks)
        return replace(verdict, evidence=(*verdict.evidence, evidence), next_step=step)
    if not tried.verdict.code.traits.is_open:
        return verdict
    uncertainty = "less certain: ranks issued the same collectives with both presets, so the test may ignore the preset"
    return replace(
        verdict,
        cause=VerdictCause.INFRASTRUCTURE,
        summary=f"infrastructure: the diagnostic preset {_how(tried)} as well; {verdict.summary}",
        certainty=verdict.certainty.at_most(Certainty.GUESS if alike else Certainty.LIKELY),
        evidence=(
            *verdict.evidence,
            _evidence(f"with the diagnostic preset: {tried.verdict.summary}"),
            *([_evidence(uncertainty)] if alike else []),
        ),
        next_step=fill(SAME_AT_BOTH_SIZES if alike else INFRASTRUCTURE, command, verdict.blamed_ranks),
    )


def _how(tried: Attempt) -> str:
    return "hangs" if tried.verdict.code is Code.HANG else "is unclear"


def _evidence(text: str) -> Evidence:
    return Evidence(None, None, Witness.BOX, text)


def _are_alike(timeline: Timeline, one: int, other: int) -> bool:
    return _last_issued(timeline, one) == _last_issued(timeline, other)


def _last_issued(timeline: Timeline, number: int) -> dict[int, tuple[int, str] | None]:
    """Returns, by rank, its newest collective: the sequence number and a description; None if it issued none."""
    view = timeline.tests.get(number)
    newest = {rank: seen.collectives.last() for rank, seen in view.ranks.items()} if view else {}
    return {rank: (entry.seq, describe(entry)) if entry is not None else None for rank, entry in newest.items()}


# -- torch's own comparison --------------------------------------------------------------------------------


def _after_detail(verdict: Verdict, tried: Attempt) -> Verdict:
    """Returns the verdict after an attempt in which torch compared the collectives itself."""
    if tried.verdict.code.is_green:
        evidence = _evidence(
            "less certain: the test passed while torch compared the collectives (TORCH_DISTRIBUTED_DEBUG=DETAIL)"
        )
        return replace(verdict, certainty=verdict.certainty.lowered(), evidence=(*verdict.evidence, evidence))
    if tried.verdict.code is not Code.COLLECTIVE_MISMATCH:
        return verdict
    reports = [e for e in tried.verdict.evidence if e.source is Witness.REPORT]
    confirmed = (replace(report, time_s=None) for report in reports[:KEPT_REPORTS])
    agree = _agree(verdict.blamed_ranks, tried.verdict.blamed_ranks)
    certainty = verdict.certainty.raised() if agree else verdict.certainty
    return replace(verdict, certainty=certainty, evidence=(*verdict.evidence, *confirmed))


def _agree(one: Sequence[int], other: Sequence[int]) -> bool:
    """Returns whether two attempts blame the same ranks. An attempt that blames no rank contradicts none."""
    return not one or not other or set(one) == set(other)
