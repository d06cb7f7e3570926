"""Owns the fold of events into views of run, worlds, tests and ranks; must not know limits, blame or display.

The box folds its own events as it writes them and decides by these views; the desk folds what it reads and
judges by the same ones. Memory is bounded per test and rank. What doesn't fit the run (a rank outside its
world, a source speaking for another, a test that never started) is counted as stray and dropped.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import TypeAlias, TypeVar, assert_never

from pytest_megacpp.recording import events as ev
from pytest_megacpp.recording.collectives import (
    KEPT_GROUPS,
    Disagreement,
    Groups,
    RankCollectives,
    Scoped,
    differing,
    disagreements,
    is_default,
    kept_entries,
    uncompared,
)
from pytest_megacpp.recording.flight import is_nccl
from pytest_megacpp.recording.plan import MAX_TESTS
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
    FlightOrigin,
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

KEPT_STACKS = 8
KEPT_RECORDS = 256
KEPT_DATA_SETS = 64
KEPT_ATTEMPTS = 64  # at one test, after the first
KEPT_THREADS = 8
KEPT_WARNINGS = 256
KEPT_PHASES = 1024
KEPT_JOININGS = 16
KEPT_SCOPE_CHARS = 40
KEPT_REPORTS = 16
KEPT_FIRST_FORWARDS = 256
KEPT_DROPPED = 64
KEPT_CAPABILITIES = 65_536
KEPT_DAMAGE = 10_000
KEPT_SOURCES = 131_072
BACKWARDS_S = 1.0  # threads that report of ranks overtake each other by less
KEPT_FAULTS = 256
KEPT_PROBLEMS = 256  # the first, of which the very first is judged
KEPT_PROGRESS = 64  # the newest
KEPT_TEXTS = 262_144  # of what ranks collected, in all worlds; what they have in common counts once
MAX_WORLDS = 131_072  # more than a run has tests
MAX_WORLD_SIZE = 8_192
VIEWS_PER_EVENT = 4  # every rank of a test says more than that: memory grows with the recording, whatever it claims
FREE_VIEWS = 100_000
CPU_PROGRESS_S = 0.02  # less CPU time, and less than this share of a second, is a waiting thread's housekeeping
CPU_PROGRESS_SHARE = 0.04
CPU_WINDOW_S = 1.0
# Where the kernel samples CPU time in ticks (gVisor), a thread that sleeps 10 ms at a time is charged up to 65 %, one
# that computes 78 to 98 %, however busy the machine is: decision 0060.
TICKS_SHARE = 0.75
TICKS_WINDOW_S = 0.5
RUNNING = "R"
FROZEN_STATES = ("T", "t")

_LOOKS = (ev.Sampled, ev.FlightRecorded, ev.StackTaken)  # by threads of the box, or a rank's own

K = TypeVar("K")
V = TypeVar("V")


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
class CpuMeter:
    """Tells computing from housekeeping, also for one that gets little of a busy machine: CPU time adds up over a
    window, so that many short looks see as much as a long one.
    """

    since_s: float = 0.0
    cpu_s: float | None = None

    def computes(self, time_s: float, cpu_s: float, *, by_ticks: bool = False) -> bool:
        """Whether it computed, by its CPU time so far. `by_ticks`: the kernel only samples that time."""
        if self.cpu_s is None or cpu_s < self.cpu_s:
            self.since_s, self.cpu_s = time_s, cpu_s
            return False
        window_s, spent_s = time_s - self.since_s, cpu_s - self.cpu_s
        moved = spent_s > (_least_by_ticks_s if by_ticks else _least_s)(window_s)
        if moved or window_s >= CPU_WINDOW_S:
            self.since_s, self.cpu_s = time_s, cpu_s
        return moved


def _least_s(window_s: float) -> float:
    """CPU seconds that a waiting process doesn't spend in such a time."""
    return CPU_PROGRESS_S + CPU_PROGRESS_SHARE * min(window_s, CPU_WINDOW_S)


