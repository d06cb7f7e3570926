"""Owns what is known of a run, its worlds, their tests and ranks, and questions that this alone answers; must not know
how events become views, limits, blame or display.

Views are written by the fold only (`timeline`); box, judge and reports read them. Times are box times in seconds.
"""

from dataclasses import dataclass, field, replace

from pytest_megacpp.recording import events as ev
from pytest_megacpp.recording.agreement import Disagreement, LeftOpen, differing, disagreements, left_open, uncompared
from pytest_megacpp.recording.collectives import RankCollectives
from pytest_megacpp.recording.cpu import CpuMeter
from pytest_megacpp.recording.flight import is_nccl
from pytest_megacpp.recording.groups import KEPT_GROUPS, Groups
from pytest_megacpp.recording.interning import Interned
from pytest_megacpp.recording.series import Series
from pytest_megacpp.recording.stacks import (
    Thread,
    imports_compiler,
    is_elsewhere,
    joins_group,
    main_thread,
    sleeps,
    waits_for_peer,
)
from pytest_megacpp.recording.vocabulary import (
    WARM_UP_PHASE,
    ForwardOrigin,
    Lost,
    Preset,
    ReportOutcome,
    Stream,
    TestEnd,
    TestPhase,
    WarmUp,
    WorldReason,
)

FROZEN_STATES = ("T", "t")  # the kernel's letters for a process that a signal or a debugger stopped


@dataclass(slots=True)
class Phase:
    name: str
    start_s: float
    end_s: float | None = None


@dataclass(slots=True)
class Joining:
    """A group that a rank makes; see `events.GroupBegun`. `group` is its name among all its members; `members` is empty
    where these aren't known by the rank's word. `call` is how users call it. `failed`: it ended with an error.
    """

    name: str
    group: str
    members: tuple[int, ...]
    call: str
    begun_s: float
    end_s: float | None = None
    failed: bool = False


