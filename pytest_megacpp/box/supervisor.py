"""Owns the course of a run: which world, which test, when it ends; must not touch a process, a clock or a file.

`step` looks at the timeline and says what to do next. The box does it, adds the facts that come of it to the
timeline and asks again. Every path takes a test off the queue or waits under a limit, so a run ends.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TypeAlias, assert_never

from pytest_megacpp.box.alarms import SETTLE_S, Clocks, alarm, to_look_at, to_probe
from pytest_megacpp.recording.events import Acted, Fact, Limits, TestEnded, TestPlanned, TestStarted
from pytest_megacpp.recording.plan import Again, Plan, PlannedTest
from pytest_megacpp.recording.reports import goes_well, issued_alike, rank_outcome
from pytest_megacpp.recording.timeline import TestView, Timeline, WorldView
from pytest_megacpp.recording.vocabulary import (
    ActReason,
    NotRun,
    Preset,
    Purpose,
    ReportOutcome,
    RunEnd,
    TestEnd,
    WarmUp,
    WorldReason,
)

ALARM_EVERY_S = 0.05
ALARM_CALM_S = 0.2  # in a test that is older than seconds and of which no rank is through
ALARM_SHARE = 0.05  # of a test's age
START_SETTLE_S = 2.0  # after a rank broke or died in start-up: others may do so for the same reason, or collect
MAX_START_SETTLE_S = 10.0
START_ATTEMPTS = 2
PAUSE_S = 2.0  # a box that has nothing to do asks again many times a second; one that didn't was stopped itself
LOOK_AGAIN_S = 1.5  # after a pause, for looks and words of ranks to come in
AGAIN_S = 120.0  # for a desk to say whether it wants more attempts
MAX_ATTEMPTS = 4  # at one test, whoever asks


def warm_up_limits(limits: Limits) -> Limits:
    """A peer that compiles is waited for as long as it may compile, and the test ends later by as much."""
    return replace(limits, skew=max(limits.skew, limits.compile), test=limits.test + limits.compile)


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
    """`graceful`: ranks are asked to leave first, so that their fixtures are torn down."""

    name: str
    reason: str
    graceful: bool


@dataclass(frozen=True, slots=True)
class Write:
    """A fact of the supervisor's own."""

    world: str
    fact: Fact


@dataclass(frozen=True, slots=True)
class Release:
    """All ranks of the world may begin the attempt `test`; `next_item` is the test of the plan that comes after it."""

    world: str
    test: int
    attempt: Attempt
    next_item: int | None
    keep_group: bool


@dataclass(frozen=True, slots=True)
class TakeEvidence:
    """Ask every living rank of the world for all it can say. `stacks_of` None: everything, else only stacks."""

    world: str
    test: int | None
    stacks_of: tuple[int, ...] | None = None


@dataclass(frozen=True, slots=True)
class LookAgain:
    """Look at all ranks of the world now, as the watch does from time to time, and where some of them are."""

    world: str
    test: int
    stacks_of: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class ReadOutput:
    """Put what the ranks wrote during the test into the recording."""

    world: str
    test: int | None


@dataclass(frozen=True, slots=True)
class Finish:
    reason: RunEnd
    detail: str = ""


Action: TypeAlias = StartWorld | EndWorld | Write | Release | TakeEvidence | LookAgain | ReadOutput | Finish


