"""Owns the exception behind a standstill: ranks that raised, and called for their peers in `except` or `finally`.

Such a rank can't report before the call is over. Without its exception it looks like one that took another way, or its
peers do, where more ranks raised than went on; the exception is why the ways part. Must not know how it was noticed.
"""

from collections.abc import Collection, Sequence
from dataclasses import replace

from pytest_megacpp.judge import aftermath, deaths, mismatches
from pytest_megacpp.judge.case import Case, RankFailure
from pytest_megacpp.judge.causes import VerdictCause
from pytest_megacpp.judge.findings import Finding, Source, Uncertainty
from pytest_megacpp.judge.phrases import joined
from pytest_megacpp.judge.verdicts import Certainty, Code, Evidence
from pytest_megacpp.judge.wait_roots import is_for_one
from pytest_megacpp.recording.ranks import ranks_named

HANDLED = "handled"
_KEPT = 4


def behind(case: Case, found: Finding) -> Finding:
    """Returns the finding for exceptions that explain `found`; else `found`, less certain and with the exceptions as
    evidence where ranks handled some.
    """
    if found.code not in (Code.COLLECTIVE_MISMATCH, Code.STRAGGLER, Code.HANG):
        return found
    found = _doubted(found, _unknown(case))
    own = list(case.handled.values())
    if len({t.signature for t in own}) == 1 and case.handled.keys() == case.ranks.keys():
        return found  # all of them handle the same: that is how the test goes
    if explaining := _explaining(case, found, own):
        return _raised(case, explaining, found)
    if not own:
        return found
    others = _present(case) - set(found.blamed)
    if found.code is Code.COLLECTIVE_MISMATCH and found.blamed and others == case.handled.keys():
        found = _undecided(case, found, own)
    text = f"{ranks_named(case.handled)} handled an exception when calling for the other ranks"
    return _doubted(replace(found, evidence=(*found.evidence, *_evidence(own))), text)


def _doubted(found: Finding, reason: str) -> Finding:
    doubt = (Uncertainty(Source.COLLECTIVES, reason),) if reason else ()
    return replace(found, uncertainties=(*found.uncertainties, *doubt))


def _unknown(case: Case) -> str:
    """Ranks that handled more exceptions than are recorded."""
    newest = {r: view.handles(case.end_s) for r, view in case.ranks.items() if case.stays_in_a_call(view)}
    ranks = [r for r, entry in newest.items() if entry is not None and not entry[1].is_known]
    return f"{ranks_named(ranks)} handled more exceptions than are recorded" if ranks else ""


def _explaining(case: Case, found: Finding, own: Sequence[RankFailure]) -> list[RankFailure]:
    """Returns the exceptions that are why ranks came apart. One that was caught, and not raised again, may be ordinary:
    it explains only why a rank that is waited for isn't there.
    """
    blamed, propagating = set(found.blamed), [t for t in own if t.propagates]
    if found.code is Code.COLLECTIVE_MISMATCH:
        return propagating if _parts(case, found, {t.rank for t in propagating}) else []
    if found.code is Code.HANG or not blamed:
        return []
    late = [t for t in own if t.rank in blamed]
    if len(late) == len(blamed):
        return late
    if all(case.has_left(r) for r in blamed):
        return propagating if _are_left_alone(case, blamed, {t.rank for t in propagating}) else []
    missing = {r for wait in case.waits if blamed & set(wait.waiting) for r in wait.missing}
    return [t for t in propagating if t.rank in missing]


def _are_left_alone(case: Case, left: Collection[int], raised: Collection[int]) -> bool:
    """Whether just the ranks that raised wait for those that left, and aren't the majority: who waits with others that
    had nothing to handle came where the test goes.
    """
    waiting = {r for wait in case.waits if set(left) & set(wait.missing) for r in wait.waiting}
    # Who is in a message may wait for a rank that raised, unless that waits in the same.
    theirs = {case.blocked[r] for r in raised if r in case.blocked}
    waiting |= {r for r, call in case.blocked.items() if not is_for_one(call) or call in theirs}
    return waiting <= set(raised) <= waiting | case.blocked.keys() and len(raised) <= len(left)


def _undecided(case: Case, found: Finding, own: Sequence[RankFailure]) -> Finding:
    """Most ranks handle an exception: either they took the wrong way because of it, or the others did without one."""
    issued = found.summary.partition(": ")[2] or found.summary
    return replace(
        found,
        summary=f"ranks disagree: {issued}; {deaths.raised_what(own)}, and called for the others while handling it",
        blamed=(),
        consequences=aftermath.consequences(case, ()),
        certainty=Certainty.GUESS,
    )


def _present(case: Case) -> set[int]:
    """Ranks that are neither through nor known to have failed."""
    return {r for r in case.ranks if case.stays(r)}


def _parts(case: Case, found: Finding, ranks: Collection[int]) -> bool:
    """Whether the ranks that raised are those that took another way, whoever is in the majority."""
    first = mismatches.earliest(case)
    sides = [set(members) for _, members in first.variants] if first else []
    sides = sides or [set(found.blamed), _present(case) - set(found.blamed)]
    rest = [side for side in sides if side.isdisjoint(ranks)]
    return bool(ranks) and len(rest) < 2 and all(side <= set(ranks) for side in sides if side not in rest)


def _raised(case: Case, own: Sequence[RankFailure], found: Finding) -> Finding:
    blamed = tuple(sorted(t.rank for t in own))
    causes = {t.cause for t in own}
    then = "called for the other ranks while handling it"
    return Finding(
        Code.RANK_DEATH,
        joined((f"{deaths.raised_what(own)}, and {then}", aftermath.sentence(case, blamed))),
        blamed,
        causes.pop() if len(causes) == 1 else VerdictCause.EXCEPTION,
        own[0].phase,
        (*_evidence(own), *found.evidence),
        aftermath.consequences(case, blamed),
        found.relies | {Source.REPORTS},
        (
            *found.uncertainties,
            Uncertainty(Source.COLLECTIVES, "the exception was not reported: it was seen being handled"),
        ),
        time_s=min(t.time_s for t in own),
        variant=HANDLED,
    )


def _evidence(own: Sequence[RankFailure]) -> tuple[Evidence, ...]:
    return tuple(aftermath.failure_evidence(t) for t in own[:_KEPT])