@dataclass(slots=True)
class RankView:
    """One rank in one test. Times are box times in seconds."""

    rank: int
    main_thread: str = ""
    frames_native_calls: bool = False
    collectives: RankCollectives = field(default_factory=RankCollectives)
    phases: list[Phase] = field(default_factory=list)
    reports: dict[TestPhase, tuple[float, ev.Reported]] = field(default_factory=dict)
    threads: list[tuple[float, ev.ThreadRaised]] = field(default_factory=list)
    debugger: list[Phase] = field(default_factory=list)  # while somebody talked to one
    quit_debugger: bool = False
    handled: list[tuple[float, ev.Handles]] = field(default_factory=list)  # while it called for its peers
    warnings: dict[ev.Warned, None] = field(default_factory=dict)
    finished_s: float | None = None
    group_clean: bool = False
    group_foreign: bool = False
    counted: ev.Finished | None = None
    digests: dict[str, str] = field(default_factory=dict)  # by group
    running: frozenset[str] = frozenset()  # groups, by such names, in which a thread of it went on after the test
    sample: ev.Sampled | None = None
    sample_s: float = 0.0
    first_sample: ev.Sampled | None = None
    answered_s: float | None = None
    compiling_since_s: float | None = None
    compiles: list[Phase] = field(default_factory=list)  # between looks; named by the counters of the first one
    compiled_before_s: float = 0.0  # seconds, in earlier tests of its process
    has_compiled: bool = False  # in this test, or it does
    progress_s: float = 0.0  # of any kind
    busy_s: float = 0.0  # of the main thread: it computed
    ran_s: float = 0.0  # of the main thread: it was awake, if only for a moment
    issued_s: float = 0.0  # a collective was entered or completed
    tree_cpu: CpuMeter = field(default_factory=CpuMeter)
    main_cpu: CpuMeter = field(default_factory=CpuMeter)
    running_looks: int = 0  # in a row, where the kernel counts no runs, at which its main thread was running
    stacks: list[tuple[float, ev.StackTaken]] = field(default_factory=list)
    same_stack_s: float = 0.0  # since when its main thread's newest stack is the same
    output: dict[Stream, ev.OutputRead] = field(default_factory=dict)
    records: dict[str, ev.Json] = field(default_factory=dict)
    bucket_reads: dict[str, tuple[float, ev.BucketRead]] = field(default_factory=dict)  # the first, with the count
    first_forwards: list[tuple[float, ev.FirstForward]] = field(default_factory=list)
    warmup_skipped: str = ""  # why
    compiled: ev.Compiled | None = None
    dropped: dict[ev.ConfigsDropped, None] = field(default_factory=dict)  # a kernel is tuned anew for new sizes
    muted: Lost | None = None  # what of its words is left out
    joinings: list[Joining] = field(default_factory=list)  # the newest
    exit: ev.RankExited | None = None
    exit_s: float | None = None

    @property
    def gone(self) -> bool:
        """Whether the rank's process ended."""
        return self.exit is not None

    @property
    def out(self) -> bool:
        """Whether the rank is through with the test, one way or the other: it will enter no further collective."""
        return self.gone or self.finished_s is not None

    @property
    def is_debugged(self) -> bool:
        """Whether somebody talks to a debugger of it."""
        return not self.out and bool(self.debugger) and self.debugger[-1].end_s is None

    def debugged(self, now_s: float) -> list[tuple[float, float]]:
        """When somebody talked to a debugger of it, up to now or to its end."""
        end_s = now_s if self.exit_s is None else self.exit_s
        return [(turn.start_s, end_s if turn.end_s is None else turn.end_s) for turn in self.debugger]

    @property
    def frozen(self) -> bool:
        """Whether the rank was stopped by a signal or a debugger when it was last looked at."""
        return self.sample is not None and self.sample.state in FROZEN_STATES

    def joining(self, at_s: float) -> Joining | None:
        """The group that the rank was making at that time."""
        begun = [j for j in self.joinings if j.begun_s <= at_s]
        return begun[-1] if begun and (begun[-1].end_s is None or begun[-1].end_s > at_s) else None

    def not_joined(self, at_s: float) -> Joining | None:
        """The group that the rank was making at that time, or had just failed to make."""
        begun = [j for j in self.joinings if j.begun_s <= at_s]
        return begun[-1] if begun and (begun[-1].failed or self.joining(at_s)) else None

    def handles(self, at_s: float) -> tuple[float, ev.Handles] | None:
        """What it handled at its last call for its peers by that time, and when that was; None before it handled
        anything.
        """
        return next((entry for entry in reversed(self.handled) if entry[0] <= at_s), None)

    @property
    def spins(self) -> bool:
        """Whether the rank is in an NCCL call: its host may burn CPU while it waits, and its caller may be anywhere."""
        seen = self.collectives
        return any(is_nccl(e.op) for e in (*seen.pending(), *seen.messages))

    @property
    def rests_s(self) -> float:
        """The time since which its main thread does nothing but wait, as far as is known."""
        return self.issued_s if self.spins else self.busy_s

    @property
    def moved_s(self) -> float:
        """When the rank last made progress. CPU time is no progress while it waits on a device."""
        return self.issued_s if self.spins else self.progress_s

    @property
    def compiling(self) -> bool:
        """Whether a compile counter was active at the last look that was answered."""
        return self.compiling_since_s is not None and not self.out

    @property
    def awaits_file_lock(self) -> bool:
        """Whether another process compiles the same and this one only waits for the result."""
        return self.sample is not None and "filelock.enter" in self.sample.compiling

    @property
    def failure(self) -> tuple[float, ev.Reported] | None:
        """The first phase that this rank reported failed."""
        failed = [entry for entry in self.reports.values() if entry[1].outcome is ReportOutcome.FAILED]
        return min(failed, key=lambda entry: entry[0], default=None)

    @property
    def went_on_to_the_end(self) -> bool:
        """Whether no phase of the test ended before its time: by a failure, expected or not, or a skip."""
        return all(report.outcome is ReportOutcome.PASSED for _, report in self.reports.values())

    @property
    def open_phase(self) -> str | None:
        """The innermost phase that the rank is in."""
        return next((p.name for p in reversed(self.phases) if p.end_s is None), None)

    @property
    def warms_up(self) -> bool:
        """Whether the rank is in its warm-up step."""
        return not self.out and any(p.name == WARM_UP_PHASE and p.end_s is None for p in self.phases)

    def warmups(self, now_s: float) -> tuple[tuple[float, float], ...]:
        """Start and end of each warm-up. One that is still open ends with the rank, or now."""
        end_s = min((s for s in (self.exit_s, self.finished_s) if s is not None), default=now_s)
        return tuple((p.start_s, end_s if p.end_s is None else p.end_s) for p in self.phases if p.name == WARM_UP_PHASE)

    @property
    def first_forward_s(self) -> float | None:
        """What the test itself called its first forward, else its warm-up, else the longest that was seen."""
        timed = [(f.origin, f.seconds) for _, f in self.first_forwards]
        by_the_test = (ForwardOrigin.TEST, ForwardOrigin.WARM_UP)
        named = [seconds for wanted in by_the_test for origin, seconds in timed if origin is wanted]
        return named[0] if named else max((seconds for _, seconds in timed), default=None)

    def blocked_since(self) -> float | None:
        """The time since which the main thread is known, by its stack, to wait for a peer in one call; None when it
        doesn't.
        """
        taken = self.stack() if self.looked_at() else None
        if taken is None or not waits_for_peer(taken[1]):
            return None
        since_s = self.busy_s if joins_group(taken[1]) else max(self.busy_s, self.awake_s)
        return since_s if taken[0] >= since_s else None

    def would_be_seen_moving(self) -> bool:
        """Whether the kernel's count of its runs would tell that its newest stack is old: not while it makes a group,
        where some stores ask again and again.
        """
        taken = self.stack()
        return self.counts_runs and not (taken is not None and joins_group(taken[1]))

    @property
    def counts_runs(self) -> bool:
        """Whether the kernel counts how often its main thread ran, so that an old stack is known to be old."""
        return self.sample is None or self.sample.main_runs is not None

    @property
    def awake_s(self) -> float:
        """When its main thread was last awake, if only for a moment. Where the kernel doesn't count that: when its
        stack was last seen to change, or any rank received something.
        """
        return self.ran_s if self.counts_runs else max(self.ran_s, self.same_stack_s)

    def looked_at(self) -> bool:
        """Whether its stack was asked for since it last computed."""
        return bool(self.stacks) and self.stacks[-1][0] >= self.busy_s

    def elsewhere(self) -> bool:
        """Whether its stack, since it last computed, shows it in ordinary code."""
        text = self.stacks[-1][1].text if self.looked_at() else ""
        seen = self.stack() if text else None
        return seen is not None and is_elsewhere(text, seen[1])

    def sleeps(self) -> bool:
        """Whether its stack, since it last computed, shows it asleep."""
        taken = self.stack()
        return taken is not None and taken[0] >= self.busy_s and sleeps(taken[1])

    def imports_compiler(self) -> bool:
        """Whether its newest stack shows it loading torch's compiler."""
        return bool(self.stacks) and imports_compiler(self.stacks[-1][1].text)

    def stack(self, until_s: float = float("inf")) -> tuple[float, Thread] | None:
        """The newest readable stack of the main thread until that time, and when it was taken."""
        for time_s, taken in reversed(self.stacks):
            thread = main_thread(taken.text, self.main_thread) if taken.ok and time_s <= until_s else None
            if thread:
                return time_s, replace(thread, line=taken.line, framed=self.frames_native_calls)
        return None


