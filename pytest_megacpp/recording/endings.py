"""Owns processes of ranks that ended badly while no test ran: nobody's failure, and never silent; must not know blame.

A test has been reported when its rank aborts in an exit handler or at interpreter shutdown. It stays what it was; under
torchrun the job would be red, so the run reports it, and what its caches hold is kept for nobody.
"""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from pytest_megacpp.recording.events import RankExited
from pytest_megacpp.recording.ranks import ranks_named
from pytest_megacpp.recording.timeline import Timeline
from pytest_megacpp.recording.views import WorldView

_ASKED_TO_END = frozenset({"SIGTERM", "SIGKILL"})  # what the box sends to those that don't leave by themselves


@dataclass(frozen=True, slots=True)
class BadEnding:
    """Ranks of one world that ended in one way. `how` is the end of a sentence: `ended with SIGABRT`."""

    world: str
    ranks: tuple[int, ...]
    how: str
    when: str

    def __str__(self) -> str:
        return f"{ranks_named(self.ranks)} of world {self.world[:40]} {self.how} {self.when}"


def bad_endings(timeline: Timeline) -> tuple[BadEnding, ...]:
    """The bad endings of a run so far, in the order of worlds."""
    spans: dict[str, list[tuple[float, float | None]]] = defaultdict(list)
    for test in timeline.tests.values():
        spans[test.world].append((test.started_s, test.ended_s))
    return tuple(e for world in timeline.worlds.values() for e in _of_world(world, spans[world.name]))


def _of_world(world: WorldView, spans: list[tuple[float, float | None]]) -> Iterable[BadEnding]:
    alike: dict[tuple[str, str], list[int]] = defaultdict(list)
    leaves = world.ended is not None and world.ended.graceful
    for rank, (time_s, exited) in sorted(world.exits.items()):
        if exited.expected:
            if leaves and _left_badly(exited):
                alike[_how(exited), "after its last test"].append(rank)
        elif _between(time_s, spans):
            alike[_how(exited), "between tests"].append(rank)
    return (BadEnding(world.name, tuple(ranks), how, when) for (how, when), ranks in alike.items())


def _left_badly(exited: RankExited) -> bool:
    """How a rank that was asked to leave ended badly; empty where its status wasn't learnt. What follows a signal of
    the box's is the box's doing, but for a crash; older recordings don't say whether it had sent one.
    """
    if exited.signal in _ASKED_TO_END:
        return exited.signalled is False or bool(exited.oom_killed)
    if exited.signal is not None:
        return True
    return bool(exited.code) and not exited.signalled


def _how(exited: RankExited) -> str:
    if exited.oom_killed:
        return "ended by an OOM kill"
    if exited.signal:
        return f"ended with {exited.signal[:20]}"
    return "ended" if exited.code is None else f"ended with exit code {exited.code}"


def _between(time_s: float, spans: list[tuple[float, float | None]]) -> bool:
    inside = any(start <= time_s and (end is None or time_s <= end) for start, end in spans)
    return bool(spans) and not inside and time_s > min(start for start, _ in spans)
