"""Owns what a family of rules hands to the arbiter: a verdict before it is weighed; must not know how it was found."""

from dataclasses import dataclass, field
from enum import StrEnum

from pytest_megacpp.judge.verdicts import Certainty, Code, Consequence, Evidence
from pytest_megacpp.recording.vocabulary import TestPhase


class Source(StrEnum):
    """A kind of evidence that a finding can rest on."""

    EXITS = "exits"
    MEMORY = "memory"
    REPORTS = "reports"
    COLLECTIVES = "collectives"
    GROUPS = "groups"
    COUNTERS = "counters"
    STACKS = "stacks"
    WAKEUPS = "wakeups"  # whether a thread ran since its stack was taken
    CLOCKS = "clocks"


@dataclass(frozen=True, slots=True)
class Uncertainty:
    """A reason to be less certain. Several reasons about the same source count once."""

    source: Source | None
    text: str


@dataclass(frozen=True, slots=True)
class Finding:
    """A verdict before it is weighed.

    `time_s` is when the failure began: the earliest of several findings wins. `certainty` is what the rule itself
    allows, before `uncertainties` and missing sources lower it. `variant` tells findings apart that share code and
    cause but need different next steps.
    """

    code: Code
    summary: str
    blamed: tuple[int, ...] = ()
    cause: str | None = None
    phase: TestPhase = TestPhase.CALL
    evidence: tuple[Evidence, ...] = ()
    consequences: tuple[Consequence, ...] = ()
    relies: frozenset[Source] = frozenset()
    uncertainties: tuple[Uncertainty, ...] = ()
    certainty: Certainty = Certainty.CERTAIN
    time_s: float = field(default=0.0, compare=False)
    variant: str = ""
