"""Owns which of several failures of ranks by themselves began it; must not know what becomes of it.

The earliest one did, unless its rank lived on and the others did not wait for it: recorded waits lead to another rank
that failed, or the rank came afterwards to whatever the others came to (decision 0092).
"""

from collections import defaultdict
from collections.abc import Sequence

from pytest_megacpp.judge import patience
from pytest_megacpp.judge.case import Case, FailureSource, RankFailure
from pytest_megacpp.judge.findings import Source, Uncertainty
from pytest_megacpp.recording.events import Collective
from pytest_megacpp.recording.operations import signature_of
from pytest_megacpp.recording.ranks import ranks_named

TOO_CLOSE_S = 0.01  # stamps of two processes that are closer than this can't be ordered


def find(case: Case, own: Sequence[RankFailure]) -> RankFailure:
    """Returns the failure that began it.

    Of failures that can't be ordered it is the one that is the least likely to follow from the others: a signal, then
    an exit, then a report.
    """
    left = _awaited(case, own) or _fallen_behind(case, own) or own
    begun = min(left, key=lambda t: t.time_s)
    close = [t for t in left if may_precede(t, begun)]
    return min(close, key=lambda t: (not _was_killed(t), t.source is not FailureSource.EXIT, t.time_s, t.rank))


def _was_killed(failure: RankFailure) -> bool:
    """Returns whether something other than the rank itself ended it.

    A lost peer doesn't count: then libraries abort and launchers send SIGTERM.
    """
    return failure.cause.startswith(("signal:", "oom-")) and failure.cause not in ("signal:SIGABRT", "signal:SIGTERM")


def may_precede(failure: RankFailure, other: RankFailure) -> bool:
    """Returns whether one failure may have come before the other.

    A kill may be as old as the box's last look before it (decision 0031). Other failures have the time of their stamp,
    as far as clocks are exact.
    """
    if _was_killed(failure) and failure.since_s < failure.time_s:
        return failure.since_s <= other.time_s
    return failure.time_s <= other.time_s + TOO_CLOSE_S


def uncertainties(first: RankFailure, others: Sequence[RankFailure]) -> tuple[Uncertainty, ...]:
    """Returns why another of these failures may have begun it."""
    close = [t for t in others if may_precede(t, first) and may_precede(first, t)]
    found = [(close, "failed at about the same time, so which failed first is uncertain", Source.REPORTS)]
    before = [t for t in others if t not in close and t.time_s < first.time_s]
    found += [(before, "had failed before, but no rank is recorded to have waited for that", Source.COLLECTIVES)]
    return tuple(Uncertainty(source, f"{ranks_named(t.rank for t in ts)} {text}") for ts, text, source in found if ts)


def _awaited(case: Case, own: Sequence[RankFailure]) -> list[RankFailure]:
    """Returns the failures of ranks for which others are recorded to wait, and of those that nobody can wait for any
    more; empty if the recorded waits lead to none that failed.
    """
    known = [w for w in case.graph.waits if case.knows_for_whom(w)]
    roots, _ = case.graph.roots(known)
    given_up, _ = case.graph.roots(w for w in known if not case.failures.keys().isdisjoint(w.waiting))
    late_s = case.moment_s if case.moment_s < case.end_s else float("inf")
    awaited = [t for t in own if t.rank in (roots if t.time_s <= late_s else given_up)]
    awaited = [t for t in awaited if not _was_held_up(case, t, own)]
    return [t for t in own if t in awaited or t.source is not FailureSource.REPORT] if awaited else []


def _was_held_up(case: Case, failure: RankFailure, own: Sequence[RankFailure]) -> bool:
    """Returns whether the rank failed in a collective that one which had failed before did not enter."""
    held = patience.opened(failure.rank, failure.time_s, case.ranks, case.test.groups)
    return held is not None and any(t.rank in held.absent and t.time_s < failure.time_s for t in own)


def _fallen_behind(case: Case, own: Sequence[RankFailure]) -> list[RankFailure]:
    """Returns the failures of ranks that did not come afterwards to whatever the others came to."""
    lagging = _lagging(case)
    return [t for t in own if t.rank in lagging or went_on(case, t) is None]


def _lagging(case: Case) -> frozenset[int]:
    """Returns the ranks that issued fewer collectives than others in one of their groups."""
    groups = case.test.groups
    issued: dict[str, dict[int, int]] = defaultdict(dict)
    for rank, view in case.ranks.items():
        for name, number in view.collectives.enqueued.items():
            issued[groups.as_named_by(rank, name)][rank] = number
    newest = {group: max(numbers.values()) for group, numbers in issued.items()}
    return frozenset(r for g, numbers in issued.items() for r in groups.of(g, numbers) if numbers.get(r, 0) < newest[g])


def went_on(case: Case, failure: RankFailure) -> Collective | None:
    """Returns the newest collective that a rank entered after it had raised, and that others issued as well."""
    if failure.source is not FailureSource.REPORT:
        return None
    entries = case.ranks[failure.rank].collectives.entries.values()
    later = [e for e in entries if failure.time_s < e.entered_s <= case.end_s]
    newest_first = sorted(later, key=lambda e: e.entered_s, reverse=True)
    return next((e for e in newest_first if _is_shared(case, failure.rank, e)), None)


def _is_shared(case: Case, rank: int, entry: Collective) -> bool:
    group = case.test.groups.as_named_by(rank, entry.group)
    return case.alike[group, entry.seq, signature_of(entry)] > 1
