"""Owns the one place where an event finds the function that folds it; must not know limits, blame or display.

The box folds its own events as it writes them and decides by these views; the desk folds what it reads and judges by
the same ones. Memory is bounded per test and rank: one function folds each kind of fact, with its bound (`KEPT_…`)
beside it, in `fold_run`, `fold_worlds`, `fold_groups`, `fold_tests` or `fold_looks`. What doesn't fit the run (a rank
outside its world, a source speaking for another, a test that never started) is counted as stray and dropped.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TypeVar, assert_never

from pytest_megacpp.recording import events as ev
from pytest_megacpp.recording import fold_groups, fold_looks, fold_run, fold_tests, fold_worlds
from pytest_megacpp.recording.fold_tests import OfATest
from pytest_megacpp.recording.views import RankView, RunView, WorldView

F = TypeVar("F", bound=ev.Fact)
T = TypeVar("T", bound=OfATest)

KEPT_SOURCES = 131_072
BACKWARDS_S = 1.0  # threads that report of ranks overtake each other by less, see docs/decisions/0031
_LOOKS = (ev.Sampled, ev.FlightRecorded, ev.StackTaken)  # by threads of the box, or a rank's own


@dataclass(slots=True)
class Timeline(RunView):
    """A run so far, from its events. `add` is total: no event makes it raise."""

    _stamps_s: dict[tuple[str, str, int | None], float] = field(default_factory=dict)

    def add(self, event: ev.Event) -> None:
        """Folds one event in."""
        fact, time_s = event.fact, event.time_s
        self.events += 1
        self.last_s = max(self.last_s, time_s)
        self._check_clock(event)
        if not _speaks_for_itself(event):
            self.stray += 1
            return
        match fact:
            case ev.Sampled():  # first, because most events are samples and flight records
                self._in_world(event, fact, fold_looks.sampled)
            case ev.FlightRecorded():
                self._in_world(event, fact, fold_looks.flight_recorded)
            case ev.StackTaken():
                self._in_world(event, fact, fold_looks.stack_taken)
            case ev.OutputRead():
                self._in_world(event, fact, fold_looks.output_read)
            case ev.PhaseStarted():
                self._in_test(event, fact, fold_tests.phase_started)
            case ev.PhaseEnded():
                self._in_test(event, fact, fold_tests.phase_ended)
            case ev.Reported():
                self._in_test(event, fact, fold_tests.reported)
            case ev.Finished():
                self._in_test(event, fact, fold_tests.finished)
            case ev.ThreadRaised():
                self._in_test(event, fact, fold_tests.thread_raised)
            case ev.Debugged():
                self._in_test(event, fact, fold_tests.debugged)
            case ev.Handles():
                self._in_test(event, fact, fold_tests.handles)
            case ev.Warned():
                self._in_world(event, fact, fold_tests.warned)
            case ev.Muted():
                self._in_world(event, fact, fold_tests.muted)
            case ev.Recorded():
                self._in_test(event, fact, fold_tests.recorded)
            case ev.BucketRead():
                self._in_test(event, fact, fold_tests.bucket_read)
            case ev.FirstForward():
                self._in_test(event, fact, fold_tests.first_forward)
            case ev.WarmupSkipped():
                self._in_test(event, fact, fold_tests.warmup_skipped)
            case ev.Compiled():
                self._in_test(event, fact, fold_tests.compiled)
            case ev.ConfigsDropped():
                self._in_test(event, fact, fold_tests.configs_dropped)
            case ev.GroupBegun():
                self._in_world(event, fact, fold_groups.group_begun)
            case ev.GroupCreated():
                self._in_world(event, fact, fold_groups.group_created)
            case ev.WorldEnded():
                self._in_world(event, fact, fold_worlds.world_ended)
            case ev.RankStarted():
                self._in_world(event, fact, fold_worlds.rank_started)
            case ev.RankReady():
                self._in_world(event, fact, fold_worlds.rank_ready)
            case ev.RankCollected():
                self._in_world(event, fact, fold_worlds.rank_collected)
            case ev.RankBroken():
                self._in_world(event, fact, fold_worlds.rank_broken)
            case ev.RankExited():
                self._in_world(event, fact, fold_worlds.rank_exited)
            case ev.DeviceUsed():
                self._in_world(event, fact, fold_worlds.device_used)
            case ev.DeviceFault():
                self._in_world(event, fact, fold_worlds.device_fault)
            case ev.TestStarted():
                self._in_world(event, fact, fold_worlds.test_started)
            case ev.Acted():
                self._in_world(event, fact, fold_worlds.acted)
            case ev.TestEnded():
                self._in_world(event, fact, fold_worlds.test_ended)
            case ev.RunStarted():
                fold_run.run_started(self, fact)
            case ev.SourceRead():
                fold_run.source_read(self, fact)
            case ev.TestPlanned():
                fold_run.test_planned(self, fact)
            case ev.BoxReady():
                fold_run.box_ready(self, fact)
            case ev.SeedChecked():
                fold_run.seed_checked(self, fact)
            case ev.SeedKept():
                fold_run.seed_kept(self, fact)
            case ev.EnvironmentSet():
                fold_run.environment_set(self, fact)
            case ev.Capability():
                fold_run.capability(self, event.world, fact)
            case ev.ProblemFound():
                fold_run.problem_found(self, time_s, fact)
            case ev.Progress():
                fold_run.progress(self, time_s, fact)
            case ev.MemoryUsed():
                fold_run.memory_used(self, event.world, time_s, fact)
            case ev.StacksAsked():
                pass  # only who asked has a use for it, and reads events
            case ev.RunFinished():
                fold_run.run_finished(self, time_s, fact)
            case ev.WorldStarted():
                fold_run.world_started(self, event.world, time_s, fact)
            case ev.Gap():
                fold_run.gap(self, event.world, fact)
            case ev.Damaged():
                fold_run.damaged(self, fact)
            case ev.Unknown():
                fold_run.unknown(self)
            case _:
                assert_never(fact)

    def _in_world(self, event: ev.Event, fact: F, fold: Callable[[RunView, WorldView, float, F], None]) -> None:
        """Folds a fact of a world that is known, and of a rank that this world has."""
        world = self._world_of(event)
        if world is None:
            self.stray += 1
        else:
            fold(self, world, event.time_s, fact)

    def _in_test(self, event: ev.Event, fact: T, fold: Callable[[RankView, float, T], None]) -> None:
        """Folds a fact of a rank that only a test can have."""
        world = self._world_of(event)
        if world is None or not fold_tests.in_test(self, world, event.time_s, fact, fold):
            self.stray += 1

    def _world_of(self, event: ev.Event) -> WorldView | None:
        """The world of an event; None where it isn't known, or doesn't have the fact's rank."""
        world = self.worlds.get(event.world)
        rank = getattr(event.fact, "rank", None)
        return None if world is None or (rank is not None and not 0 <= rank < world.size) else world

    def _check_clock(self, event: ev.Event) -> None:
        """Counts stamps that go backwards. Looks at one rank are in order; a busy box writes them after facts of its
        own that are younger.
        """
        looked_at = event.fact.rank if isinstance(event.fact, _LOOKS) else None
        key = event.world, event.source, looked_at
        if event.time_s < self._stamps_s.get(key, 0.0) - BACKWARDS_S and event.source != "reader":
            self.backwards += 1
        elif key in self._stamps_s or len(self._stamps_s) < KEPT_SOURCES:
            self._stamps_s[key] = event.time_s


def _speaks_for_itself(event: ev.Event) -> bool:
    """Whether the source may report the fact: a rank's stream may only carry that rank's facts."""
    source = event.source
    return not source.startswith("rank ") or source == f"rank {getattr(event.fact, 'rank', None)}"


def fold(events: Iterable[ev.Event]) -> Timeline:
    """A whole recording as a timeline."""
    timeline = Timeline()
    for event in events:
        timeline.add(event)
    return timeline