def _least_by_ticks_s(window_s: float) -> float:
    """CPU seconds that a waiting process isn't charged in such a time."""
    return TICKS_SHARE * max(window_s, TICKS_WINDOW_S)


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
    warnings: dict[ev.Warned, None] = field(default_factory=dict)
    finished_s: float | None = None
    group_clean: bool = False
    group_foreign: bool = False
    counted: ev.Finished | None = None
    digests: dict[str, str] = field(default_factory=dict)  # by group
    sample: ev.Sampled | None = None
    sample_s: float = 0.0
    first_sample: ev.Sampled | None = None
    answered_s: float | None = None
    compiling_since_s: float | None = None
    compiled_before_s: float = 0.0  # seconds, in earlier tests of its process
    has_compiled: bool = False  # in this test, or it does
    progress_s: float = 0.0  # of any kind
    busy_s: float = 0.0  # of the main thread: it computed
    ran_s: float = 0.0  # of the main thread: it was awake, if only for a moment
    issued_s: float = 0.0  # a collective was entered or completed
    tree_cpu: CpuMeter = field(default_factory=CpuMeter)
    main_cpu: CpuMeter = field(default_factory=CpuMeter)
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
        return self.exit is not None

    @property
    def out(self) -> bool:
        """Through with the test, one way or the other: it will enter no further collective."""
        return self.gone or self.finished_s is not None

    @property
    def frozen(self) -> bool:
        """Stopped by a signal or a debugger when it was last looked at."""
        return self.sample is not None and self.sample.state in FROZEN_STATES

    def joining(self, at_s: float) -> Joining | None:
        """The group that it was making at that time."""
        begun = [j for j in self.joinings if j.begun_s <= at_s]
        return begun[-1] if begun and (begun[-1].end_s is None or begun[-1].end_s > at_s) else None

    def not_joined(self, at_s: float) -> Joining | None:
        """The group that it was making at that time, or had just failed to make."""
        begun = [j for j in self.joinings if j.begun_s <= at_s]
        return begun[-1] if begun and (begun[-1].failed or self.joining(at_s)) else None

    @property
    def spins(self) -> bool:
        """It is in an NCCL call: its host may burn CPU while it waits, and its caller may be anywhere."""
        seen = self.collectives
        return any(is_nccl(e.op) for e in (*seen.pending(), *seen.messages))

    @property
    def rests_s(self) -> float:
        """Since when its main thread does nothing but wait, as far as is known."""
        return self.issued_s if self.spins else self.busy_s

    @property
    def moved_s(self) -> float:
        """When it last made progress; burnt CPU is none while it waits on a device."""
        return self.issued_s if self.spins else self.progress_s

    @property
    def compiling(self) -> bool:
        return self.compiling_since_s is not None and not self.out

    @property
    def awaits_file_lock(self) -> bool:
        """Another process compiles the same; this one only waits for the result."""
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
        return not self.out and any(p.name == WARM_UP_PHASE and p.end_s is None for p in self.phases)

    def warmups(self, now_s: float) -> tuple[tuple[float, float], ...]:
        """Start and end of each warm-up, the last one's perhaps its own end or now."""
        end_s = min((s for s in (self.exit_s, self.finished_s) if s is not None), default=now_s)
        return tuple((p.start_s, end_s if p.end_s is None else p.end_s) for p in self.phases if p.name == WARM_UP_PHASE)

    @property
    def first_forward_s(self) -> float | None:
        """What the test itself called its first forward, else its warm-up, else the longest that was seen."""
        told = [(f.origin, f.seconds) for _, f in self.first_forwards]
        by_the_test = (ForwardOrigin.TEST, ForwardOrigin.WARM_UP)
        named = [seconds for wanted in by_the_test for origin, seconds in told if origin is wanted]
        return named[0] if named else max((seconds for _, seconds in told), default=None)

    def blocked_since(self) -> float | None:
        """Since when the main thread is known, by its stack, to wait for a peer in one call; None when it isn't."""
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

    def stack(self) -> tuple[float, Thread] | None:
        """When and what the newest readable stack of the main thread was."""
        for time_s, taken in reversed(self.stacks):
            thread = main_thread(taken.text, self.main_thread) if taken.ok else None
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
        """Every rank went through it without a failure."""
        finished = self.ended is not None and self.ended.reason is TestEnd.FINISHED
        return finished and all(rank.finished_s is not None and rank.failure is None for rank in self.ranks.values())

    def differing(self) -> tuple[tuple[str, str, dict[str, tuple[int, ...]]], ...]:
        """Groups in which ranks that are through with the test issued different collectives, by their own digests; see
        `collectives.differing`.
        """
        return differing(self._digests(), self.groups)

    def uncompared(self) -> tuple[str, ...]:
        """Groups of which the digests don't tell whether these ranks issued the same."""
        return uncompared(self._digests(), self.groups)

    def _digests(self) -> dict[int, dict[str, str]]:
        through = {r: v for r, v in self.ranks.items() if v.counted is not None and v.went_on_to_the_end}
        return {rank: view.digests for rank, view in through.items()}

    def disagreements(self) -> tuple[Disagreement, ...]:
        """Numbers under which ranks issued different collectives, in groups whose members are known."""
        seen = {rank: view.collectives for rank, view in self.ranks.items()}
        return disagreements(seen, self.groups)

    def compiled(self) -> bool:
        """Whether any rank compiled something that no cache had."""
        return any(rank.compiled is not None and rank.compiled.cache_misses for rank in self.ranks.values())

    def unfinished(self) -> tuple[RankView, ...]:
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


