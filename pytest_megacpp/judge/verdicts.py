"""Owns the terms of a judgement: codes and their traits, certainty, evidence, verdict, result; must not know how one is
reached.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType
from typing import assert_never

from pytest_megacpp.recording.events import Json
from pytest_megacpp.recording.vocabulary import Purpose, TestPhase


class Code(StrEnum):
    """The kind of a verdict. Everything that follows from the code alone is in `traits`."""

    PASSED = "passed"
    TEST_FAILED = "test-failed"
    RANK_DEATH = "rank-death"
    COMPILE_SKEW = "compile-skew"
    COMPILE_STALL = "compile-stall"
    COLLECTIVE_MISMATCH = "collective-mismatch"
    STRAGGLER = "straggler"
    HANG = "hang"
    OVERTIME = "overtime"
    STARTUP_FAILURE = "startup-failure"
    ENVIRONMENT = "environment"
    BOX_LOST = "box-lost"
    BLOCKED = "blocked"
    NOT_RUN = "not-run"
    UNCLEAR = "unclear"
    SKIPPED = "skipped"
    XFAILED = "xfailed"
    XPASSED = "xpassed"

    @property
    def traits(self) -> "CodeTraits":
        return TRAITS[self]

    @property
    def is_green(self) -> bool:
        return TRAITS[self].is_green


class Outcome(StrEnum):
    """pytest's outcome of one test."""

    PASSED = "passed"
    FAILED = "failed"
    ERROR = "error"
    SKIPPED = "skipped"
    XFAILED = "xfailed"
    XPASSED = "xpassed"

    @property
    def is_red(self) -> bool:
        """Whether pytest's exit code is that of a failure."""
        return self in RED


RED = (Outcome.FAILED, Outcome.ERROR)  # a tuple: documents of anybody may have what has no hash


@dataclass(frozen=True, slots=True)
class CodeTraits:
    """What follows from a verdict's code alone.

    `outcome`: pytest's word; None: `failed` in the test's own body, `error` in set-up and teardown.
    `is_green`: nothing is wrong.
    `blames_the_code`: a failure is the matter of the code under test, not of what it ran on.
    `was_tested`: the attempt got so far that it says more of the test than a failure before it.
    `is_open`: it doesn't say what is wrong, so that the diagnostic preset may tell the machine from the model.
    `has_remedy`: the box or the desk that found the problem knows best what to do about it.
    `is_about_collectives`: flight records of the ranks are worth a look.
    `triage`: what `--triage` would do about it; empty: nothing.
    """

    outcome: Outcome | None = None
    is_green: bool = False
    blames_the_code: bool = True
    was_tested: bool = True
    is_open: bool = False
    has_remedy: bool = False
    is_about_collectives: bool = False
    triage: str = ""

    def outcome_in(self, phase: TestPhase) -> Outcome:
        """Returns pytest's outcome for a verdict on that phase.

        A failure outside the test's own body is an error, as pytest's users expect.
        """
        return self.outcome or (Outcome.FAILED if phase is TestPhase.CALL else Outcome.ERROR)


def _traits_of(code: Code) -> CodeTraits:
    match code:
        case Code.PASSED:
            return CodeTraits(Outcome.PASSED, is_green=True)
        case Code.SKIPPED:
            return CodeTraits(Outcome.SKIPPED, is_green=True)
        case Code.XFAILED:
            return CodeTraits(Outcome.XFAILED, is_green=True)
        case Code.XPASSED:
            return CodeTraits(Outcome.XPASSED, is_green=True)
        case Code.TEST_FAILED | Code.RANK_DEATH | Code.COMPILE_STALL | Code.OVERTIME:
            return CodeTraits()
        case Code.COMPILE_SKEW:
            return CodeTraits(is_about_collectives=True, triage="--triage does both automatically")
        case Code.COLLECTIVE_MISMATCH:
            return CodeTraits(is_about_collectives=True, triage="--triage lets torch compare the collectives")
        case Code.STRAGGLER:
            return CodeTraits(is_about_collectives=True)
        case Code.HANG:
            return CodeTraits(is_open=True, is_about_collectives=True, triage="--triage finds out automatically")
        case Code.UNCLEAR:
            return CodeTraits(is_open=True, triage="--triage finds out automatically")
        case Code.STARTUP_FAILURE:  # an error that the code under test caused: a file can't be imported
            return CodeTraits(Outcome.ERROR, was_tested=False)
        case Code.ENVIRONMENT:  # counts as tested: a GPU that breaks in a later attempt is news
            return CodeTraits(Outcome.ERROR, blames_the_code=False, has_remedy=True)
        case Code.BOX_LOST | Code.BLOCKED:
            return CodeTraits(Outcome.ERROR, blames_the_code=False, was_tested=False, has_remedy=True)
        case Code.NOT_RUN:
            return CodeTraits(Outcome.ERROR, blames_the_code=False, was_tested=False)
        case _:
            assert_never(code)