@dataclass(slots=True)
class TestView:
    """One test on its world."""

    __test__ = False

    index: int
    nodeid: str
    world: str
    size: int
    preset: Preset
    limits: ev.Limits
    started_s: float
    groups: Groups
    ranks: dict[int, RankView]
    warmup: WarmUp | None = None
    acted: ev.Acted | None = None
    acted_s: float | None = None
    ended: ev.TestEnded | None = None
    ended_s: float | None = None

    @property
    def passed(self) -> bool:
        """Whether every rank went through the test without a failure."""
        finished = self.ended is not None and self.ended.reason is TestEnd.FINISHED
        return finished and all(rank.finished_s is not None and rank.failure is None for rank in self.ranks.values())

    def differing(self) -> tuple[tuple[str, str, dict[str, tuple[int, ...]]], ...]:
        """Groups in which ranks that are through with the test issued different collectives, by their own digests; see
        `agreement.differing`.
        """
        return differing(self._digests(), self.groups, self._running())

    def uncompared(self) -> tuple[str, ...]:
        """Groups of which the digests don't tell whether these ranks issued the same."""
        return uncompared(self._digests(), self.groups)

    def left_open(self) -> tuple[LeftOpen, ...]:
        """Groups in which ranks left a collective open that others are through without; see `agreement.left_open`."""
        counted = {rank: view.counted for rank, view in self.ranks.items() if view.counted is not None}
        digests = {
            rank: its
            for rank, its in self._digests().items()
            if rank in counted and not counted[rank].missed and len(its) < KEPT_GROUPS
        }
        open_on = [rank for rank, own in counted.items() if own.left_open]
        gave_up = [rank for rank, own in counted.items() if own.gave_up]
        return left_open(digests, open_on, gave_up, self.groups, self._running())

    def _running(self) -> set[str]:
        """Groups in which a thread of a member went on after the test; see `events.Finished`."""
        named = self.groups.as_named_by
        return {named(rank, group) for rank, view in self.ranks.items() for group in view.running}

    def _digests(self) -> dict[int, dict[str, str]]:
        through = {r: v for r, v in self.ranks.items() if v.counted is not None and v.went_on_to_the_end}
        return {rank: view.digests for rank, view in through.items()}

    def disagreements(self) -> tuple[Disagreement, ...]:
        """Numbers under which ranks issued different collectives, in groups whose members are known."""
        seen = {rank: view.collectives for rank, view in self.ranks.items()}
        return disagreements(seen, self.groups)

    def entry_of(self, rank: int, group: str, seq: int) -> ev.Collective | None:
        """What a rank issued under a number of a group, as far as that is kept. The group is named as
        `Groups.as_named_by` does: where ranks mean different members by one name, it is not the rank's own name.
        """
        name = self.groups.name_to(rank, group)
        return self.ranks[rank].collectives.entries.get((name, seq)) if name is not None else None

    def issued(self, rank: int, group: str) -> int:
        """The newest number that a rank issued in a group, named alike; 0 where there is none."""
        name = self.groups.name_to(rank, group)
        return self.ranks[rank].collectives.enqueued.get(name, 0) if name is not None else 0

    def compiled(self) -> bool:
        """Whether any rank compiled something that no cache had."""
        return any(rank.compiled is not None and rank.compiled.cache_misses for rank in self.ranks.values())

    def unfinished(self) -> tuple[RankView, ...]:
        """The ranks that are not through with the test."""
        return tuple(view for view in self.ranks.values() if not view.out)


