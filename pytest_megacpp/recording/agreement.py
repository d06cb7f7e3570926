"""Owns whether ranks issued the same collectives, compared one by one under their numbers, or by digests of all of
them; must not know who waits, limits or blame.

docs/decisions/0005 and 0079 say why digests are taken, and of what.
"""

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import TypeAlias, assert_never

from pytest_megacpp.recording.collectives import Number, RankCollectives
from pytest_megacpp.recording.events import Collective
from pytest_megacpp.recording.groups import Groups
from pytest_megacpp.recording.issued import CUT, before, stretches, whole
from pytest_megacpp.recording.operations import describe, signature_of

COMPARED_TAILS = 64  # different digests of a stretch; of more only the whole is compared: each is with each


_Ends: TypeAlias = tuple[str, ...]  # what a stretch was in the end, and before its newest collectives


class Aspect(StrEnum):
    """What differs between collectives that ranks issued under one number."""

    OPERATION = "operation"
    DTYPE = "dtype"
    SIZE = "size"

    def of(self, entry: Collective) -> object:
        """The part of a rank's entry that this aspect compares."""
        op, dtype, numel = signature_of(entry)
        match self:
            case Aspect.OPERATION:
                return op
            case Aspect.DTYPE:
                return dtype
            case Aspect.SIZE:
                return numel
            case _:
                assert_never(self)


@dataclass(frozen=True, slots=True)
class Disagreement:
    """Ranks issued different collectives under one number. `variants` maps a description to its ranks.

    `odd` holds the ranks outside the majority, empty on a tie.
    """

    group: str
    seq: int
    aspect: Aspect
    variants: tuple[tuple[str, tuple[int, ...]], ...]
    odd: tuple[int, ...]


def disagreements(
    ranks: Mapping[int, RankCollectives], groups: Groups, among: set[Number] | None = None
) -> tuple[Disagreement, ...]:
    """Numbers under which members of a group issued different operations, dtypes or sizes; the lowest number per group
    first. Groups whose members aren't known are left out. `among`: only these numbers are looked at.
    """
    table: dict[Number, dict[int, Collective]] = defaultdict(dict)
    for rank, seen in ranks.items():
        for group, seq in seen.entries if among is None else among & seen.entries.keys():
            own = groups.as_named_by(rank, group)
            if groups.knows(own) and rank in groups.of(own, ()):
                table[own, seq][rank] = seen.entries[group, seq]
    found = []
    for key in sorted(table):
        aspect = _aspect(table[key].values())
        if aspect:
            found.append(_disagreement(key, aspect, table[key]))
    return tuple(found)


def _aspect(entries: Iterable[Collective]) -> Aspect | None:
    """The first aspect in which they differ; None where they are alike."""
    ops, dtypes, sizes = (set(part) for part in zip(*(signature_of(e) for e in entries), strict=True))
    if len(ops) > 1:
        return Aspect.OPERATION
    return Aspect.DTYPE if len(dtypes) > 1 else Aspect.SIZE if len(sizes) > 1 else None


def _disagreement(key: Number, aspect: Aspect, entries: Mapping[int, Collective]) -> Disagreement:
    votes = Counter(map(aspect.of, entries.values()))
    (top, count), *rest = votes.most_common()
    tie = bool(rest) and rest[0][1] == count
    odd = () if tie else tuple(r for r in sorted(entries) if aspect.of(entries[r]) != top)
    alike: dict[tuple[str, object], list[int]] = defaultdict(list)
    for rank in sorted(entries):
        alike[describe(entries[rank]), aspect.of(entries[rank])].append(rank)
    often = Counter(text for text, _ in alike)
    texts = {one: one[0] if often[one[0]] == 1 else f"{one[0]}, {aspect} {one[1]}" for one in alike}
    variants = tuple((texts[one], tuple(ranks)) for one, ranks in alike.items())
    return Disagreement(key[0], key[1], aspect, variants, odd)


def differing(
    digests: Mapping[int, Mapping[str, str]], groups: Groups
) -> tuple[tuple[str, str, dict[str, tuple[int, ...]]], ...]:
    """Groups whose members have different `digests` from one number on: (group, that number, ranks by what each issued
    up to where its stretch ends). Groups whose members aren't known are left out.
    """
    found: dict[tuple[str, str], dict[int, str]] = defaultdict(dict)
    for group, by_rank in _by_group(digests, groups).items():
        for rank, its in by_rank.items():
            if groups.knows(group) and rank in groups.of(group, ()):
                for first, stretch in its.items():
                    found[group, first][rank] = stretch
    compared = ((*number, _variants(its)) for number, its in sorted(found.items()))
    return tuple(one for one in compared if len(one[2]) > 1)


def uncompared(digests: Mapping[int, Mapping[str, str]], groups: Groups) -> tuple[str, ...]:
    """Groups of which `differing` says nothing, or not all: nobody knows the members, one has no digest of the same
    stretches, or ranks agree only in what completed.
    """
    return tuple(
        sorted(
            group
            for group, by_rank in _by_group(digests, groups).items()
            if not groups.knows(group) or not _all_equal(by_rank.get(rank, {}) for rank in groups.of(group, ()))
        )
    )