TRAITS: Mapping[Code, CodeTraits] = MappingProxyType({code: _traits_of(code) for code in Code})


class Witness(StrEnum):
    """Where an observation comes from."""

    EXIT = "exit"
    REPORT = "report"
    FLIGHT_RECORDER = "flight-recorder"
    COUNTERS = "counters"
    STACK = "stack"
    OUTPUT = "output"
    DEVICE = "device"
    BOX = "box"
    PLAN = "plan"


class Certainty(StrEnum):
    CERTAIN = "certain"
    LIKELY = "likely"
    GUESS = "guess"

    def lowered(self) -> "Certainty":
        """Returns one step less."""
        return {Certainty.CERTAIN: Certainty.LIKELY}.get(self, Certainty.GUESS)

    def raised(self) -> "Certainty":
        """Returns one step more."""
        return {Certainty.GUESS: Certainty.LIKELY}.get(self, Certainty.CERTAIN)

    def at_most(self, other: "Certainty") -> "Certainty":
        """Returns the lesser of the two."""
        order = list(Certainty)
        return max(self, other, key=order.index)


@dataclass(frozen=True, slots=True)
class Evidence:
    """One observation. `rank` is None if it is about the box. `time_s` is box time, None if it has none."""

    rank: int | None
    time_s: float | None
    source: Witness
    text: str


@dataclass(frozen=True, slots=True)
class Consequence:
    """What happened to another rank as a result, or a second failure of its own, which has a `cause`."""

    rank: int
    text: str
    cause: str | None = None


@dataclass(frozen=True, slots=True)
class Verdict:
    """The one finding that explains a test's outcome. `summary` is one sentence, cause first.

    `phase` is the pytest phase in which it happened. `cause` is a member of `causes.VerdictCause`, another closed value
    of the recording (a stage, the end of a run), or an open one (`exit:3`, `xid:79`, the name that a surface gives its
    problem).
    """

    code: Code
    summary: str
    blamed_ranks: tuple[int, ...] = ()
    cause: str | None = None
    certainty: Certainty = Certainty.CERTAIN
    evidence: tuple[Evidence, ...] = ()
    consequences: tuple[Consequence, ...] = ()
    next_step: str = ""
    phase: TestPhase = TestPhase.CALL


@dataclass(frozen=True, slots=True)
class Attempt:
    """One of several attempts at a test. `number` is its index in the recording."""

    number: int
    purpose: Purpose
    outcome: Outcome
    verdict: Verdict


def is_escalation(purposes: Sequence[Purpose]) -> bool:
    """Returns whether the order of diagnosis was followed: there is more than a warm-up and its measured attempt."""
    return len(purposes) > 1 and list(purposes) != [Purpose.WARM_UP, Purpose.MEASURED]


@dataclass(frozen=True, slots=True)
class TestResult:
    """One lane test judged.

    `durations` are seconds per phase, of the slowest rank. `index` is the plan's. If there were several attempts
    (`attempts`, in order), the verdict is about `attempt`, else about the only one. `missed`: how the verdict differs
    from the one that a fault drill expects; empty if it does not, or if none is expected.
    """

    __test__ = False

    index: int
    nodeid: str
    outcome: Outcome
    verdict: Verdict
    durations: dict[str, float] = field(default_factory=dict)
    attempt: int | None = None
    attempts: tuple[Attempt, ...] = ()
    missed: str = ""

    @property
    def number(self) -> int:
        """The index in the recording of the attempt that the verdict is about."""
        return self.index if self.attempt is None else self.attempt

    @property
    def was_escalated(self) -> bool:
        return is_escalation([attempt.purpose for attempt in self.attempts])


@dataclass(frozen=True, slots=True)
class RunResult:
    """All tests of a run, in the order of the plan, and the result of the run as a whole."""

    run_id: str
    tests: tuple[TestResult, ...]
    finished: bool
    problems: tuple[str, ...] = ()
    facts: dict[str, Json] = field(default_factory=dict)
