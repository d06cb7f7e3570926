"""Owns which waits no failure explains: they lead to ranks that have not failed, or to nobody; must not judge them.

Decisions 0084 and 0092: they are reported beside the failure, and are no consequence of it.
"""

from collections.abc import Collection
from dataclasses import replace

from pytest_megacpp.judge import aftermath
from pytest_megacpp.judge.case import Case
from pytest_megacpp.judge.wait_roots import WaitAnalysis, follow, from_barrier_timeouts, oldest_waits
from pytest_megacpp.recording.vocabulary import ActReason


def are_all(case: Case) -> bool:
    """Returns whether ranks waited in the end, and none of them for a rank that had failed by itself."""
    return find(case) is not None and not aftermath.stuck(case, _failed(case))


def find(case: Case, blamed: Collection[int] = ()) -> WaitAnalysis | None:
    """Returns the waits that lead to none that failed or is `blamed`, nor to one of which only a stack shows that it
    waits; None if there are none. Where ranks issued different collectives, what others wait in may be ordinary
    progress, and so may a collective that all entered, unless the box acted on it.
    """
    if case.why is ActReason.MISMATCH:
        return None
    causes = {*blamed, *_failed(case)}
    explained = aftermath.led_to(case, causes)
    waits = [w for w in oldest_waits(case) if explained.isdisjoint(w.waiting)]
    named = from_barrier_timeouts(case)
    if named is not None and causes.isdisjoint(named.roots):
        waits.insert(0, named.waits[0])
    if not waits:
        return None
    analysis = follow(case, waits, ())
    if not analysis.roots and not case.acted_on_wait:
        return None
    waiting = {r for w in analysis.waits for r in w.waiting}
    return replace(analysis, waiting=tuple(sorted(waiting.difference(analysis.moving))))


def _failed(case: Case) -> set[int]:
    return {r for r, t in case.failures.items() if not t.is_secondary}
