"""Owns why a test never began, asked of the modules that know: the run's end, its world, what ranks collected; must not
know faults of a running test.

Which world failed a test is what the box said, else the last world of its size.
"""

from dataclasses import dataclass, field
from functools import cached_property

from pytest_megacpp.judge import collection, run_end, world_starts
from pytest_megacpp.judge.findings import Finding
from pytest_megacpp.recording.timeline import Timeline
from pytest_megacpp.recording.views import WorldView


@dataclass
class Run:
    """What is asked for every test that didn't begin, worked out once per run and world."""

    timeline: Timeline
    _starts: dict[str, Finding | None] = field(default_factory=dict)
    _lacking: dict[str, str] = field(default_factory=dict)

    @cached_property
    def last_worlds(self) -> dict[int, WorldView]:
        """The last world of each size."""
        return {world.size: world for world in self.timeline.worlds.values()}

    def world_of(self, index: int) -> WorldView | None:
        """The world that failed this test."""
        if index in self.timeline.unreached:
            return self.timeline.worlds.get(self.timeline.unreached[index][0])
        planned = self.timeline.planned.get(index)
        return self.last_worlds.get(planned.ranks) if planned else None

    def start_of(self, world: WorldView) -> Finding | None:
        """Why this world never got ready; None when it did, or nothing is known."""
        if world.name not in self._starts:
            self._starts[world.name] = world_starts.find(self.timeline, world)
        return self._starts[world.name]

    def lacking(self, world: WorldView) -> str:
        """What the ranks of this world lack of the plan."""
        if world.name not in self._lacking:
            self._lacking[world.name] = collection.what_is_lacking(self.timeline, world)
        return self._lacking[world.name]


def find(run: Run, index: int) -> Finding:
    """Why this test never began."""
    refused = run_end.refused(run.timeline, index)
    if refused is not None:
        return refused
    world = run.world_of(index)
    started = run.start_of(world) if world is not None else None
    problem = run_end.problem_found(run.timeline)
    if started is not None and (problem is None or started.time_s <= problem.time_s):
        return started
    uncollected = collection.find(run.timeline, world, index, run.lacking) if world is not None else None
    return uncollected or problem or run_end.never_began(run.timeline, index)
