"""Owns whether ranks issued the same collectives, compared one by one under their numbers, or by digests of all of
them; must not know who waits, limits or blame.

docs/decisions/0005 and 0079 say why digests are taken, and of what.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import assert_never

from pytest_megacpp.recording.collectives import Number, RankCollectives
from pytest_megacpp.recording.events import Collective
from pytest_megacpp.recording.groups import Groups
from pytest_megacpp.recording.issued import stretches
from pytest_megacpp.recording.operations import bare_op, describe, signature


class Aspect(StrEnum):
    """What differs between collectives that ranks issued under one number."""

    OPERATION = "operation"
    DTYPE = "dtype"
    SIZE = "size"

    def of(self, entry: Collective) -> object:
        """The part of a rank's entry that this aspect compares."""
        match self:
            case Aspect.OPERATION:
                return bare_op(entry.op)
            case Aspect.DTYPE:
                return entry.dtype
            case Aspect.SIZE:
                return entry.numel_in
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
    ops, dtypes, sizes = (
        set(part) for part in zip(*(signature(e.op, e.dtype, e.numel_in) for e in entries), strict=True)
    )
    if len(ops) > 1:
        return Aspect.OPERATION
    return Aspect.DTYPE if len(dtypes) > 1 else Aspect.SIZE if len(sizes) > 1 else None


def _disagreement(key: Number, aspect: Aspect, entries: Mapping[int, Collective]) -> Disagreement:
    votes = Counter(map(aspect.of, entries.values()))
    (top, count), *rest = votes.most_common()
    tie = bool(rest) and rest[0][1] == count
    odd = () if tie else tuple(r for r in sorted(entries) if aspect.of(entries[r]) != top)
    by_text: dict[str, list[int]] = defaultdict(list)
    for rank in sorted(entries):
        by_text[describe(entries[rank])].append(rank)
    return Disagreement(key[0], key[1], aspect, tuple((t, tuple(rs)) for t, rs in by_text.items()), odd)


def differing(
    digests: Mapping[int, Mapping[str, str]], groups: Groups
) -> tuple[tuple[str, str, dict[str, tuple[int, ...]]], ...]:
    """Groups whose members have different digests (by rank and group) from one number on: (group, that number, ranks by
    what each issued up to where its stretch ends).
    """
    found: dict[tuple[str, str], dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
    for rank in sorted(digests):
        for group, digest in digests[rank].items():
            own = groups.as_named_by(rank, group)
            if rank in groups.of(own, (rank,)):
                for first, stretch in stretches(digest).items():
                    found[own, first][stretch].append(rank)
    return tuple(
        (group, first, {stretch: tuple(ranks) for stretch, ranks in variants.items()})
        for (group, first), variants in sorted(found.items())
        if len(variants) > 1
    )
