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
from pytest_megacpp.judge.verdicts import Code, Evidence
from pytest_megacpp.recording.ranks import ranks_named

HANDLED = "handled"
_KEPT = 4


def behind(case: Case, found: Finding) -> Finding:
    """The exceptions in place of `found`, where exactly those ranks raised that took another way than the rest. Where
    they overlap otherwise, `found` with the exceptions as evidence, and less certain.
    """
    if found.code not in (Code.COLLECTIVE_MISMATCH, Code.STRAGGLER) or not case.handled:
        return found
    own = list(case.handled.values())
    ranks = case.handled.keys()
    if len({t.signature for t in own}) == 1 and not _present(case) - ranks:
        return found  # all of them handle the same: that is how the test goes
    if found.code is Code.STRAGGLER:
        late = [t for t in own if t.rank in found.blamed]
        return _raised(case, late, found) if found.blamed and len(late) == len(found.blamed) else found
    if _parts(case, found, ranks):
        return _raised(case, own, found)
    uncertainty = Uncertainty(Source.COLLECTIVES, f"{ranks_named(ranks)} handled an exception when they issued it")
    return replace(
        found, evidence=(*found.evidence, *_evidence(own)), uncertainties=(*found.uncertainties, uncertainty)
    )


def _present(case: Case) -> set[int]:
    """Ranks that are neither through nor known to have failed."""
    return {r for r in case.ranks if not case.is_through(r) and r not in case.failures}


def _parts(case: Case, found: Finding, ranks: Collection[int]) -> bool:
    """Whether the ranks that raised are those that took another way, whoever is in the majority."""
    first = mismatches.earliest(case)
    sides = [set(members) for _, members in first.variants] if first else []
    sides = sides or [set(found.blamed), _present(case) - set(found.blamed)]
    return all(side <= set(ranks) or side.isdisjoint(ranks) for side in sides)


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
