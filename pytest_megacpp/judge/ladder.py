"""Owns the order of diagnosis: which attempt at a test comes next; must not know a box, nor what attempts come to.

Compile skew is answered by a warm-up of all ranks together and one more measured run, what stays unclear by the
diagnostic preset, a mismatch by letting torch compare the collectives. A plain failure is never tried again. Whether
an attempt is safe, and can be paid for, is the box's to say.
"""

from collections.abc import Sequence

from pytest_megacpp.judge.verdicts import Attempt, Code
from pytest_megacpp.recording.plan import COUNTING, DETAIL, DIAGNOSTIC, MEASURED, WARM_UP


def next_purpose(attempts: Sequence[Attempt], preset: str) -> str | None:
    """What the next attempt is for, None when there is none to make. `attempts` are all so far, in order, each at its
    end; `preset` is the test's own.
    """
    last, warmed = attempts[-1], any(attempt.purpose == WARM_UP for attempt in attempts)
    if last.purpose not in COUNTING:
        return None
    if last.verdict.code.is_green:
        return MEASURED if is_rehearsal(attempts) else None
    if last.verdict.code is Code.COLLECTIVE_MISMATCH:
        return DETAIL
    if last.verdict.code is Code.COMPILE_SKEW and not warmed:
        return WARM_UP
    is_left_open = last.verdict.code.traits.is_open or last.verdict.code is Code.COMPILE_SKEW
    return DIAGNOSTIC if is_left_open and preset != DIAGNOSTIC else None


def is_rehearsal(attempts: Sequence[Attempt]) -> bool:
    """Whether the last attempt is a warm-up that followed a failure: green, it proves nothing yet."""
    return len(attempts) > 1 and attempts[-1].purpose == WARM_UP