@dataclass
class Supervisor:
    """The state between two steps."""

    plan: Plan
    timeline: Timeline
    queue: list[int] = field(default_factory=list)
    running: int | None = None
    stop: tuple[RunEnd, str] | None = None
    finished: bool = False
    failed: set[int] = field(default_factory=set)  # tests of the plan, as their last attempt that counts has it
    settled: set[int] = field(default_factory=set)  # tests of the plan at which the desk wants no further attempt
    _worlds: dict[int, str] = field(default_factory=dict)
    _used: set[str] = field(default_factory=set)
    _clean: dict[str, bool] = field(default_factory=dict)
    _attempts: list[Attempt] = field(default_factory=list)
    _warmed: set[str] = field(default_factory=set)  # worlds in which a warm-up ran
    _heard_s: float = 0.0  # when a desk that may want more was last heard, or a test ended
    _made: int = 0
    _start_failures: dict[int, int] = field(default_factory=dict)
    _clocks: Clocks = field(default_factory=Clocks)
    _alarm_s: float = 0.0
    _looked_again: bool = False
    _pauses: list[tuple[float, float]] = field(default_factory=list)
    _idle_since_s: float | None = None

    def __post_init__(self) -> None:
        self._attempts = [Attempt(i, Purpose.MEASURED, test) for i, test in enumerate(self.plan.tests)]
        self.queue = list(range(len(self.plan.tests)))
        self._clocks = Clocks(self._pauses)

    def begin_warm(self, reasons: Mapping[int, WarmUp]) -> None:
        """Tells for each test of the plan whether its first attempt is a warm-up, or why it is none."""
        for item, reason in reasons.items():
            purpose = Purpose.WARM_UP if reason is WarmUp.RUNS else Purpose.MEASURED
            self._attempts[item] = self._attempt(item, purpose, reason)

    def asked(self, wanted: Again, now_s: float) -> tuple[Action, ...]:
        """What the desk wants. An order without sense is none; one that would do harm is planned and never run."""
        self._heard_s = now_s
        if not self._makes_sense(wanted):
            return ()
        planned, why = self._again(wanted), self._harm(wanted)
        return (*planned, self._refused(self.queue.pop(), why)) if why is not None else planned

    def settle(self, item: int, now_s: float) -> None:
        """The desk wants no further attempt at a test of the plan."""
        self._heard_s = now_s
        if 0 <= item < len(self.plan.tests):
            self.settled.add(item)

    def _makes_sense(self, wanted: Again) -> bool:
        """Whether it follows from the newest attempt, which has ended; so an order that comes twice is one."""
        numbers = [n for n, attempt in enumerate(self._attempts) if attempt.item == wanted.item]
        view = self.timeline.tests.get(wanted.after)
        is_open = self.plan.triage and not self.finished and self.stop is None and wanted.item not in self.settled
        follows = numbers[-1:] == [wanted.after] and view is not None and view.ended is not None
        return is_open and follows and len(numbers) < MAX_ATTEMPTS and wanted.purpose is not Purpose.FIRST

    def _harm(self, wanted: Again) -> NotRun | None:
        """Why torch may not compare the collectives of a test; None when it may."""
        if wanted.purpose is not Purpose.DETAIL:
            return None
        if not self.plan.dry_run:
            return NotRun.UNSAFE_NCCL
        return NotRun.UNSAFE_FSDP if self.plan.tests[wanted.item].shards else None

    def _again(self, wanted: Again) -> tuple[Action, ...]:
        """Plans one more attempt."""
        number = len(self._attempts)
        self.queue.append(number)
        self._attempts.append(replace(self._attempt(wanted.item, wanted.purpose), after=wanted.after))
        test, of = self._attempts[number].planned, wanted.item
        fact = TestPlanned(number, test.nodeid, test.ranks, test.must_run, of, wanted.purpose, test.preset)
        return (Write("", fact),)

    def _refused(self, number: int, why: NotRun) -> Write:
        """The end of a further attempt that never began."""
        after = self._attempts[number].after
        assert after is not None
        return Write(self.timeline.tests[after].world, TestEnded(number, TestEnd.NOT_RUN, why))

    def _attempt(self, item: int, purpose: Purpose, reason: WarmUp | None = None) -> Attempt:
        test = self.plan.tests[item]
        match purpose:
            case Purpose.WARM_UP:
                return Attempt(item, purpose, replace(test, limits=warm_up_limits(test.limits)), WarmUp.RUNS)
            case Purpose.DIAGNOSTIC:
                return Attempt(item, purpose, replace(test, preset=Preset.DIAGNOSTIC))
            case Purpose.DETAIL:
                return Attempt(item, purpose, replace(test, fresh=True), reason)
            case Purpose.MEASURED | Purpose.FIRST:
                return Attempt(item, purpose, test, reason)
            case _:
                assert_never(purpose)

    def step(self, now_s: float) -> tuple[Action, ...]:
        """What to do now; empty while there is nothing to do but wait."""
        if self._idle_since_s is not None and now_s - self._idle_since_s > PAUSE_S:
            self._pauses.append((self._idle_since_s, now_s))
        actions = self._decide(now_s)
        self._idle_since_s = None if actions else now_s
        return actions

    def why_to_end(self, now_s: float) -> tuple[RunEnd, str] | None:
        """Reason and detail when the run must go no further, whatever it is doing."""
        if self.stop is not None:
            return self.stop
        if self.plan.run_s and now_s > self.plan.run_s:
            return RunEnd.RUN_LIMIT, f"the run took longer than {self.plan.run_s:g} s"
        if self.plan.budget_s and now_s > self.plan.budget_s:
            return RunEnd.BUDGET, f"after {self.plan.budget_s:.0f} s there is only enough left to end in order"
        return None

    def _decide(self, now_s: float) -> tuple[Action, ...]:
        if self.finished:
            return ()
        if self.running is None and not self.queue and not self._may_get_more(now_s):
            return self._completed(RunEnd.COMPLETED)  # whatever the desk said: it may have left because all is done
        if (end := self.why_to_end(now_s)) is not None:
            return self._stopped(*end)
        if self.running is not None:
            self._heard_s = now_s
            return self._watch(self.timeline.tests[self.running], now_s)
        return self._next(now_s)

    def _may_get_more(self, now_s: float) -> bool:
        """A desk that climbs a ladder of attempts says when it has enough."""
        wants = self.plan.triage and self.stop is None and len(self.settled) < len(self.plan.tests)
        return wants and now_s - self._heard_s < AGAIN_S

    # -- ends ----------------------------------------------------------------------------------------------

    def _stopped(self, reason: RunEnd, detail: str) -> tuple[Action, ...]:
        actions: list[Action] = []
        if self.running is not None:
            view = self.timeline.tests[self.running]
            why = ActReason.RUN_LIMIT if reason is RunEnd.RUN_LIMIT else ActReason.STOP
            actions += [Write(view.world, Acted(view.index, why, detail)), TakeEvidence(view.world, view.index)]
            actions += [ReadOutput(view.world, view.index)]
            actions += [Write(view.world, TestEnded(view.index, TestEnd.ABORTED, reason))]
        actions += [EndWorld(name, reason, graceful=False) for name in self._worlds.values()]
        return (*actions, self._finish(reason, detail))

    def _finish(self, reason: RunEnd, detail: str = "") -> Finish:
        self.finished, self.running = True, None
        self._worlds.clear()
        return Finish(reason, detail)

    def _completed(self, reason: RunEnd, detail: str = "") -> tuple[Action, ...]:
        ends = tuple(EndWorld(name, "done", graceful=True) for name in self._worlds.values())
        return (*ends, self._finish(reason, detail))

    # -- between tests -------------------------------------------------------------------------------------

    def _next(self, now_s: float) -> tuple[Action, ...]:
        if not self.queue:
            return ()
        if (held := self._held(now_s)) is not None:
            return held
        if self._is_too_dear(self.queue[0], now_s):
            return (self._refused(self.queue.pop(0), NotRun.UNAFFORDABLE),)
        attempt = self._attempts[self.queue[0]]
        test = attempt.planned
        name = self._worlds.get(test.ranks)
        if name is None:
            return self._start(test.ranks)
        world = self.timeline.worlds[name]
        if self._is_to_be_measured_elsewhere(self.queue[0], name):
            return (self._end(test.ranks, "what was compiled in it is no measure of a cache", graceful=True),)
        if test.fresh and name in self._used:
            return (self._end(test.ranks, "the test asks for a fresh world", graceful=True),)
        lost = world.broken or world.exits
        if lost and name in self._used:
            return (self._end(world.size, "a rank ended between tests", graceful=False),)
        if lost or len(world.collected) < world.size:
            return self._starting(world, test.limits.startup, now_s)
        if any(attempt.item not in seen.found for _, seen in world.collected.values()):
            return (self._not_collected(world, self.queue.pop(0)),)
        return self._release(world)

    def _held(self, now_s: float) -> tuple[Action, ...] | None:
        """What to do instead of the next test, where as many failed as asked for."""
        if not self.plan.maxfail or len(self.failed) < self.plan.maxfail:
            return None
        if not self._may_pass_yet(now_s):
            return self._completed(RunEnd.STOPPED, f"{len(self.failed)} failed, as many as asked for")
        return None if self._further_first() else ()

    def _may_pass_yet(self, now_s: float) -> bool:
        """Whether a failure may be none in the end; until that is known, only further attempts at tests are run."""
        decided = self.failed & self.settled
        return len(decided) < self.plan.maxfail and (self._further_first() or self._may_get_more(now_s))

    def _further_first(self) -> bool:
        """Puts the first further attempt at the head of the queue, if there is one."""
        self.queue.sort(key=lambda number: number < len(self.plan.tests))
        return self.queue[0] >= len(self.plan.tests)

    def _is_too_dear(self, number: int, now_s: float) -> bool:
        """Whether the run would end in a further attempt that takes as long as the one from which it follows."""
        attempt, ends_s = self._attempts[number], [s for s in (self.plan.run_s, self.plan.budget_s) if s]
        if attempt.after is None or attempt.purpose is Purpose.MEASURED or not ends_s:
            return False
        before = self.timeline.tests[attempt.after]
        return now_s + (before.ended_s or now_s) - before.started_s > min(ends_s)

    def _start(self, size: int) -> tuple[Action, ...]:
        others = () if self.plan.dry_run else tuple(self._worlds)
        ends = tuple(self._end(s, "another world needs the devices", graceful=True) for s in others)
        self._made += 1
        name = f"w{self._made}"
        self._worlds[size] = name
        return (*ends, StartWorld(name, size, WorldReason.FIRST if self._made == 1 else WorldReason.NEXT))

    def _end(self, size: int, reason: str, *, graceful: bool) -> EndWorld:
        return EndWorld(self._worlds.pop(size), reason, graceful)

    def _not_collected(self, world: WorldView, test: int) -> Write:
        nodeid = self._attempts[test].planned.nodeid
        if all(seen.skip_of(nodeid) for _, seen in world.collected.values()):
            return Write(world.name, TestEnded(test, TestEnd.NOT_RUN, NotRun.SKIPPED))
        return self._not_run(world.name, test, NotRun.COLLECTION)

    def _not_run(self, world: str, test: int, why: NotRun) -> Write:
        self._count_failure(test)
        return Write(world, TestEnded(test, TestEnd.NOT_RUN, why))

    def _count_failure(self, test: int) -> None:
        attempt = self._attempts[test]
        if attempt.purpose.counts and not attempt.planned.drill:
            self.failed.add(attempt.item)

    def _starting(self, world: WorldView, limit_s: float, now_s: float) -> tuple[Action, ...]:
        """A world on its way: nothing, or the end of it for the test that waits (and others without a chance)."""
        failed_s = min((t for t, _ in (*world.broken.values(), *world.exits.values())), default=None)
        if failed_s is not None and _has_settled(world, failed_s, now_s):
            why, attempts = (NotRun.BROKEN, START_ATTEMPTS) if world.broken else (NotRun.EXIT, 1)
            return self._not_started(world, why, attempts)
        if failed_s is None and self._clocks.since(world.started_s, now_s) > limit_s:
            acted = Acted(None, ActReason.STARTUP_LIMIT, f"not every rank was ready within {limit_s:g} s")
            return (Write(world.name, acted), *self._not_started(world, NotRun.STARTUP_LIMIT))
        return ()

    def _not_started(self, world: WorldView, why: NotRun, attempts: int = 1) -> tuple[Action, ...]:
        failed = self._start_failures.get(world.size, 0) + attempts
        self._start_failures[world.size] = failed
        hit = [t for t in self.queue if self._attempts[t].planned.ranks == world.size]
        hit = hit if failed >= START_ATTEMPTS else hit[:1]
        self.queue = [t for t in self.queue if t not in hit]
        ends = tuple(self._not_run(world.name, t, why) for t in hit)
        end = self._end(world.size, f"start-up failed: {why}", graceful=False)
        return (TakeEvidence(world.name, None), ReadOutput(world.name, None), *ends, end)

    def _release(self, world: WorldView) -> tuple[Action, ...]:
        test = self.queue.pop(0)
        attempt = self._attempts[test]
        planned = attempt.planned
        self._start_failures.pop(world.size, None)
        self.running, self._clocks, self._alarm_s = test, Clocks(self._pauses), 0.0
        asks = all(attempt.item in seen.with_lane for _, seen in world.collected.values())
        keep = self._clean.pop(world.name, False) and asks
        self._used.add(world.name)
        if attempt.purpose is Purpose.WARM_UP:
            self._warmed.add(world.name)
        following = None if planned.fresh else self._next_in(world)
        started = TestStarted(test, planned.nodeid, world.size, planned.limits, planned.preset, attempt.warmup)
        return (Write(world.name, started), Release(world.name, test, attempt, following, keep))

    def _next_in(self, world: WorldView) -> int | None:
        """The test of the plan that this world runs next, as far as that can be told."""
        for number in self.queue:
            attempt = self._attempts[number]
            known = all(attempt.item in seen.found for _, seen in world.collected.values())
            if attempt.planned.ranks == world.size and known:
                elsewhere = self._is_to_be_measured_elsewhere(number, world.name)
                return None if attempt.planned.fresh or elsewhere else attempt.item
        return None

    def _is_to_be_measured_elsewhere(self, number: int, world: str) -> bool:
        """What a process compiled itself says nothing about a cache."""
        further = number >= len(self.plan.tests)
        return further and self._attempts[number].purpose is Purpose.MEASURED and world in self._warmed

    # -- in a test -----------------------------------------------------------------------------------------

    def _watch(self, view: TestView, now_s: float) -> tuple[Action, ...]:
        if not view.unfinished() and not any(v.gone for v in view.ranks.values()):
            return self._ended(view)
        pause_s = now_s - self._alarm_s
        is_blind = bool(self._pauses) and now_s - self._pauses[-1][1] < LOOK_AGAIN_S
        if is_blind or pause_s < ALARM_EVERY_S or pause_s < _alarm_pause_s(view, now_s):
            return ()
        self._alarm_s = now_s
        acted = alarm(view, self._clocks, now_s)
        if acted is not None and acted.why.rests_on_looks and not self._looked_again:
            self._looked_again, self._alarm_s = True, 0.0
            return (LookAgain(view.world, view.index, to_look_at(view, acted)),)
        self._looked_again = False
        if acted is not None:
            return self._abort(view, acted)
        ranks = to_probe(view, self._clocks, now_s)
        return (TakeEvidence(view.world, view.index, ranks),) if ranks else ()

    def _abort(self, view: TestView, acted: Acted) -> tuple[Action, ...]:
        self.running = None
        self._count_failure(view.index)
        return (
            Write(view.world, acted),
            TakeEvidence(view.world, view.index),
            ReadOutput(view.world, view.index),
            Write(view.world, TestEnded(view.index, TestEnd.ABORTED, acted.why)),
            self._end(view.size, f"after {acted.why}", graceful=False),
        )

    def _ended(self, view: TestView) -> tuple[Action, ...]:
        self.running = None
        alike = issued_alike(view)
        well = alike and goes_well(self.timeline, view)
        more, end = self._counted(view, well=well), Write(view.world, TestEnded(view.index, TestEnd.FINISHED))
        if alike and _report_alike(view):
            self._clean[view.world] = self._is_clean(view)
            fresh = self._attempts[view.index].planned.fresh
            ends = (self._end(view.size, "the test had a fresh world", graceful=True),) if fresh else ()
            return (*more, ReadOutput(view.world, view.index), end, *ends)
        evidence = TakeEvidence(view.world, view.index), ReadOutput(view.world, view.index)
        return (*more, *evidence, end, self._end(view.size, "a test failed in it", graceful=True))

    def _counted(self, view: TestView, *, well: bool) -> tuple[Action, ...]:
        """Counts a test of which all ranks are through; what follows from that."""
        attempt = self._attempts[view.index]
        if not well:
            self._count_failure(view.index)
            return ()
        if attempt.purpose is Purpose.MEASURED and not _is_skipped(view):
            self.failed.discard(attempt.item)
        warmed = attempt.purpose is Purpose.WARM_UP and view.compiled()
        return self._again(Again(attempt.item, Purpose.MEASURED, view.index)) if warmed else ()

    @staticmethod
    def _is_clean(view: TestView) -> bool:
        """Every rank says so, and all counted the same collectives."""
        counts = {v.counted.entered for v in view.ranks.values() if v.counted is not None}
        return all(v.group_clean for v in view.ranks.values()) and len(counts) == 1


