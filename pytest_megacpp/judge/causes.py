"""Owns the closed causes of verdicts; must not know which rule finds one, nor what to do about it.

Causes that other packages name are values of theirs: a `Stage`, a `RunEnd`, a `NotRun`, an `Aspect`, the name that a
surface gives a problem. Some contain a number or a name: `exit:3`, `signal:SIGSEGV`, `xid:79`. `docs/verdicts.md`
explains all of them.
"""

from enum import StrEnum
from typing import assert_never

from pytest_megacpp.recording.errors import Kind


class VerdictCause(StrEnum):
    """Causes that the rules of the judge find."""

    # of a rank
    EXCEPTION = "exception"
    CUDA_OOM = "cuda-oom"
    CUDA_ERROR = "cuda-error"
    OOM_KILLED = "oom-killed"
    EXIT_UNKNOWN = "exit:unknown"
    EXIT_0 = "exit:0"
    # of a test
    SKIPPED_ON_SOME_RANKS = "skipped-on-some-ranks"
    XPASSED_STRICT = "xpassed-strict"
    # of a wait
    NO_PROGRESS = "no-progress"
    FROZEN = "frozen"
    LEFT_EARLY = "left-early"
    DEVICE_BUSY = "device-busy"
    GIL_HELD = "gil-held"
    INFRASTRUCTURE = "infrastructure"
    # of a mismatch
    GROUP_ORDER = "group-order"
    MEMBERS = "members"
    # of a limit
    STARTUP_LIMIT = "startup-limit"
    RUN_LIMIT = "run-limit"
    # of a device
    ECC = "ecc"
    NVLS = "nvls"
    # of a box
    OOM = "oom"
    BROKEN = "broken"
    CUT_OFF = "cut-off"
    # of a test without a result
    SKIPPED = "skipped"
    WORLD_SIZE = "world-size"
    NO_RESULT = "no-result"
    NOT_RECORDED = "not-recorded"
    PLAN_LOST = "plan-lost"


def cause_of(kind: Kind) -> VerdictCause:
    """Returns the cause of a verdict that rests on such an error."""
    match kind:
        case Kind.CUDA_OOM:
            return VerdictCause.CUDA_OOM
        case Kind.CUDA:
            return VerdictCause.CUDA_ERROR
        case Kind.NVLS:
            return VerdictCause.NVLS
        case Kind.OWN | Kind.MEMORY | Kind.PEER | Kind.JOIN | Kind.MISMATCH | Kind.RENDEZVOUS:
            return VerdictCause.EXCEPTION
        case _:
            assert_never(kind)