_TestFact: TypeAlias = (
    ev.PhaseStarted
    | ev.PhaseEnded
    | ev.Reported
    | ev.Finished
    | ev.ThreadRaised
    | ev.Warned
    | ev.Recorded
    | ev.BucketRead
    | ev.FirstForward
    | ev.WarmupSkipped
    | ev.Compiled
    | ev.ConfigsDropped
    | ev.FlightRecorded
    | ev.Sampled
    | ev.StackTaken
    | ev.OutputRead
    | ev.Muted
)
"""What is known of a rank in a test, or between tests."""

_WorldFact: TypeAlias = (
    _TestFact
    | ev.WorldEnded
    | ev.RankStarted
    | ev.RankReady
    | ev.DeviceUsed
    | ev.DeviceFault
    | ev.RankCollected
    | ev.RankBroken
    | ev.RankExited
    | ev.TestStarted
    | ev.Acted
    | ev.TestEnded
    | ev.GroupBegun
    | ev.GroupCreated
)


@dataclass(slots=True)
class Timeline:
    """A run so far. `add` is total: no event makes it raise."""

    run_id: str = ""
    started: ev.RunStarted | None = None
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
    stray: int = 0
    backwards: int = 0  # stamps far before the one before them, of the same source
    last_s: float = 0.0
    _events: int = 0
    _views: int = 0
    _collected: dict[object, object] = field(default_factory=dict)  # each to itself
    _collected_texts: int = 0
    _stamps_s: dict[tuple[str, str, int | None], float] = field(default_factory=dict)
    _lists: dict[tuple[int, ...], tuple[int, ...]] = field(default_factory=dict)  # of members, each once

    def add(self, event: ev.Event) -> None:
        """Fold one event in."""
        self._events += 1
        fact, time_s = event.fact, event.time_s
        self.last_s = max(self.last_s, time_s)
        self._check_clock(event)
        if not _speaks_for_itself(event):
            self.stray += 1
            return
        match fact:
            case ev.Sampled() | ev.FlightRecorded():  # first, because most events are
                self._add_to_world(event.world, time_s, fact)
            case ev.RunStarted():
                self.run_id, self.started = fact.run_id, fact
            case ev.TestPlanned():
                self._planned(fact)
            case ev.BoxReady():
                self.ready = fact
            case ev.SeedChecked():
                self.seed = fact
            case ev.SeedKept():
                self.kept = fact
            case ev.EnvironmentSet():
                self.environment[fact.name] = fact
            case ev.Capability():
                if fact.rank is None or self._world_rank(event.world, fact.rank):
                    _keep(self.capabilities, (fact.name, fact.rank), fact, KEPT_CAPABILITIES)
            case ev.ProblemFound():
                if len(self.problems) < KEPT_PROBLEMS:
                    self.problems.append((time_s, fact))
            case ev.Progress():
                self.progress = [*self.progress[1 - KEPT_PROGRESS :], (time_s, fact)]
            case ev.MemoryUsed():
                self.memory = (time_s, fact)
                if self.exceeded_s is None and fact.total_bytes > fact.limit_bytes:
                    self.exceeded_s = time_s
            case ev.RunFinished():
                self.finished, self.finished_s = fact, time_s
            case ev.Gap():
                if len(self.gaps) < KEPT_DAMAGE:
                    self.gaps.append(fact)
                world = event.world if event.world in self.worlds else ""
                self.lost[world] = self.lost.get(world, 0) + fact.last - fact.first + 1
            case ev.Damaged():
                if len(self.damaged) < KEPT_DAMAGE:
                    self.damaged.append(fact)
            case ev.Unknown():
                self.unknown += 1
            case ev.WorldStarted():
                self._world_started(event.world, time_s, fact)
            case _:  # mypy knows what is left: a new kind that has no place in a world is an error here
                self._add_to_world(event.world, time_s, fact)

    def _planned(self, fact: ev.TestPlanned) -> None:
        if not (0 < fact.ranks <= MAX_WORLD_SIZE and self._is_of_the_plan(fact)):
            self.stray += 1
            return
        if fact.of is not None and fact.test not in self.planned:
            self.further.setdefault(fact.of, []).append(fact.test)
        self.planned[fact.test] = fact

    def _is_of_the_plan(self, fact: ev.TestPlanned) -> bool:
        """A number is planned once, and a further attempt is one at the same test: on as many ranks, no less wanted."""
        if self.planned.get(fact.test, fact) != fact:
            return False
        if fact.test not in self.planned and len(self.planned) >= (MAX_TESTS if fact.of is None else 2 * MAX_TESTS):
            return False
        if fact.of is None:
            return True
        first = self.planned.get(fact.of)
        is_first = first is not None and first.of is None and fact.of < fact.test
        left = KEPT_ATTEMPTS - len(self.further.get(fact.of, ()))
        return is_first and left > 0 and _what(fact) == _what(first)

    def test_of(self, number: int) -> int:
        """The test of the plan that an attempt belongs to."""
        planned = self.planned.get(number)
        return number if planned is None or planned.of is None else planned.of

    def attempts(self, test: int) -> tuple[int, ...]:
        """All attempts at a test of the plan, the first of which has its number."""
        return (test, *self.further.get(test, ()))

    def has_ended(self, number: int) -> bool:
        """Whether an attempt is over, or will never begin."""
        test = self.tests.get(number)
        return (test is not None and test.ended is not None) or number in self.unreached

    def _check_clock(self, event: ev.Event) -> None:
        """Looks at one rank are in order. A busy box writes them after facts of its own that are younger."""
        looked_at = event.fact.rank if isinstance(event.fact, _LOOKS) else None
        key = event.world, event.source, looked_at
        if event.time_s < self._stamps_s.get(key, 0.0) - BACKWARDS_S and event.source != "reader":
            self.backwards += 1
        elif key in self._stamps_s or len(self._stamps_s) < KEPT_SOURCES:
            self._stamps_s[key] = event.time_s

    def _world_started(self, name: str, time_s: float, fact: ev.WorldStarted) -> None:
        known = self.worlds.get(name)
        if known is None and 0 < fact.size <= MAX_WORLD_SIZE and len(self.worlds) < MAX_WORLDS:
            self.worlds[name] = WorldView(name, fact.size, time_s, fact.reason)
        elif known is None or (known.size, known.reason) != (fact.size, fact.reason):
            self.stray += 1

    def _world_rank(self, world: str, rank: int) -> bool:
        view = self.worlds.get(world)
        return view is not None and 0 <= rank < view.size

    def _add_to_world(self, name: str, time_s: float, fact: _WorldFact) -> None:
        world = self.worlds.get(name)
        rank = getattr(fact, "rank", None)
        if world is None or (rank is not None and not 0 <= rank < world.size):
            self.stray += 1
            return
        match fact:
            case ev.Sampled() | ev.FlightRecorded():
                self._add_to_rank(world, time_s, fact)
            case ev.WorldEnded():
                world.ended, world.ended_s = fact, time_s
            case ev.RankStarted():
                world.pids[fact.rank] = fact.pid
                if fact.hash_seed:
                    world.hash_seeds[fact.rank] = fact.hash_seed
            case ev.RankReady():
                world.ready[fact.rank] = (time_s, fact)
            case ev.DeviceUsed():
                world.devices[fact.rank] = fact
            case ev.DeviceFault():
                if len(world.faults) < KEPT_FAULTS:
                    world.faults.append((time_s, fact))
            case ev.RankCollected():
                if fact.rank not in world.collected:
                    world.collected[fact.rank] = (time_s, self._shared(fact))
            case ev.RankBroken():
                world.broken.setdefault(fact.rank, (time_s, fact))
            case ev.Warned(test=None):
                _keep(world.warnings.setdefault(fact.rank, {}), fact, None, KEPT_WARNINGS)
            case ev.RankExited():
                self._exited(world, time_s, fact)
            case ev.TestStarted():
                self._test_started(world, time_s, fact)
            case ev.Acted():
                self._acted(world, time_s, fact)
            case ev.TestEnded():
                self._test_ended(world, time_s, fact)
            case ev.GroupBegun():
                self._group_begun(world, time_s, fact)
            case ev.GroupCreated():
                self._group_created(world, time_s, fact)
            case _:
                self._add_to_rank(world, time_s, fact)

    def _group_begun(self, world: WorldView, time_s: float, fact: ev.GroupBegun) -> None:
        fact = replace(fact, ranks=self._members_of(world, fact.ranks), scope=fact.scope[:KEPT_SCOPE_CHARS])
        if fact.default:
            world.begun.pop(fact.rank, None)
            world.left.get(fact.rank, set()).discard(fact.scope)
        _keep(world.begun.setdefault(fact.rank, {}), fact.name, fact, KEPT_GROUPS)
        if world.test is None:
            return
        test = self.tests[world.test]
        view = test.ranks[fact.rank]
        name = _announce(test, time_s, fact)
        test.groups.begin(name, fact.rank)
        if fact.member:
            call = "new_group" if fact.ranks else "init_process_group"
            members = () if view.collectives.scope else fact.ranks  # else its numbers are those of its own world
            begun = Joining(fact.name, name, members, call, time_s)
            view.joinings = [*view.joinings[-(KEPT_JOININGS - 1) :], begun]

    def _members_of(self, world: WorldView, ranks: tuple[int, ...]) -> tuple[int, ...]:
        """One object for all equal lists."""
        members = tuple(dict.fromkeys(r for r in ranks if 0 <= r < world.size))
        if len(self._lists) >= KEPT_GROUPS:
            self._lists.clear()
        return self._lists.setdefault(members, members)

    def _group_created(self, world: WorldView, time_s: float, fact: ev.GroupCreated) -> None:
        members, known = self._members_of(world, fact.ranks), world.begun.get(fact.rank, {})
        begun = known.get(fact.name)
        if fact.failed:
            _leave(world, fact.rank, known.pop(fact.name, None))
        elif fact.name not in known:  # made by other means than torch's helper, or before 2026-12
            _keep(world.groups, fact.name, members, KEPT_GROUPS)
        if world.test is None:
            return
        test = self.tests[world.test]
        view = test.ranks[fact.rank]
        joining = next((j for j in reversed(view.joinings) if j.name == fact.name), None)
        view.progress_s, view.busy_s = max(view.progress_s, time_s), max(view.busy_s, time_s)
        if joining is not None:
            if joining.failed:  # said twice
                return
            joining.end_s, joining.failed = time_s, fact.failed
            if fact.failed:
                view.collectives.failed(fact.name, default=begun is not None and begun.default)
            else:
                test.groups.made(joining.group, fact.rank, joining.members)
        elif not view.collectives.scope:
            if begun is None and not is_default(fact.name):
                view.collectives.begin(fact.name, time_s)
            test.groups.announce(view.collectives.named(fact.name), members, fact.rank, time_s)

    def _shared(self, fact: ev.RankCollected) -> ev.RankCollected:
        """With one object for all that is equal on ranks and in worlds, and without what would be too much."""
        texts = {name: self._once(getattr(fact, name)) for name in ("errors", "skipped", "unplanned")}
        sets = {name: self._collected.setdefault(told := getattr(fact, name), told) for name in ("found", "with_lane")}
        return replace(fact, **texts, **sets)  # type: ignore[arg-type]

    def _once(self, texts: tuple[object, ...]) -> object:
        if texts in self._collected:
            return self._collected[texts]
        if self._collected_texts + len(texts) > KEPT_TEXTS:
            self.stray += 1
            return ()
        self._collected_texts += len(texts)
        return self._collected.setdefault(texts, texts)

    def _exited(self, world: WorldView, time_s: float, fact: ev.RankExited) -> None:
        world.exits.setdefault(fact.rank, (time_s, fact))
        if world.test is not None:
            view = self.tests[world.test].ranks[fact.rank]
            if view.exit is None:
                view.exit, view.exit_s = fact, time_s

    def _test_started(self, world: WorldView, time_s: float, fact: ev.TestStarted) -> None:
        known = self.tests.get(fact.test)
        if known is not None:  # a test runs once
            self.stray += (known.world, known.nodeid) != (world.name, fact.nodeid)
            return
        if self._views + world.size > FREE_VIEWS + VIEWS_PER_EVENT * self._events:
            self.stray += 1
            return
        self._views += world.size
        groups = Groups(world.size)
        for group, members in world.groups.items():
            groups.announce(group, members)
        kept = kept_entries(world.size)
        ranks = {
            r: RankView(
                r,
                *self._threads_of(world, r),
                RankCollectives(time_s, kept),
                progress_s=time_s,
                busy_s=time_s,
                issued_s=time_s,
                compiled_before_s=world.compile_s.get(r, 0.0),
            )
            for r in range(world.size)
        }
        self.tests[fact.test] = TestView(
            fact.test, fact.nodeid, world.name, world.size, fact.preset, fact.limits, time_s, groups, ranks, fact.warmup
        )
        world.test = fact.test
        test = self.tests[fact.test]
        _count_left(world, test)
        for begun in (group for of_rank in world.begun.values() for group in of_rank.values()):
            name = _announce(test, time_s, begun)  # it outlived the test that made it
            test.groups.made(name, begun.rank, begun.ranks)

    @staticmethod
    def _threads_of(world: WorldView, rank: int) -> tuple[str, bool]:
        """The identity of its main thread, and whether native calls have frames."""
        ready = world.ready[rank][1] if rank in world.ready else None
        return (ready.main_thread, ready.frames_native_calls) if ready else ("", False)

    def _acted(self, world: WorldView, time_s: float, fact: ev.Acted) -> None:
        view = self.tests.get(fact.test) if fact.test is not None else None
        if view is not None and view.acted is None:
            view.acted, view.acted_s = fact, time_s
            for rank in view.ranks.values():
                rank.collectives.held = True
        elif view is None:
            world.acted, world.acted_s = fact, time_s

    def _test_ended(self, world: WorldView, time_s: float, fact: ev.TestEnded) -> None:
        view = self.tests.get(fact.test)
        if view is not None and view.world == world.name and view.ended is None:
            view.ended, view.ended_s = fact, time_s
        if fact.reason is TestEnd.NOT_RUN:
            self.unreached[fact.test] = (world.name, fact)
        if world.test == fact.test:
            world.test = None

    def _add_to_rank(self, world: WorldView, time_s: float, fact: _TestFact) -> None:
        if isinstance(fact, ev.FlightRecorded) and fact.origin is FlightOrigin.DESTROY:
            for group in world.begun.pop(fact.rank, {}).values():
                _leave(world, fact.rank, group)
        if isinstance(fact, ev.Sampled):
            world.compile_s[fact.rank] = max(fact.compile_s, world.compile_s.get(fact.rank, 0.0))
        test = world.test if fact.test is None else fact.test
        view = self.tests.get(test) if test is not None else None
        if view is not None and view.world == world.name:
            if view.ended is None:  # what ranks say while the box ends them is no testimony
                _update(view.ranks[fact.rank], view, time_s, fact)
        elif isinstance(fact, ev.StackTaken):
            world.stacks[fact.rank] = (time_s, fact)
        elif isinstance(fact, ev.OutputRead):
            world.output[fact.rank, fact.stream] = fact
        elif isinstance(fact, ev.Sampled):
            world.samples[fact.rank] = fact
        elif not isinstance(fact, ev.FlightRecorded | ev.Muted):
            self.stray += 1