@dataclass(frozen=True, slots=True)
class LeftOpen:
    """Ranks that `issued` the newest collective of a group, of which it is open at the end of the test for at least
    one, and the members that finished the test without it.
    """

    group: str
    seq: int
    issued: tuple[int, ...]
    lacking: tuple[int, ...]


def left_open(
    digests: Mapping[int, Mapping[str, str]], open_on: Collection[int], groups: Groups
) -> tuple[LeftOpen, ...]:
    """Groups in which a collective is left open that not all members issued. `digests`: of ranks of which nothing is
    lost, so that a group without one is one in which a rank issued nothing; `open_on`: those that left some open
    although no call for one failed.
    """
    found = []
    for group, by_rank in sorted(_by_group(digests, groups).items()):
        members = groups.of(group, ()) if groups.knows(group) else ()
        newest = {rank: _newest(by_rank.get(rank, {})) for rank in members}
        seq = max(newest.values(), default=0)
        issued = tuple(rank for rank in sorted(newest) if newest[rank] == seq)
        lacking = tuple(rank for rank in sorted(newest) if newest[rank] < seq)
        if lacking and digests.keys() >= newest.keys() and not set(open_on).isdisjoint(issued):
            found.append(LeftOpen(group, seq, issued, lacking))
    return tuple(found)


def _newest(its: Mapping[str, str]) -> int:
    """The newest number of a rank's stretches."""
    return max((_last(whole(stretch)) for stretch in its.values()), default=0)


def _by_group(digests: Mapping[int, Mapping[str, str]], groups: Groups) -> dict[str, dict[int, Mapping[str, str]]]:
    """The stretches of each rank."""
    found: dict[str, dict[int, Mapping[str, str]]] = defaultdict(dict)
    for rank in sorted(digests):
        for group, digest in digests[rank].items():
            if its := stretches(digest):  # the oldest recordings have others
                found[groups.as_named_by(rank, group)][rank] = its
    return found


def _all_equal(by_rank: Iterable[Mapping[str, str]]) -> bool:
    """Whether members tell of the same stretches, and the same of each."""
    return len({tuple((first, whole(its)) for first, its in one.items()) for one in by_rank}) < 2


def _variants(by_rank: Mapping[int, str]) -> dict[str, tuple[int, ...]]:
    """Ranks by what they issued in one stretch. Those belong together that agree with each other, or with a third, if
    none of them differ.
    """
    ranks: dict[_Ends, list[int]] = defaultdict(list)
    few = len(set(by_rank.values())) <= COMPARED_TAILS
    for rank, stretch in by_rank.items():
        ranks[before(stretch) if few else (whole(stretch),)].append(rank)
    parts = [part for alike in _joined(ranks) for part in _apart(alike)]
    return {alike[0][0]: tuple(sorted(rank for one in alike for rank in ranks[one])) for alike in parts}


def _joined(every: Iterable[_Ends]) -> list[list[_Ends]]:
    """Those together that agree with each other, or with a third."""
    left, found = list(every), []
    shorter = any(len(ends) > 1 for ends in left)
    while left:
        alike = [left.pop(0)]
        for one in alike if shorter else ():
            alike += (more := [other for other in left if _agree(one, other)])
            left = [other for other in left if other not in more]
        found.append(alike)
    return found


def _apart(alike: list[_Ends]) -> list[list[_Ends]]:
    """Splits those that agree only with a third, which is left out: it may belong to either."""
    differ = [one for one in alike if any(_differ(one, other) for other in alike)]
    if not differ:
        return [alike]
    if len(parts := _joined(differ)) > 1 or len(differ) < len(alike):
        return [smaller for part in parts for smaller in _apart(part)]
    by_whole: dict[str, list[_Ends]] = defaultdict(list)
    for one in differ:
        by_whole[one[0]].append(one)
    return list(by_whole.values())


def _agree(ours: _Ends, theirs: _Ends) -> bool:
    """Whether one is what the other was before collectives that may not have completed, or may be: that is cut off."""
    return ours[0] in theirs or theirs[0] in ours or _is_cut_off(ours, theirs) or _is_cut_off(theirs, ours)


def _is_cut_off(longer: _Ends, shorter: _Ends) -> bool:
    return len(longer) > 1 and longer[-1] == CUT and _last(shorter[0]) < _last(longer[-2])


def _last(end: str) -> int:
    text = end.partition(":")[0].rpartition("-")[2]
    return int(text) if text.isdecimal() and len(text) < 20 else 0


def _differ(ours: _Ends, theirs: _Ends) -> bool:
    """Whether they were different things when they were of one length."""
    if ours[0] == theirs[0]:
        return False
    known = dict(end.partition(":")[::2] for end in ours)
    return any(known.get(length, value) != value for length, _, value in (end.partition(":") for end in theirs))