def _has_settled(world: WorldView, failed_s: float, now_s: float) -> bool:
    """Whether no other rank is still on its way to the same failure: each has answered, or took over twice as long as
    the first one did from being up.
    """
    answered = world.broken.keys() | world.exits.keys() | world.collected.keys()
    if len(answered) == world.size:
        return now_s - failed_s > SETTLE_S
    took_s = failed_s - min((t for t, _ in world.ready.values()), default=failed_s)
    return now_s - failed_s > min(max(START_SETTLE_S, took_s), MAX_START_SETTLE_S)


def _alarm_pause_s(view: TestView, now_s: float) -> float:
    """A long test in which all goes well is not asked every moment what is wrong with it."""
    if any(rank.out or rank.failure for rank in view.ranks.values()):
        return ALARM_EVERY_S
    return min(ALARM_CALM_S, max(ALARM_EVERY_S, ALARM_SHARE * (now_s - view.started_s)))


def _report_alike(view: TestView) -> bool:
    """Whether all ranks report the same and none failed: its world goes on. A skip under a gate harms nothing."""
    outcomes = {rank_outcome(rank) for rank in view.ranks.values()}
    return len(outcomes) == 1 and all(outcome.is_green for outcome in outcomes)


def _is_skipped(view: TestView) -> bool:
    """What was skipped takes no failure away."""
    reports = (r for v in view.ranks.values() for _, r in v.reports.values())
    return any(r.outcome is ReportOutcome.SKIPPED and r.xfail is None for r in reports)