def _leave(world: WorldView, rank: int, group: ev.GroupBegun | None) -> None:
    left = world.left.setdefault(rank, set())
    if group is not None and group.default and len(left) < KEPT_GROUPS:
        left.add(group.scope)


def _count_left(world: WorldView, test: TestView) -> None:
    """Where only some ranks left a default group in an earlier test, the others will do so in this one: whoever makes
    the next one has left one before. A rank of which neither is on record counts from zero.
    """
    held = {rank: {g.scope for g in groups.values() if g.default} for rank, groups in world.begun.items()}
    outlived = set().union(*held.values())
    for rank, left in world.left.items():
        left &= outlived - held.get(rank, set())
        test.ranks[rank].collectives.incarnations |= dict.fromkeys(left, 1)


def _announce(test: TestView, time_s: float, fact: ev.GroupBegun) -> str:
    """Takes in who is in the group; its name among its members."""
    seen = test.ranks[fact.rank].collectives
    if fact.default:
        seen.enter(fact.scope, time_s)
    else:
        seen.begin(fact.name, time_s, None if fact.ranks else fact.scope)
    name = seen.named(fact.name)
    if fact.number is not None and not fact.ranks:
        test.groups.number(name, fact.rank, fact.number)
    if not (scope := fact.scope or seen.scope):
        test.groups.announce(name, fact.ranks, fact.rank, time_s, (fact.file, fact.line))
    elif fact.member:
        test.groups.join(name, fact.rank, fact.size, Scoped(fact.name, scope))
    else:
        test.groups.stay_out(name, fact.rank, Scoped(fact.name, scope))
    return name


