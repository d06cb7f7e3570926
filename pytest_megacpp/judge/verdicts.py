"""Owns the words of a judgement: codes, certainty, evidence, verdict, result; must not know how one is reached."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from pytest_megacpp.recording.events import Json
from pytest_megacpp.recording.plan import MEASURED, WARM_UP


class Code(StrEnum):
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


GREEN = frozenset({Code.PASSED, Code.SKIPPED, Code.XFAILED, Code.XPASSED})


class Outcome(StrEnum):
    """pytest's words for one test."""

    PASSED = "passed"
    FAILED = "failed"
    ERROR = "error"
    SKIPPED = "skipped"
    XFAILED = "xfailed"
    XPASSED = "xpassed"


class Certainty(StrEnum):
    CERTAIN = "certain"
    LIKELY = "likely"
    GUESS = "guess"

    def lowered(self) -> "Certainty":
        """One step less."""
        return {Certainty.CERTAIN: Certainty.LIKELY}.get(self, Certainty.GUESS)

    def raised(self) -> "Certainty":
        """One step more."""
        return {Certainty.GUESS: Certainty.LIKELY}.get(self, Certainty.CERTAIN)

    def at_most(self, other: "Certainty") -> "Certainty":
        """The lesser of the two."""
        order = list(Certainty)
        return max(self, other, key=order.index)


@dataclass(frozen=True, slots=True)
class Evidence:
    """One observation. `rank` None: about the box. `time_s`: box time, None when it has none. `source`: exit,
    report, flight-recorder, counters, stack, output, box, plan.
    """

    rank: int | None
    time_s: float | None
    source: str
    text: str


@dataclass(frozen=True, slots=True)
class Consequence:
    """What a rank showed because of the cause, or a second failure of its own (`cause` then names it)."""

    rank: int
    text: str
    cause: str | None = None


@dataclass(frozen=True, slots=True)
class Verdict:
    """The one finding that explains a test's outcome (design 2.5). `summary` is one sentence, cause first.

    `phase` is the pytest phase in which it happened (setup, call, teardown).
    """

    code: Code
    summary: str
    blamed_ranks: tuple[int, ...] = ()
    cause: str | None = None
    certainty: Certainty = Certainty.CERTAIN
    evidence: tuple[Evidence, ...] = ()
    consequences: tuple[Consequence, ...] = ()
    next_step: str = ""
    phase: str = "call"


@dataclass(frozen=True, slots=True)
class Attempt:
    """One of several runs of a test, by its number in the recording; `purpose` as the plan names it."""

    number: int
    purpose: str
    outcome: Outcome
    verdict: Verdict


def was_climbed(purposes: Sequence[str]) -> bool:
    """Whether the order of diagnosis was followed: there was more than one attempt and a warm-up before it."""
    return len(purposes) > 1 and list(purposes) != [WARM_UP, MEASURED]


@dataclass(frozen=True, slots=True)
class TestResult:
    """One lane test judged. `durations` in seconds per phase (the slowest rank's). `index` is the plan's; the verdict
    is about `attempt` where there were several (`attempts`, in order), else about the only one.
    """

    __test__ = False

    index: int
    nodeid: str
    outcome: Outcome
    verdict: Verdict
    durations: dict[str, float] = field(default_factory=dict)
    attempt: int | None = None
    attempts: tuple[Attempt, ...] = ()

    @property
    def number(self) -> int:
        """Where the recording tells of it."""
        return self.index if self.attempt is None else self.attempt

    @property
    def climbed(self) -> bool:
        return was_climbed([attempt.purpose for attempt in self.attempts])


@dataclass(frozen=True, slots=True)
class RunResult:
    """All tests of a run, in the plan's order, and what the run as a whole came to."""

    run_id: str
    tests: tuple[TestResult, ...]
    finished: bool
    problems: tuple[str, ...] = ()
    facts: dict[str, Json] = field(default_factory=dict)
