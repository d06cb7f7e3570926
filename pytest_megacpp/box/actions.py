"""Owns what a supervisor can have its box do, as data; must not know when or how that is done."""

from dataclasses import dataclass
from typing import TypeAlias

from pytest_megacpp.recording.events import Fact
from pytest_megacpp.recording.plan import PlannedTest
from pytest_megacpp.recording.vocabulary import Purpose, RunEnd, WarmUp, WorldReason


@dataclass(frozen=True, slots=True)
class Attempt:
    """One run of test `item` of the plan; `planned` is that test with this attempt's limits and preset."""

    item: int
    purpose: Purpose
    planned: PlannedTest
    warmup: WarmUp | None = None
    after: int | None = None


@dataclass(frozen=True, slots=True)
class StartWorld:
    name: str
    size: int
    reason: WorldReason


@dataclass(frozen=True, slots=True)
class EndWorld:
    """End a world. `graceful`: ranks are asked to leave first, so that their fixtures are torn down."""

    name: str
    reason: str
    graceful: bool


@dataclass(frozen=True, slots=True)
class Write:
    """Record a fact of the supervisor's own."""

    world: str
    fact: Fact


@dataclass(frozen=True, slots=True)
class Release:
    """Let all ranks of the world begin the attempt `test`; `next_item` is the test of the plan that comes after it."""

    world: str
    test: int
    attempt: Attempt
    next_item: int | None
    keep_group: bool


@dataclass(frozen=True, slots=True)
class TakeEvidence:
    """Ask living ranks of the world for evidence: all of them for everything or, where `stacks_of` names ranks, these
    for their stacks only.
    """

    world: str
    test: int | None
    stacks_of: tuple[int, ...] | None = None


@dataclass(frozen=True, slots=True)
class LookAgain:
    """Look at all ranks of the world now instead of when the next look is due, and take the stacks of some."""

    world: str
    test: int
    stacks_of: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class ReadOutput:
    """Record what the ranks wrote during the test."""

    world: str
    test: int | None


@dataclass(frozen=True, slots=True)
class Finish:
    reason: RunEnd
    detail: str = ""


Action: TypeAlias = StartWorld | EndWorld | Write | Release | TakeEvidence | LookAgain | ReadOutput | Finish
