"""Owns whose error says that a peer didn't come, in words of the test's own; must not know what becomes of it.

A test may wait with a time-out of its own: `Future.result(timeout=2)`, `assert work.is_completed()` after a deadline.
Its words say nothing of a peer. But the collective that the rank had entered last was still open, because a member had
not entered it (decision 0082).
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pytest_megacpp.recording.errors import Kind, short_type
from pytest_megacpp.recording.events import Collective, Error
from pytest_megacpp.recording.groups import Groups
from pytest_megacpp.recording.operations import ROOTED, bare_op
from pytest_megacpp.recording.stacks import Frame, is_users
from pytest_megacpp.recording.views import RankView

if TYPE_CHECKING:
    from pytest_megacpp.judge.case import RankFailure

NEVER = float("-inf")
REPORT_S = 0.5  # so much later than its time-out a rank may report it, on a busy machine
OPEN_S = 1.0  # so long a collective was open, at least, when a rank gave up waiting (decision 0082)
_TIMED_OUT = frozenset({"TimeoutError", "Empty"})
_WAITS = re.compile(r"[/\\](?:concurrent[/\\]futures|asyncio|multiprocessing)[/\\]|[/\\](?:threading|queue)\.py$")
_FUTURES = re.compile(r"[/\\](?:concurrent[/\\]futures|asyncio)[/\\]")
_OF_WORK = re.compile(r"\b(?:is_completed|is_success)\b|\bWork object\b")  # in pytest's words for an assertion


@dataclass(frozen=True, slots=True)
class Open:
    """What a rank had entered last when it failed: `what`, which the `absent` members had not entered."""

    number: tuple[str, int]
    what: str
    absent: tuple[int, ...]


def opened(rank: int, time_s: float, ranks: Mapping[int, RankView], groups: Groups) -> Open | None:
    """Returns None where all members had come, or the rank had not waited, or isn't known to have."""
    last = _waited_in(rank, time_s, ranks)
    if last is None or groups.disputes(last.group) or not groups.knows(last.group) or bare_op(last.op) in ROOTED:
        return None
    number, members = (last.group, last.seq), sorted(groups.of(last.group, ()))
    absent = tuple(r for r in members if r in ranks and not _had_come(ranks[r], number, time_s))
    return Open(number, _named(last), absent) if absent else None


def left_open(rank: int, time_s: float, error: Error | None, ranks: Mapping[int, RankView]) -> str:
    """Returns the collective or message that the rank was in and waited for when it failed, where it isn't known to
    have completed; of a time-out, by then.
    """
    view, last = ranks[rank], _waited_in(rank, time_s, ranks)
    if last is not None and (not view.collectives.is_done(last) or _completed_since(view, error, last, time_s)):
        return _named(last)
    waited = (m for m in view.collectives.messages_at(time_s) if m.started and time_s - m.entered_s >= OPEN_S)
    return next((m.op.partition(":")[2] for m in waited), "")


def _completed_since(view: RankView, error: Error | None, entry: Collective, failed_s: float) -> bool:
    """Whether a time-out in words of the test's own may have ended a wait in a collective that completed since."""
    timed_out = error is not None and short_type(error.type) in _TIMED_OUT
    return timed_out and view.collectives.over_s.get((entry.group, entry.seq), NEVER) > failed_s - REPORT_S


def _waited_in(rank: int, time_s: float, ranks: Mapping[int, RankView]) -> Collective | None:
    """The collective that the rank had entered last by a time, if that was long enough before."""
    last = ranks[rank].collectives.last(time_s)
    return last if last is not None and time_s - last.entered_s >= OPEN_S else None


def _named(entry: Collective) -> str:
    return f"{bare_op(entry.op)} #{entry.seq}"


def _had_come(view: RankView, number: tuple[str, int], at_s: float) -> bool:
    entry = view.collectives.entries.get(number)
    if entry is None:
        return view.collectives.enqueued.get(number[0], 0) >= number[1]
    return entry.entered_s <= at_s


def gave_up_waiting(failures: Iterable["RankFailure"], ranks: Mapping[int, RankView], groups: Groups) -> frozenset[int]:
    """Returns the ranks whose own error means that a peer did not come. Where more are missing than came, they may have
    failed by themselves.
    """
    known = {t.rank: t for t in failures}
    raised = {r: t for r, t in known.items() if t.kind is Kind.OWN and t.source == "report"}
    held = {r: o for r, t in raised.items() if (o := opened(t.rank, t.time_s, ranks, groups)) is not None}
    together = {o.number: [r for r, other in held.items() if other.number == o.number] for o in held.values()}
    found = set[int]()
    for there in together.values():
        signatures = {raised[r].signature for r in there}
        absent = {a for r in there for a in held[r].absent if a not in there}
        as_they = [a for a in absent if a in raised and raised[a].signature in signatures]
        if not absent or as_they or len(absent) > len(there):
            continue
        lived = all(a in raised or a not in known for a in absent)  # a death explains what it made of the others itself
        alike = lived and len(there) > 1 and len(signatures) == 1 and raised.keys() - absent == set(there)
        found |= {r for r in there if _ended_a_wait(_error(ranks[r]), held[r].what, alike=alike)}
    return frozenset(found)


def _error(view: RankView) -> Error | None:
    return view.failure[1].error if view.failure is not None else None


def _ended_a_wait(error: Error | None, what: str, *, alike: bool) -> bool:
    """Whether the error ended a wait in Python. A time-out in the test's own code, an empty queue and an assertion can
    be about anything, so these only count where all ranks that raised did so `alike`, and the assertion names a `Work`
    or the collective.
    """
    if error is None:
        return False
    if short_type(error.type) not in _TIMED_OUT:
        return alike and bool(_OF_WORK.search(error.message) or what.partition(" ")[0] in error.message)
    if alike and error.raised_in:
        return bool(_WAITS.search(error.raised_in)) or is_users(Frame(error.raised_in, 0, ""))
    return bool(_FUTURES.search(error.raised_in))
