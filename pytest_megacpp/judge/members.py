"""Owns ranks that named different members of one group; must not know limits or who came first.

What counts is what ranks announced before they began to create the group: gloo may let such a group through on some
ranks, fail on others or keep them waiting, depending on timing. Ranks that give one name to groups of their own
(`new_group([0, 1])` here, `new_group([2, 3])` there) contradict no one. A test that passed with a contradiction is not
green, because it may hang the next time. A test that failed for an unrelated reason failed for that reason.
"""

from collections.abc import Iterable

from pytest_megacpp.judge import aftermath
from pytest_megacpp.judge.case import Case, FailureSource, RankFailure, ended_by_itself
from pytest_megacpp.judge.causes import VerdictCause
from pytest_megacpp.judge.findings import Finding, Source, Uncertainty
from pytest_megacpp.judge.phrases import file_line, joined, plain
from pytest_megacpp.judge.verdicts import Code, Evidence, Witness
from pytest_megacpp.recording.errors import Kind
from pytest_megacpp.recording.flight import without_backend
from pytest_megacpp.recording.groups import Contradiction
from pytest_megacpp.recording.ranks import ranks_named
from pytest_megacpp.recording.waits import Wait

KEPT_LISTS = 3
_FOLLOWS = frozenset({Kind.PEER, Kind.JOIN, Kind.MISMATCH})  # errors that can follow from a contradiction


def find(case: Case) -> Finding | None:
    """Returns the finding for the first contradiction with visible effects; None if a rank failed for a reason of its
    own.
    """
    found = case.test.groups.contradictions()
    if not found or any(t.kind not in _FOLLOWS and not _fails_in(case, t, found) for t in case.failures.values()):
        return None
    shown = next((c for c in found if _shows(case, c)), None)
    return _finding(case, next(c for c in found if c.odd == shown.odd)) if shown is not None else None


def name_of(wait: Wait) -> str:
    """Returns the group's name without the members that some ranks mean by it."""
    return without_backend(wait.group).partition("[")[0]


# -- what follows from it ----------------------------------------------------------------------------------------


def _shows(case: Case, found: Contradiction) -> bool:
    """Returns whether ranks wait because of the contradiction, failed because of it, or passed with it by chance."""
    if any(_waits_for_other(case, w, found) for w in case.waits):
        return True
    if any(_fails_in(case, t, (found,)) or _failed_within(case, t, found) for t in case.failures.values()):
        return True
    begun_here = found.since_s > case.test.started_s  # else by an earlier test of this world
    return case.test.passed and (begun_here or _is_used(case, found))


def _waits_for_other(case: Case, wait: Wait, found: Contradiction) -> bool:
    """Returns whether a rank waits for one that means another group by this name.

    That includes one that means this group by the name in question, because it counts groups differently.
    """
    groups, name = case.test.groups, name_of(wait)
    meant = frozenset(wait.members) or groups.named_by(name, wait.waiting[0])
    if meant is None or wait.partner is not None:
        return False
    named = [(groups.named_by(name, rank), groups.named_by(found.group, rank)) for rank in wait.missing]
    if name == found.group:
        return any(listed is not None and listed != meant for listed, _ in named)
    return any(listed is None and other == meant for listed, other in named)


def _fails_in(case: Case, failure: RankFailure, found: Iterable[Contradiction]) -> bool:
    """Returns whether the rank failed while it created such a group.

    A process that was killed from outside did not fail because of it.
    """
    exited = case.exits.get(failure.rank)
    if failure.source is FailureSource.EXIT and exited is not None and not ended_by_itself(exited[1]):
        return False
    joining = case.ranks[failure.rank].not_joined(failure.time_s)
    return joining is not None and any(_contradicted(case, failure.rank, c) for c in found if c.group == joining.group)


def _failed_within(case: Case, failure: RankFailure, found: Contradiction) -> bool:
    """Returns whether the rank's last collective was one in such a group."""
    last = case.last_entered(failure.rank, failure.time_s)
    within = last is not None and without_backend(last.group) == found.group
    return within and failure.kind in _FOLLOWS and _contradicted(case, failure.rank, found)


def _is_used(case: Case, found: Contradiction) -> bool:
    """Returns whether a rank that is contradicted used the group."""
    used = {rank: map(without_backend, view.collectives.enqueued) for rank, view in case.ranks.items()}
    return any(found.group in names and _contradicted(case, rank, found) for rank, names in used.items())


def _contradicted(case: Case, rank: int, found: Contradiction) -> bool:
    """Returns whether a member that the rank named has named different members."""
    groups = case.test.groups
    meant = groups.named_by(found.group, rank) or frozenset()
    return any(groups.named_by(found.group, other) not in (None, meant) for other in meant)


# -- as a finding ------------------------------------------------------------------------------------------------


def _finding(case: Case, found: Contradiction) -> Finding:
    name = plain(found.group.partition("@")[0], 40)
    lists = sorted(found.lists, key=lambda entry: len(entry[1])) if found.odd else found.lists
    announced = "; ".join(f"{ranks_named(entry[1])} with {_list(case, found, entry)}" for entry in lists[:KEPT_LISTS])
    head = f"{ranks_named(found.odd)} called new_group for group {name} with different members than the other ranks"
    head = head if found.odd else f"ranks called new_group for group {name} with different members"
    phases = [case.phase_of(r) for r in found.odd or found.lists[0][1]]
    return Finding(
        Code.COLLECTIVE_MISMATCH,
        joined((f"{head}: {announced}", _effect(case, found))),
        found.odd,
        VerdictCause.MEMBERS,
        phases[0],
        (
            *(_evidence(case, found, entry, name) for entry in lists[: 2 * KEPT_LISTS]),
            *(aftermath.wait_evidence(w) for w in case.waits[: 2 * KEPT_LISTS] if w.missing),
            *(aftermath.failure_evidence(t) for t in [*case.failures.values()][: 2 * KEPT_LISTS]),
        ),
        aftermath.consequences(case, found.odd),
        frozenset({Source.GROUPS}),
        _uncertainties(found),
        time_s=found.since_s,
    )


def _list(case: Case, found: Contradiction, entry: tuple[frozenset[int], tuple[int, ...]]) -> str:
    """Returns for example `ranks 0-3, at test_tp.py:28`."""
    members, ranks = entry
    announced = case.test.groups.announced(found.group, ranks[0])
    where = file_line(*announced.at) if announced is not None else ""
    return ranks_named(members) + (f", at {where}" if where else "")


def _evidence(case: Case, found: Contradiction, entry: tuple[frozenset[int], tuple[int, ...]], name: str) -> Evidence:
    text = f"{ranks_named(entry[1])} announced group {name} with {_list(case, found, entry)}"
    return Evidence(None, found.since_s, Witness.REPORT, text)


def _effect(case: Case, found: Contradiction) -> str:
    if case.test.passed:
        effect = "the results can't be right" if _is_used(case, found) else "it may hang next time"
        return f"no rank noticed, but {effect}"
    return aftermath.sentence(case, found.odd, case.failures)


def _uncertainties(found: Contradiction) -> tuple[Uncertainty, ...]:
    """Returns a reason for doubt if only a minority of the members announced the group."""
    everyone = frozenset().union(*(members | set(ranks) for members, ranks in found.lists))
    if not found.odd or 2 * len(found.lists[0][1]) > len(everyone):
        return ()
    silent = everyone - {rank for _, ranks in found.lists for rank in ranks}
    return (Uncertainty(Source.GROUPS, f"{ranks_named(silent)} did not announce its members"),) if silent else ()