def _keep(known: dict[K, V], key: K, value: V, most: int) -> None:
    """Sets `key` unless it were one too many."""
    if len(known) < most or key in known:
        known[key] = value


def _speaks_for_itself(event: ev.Event) -> bool:
    """A rank's stream may only carry that rank's facts."""
    source = event.source
    return not source.startswith("rank ") or source == f"rank {getattr(event.fact, 'rank', None)}"


def _update(view: RankView, test: TestView, time_s: float, fact: _TestFact) -> None:
    progress_s, busy_s, issued_s, ran_s = view.progress_s, view.busy_s, view.issued_s, view.ran_s
    _apply(view, time_s, fact)
    if test.acted is not None:  # taking evidence moves a rank, that is no progress
        view.progress_s, view.busy_s, view.issued_s, view.ran_s = progress_s, busy_s, issued_s, ran_s
    else:  # sources don't arrive in order of time
        view.progress_s, view.busy_s = max(progress_s, view.progress_s), max(busy_s, view.busy_s)


def _what(planned: ev.TestPlanned | None) -> tuple[str, int, bool] | None:
    """What every attempt at a test has in common."""
    return None if planned is None else (planned.nodeid, planned.ranks, planned.must_run)


def _digested(view: RankView, told: Iterable[tuple[str, str]]) -> None:
    """Groups have the names by which all members know them at this moment."""
    for group, digest in told:
        _keep(view.digests, view.collectives.named(group), digest, KEPT_GROUPS)


