"""Owns errors by which several ranks name the rank at fault; must not know who waited or what the box did.

Some checks end with an exception on every rank whose text names the rank at fault: distributed checkpointing passes on
what the reader or writer of a rank raised, DDP compares parameters, and `Lane.assert_same` tensors. The rank numbers in
these texts are those of the group in which the ranks communicated, which is the group of their last collective. The
word of one rank isn't enough. If the group isn't known, no rank is named. A rank that hasn't raised itself is named
only where it can't: DDP compares the others with the first of a group. A checkpoint that was saved without
communication calls every rank 0.
"""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pytest_megacpp.judge import aftermath, messages
from pytest_megacpp.judge.case import Case, RankFailure
from pytest_megacpp.judge.causes import VerdictCause
from pytest_megacpp.judge.findings import Finding, Source, Uncertainty
from pytest_megacpp.judge.phrases import file_line, joined, of_ranks, plain
from pytest_megacpp.judge.verdicts import Code
from pytest_megacpp.recording.operations import bare_op
from pytest_megacpp.recording.ranks import ranks_named

KEPT_ACCUSERS = 8
PASSED_ON_S = 1.0
"""From a checkpoint's last collective to the exception that it passes on; measured: 0.03 to 0.1 s (decision 0076)."""
_PASSING_ON = frozenset({"gather", "scatter", "broadcast", "all_gather", "allgather"})  # for errors, in checkpoints


@dataclass(frozen=True, slots=True)
class _Accusation:
    """What several exceptions say: `what` is the predicate of a sentence about the `blamed` ranks, and the `accusers`
    raised the exceptions. `is_whole`: all have that can, although not every rank did.
    """

    blamed: tuple[int, ...]
    what: str
    accusers: tuple[RankFailure, ...]
    uncertainties: tuple[Uncertainty, ...] = ()
    is_whole: bool = False


def find(case: Case, own: Sequence[RankFailure], first: RankFailure) -> Finding | None:
    """Returns the finding for the ranks that the exceptions of others name; None if another failure came first."""
    messages_by_rank = {t.rank: t.message for t in own}
    found = (rule(case, own, messages_by_rank) for rule in (_passed_on, _counted, _unlike_first, _of_another_tensor))
    named = next((accusation for accusation in found if accusation is not None), None)
    if named is None or (first not in named.accusers and first.rank not in named.blamed) or case.exits:
        return None
    others = [t for t in named.accusers if t.rank not in named.blamed]
    then = of_ranks([t.rank for t in others], f"then raised {others[0].text.partition(':')[0]}") if others else ""
    whole = named.is_whole or len(named.accusers) == case.test.size
    raised = {t.rank for t in own}
    died = raised.issuperset(named.blamed) and aftermath.stuck(case, raised)
    return Finding(
        Code.RANK_DEATH if died else Code.TEST_FAILED,
        joined((of_ranks(named.blamed, named.what), then, aftermath.sentence(case, sorted(raised)))),
        named.blamed,
        VerdictCause.EXCEPTION,
        first.phase,
        tuple(aftermath.failure_evidence(t) for t in named.accusers[:KEPT_ACCUSERS]),
        aftermath.consequences(case, named.blamed),
        frozenset({Source.REPORTS}),
        named.uncertainties
        if whole
        else (Uncertainty(Source.REPORTS, "not every rank raised this error"), *named.uncertainties),
        time_s=first.time_s,
    )


def _passed_on(case: Case, own: Sequence[RankFailure], messages_by_rank: Mapping[int, str]) -> _Accusation | None:
    """Returns the ranks whose failure distributed checkpointing passed on to every rank."""
    reported = {rank: failed for rank, text in messages_by_rank.items() if (failed := messages.failures(text))}
    accusers = tuple(t for t in own if t.rank in reported)
    members = _group_of(case, accusers)
    if len(reported) < 2 or not set(reported) <= set(members):
        return None
    named = sorted(set.intersection(*(set(failed) for failed in reported.values())))
    if not named or named[-1] >= len(members) or not {members[n] for n in named} <= set(reported):
        return None
    alone = all(set(failed) == {0} for failed in reported.values())
    if alone and not _was_passed_on(case, accusers):
        return None
    number, failed = named[0], next(iter(reported.values()))
    where = file_line(*messages.place_of(next(messages_by_rank[r] for r in reported), number))
    what = f"raised {plain(failed[number])}" + (f" ({where})" if where else "")
    uncertainties = (
        (Uncertainty(Source.COLLECTIVES, "a checkpoint saved without communication calls every rank 0"),)
        if alone
        else ()
    )
    return _Accusation(tuple(members[n] for n in named), what, accusers, uncertainties)


