"""Owns errors by which several ranks name the rank at fault; must not know who waited or what the box did.

Some of torch's checks end with an exception on every rank, whose text names the one that is to blame: distributed
checkpointing passes on what a rank's reader or writer raised, DDP counts parameters. Their numbers are those of the
group in which they communicated, which is that of the last collective. One rank's word isn't enough (a checkpoint that
is read without communication calls its reader rank 0); where the group isn't known, nobody is named.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pytest_megacpp.judge import aftermath, messages
from pytest_megacpp.judge.case import Case, Trouble
from pytest_megacpp.judge.causes import VerdictCause
from pytest_megacpp.judge.findings import Doubt, Finding, Source
from pytest_megacpp.judge.phrases import file_line, joined, of_ranks, plain
from pytest_megacpp.judge.verdicts import Code
from pytest_megacpp.recording.ranks import ranks_named

KEPT_ACCUSERS = 8


@dataclass(frozen=True, slots=True)
class _Accusation:
    """`what` is the end of a sentence about the `blamed`; `accusers` raised the exceptions that say so."""

    blamed: tuple[int, ...]
    what: str
    accusers: tuple[Trouble, ...]


def find(case: Case, own: Sequence[Trouble], first: Trouble) -> Finding | None:
    """The finding for the ranks that others' exceptions name, unless something else was first."""
    said = {t.rank: t.message for t in own}
    named = _passed_on(case, own, said) or _counted(case, own, said)
    if named is None or (first not in named.accusers and first.rank not in named.blamed) or case.exits:
        return None
    others = [t for t in named.accusers if t.rank not in named.blamed]
    then = of_ranks([t.rank for t in others], f"raised {others[0].text.partition(':')[0]} for it") if others else ""
    whole = len(named.accusers) == case.test.size
    return Finding(
        Code.RANK_DEATH if aftermath.stuck(case, [t.rank for t in own]) else Code.TEST_FAILED,
        joined((of_ranks(named.blamed, named.what), then, aftermath.sentence(case, [t.rank for t in own]))),
        named.blamed,
        VerdictCause.EXCEPTION,
        first.phase,
        tuple(aftermath.trouble_evidence(t) for t in named.accusers[:KEPT_ACCUSERS]),
        aftermath.consequences(case, named.blamed),
        frozenset({Source.REPORTS}),
        () if whole else (Doubt(Source.REPORTS, "not all ranks raised it"),),
        time_s=first.time_s,
    )


def _passed_on(case: Case, own: Sequence[Trouble], said: Mapping[int, str]) -> _Accusation | None:
    """What distributed checkpointing tells every rank of those that failed."""
    reported = {rank: failed for rank, text in said.items() if (failed := messages.failures(text))}
    accusers = tuple(t for t in own if t.rank in reported)
    members = _group_of(case, accusers)
    if len(reported) < 2 or not set(reported) <= set(members):
        return None
    named = sorted(set.intersection(*(set(failed) for failed in reported.values())))
    if not named or named[-1] >= len(members):
        return None
    number, failed = named[0], next(iter(reported.values()))
    where = file_line(*messages.place_of(next(said[r] for r in reported), number))
    what = f"raised {plain(failed[number])}" + (f" ({where})" if where else "")
    return _Accusation(tuple(members[n] for n in named), what, accusers)


def _group_of(case: Case, troubles: Sequence[Trouble]) -> tuple[int, ...]:
    """The members, in order, of the one group in which all of them had communicated last; empty when it isn't known."""
    last = [case.last_entered(t.rank, t.time_s) for t in troubles]
    names = {entry.group for entry in last if entry is not None}
    if len(names) != 1 or None in last or not case.knows_members(name := names.pop()):
        return ()
    return () if case.test.groups.disputes(name) else tuple(sorted(case.test.groups.of(name, ())))


def _counted(case: Case, own: Sequence[Trouble], said: Mapping[int, str]) -> _Accusation | None:
    """The ranks whose model has another number of parameters than most, by each rank's word about itself."""
    counts = {rank: count for rank, text in said.items() if (count := messages.parameters(text))}
    votes = Counter(counts.values()).most_common()
    if len(votes) < 2 or votes[0][1] == votes[1][1]:
        return None
    usual = votes[0][0]
    odd = tuple(r for r in sorted(counts) if counts[r] != usual)
    those = ", ".join(dict.fromkeys(counts[r] for r in odd))
    alike = ranks_named(r for r in sorted(counts) if counts[r] == usual)
    what = f"built another model than the other ranks for DDP: {those}, {alike} {usual}"
    return _Accusation(odd, what, tuple(t for t in own if t.rank in counts))
