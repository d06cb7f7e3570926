"""Owns a run as spans of time: what each rank of each world was in, from when to when, and the moments that matter;
must not know how these are found, a format, or a page.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple


class Kind(StrEnum):
    START = "start"  # of the process: fork, imports of torch and pytest
    COLLECTION = "collection"  # of the test files, which imports them
    PHASE = "phase"  # of pytest: set-up, call, teardown
    STEP = "step"  # a phase that the test itself named, a warm-up or a first forward
    COMPILE = "compile"
    GROUP = "group"  # a process group is made
    COLLECTIVE = "collective"
    WAIT = "wait"  # for a peer that didn't come


class MarkKind(StrEnum):
    DEATH = "death"
    FAILURE = "failure"
    ACT = "act"
    FAULT = "fault"
    MISMATCH = "mismatch"
    PROBLEM = "problem"


class Span(NamedTuple):
    """Times in seconds. `test` is the number of an attempt, None before any test. A collective has its `group` and its
    `number` there. `peers` are the ranks that came last, or didn't come at all; then it is a wait.
    """

    start_s: float
    end_s: float
    kind: Kind
    name: str
    test: int | None = None
    number: int = 0
    group: str = ""
    peers: tuple[int, ...] = ()


class OpenWait(NamedTuple):
    """Ranks that waited for the same at the moment by which their test is judged, or at the last one that is known:
    `waited_s` is how long each of them had by then.
    """

    at_s: float
    waited_s: Mapping[int, float]
    name: str
    number: int
    group: str
    peers: tuple[int, ...]

    @property
    def ranks(self) -> tuple[int, ...]:
        return tuple(sorted(self.waited_s))

    @property
    def shortest_s(self) -> float:
        return min(self.waited_s.values())

    @property
    def longest_s(self) -> float:
        return max(self.waited_s.values())


class Mark(NamedTuple):
    """A moment of one rank, or of all ranks (`rank` None). A failure also has its message, and the `place` in the code
    where it was raised, if that is known.
    """

    at_s: float
    kind: MarkKind
    rank: int | None
    text: str
    test: int | None = None
    message: str = ""
    place: str = ""


@dataclass(slots=True)
class WorldSpans:
    """One world. `lanes` has the spans of each rank of which anything is known, in order of their starts; `left_out`
    counts the spans that are in none. `waits` are those of each attempt that failed or still runs, by its number.
    `cpu`: CPU seconds so far, `memory`: bytes, by rank.
    """

    name: str
    size: int
    reason: str
    start_s: float
    end_s: float
    lanes: dict[int, list[Span]] = field(default_factory=dict)
    marks: list[Mark] = field(default_factory=list)
    waits: dict[int, Sequence[OpenWait]] = field(default_factory=dict)
    left_out: int = 0
    cpu: dict[int, list[tuple[float, float]]] = field(default_factory=dict)
    memory: dict[int, list[tuple[float, float]]] = field(default_factory=dict)


@dataclass(slots=True)
class RunSpans:
    """`steps` are those of the surface and the box before and between worlds: from when to when, what, details."""

    worlds: list[WorldSpans]
    steps: list[tuple[float, float, str, str]]
    marks: list[Mark]
    memory: list[tuple[float, float]]
    end_s: float

    @property
    def left_out(self) -> int:
        return sum(world.left_out for world in self.worlds)