@dataclass(slots=True)
class WorldView:
    """One incarnation of N ranks."""

    name: str
    size: int
    started_s: float
    reason: WorldReason
    pids: dict[int, int] = field(default_factory=dict)
    hash_seeds: dict[int, str] = field(default_factory=dict)  # of ranks whose seed is known
    ready: dict[int, tuple[float, ev.RankReady]] = field(default_factory=dict)
    collected: dict[int, tuple[float, ev.RankCollected]] = field(default_factory=dict)
    broken: dict[int, tuple[float, ev.RankBroken]] = field(default_factory=dict)
    exits: dict[int, tuple[float, ev.RankExited]] = field(default_factory=dict)
    stacks: dict[int, tuple[float, ev.StackTaken]] = field(default_factory=dict)
    samples: dict[int, ev.Sampled] = field(default_factory=dict)
    compile_s: dict[int, float] = field(default_factory=dict)  # seconds so far, by rank
    cpu: dict[int, Series] = field(default_factory=dict)  # CPU seconds so far, by rank
    memory: dict[int, Series] = field(default_factory=dict)  # bytes, by rank; of the largest ranks at each time
    output: dict[tuple[int, Stream], ev.OutputRead] = field(default_factory=dict)
    warnings: dict[int, dict[ev.Warned, None]] = field(default_factory=dict)  # by rank: those before any test
    acted: ev.Acted | None = None
    acted_s: float | None = None
    test: int | None = None
    groups: dict[str, tuple[int, ...]] = field(default_factory=dict)
    begun: dict[int, dict[str, ev.GroupBegun]] = field(default_factory=dict)  # groups that live, by rank and name
    left: dict[int, set[str]] = field(default_factory=dict)  # scopes of default groups that a rank had and has no more
    devices: dict[int, ev.DeviceUsed] = field(default_factory=dict)
    faults: list[tuple[float, ev.DeviceFault]] = field(default_factory=list)
    ended: ev.WorldEnded | None = None
    ended_s: float | None = None