def _was_passed_on(case: Case, accusers: Sequence[RankFailure]) -> bool:
    """Returns whether all accusers raised right after the same collective, of a kind that checkpoints use to pass
    errors on.
    """
    last = [entry for t in accusers if (entry := case.last_entered(t.rank, t.time_s)) is not None]
    one = len({(entry.group, entry.seq, bare_op(entry.op)) for entry in last}) == 1
    soon = min(t.time_s for t in accusers) - max(entry.entered_s for entry in last) <= PASSED_ON_S
    return one and soon and bare_op(last[0].op) in _PASSING_ON


def _group_of(case: Case, failures: Sequence[RankFailure]) -> tuple[int, ...]:
    """Returns the members, in order, of the one group in which all of these ranks communicated last; empty if it isn't
    known.
    """
    last = [case.last_entered(t.rank, t.time_s) for t in failures]
    names = {entry.group for entry in last if entry is not None}
    if len(names) != 1 or None in last or not case.knows_members(name := names.pop()):
        return ()
    return () if case.test.groups.disputes(name) else tuple(sorted(case.test.groups.of(name, ())))


def _counted(case: Case, own: Sequence[RankFailure], messages_by_rank: Mapping[int, str]) -> _Accusation | None:
    """Returns the ranks whose model has more or fewer parameters than most of their group, by what each reports about
    itself.
    """
    counts = {rank: count for rank, text in messages_by_rank.items() if (count := messages.parameters(text))}
    accusers = tuple(t for t in own if t.rank in counts)
    groups = [_odd(ranks, counts) for ranks in _by_group(case, accusers)]
    odd = tuple(sorted(rank for group in groups if group for rank in group[0]))
    if not odd or None in groups:
        return None
    counts_text = "; ".join(text for group in groups if group and (text := group[1]))
    return _Accusation(odd, f"built a different model for DDP than the other ranks: {counts_text}", accusers)


def _unlike_first(case: Case, own: Sequence[RankFailure], messages_by_rank: Mapping[int, str]) -> _Accusation | None:
    """Returns the ranks whose model has a parameter of another shape or layout than that of most of their group. DDP
    compares every rank with the first one of the group, so that where this one is the odd one all others raise.
    """
    said = {rank: text for rank, text in messages_by_rank.items() if messages.unlike_first(text)}
    accusers = tuple(t for t in own if t.rank in said)
    members = _group_of(case, accusers) if accusers else ()
    if not set(said) < set(members) or members[0] in said or 2 * len(said) < len(members):
        return None
    if len({messages.unlike_first(text) for text in said.values()}) > 1:
        return None
    like_first = tuple(r for r in members if r not in said)
    different = "built a different model for DDP than the other ranks"
    if 2 * len(said) > len(members):
        who = f"{ranks_named(said)} have a parameter of another shape or layout"
        return _Accusation(like_first, f"{different}: {who}", accusers, is_whole=True)
    doubt = Uncertainty(Source.REPORTS, f"as many ranks are like {ranks_named(members[:1])}, which DDP compares with")
    return _Accusation(tuple(sorted(said)), f"{different}", accusers, (doubt,), is_whole=True)


def _of_another_tensor(
    case: Case, own: Sequence[RankFailure], messages_by_rank: Mapping[int, str]
) -> _Accusation | None:
    """Returns the ranks that `Lane.assert_same` names on every rank."""
    named = {rank: odd for rank, text in messages_by_rank.items() if (odd := messages.of_another_tensor(text))}
    accusers = tuple(t for t in own if t.rank in named)
    if len(named) < 2 or len(set(named.values())) > 1:
        return None
    odd = next(iter(named.values()))
    if not set(odd) < set(named):
        return None
    return _Accusation(odd, "had a tensor that differs from that of the other ranks", accusers)


def _by_group(case: Case, accusers: Sequence[RankFailure]) -> list[tuple[int, ...]]:
    """Returns the accusers, grouped by the group of their last collective.

    Ranks without a collective form one group if there is no other group. The result is empty if the groups aren't
    known.
    """
    found: dict[str, list[int]] = defaultdict(list)
    for failure in accusers:
        last = case.last_entered(failure.rank, failure.time_s)
        found[last.group if last else ""].append(failure.rank)
    others = any(members != case.test.groups.everyone for members in case.test.groups.members.values())
    return [] if "" in found and (others or len(found) > 1) else [tuple(sorted(ranks)) for ranks in found.values()]


def _odd(ranks: Sequence[int], counts: Mapping[int, str]) -> tuple[tuple[int, ...], str] | None:
    """Returns the ranks whose count differs from the majority, and a text about the counts; None if there is no
    majority.
    """
    votes = Counter(counts[r] for r in ranks).most_common(2)
    usual, most = votes[0]
    if len(votes) > 1 and votes[1][1] == most:
        return None
    odd = tuple(r for r in ranks if counts[r] != usual)
    those = ", ".join(dict.fromkeys(counts[r] for r in odd))
    return odd, f"{those} instead of {usual} ({ranks_named(r for r in ranks if counts[r] == usual)})" if odd else ""