def _apply(view: RankView, time_s: float, fact: _TestFact) -> None:
    match fact:
        case ev.Sampled():
            _sampled(view, time_s, fact)
        case ev.FlightRecorded():
            if view.collectives.update(fact):
                view.progress_s = view.busy_s = view.issued_s = time_s
            _digested(view, fact.digests)
            if fact.origin is FlightOrigin.DESTROY:
                view.collectives.restart(time_s)
        case ev.PhaseStarted():
            if len(view.phases) < KEPT_PHASES:
                view.phases.append(Phase(fact.name, time_s))
            view.progress_s = view.busy_s = time_s
        case ev.PhaseEnded():
            _end_phase(view, fact.name, time_s)
            view.progress_s = time_s
        case ev.Reported():
            _reported(view, time_s, fact)
            view.progress_s = view.busy_s = time_s
        case ev.Finished():
            view.finished_s = time_s
            view.group_clean, view.group_foreign, view.counted = fact.group_clean, fact.group_foreign, fact
            _digested(view, fact.digests.items())
        case ev.ThreadRaised():
            if len(view.threads) < KEPT_THREADS:
                view.threads.append((time_s, fact))
        case ev.Warned():
            _keep(view.warnings, fact, None, KEPT_WARNINGS)
        case ev.Recorded():
            _keep(view.records, fact.key, fact.value, KEPT_RECORDS)
        case ev.BucketRead():
            first_s, first = view.bucket_reads.get(fact.name, (time_s, fact))
            counted = replace(first, reads=max(first.reads, fact.reads))
            _keep(view.bucket_reads, fact.name, (first_s, counted), KEPT_DATA_SETS)
        case ev.FirstForward():
            if len(view.first_forwards) < KEPT_FIRST_FORWARDS:
                view.first_forwards.append((time_s, fact))
            view.progress_s = time_s
        case ev.WarmupSkipped():
            view.warmup_skipped = fact.reason
        case ev.Compiled():
            view.compiled = fact
        case ev.ConfigsDropped():
            _keep(view.dropped, fact, None, KEPT_DROPPED)
        case ev.StackTaken():
            _stack_taken(view, time_s, fact)
        case ev.OutputRead():
            view.output[fact.stream] = fact
        case ev.Muted():
            if fact.lost is Lost.REPORTS or not view.muted:
                view.muted = fact.lost
        case _:
            assert_never(fact)


