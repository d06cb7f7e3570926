"""Owns what kept a rank that others waited for: what it came to late, and waits of its own before that; must not know
whom that makes guilty.

Its own waits are known from collectives and messages that are over, from the groups that it made, and from stacks.
"""

from collections.abc import Iterable, Iterator, Sequence

from pytest_megacpp.judge.case import Case
from pytest_megacpp.judge.findings import Source, Uncertainty
from pytest_megacpp.judge.wait_roots import WaitAnalysis
from pytest_megacpp.recording.errors import Kind
from pytest_megacpp.recording.operations import ROOTED, bare_op
from pytest_megacpp.recording.ranks import ranks_named
from pytest_megacpp.recording.waits import Wait


def uncertainties(case: Case, analysis: WaitAnalysis, blamed: Sequence[int]) -> Iterator[Uncertainty]:
    """Yields why ranks that are blamed may have been kept by others."""
    held_up = [r for r in blamed if was_held_up(case, analysis, r)]
    lost_peer = [r for r in blamed if r not in held_up and _lost_another_peer(case, analysis, r)]
    unseen = [r for r in blamed if r not in (*held_up, *lost_peer) and _came_unseen(case, analysis, r)]
    if lost_peer:
        text = f"{ranks_named(lost_peer)} had lost a peer in something else that is not recorded"
        yield Uncertainty(Source.GROUPS, text)
    if held_up:
        text = f"{ranks_named(held_up)} had waited for a peer {'themselves' if len(held_up) > 1 else 'itself'}"
        yield Uncertainty(Source.GROUPS, f"{text} for most of that time")
    if unseen:
        text = f"{ranks_named(unseen)} may have waited for a peer before: no stack shows what else kept it"
        yield Uncertainty(Source.STACKS, text)
    if late := [r for r in blamed if has_just_come(case, analysis, r)]:
        yield Uncertainty(Source.COLLECTIVES, f"{ranks_named(late)} had just come")


def delay_s(case: Case, wait: Wait | None, rank: int) -> float | None:
    """Returns how many seconds after the others the rank entered what they had given up by then; None if it never did.

    A wait that the box ended was not given up.
    """
    if wait is None or wait.partner is not None or case.moment_s >= case.end_s:
        return None
    entry = case.test.entry_of(rank, wait.group, wait.seq)
    return entry.entered_s - wait.since_s if entry is not None and entry.entered_s > case.moment_s else None


def has_just_come(case: Case, analysis: WaitAnalysis, rank: int) -> bool:
    """Returns whether the host had queued what the others waited in too shortly before for its device to be in it."""
    wait = analysis.kept_by((rank,))
    entry = case.test.entry_of(rank, wait.group, wait.seq) if wait is not None and wait.partner is None else None
    return wait is not None and wait.began and entry is not None and case.has_just_queued(entry)


def was_held_up(case: Case, analysis: WaitAnalysis, rank: int) -> bool:
    """Returns whether a rank that was late had been in a wait of its own for most of that time: stacks show it in a
    call for a peer before it came, it made groups, or it waited for others in collectives that were over by the moment.
    """
    wait = analysis.kept_by((rank,))
    if wait is None or wait.since_s >= case.moment_s:
        return False
    spans = (*_calls_while_awaited(case, wait, rank), *_makings(case, wait, rank), *_waits_for_others(case, wait, rank))
    return _covered_s(spans) >= (case.moment_s - wait.since_s) / 2


def _covered_s(spans: Iterable[tuple[float, float]]) -> float:
    """Returns for how many seconds at least one of these spans lasts."""
    covered_s, until_s = 0.0, float("-inf")
    for start_s, end_s in sorted(spans):
        covered_s += max(0.0, end_s - max(start_s, until_s))
        until_s = max(until_s, end_s)
    return covered_s


def _calls_while_awaited(case: Case, wait: Wait, rank: int) -> tuple[tuple[float, float], ...]:
    """Returns from when until when stacks show a rank in a call for a peer while others waited for it: from each of
    them to the next one.
    """
    seen = _looks_while_awaited(case, wait, rank)
    ends = [*(time_s for time_s, _ in seen[1:]), _came_s(case, wait, rank)]
    return tuple((time_s, end_s) for (time_s, called), end_s in zip(seen, ends, strict=False) if called)


def _looks_while_awaited(case: Case, wait: Wait, rank: int) -> list[tuple[float, bool]]:
    """Returns of each stack of a rank from when others waited for it when it was taken, and whether it shows a call for
    a peer. Where the host is in what its device has not begun, that is no call for a peer.
    """
    until_s, queued_s = _came_s(case, wait, rank), case.queued_since_s(rank)
    looks = case.calls_seen(rank)
    return [(t, called and t < queued_s) for t, called in looks if wait.since_s <= t <= until_s]


def _came_s(case: Case, wait: Wait, rank: int) -> float:
    """Returns when the rank came to what others had given up, or the moment if it never did."""
    late_s = delay_s(case, wait, rank)
    return case.moment_s if late_s is None else wait.since_s + late_s


def _makings(case: Case, wait: Wait, rank: int) -> Iterator[tuple[float, float]]:
    """Yields from when until when, during the wait, the rank made groups."""
    until_s = _came_s(case, wait, rank)
    for joining in case.ranks[rank].joinings:
        yield max(joining.begun_s, wait.since_s), min(joining.end_s or until_s, until_s)


def _waits_for_others(case: Case, wait: Wait, rank: int) -> Iterator[tuple[float, float]]:
    """Yields from when until when, during the wait, the rank was in collectives that ended when another one came, and
    its device in collectives and messages, which end when devices of others come.
    """
    seen = case.ranks[rank].collectives
    for key, entry in ((k, e) for k, e in seen.entries.items() if e.entered_s <= case.moment_s):
        came_s, late = case.came_last[case.test.groups.as_named_by(rank, entry.group), entry.seq]
        is_over = came_s <= case.moment_s and seen.is_done(entry)
        if is_over and late != rank and bare_op(entry.op) not in ROOTED:
            yield max(entry.entered_s, wait.since_s), came_s
        if key in seen.over_s and key in seen.begun_s:
            yield max(seen.begun_s[key], wait.since_s), min(seen.over_s[key], case.moment_s)
    for past in seen.past.values():
        yield max(past.begun_s, wait.since_s), min(past.over_s, case.moment_s)


def _came_unseen(case: Case, analysis: WaitAnalysis, rank: int) -> bool:
    """Returns whether a stack shows the rank in a call for a peer before the others gave up, or it came late and no
    stack shows what it did until then.
    """
    wait = analysis.kept_by((rank,))
    if wait is None:
        return False
    if case.moment_s >= case.end_s and rank in case.blocked:
        return False  # for whom it waits is in doubt already
    came_late = delay_s(case, wait, rank) is not None
    return bool(_calls_while_awaited(case, wait, rank)) or (came_late and not _looks_while_awaited(case, wait, rank))


def _lost_another_peer(case: Case, analysis: WaitAnalysis, rank: int) -> bool:
    """Returns whether the rank lost a peer without ever coming to what the others wait in."""
    failure, wait = case.failures.get(rank), analysis.kept_by((rank,))
    if failure is None or failure.kind is not Kind.PEER or wait is None or not wait.seq or wait.partner is not None:
        return False
    return case.test.entry_of(rank, wait.group, wait.seq) is None
