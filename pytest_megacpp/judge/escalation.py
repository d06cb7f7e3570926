"""Owns the order of diagnosis: which attempt at a test comes next; must not know a box, nor what attempts come to.

Compile skew is followed by a warm-up of all ranks together and another measured run, an inconclusive attempt by the
diagnostic preset, a mismatch by an attempt in which torch compares the collectives. A plain failure is never tried
again. Whether an attempt is safe and can be paid for is decided by the box.
"""

from collections.abc import Sequence

from pytest_megacpp.judge.verdicts import Attempt, Code
from pytest_megacpp.recording.vocabulary import Preset, Purpose


def next_purpose(attempts: Sequence[Attempt], preset: Preset) -> Purpose | None:
    """Returns what the next attempt is for; None if there is none to make.

    `attempts` are all attempts so far, in order, each of them ended; `preset` is the test's own.
    """
    last, warmed = attempts[-1], any(attempt.purpose is Purpose.WARM_UP for attempt in attempts)
    code = last.verdict.code
    if not last.purpose.counts:
        return None
    if code.is_green:
        return Purpose.MEASURED if is_rehearsal(attempts) else None
    if code is Code.COLLECTIVE_MISMATCH:
        return Purpose.DETAIL
    if code is Code.COMPILE_SKEW and not warmed:
        return Purpose.WARM_UP
    is_left_open = code.traits.is_open or code is Code.COMPILE_SKEW
    return Purpose.DIAGNOSTIC if is_left_open and preset is not Preset.DIAGNOSTIC else None


def is_rehearsal(attempts: Sequence[Attempt]) -> bool:
    """Returns whether the last attempt is a warm-up after a failure: if it is green, it proves nothing yet."""
    return len(attempts) > 1 and attempts[-1].purpose is Purpose.WARM_UP
