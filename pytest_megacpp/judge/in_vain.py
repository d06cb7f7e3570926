"""Owns which ranks were in what one that failed never came to, and so may have gone another way since; must not know
where they went.

Who lost a peer may catch that error and call something else. So may those that wait for such a rank in turn.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from heapq import heapify, heappop, heappush
from typing import TypeAlias

from pytest_megacpp.judge.case import SAME_CALL_S, Case
from pytest_megacpp.recording import errors
from pytest_megacpp.recording.collectives import Number

_Issued: TypeAlias = dict[str, dict[int, dict[int, float]]]  # by group, number and rank: when


def since_s(case: Case, but: Number) -> dict[int, float]:
    """Returns since when each rank was in a collective or message that a rank which had failed, or was itself in such
    one, never came to. `but`: not in this one.
    """
    issued, found = _issued(case, but), dict[int, float]()
    groups = _groups(case, issued)
    todo = [(t.time_s, t.rank) for t in case.failures.values()]
    heapify(todo)
    absent = set[int]()
    while todo:
        time_s, rank = heappop(todo)
        for other, entered_s in () if rank in absent else tuple(_in_vain(case, issued, groups[rank], rank)):
            in_vain_s = max(time_s, entered_s)
            if in_vain_s < found.get(other, float("inf")):
                found[other] = in_vain_s
                heappush(todo, (in_vain_s, other))
        absent.add(rank)
    return found


def is_handled(case: Case, rank: int, at_s: float) -> bool:
    """Returns whether a rank called for its peers at that time while it handled that one was gone, as its own words
    say: messages that were lost are not recorded.
    """
    handles = case.ranks[rank].handles(at_s + SAME_CALL_S)
    error = handles[1].error if handles is not None else None
    return error is not None and errors.classify(error).secondary


def _issued(case: Case, but: Number) -> _Issued:
    issued: _Issued = defaultdict(lambda: defaultdict(dict))
    for rank, view in case.ranks.items():
        for entry in view.collectives.entries.values():
            group = case.test.groups.as_named_by(rank, entry.group)
            if (group, entry.seq) != but:
                issued[group][entry.seq][rank] = entry.entered_s
    return issued


def _groups(case: Case, issued: _Issued) -> Mapping[int, Sequence[str]]:
    """Returns of which groups each rank is a member."""
    found: dict[int, list[str]] = defaultdict(list)
    for group, numbers in issued.items():
        for rank in case.test.groups.of(group, set().union(*numbers.values())):
            found[rank].append(group)
    return found


def _in_vain(case: Case, issued: _Issued, groups: Iterable[str], rank: int) -> Iterable[tuple[int, float]]:
    """Yields who entered what this rank never came to, and when. What is yielded is taken out of `issued`: who comes
    from the heap later, failed later.
    """
    for group in groups:
        newest = case.test.issued(rank, group)
        for seq in [seq for seq in issued[group] if seq > newest]:
            yield from issued[group].pop(seq).items()
    for wait in case.waits:
        if wait.partner == rank:
            yield from ((r, wait.since_s) for r in wait.waiting)
