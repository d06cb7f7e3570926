"""Owns whether a box was lost because its memory ran out; must not know how memory is measured.

Where the kernel kills a whole box (a container's group, a sandbox of gVisor), nothing inside is left to say so: what
remains is how much the box used last, and how fast that grew. It makes a cause likely, never certain.
"""

from collections.abc import Iterable
from dataclasses import replace
from typing import assert_never

from pytest_megacpp.judge.causes import VerdictCause
from pytest_megacpp.judge.findings import Finding
from pytest_megacpp.judge.verdicts import Certainty, Code, Evidence, Witness
from pytest_megacpp.recording.events import MemoryUsed, RankMemory
from pytest_megacpp.recording.timeline import Timeline
from pytest_megacpp.recording.vocabulary import MemoryLimit, ProblemCause

NEAR_LIMIT = 0.9
"""Of the limit. A record is at most 1 % of it behind the box's last look there (`box/host/memory.py`)."""
FORESIGHT_S = 1.0  # the box looks every second, so the last second before its end is not recorded
YOUNG_S = 2 * FORESIGHT_S
"""An older growth rate says nothing about the end: only changes are recorded (`box/host/memory.py`)."""
OWN_SHARE = 0.3
"""Of a machine's memory, which all its programs share: ranks that hold less did not exhaust it."""
FAST = 0.05  # of the limit per second
_GIB = 1 << 30


def explained(finding: Finding, timeline: Timeline) -> Finding:
    """Returns the finding of a lost box, with the cause `oom` if the last figures show that memory ran out."""
    if timeline.memory is None or not _is_unexplained(finding, timeline):
        return finding
    time_s, last = timeline.memory[0], at_the_end(timeline.memory, timeline.last_s)
    if not (ran_out(last) and is_of_the_ranks(last)) or (_outlived_its_order(last, timeline) and not _is_steep(last)):
        return finding
    figures = _figures(last)
    who, what = (
        ("the machine used", "the machine used")
        if last.limit_from is MemoryLimit.MACHINE
        else ("it last used", "memory used:")
    )
    return replace(
        finding,
        summary=f"the box was lost, probably because memory ran out: {who} {figures}",
        cause=VerdictCause.OOM,
        certainty=Certainty.LIKELY,
        evidence=(*finding.evidence, Evidence(None, time_s, Witness.BOX, f"{what} {figures}")),
    )


def _is_unexplained(finding: Finding, timeline: Timeline) -> bool:
    """Returns whether the box ended like one that is killed as a whole: from outside, or without any explanation.

    A sandbox that ended with an exit status, and a desk that could not follow the box, are explanations.
    """
    said_nothing = finding.cause == ProblemCause.CUT_OFF and not timeline.problems
    return finding.code is Code.BOX_LOST and (finding.cause == ProblemCause.KILLED or said_nothing)


def at_the_end(newest: tuple[float, MemoryUsed], end_s: float) -> MemoryUsed:
    """Returns the newest record without growth rates that are too old to hold for the end of the recording."""
    time_s, last = newest
    if end_s - time_s <= YOUNG_S:
        return last
    return replace(last, growth_bytes_s=0.0, ranks=tuple(replace(one, growth_bytes_s=0.0) for one in last.ranks))


def ran_out(last: MemoryUsed) -> bool:
    """Returns whether the box was near its limit, or grew so fast that it could reach it before the next look."""
    soon = last.total_bytes + FORESIGHT_S * max(0.0, last.growth_bytes_s)
    return last.limit_bytes > 0 and (last.total_bytes >= NEAR_LIMIT * last.limit_bytes or soon >= last.limit_bytes)


def _outlived_its_order(last: MemoryUsed, timeline: Timeline) -> bool:
    """Returns whether the box used more than was requested and lived on.

    Then the request is no limit, as on Modal (docs/modal.md).
    """
    lived_on_s = timeline.last_s - timeline.exceeded_s if timeline.exceeded_s is not None else 0.0
    return last.limit_from is MemoryLimit.ORDERED and lived_on_s > YOUNG_S


def _is_steep(last: MemoryUsed) -> bool:
    """Returns whether memory grew so fast that any limit could be reached before the next look."""
    return FORESIGHT_S * last.growth_bytes_s >= (1 - NEAR_LIMIT) * last.limit_bytes


def is_of_the_ranks(last: MemoryUsed) -> bool:
    """Returns whether the run itself used the memory.

    A machine's memory is shared with other programs: there the ranks must hold a good part of it, or cause most of a
    fast growth.
    """
    if last.limit_from is not MemoryLimit.MACHINE:
        return True
    held_bytes = sum(one.used_bytes for one in last.ranks)
    grown_bytes_s = sum(max(0.0, one.growth_bytes_s) for one in last.ranks)
    is_fast = last.growth_bytes_s >= FAST * last.limit_bytes
    return held_bytes >= OWN_SHARE * last.limit_bytes or (is_fast and grown_bytes_s >= last.growth_bytes_s / 2)


def _figures(last: MemoryUsed) -> str:
    """Returns for example `15.6 of 16.0 GiB (requested), rank 3 used 12.1 GiB, growing by 2.0 GiB/s`."""
    total = f"{_gib(last.total_bytes)} of {_gib(last.limit_bytes)} GiB{_whose(last.limit_from)}"
    grew = "" if any(_grows(one.growth_bytes_s) for one in last.ranks[:1]) else _growth(last.growth_bytes_s)
    return ", ".join([f"{total}{grew}", *_largest(last.ranks)])


def _whose(limit: MemoryLimit) -> str:
    match limit:
        case MemoryLimit.ORDERED:
            return " (requested)"
        case MemoryLimit.CGROUP:
            return " (cgroup limit)"
        case MemoryLimit.MACHINE:
            return ""
        case _:
            assert_never(limit)


def _largest(ranks: Iterable[RankMemory]) -> Iterable[str]:
    largest = max(ranks, key=lambda one: one.used_bytes, default=None)
    if largest is not None:
        yield f"rank {largest.rank} used {_gib(largest.used_bytes)} GiB{_growth(largest.growth_bytes_s)}"


def _growth(bytes_s: float) -> str:
    return f", growing by {_gib(bytes_s)} GiB/s" if _grows(bytes_s) else ""


def _grows(bytes_s: float) -> bool:
    return bytes_s >= 0.05 * _GIB


def _gib(number: float) -> str:
    return f"{number / _GIB:.1f}"