@dataclass(slots=True)
class RunView:
    """A run so far."""

    run_id: str = ""
    started: ev.RunStarted | None = None
    source: ev.SourceRead | None = None
    planned: dict[int, ev.TestPlanned] = field(default_factory=dict)
    further: dict[int, list[int]] = field(default_factory=dict)  # attempts by the test that they belong to
    seed: ev.SeedChecked | None = None
    kept: ev.SeedKept | None = None
    ready: ev.BoxReady | None = None
    environment: dict[str, ev.EnvironmentSet] = field(default_factory=dict)
    capabilities: dict[tuple[str, int | None], ev.Capability] = field(default_factory=dict)
    problems: list[tuple[float, ev.ProblemFound]] = field(default_factory=list)
    progress: list[tuple[float, ev.Progress]] = field(default_factory=list)
    memory: tuple[float, ev.MemoryUsed] | None = None  # the newest
    box_memory: Series = field(default_factory=Series)  # bytes of the whole box
    exceeded_s: float | None = None  # when the box first used more than its limit
    worlds: dict[str, WorldView] = field(default_factory=dict)
    tests: dict[int, TestView] = field(default_factory=dict)
    unreached: dict[int, tuple[str, ev.TestEnded]] = field(default_factory=dict)  # by test: the world that failed
    finished: ev.RunFinished | None = None
    finished_s: float | None = None
    gaps: list[ev.Gap] = field(default_factory=list)
    damaged: list[ev.Damaged] = field(default_factory=list)
    lost: dict[str, int] = field(default_factory=dict)  # events by world; "": of whichever
    unknown: int = 0
    stray: int = 0  # facts that don't fit the run
    backwards: int = 0  # stamps far before the one before them, of the same source
    last_s: float = 0.0
    events: int = 0
    rank_views: int = 0  # in all tests
    interned: Interned = field(default_factory=Interned)

    @property
    def listed(self) -> int:
        """How many tests are named, further attempts apart."""
        return len(self.planned) - sum(map(len, self.further.values()))

    @property
    def are_named(self) -> bool:
        """Whether the box has named its tests. Where the desk could only read some, it finds out first."""
        if self.started is None or (self.started.read and self.source is None):
            return False
        return self.listed >= self.selected

    @property
    def selected(self) -> int:
        """How many tests the run has, as far as the box has said."""
        if self.source is not None:
            return self.source.tests
        return self.started.tests if self.started is not None else 0

    def test_of(self, number: int) -> int:
        """The test of the plan that an attempt belongs to."""
        planned = self.planned.get(number)
        return number if planned is None or planned.of is None else planned.of

    def limit_s(self, planned_s: float) -> float:
        """The seconds after which the box ends the run, 0 for never; the planned ones as long as it has not said so."""
        return self.started.limit_s if self.started is not None and self.started.limit_s else planned_s

    def attempts(self, test: int) -> tuple[int, ...]:
        """All attempts at a test of the plan, the first of which has its number."""
        return (test, *self.further.get(test, ()))

    def has_ended(self, number: int) -> bool:
        """Whether an attempt is over, or will never begin."""
        test = self.tests.get(number)
        return (test is not None and test.ended is not None) or number in self.unreached