def _reported(view: RankView, time_s: float, fact: ev.Reported) -> None:
    """Of several reports of a phase (reruns, subtests) a failure stays, else the newest counts."""
    known = view.reports.get(fact.when)
    if known is None or known[1].outcome is not ReportOutcome.FAILED:
        _keep(view.reports, fact.when, (time_s, fact), KEPT_REPORTS)


def _end_phase(view: RankView, name: str, time_s: float) -> None:
    for phase in reversed(view.phases):
        if phase.name == name and phase.end_s is None:
            phase.end_s = time_s
            return


def _stack_taken(view: RankView, time_s: float, fact: ev.StackTaken) -> None:
    before = view.stack()
    view.stacks = [*view.stacks[-(KEPT_STACKS - 1) :], (time_s, fact)]
    now = view.stack()
    if before is None or now is None or before[1].frames != now[1].frames:
        view.same_stack_s = time_s


def _sampled(view: RankView, time_s: float, fact: ev.Sampled) -> None:
    last, by_ticks = view.sample, fact.main_runs is None
    runs_on = by_ticks and last is not None and last.state == fact.state == RUNNING
    if view.tree_cpu.computes(time_s, fact.cpu_s, by_ticks=by_ticks) or (last is not None and _moved(last, fact)):
        view.progress_s = time_s
    if view.main_cpu.computes(time_s, fact.main_cpu_s, by_ticks=by_ticks):
        view.busy_s = time_s
    if runs_on:  # at two looks in a row, which no thread is that sleeps 10 ms at a time
        view.busy_s = view.progress_s = time_s
    if last is not None and (fact.main_runs, fact.packets) != (last.main_runs, last.packets):
        view.ran_s = max(view.ran_s, time_s)
    view.has_compiled |= bool(fact.compiling) or fact.compile_s > view.compiled_before_s
    if fact.answered:
        view.answered_s = time_s
        if not fact.compiling:
            view.compiling_since_s = None
        elif view.compiling_since_s is None:
            view.compiling_since_s = time_s
    view.first_sample = view.first_sample or fact
    view.sample, view.sample_s = fact, time_s


def _moved(last: ev.Sampled, now: ev.Sampled) -> bool:
    return now.output_bytes > last.output_bytes or now.compile_s > last.compile_s or now.compiling != last.compiling


def fold(events: list[ev.Event]) -> Timeline:
    """A whole recording as a timeline."""
    timeline = Timeline()
    for event in events:
        timeline.add(event)
    return timeline
