"""Owns the course of a run: which world, when a test begins and ends; must not touch a process, a clock or a file.

`step` looks at the timeline and says what to do next. The box does it, adds the facts that come of it to the
timeline and asks again. Every path takes a test off the queue or waits under a limit, so a run ends.
"""

from dataclasses import dataclass, field

from pytest_megacpp.box.actions import (
    Action,
    EndWorld,
    Finish,
    LookAgain,
    ReadOutput,
    Release,
    StartWorld,
    TakeEvidence,
    Write,
)
from pytest_megacpp.box.alarms import SETTLE_S, Clocks, alarm, to_look_at, to_probe
from pytest_megacpp.box.attempts import Attempts
from pytest_megacpp.recording.events import Acted, TestEnded, TestStarted
from pytest_megacpp.recording.plan import Again, Plan
from pytest_megacpp.recording.reports import goes_well, issued_alike, rank_outcome
from pytest_megacpp.recording.timeline import Timeline
from pytest_megacpp.recording.views import TestView, WorldView
from pytest_megacpp.recording.vocabulary import (
    ActReason,
    NotRun,
    Purpose,
    ReportOutcome,
    RunEnd,
    TestEnd,
    WorldReason,
)

ALARM_EVERY_S = 0.05
ALARM_CALM_S = 0.2  # in a test that is older than seconds and of which no rank is through
ALARM_SHARE = 0.05  # of a test's age
START_SETTLE_S = 2.0  # after a rank broke or died in start-up: others may do so for the same reason, or collect
MAX_START_SETTLE_S = 10.0
START_ATTEMPTS = 2
PAUSE_S = 2.0  # between two steps: an idle box makes many a second, so it was stopped itself
LOOK_AGAIN_S = 1.5  # after a pause of the box: looks and reports of ranks come in, before alarms count
AGAIN_S = 120.0  # for a desk to order another attempt, or to settle the test (decision 0050)


@dataclass
class Supervisor:
    """The course of one run, as far as it has come. `stop`, set from outside, ends it at the next step."""

    plan: Plan
    timeline: Timeline
    running: int | None = None
    stop: tuple[RunEnd, str] | None = None
    finished: bool = False
    _worlds: dict[int, str] = field(default_factory=dict)
    _used: set[str] = field(default_factory=set)
    _clean: dict[str, bool] = field(default_factory=dict)
    _warmed: set[str] = field(default_factory=set)  # worlds in which a warm-up ran
    _desk_active_s: float = 0.0  # when the desk last gave a command, or a test ran
    _made: int = 0
    _start_failures: dict[int, int] = field(default_factory=dict)
    _clocks: Clocks = field(default_factory=Clocks)
    _alarm_s: float = 0.0
    _looked_again: bool = False
    _pauses: list[tuple[float, float]] = field(default_factory=list)
    _idle_since_s: float | None = None

    def __post_init__(self) -> None:
        self.attempts = Attempts(self.plan, self.timeline)
        self._clocks = self._new_clocks()

    def _new_clocks(self) -> Clocks:
        return Clocks(self._pauses, self.plan.debugger.rank if self.plan.debugger is not None else None)

    def _debugged_s(self, now_s: float) -> float:
        """Returns for how long somebody talked to a debugger in this run."""
        if self.plan.debugger is None:
            return 0.0
        ranks = (test.ranks.get(self.plan.debugger.rank) for test in self.timeline.tests.values())
        return sum(end_s - start_s for rank in ranks if rank is not None for start_s, end_s in rank.debugged(now_s))

    def adopt(self, plan: Plan) -> None:
        """Takes another plan, before there is any attempt."""
        self.plan = plan
        self.attempts = Attempts(plan, self.timeline)

    def request_attempt(self, order: Again, now_s: float) -> tuple[Write, ...]:
        """Plans the attempt that the desk orders, unless the run ends, and returns what to record."""
        self._desk_active_s = now_s
        return () if self.finished or self.stop is not None else self.attempts.request(order)

    def settle(self, item: int, now_s: float) -> None:
        """Takes note that the desk wants no further attempt at a test of the plan."""
        self._desk_active_s = now_s
        self.attempts.settle(item)

    def step(self, now_s: float) -> tuple[Action, ...]:
        """Returns what to do now; nothing while there is only waiting to do."""
        if self._idle_since_s is not None and now_s - self._idle_since_s > PAUSE_S:
            self._pauses.append((self._idle_since_s, now_s))
        actions = self._decide(now_s)
        self._idle_since_s = None if actions else now_s
        return actions

    def why_to_end(self, now_s: float) -> tuple[RunEnd, str] | None:
        """Returns reason and detail where the run must go no further, whatever it is doing; else None."""
        if self.stop is not None:
            return self.stop
        if self.plan.run_s and now_s - self._debugged_s(now_s) > self.plan.run_s:
            return RunEnd.RUN_LIMIT, f"the run took longer than {self.plan.run_s:g} s"
        if self.plan.budget_s and now_s > self.plan.budget_s:
            return RunEnd.BUDGET, f"after {self.plan.budget_s:.0f} s there is only enough left to end in order"
        return None

    def _decide(self, now_s: float) -> tuple[Action, ...]:
        if self.finished:
            return ()
        if self.running is None and not self.attempts.queue and not self._may_be_asked_for_more(now_s):
            return self._completed(RunEnd.COMPLETED)  # even after a stop: the desk may have left because all is done
        if (end := self.why_to_end(now_s)) is not None:
            return self._stopped(*end)
        if self.running is not None:
            self._desk_active_s = now_s
            return self._watch(self.timeline.tests[self.running], now_s)
        return self._next(now_s)

    def _may_be_asked_for_more(self, now_s: float) -> bool:
        """Returns whether the desk may still order attempts: until it has settled every test, or was silent for
        AGAIN_S.
        """
        wants = self.plan.triage and self.stop is None and not self.attempts.are_settled()
        return wants and now_s - self._desk_active_s < AGAIN_S

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
        if not self.attempts.queue:
            return ()
        if (held := self._at_maxfail(now_s)) is not None:
            return held
        if self.attempts.exceeds_budget(self.attempts.queue[0], now_s):
            return (self.attempts.declined(self.attempts.queue.pop(0), NotRun.UNAFFORDABLE),)
        attempt = self.attempts[self.attempts.queue[0]]
        test = attempt.planned
        name = self._worlds.get(test.ranks)
        if name is None:
            return self._start(test.ranks)
        world = self.timeline.worlds[name]
        if self._is_to_be_measured_elsewhere(self.attempts.queue[0], name):
            return (self._end(test.ranks, "what was compiled in it is no measure of a cache", graceful=True),)
        if test.fresh and name in self._used:
            return (self._end(test.ranks, "the test asks for a fresh world", graceful=True),)
        lost = world.broken or world.exits
        if lost and name in self._used:
            return (self._end(world.size, "a rank ended between tests", graceful=False),)
        if lost or len(world.collected) < world.size:
            return self._starting(world, test.limits.startup, now_s)
        if any(attempt.item not in seen.found for _, seen in world.collected.values()):
            return (self._not_collected(world, self.attempts.queue.pop(0)),)
        return self._release(world)

    def _at_maxfail(self, now_s: float) -> tuple[Action, ...] | None:
        """Returns what to do instead of the next test, once `maxfail` tests have failed; None to go on."""
        if not self.plan.maxfail or len(self.attempts.failed) < self.plan.maxfail:
            return None
        if not self._may_pass_yet(now_s):
            return self._completed(RunEnd.STOPPED, f"{len(self.attempts.failed)} failed, the limit of --maxfail")
        return None if self.attempts.prefer_further() else ()

    def _may_pass_yet(self, now_s: float) -> bool:
        """Returns whether some of the failures may still become passes. Until that is known, only further attempts at
        tests are run.
        """
        decided = self.attempts.failed & self.attempts.settled
        return len(decided) < self.plan.maxfail and (
            self.attempts.prefer_further() or self._may_be_asked_for_more(now_s)
        )

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
        nodeid = self.attempts[test].planned.nodeid
        if all(seen.skip_of(nodeid) for _, seen in world.collected.values()):
            return Write(world.name, TestEnded(test, TestEnd.NOT_RUN, NotRun.SKIPPED))
        return self._not_run(world.name, test, NotRun.COLLECTION)

    def _not_run(self, world: str, test: int, why: NotRun) -> Write:
        self.attempts.count_failure(test)
        return Write(world, TestEnded(test, TestEnd.NOT_RUN, why))

    def _starting(self, world: WorldView, limit_s: float, now_s: float) -> tuple[Action, ...]:
        """Returns what to do while a world starts: nothing, or its end where it failed or took too long. With it end
        the test that waits for it and, after several failures, all tests of that size.
        """
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
        hit = [t for t in self.attempts.queue if self.attempts[t].planned.ranks == world.size]
        hit = hit if failed >= START_ATTEMPTS else hit[:1]
        self.attempts.queue = [t for t in self.attempts.queue if t not in hit]
        ends = tuple(self._not_run(world.name, t, why) for t in hit)
        end = self._end(world.size, f"start-up failed: {why}", graceful=False)
        return (TakeEvidence(world.name, None), ReadOutput(world.name, None), *ends, end)

    def _release(self, world: WorldView) -> tuple[Action, ...]:
        test = self.attempts.queue.pop(0)
        attempt = self.attempts[test]
        planned = attempt.planned
        self._start_failures.pop(world.size, None)
        self.running, self._clocks, self._alarm_s = test, self._new_clocks(), 0.0
        asks = all(attempt.item in seen.with_lane for _, seen in world.collected.values())
        keep = self._clean.pop(world.name, False) and asks
        self._used.add(world.name)
        if attempt.purpose is Purpose.WARM_UP:
            self._warmed.add(world.name)
        following = None if planned.fresh else self._next_in(world)
        started = TestStarted(test, planned.nodeid, world.size, planned.limits, planned.preset, attempt.warmup)
        return (Write(world.name, started), Release(world.name, test, attempt, following, keep))

    def _next_in(self, world: WorldView) -> int | None:
        """Returns the test of the plan that this world runs next; None where it runs none, or that is not known."""
        for number in self.attempts.queue:
            attempt = self.attempts[number]
            known = all(attempt.item in seen.found for _, seen in world.collected.values())
            if attempt.planned.ranks == world.size and known:
                elsewhere = self._is_to_be_measured_elsewhere(number, world.name)
                return None if attempt.planned.fresh or elsewhere else attempt.item
        return None

    def _is_to_be_measured_elsewhere(self, number: int, world: str) -> bool:
        """Returns whether this is a measurement that needs a new world: what a process compiled itself during a warm-up
        says nothing about the cache.
        """
        return (
            self.attempts.is_further(number)
            and self.attempts[number].purpose is Purpose.MEASURED
            and world in self._warmed
        )

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
        self.attempts.count_failure(view.index)
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
        more, end = self._count(view, well=well), Write(view.world, TestEnded(view.index, TestEnd.FINISHED))
        if alike and _report_alike(view):
            self._clean[view.world] = self._is_clean(view)
            why = "the test had a fresh world" if self.attempts[view.index].planned.fresh else _why_spent(view)
            ends = (self._end(view.size, why, graceful=True),) if why else ()
            return (*more, ReadOutput(view.world, view.index), end, *ends)
        evidence = TakeEvidence(view.world, view.index), ReadOutput(view.world, view.index)
        return (*more, *evidence, end, self._end(view.size, "a test failed in it", graceful=True))

    def _count(self, view: TestView, *, well: bool) -> tuple[Action, ...]:
        """Counts a test of which all ranks are through as passed or failed; returns the plan of the attempt that
        follows a warm-up.
        """
        attempt = self.attempts[view.index]
        if not well:
            self.attempts.count_failure(view.index)
            return ()
        if attempt.purpose is Purpose.MEASURED and not _is_skipped(view):
            self.attempts.failed.discard(attempt.item)
        warmed = attempt.purpose is Purpose.WARM_UP and view.compiled()
        return self.attempts.plan_further(Again(attempt.item, Purpose.MEASURED, view.index)) if warmed else ()

    @staticmethod
    def _is_clean(view: TestView) -> bool:
        """Returns whether the process group may stay: every rank reports it clean, and all counted the same
        collectives.
        """
        counts = {v.counted.entered for v in view.ranks.values() if v.counted is not None}
        return all(v.group_clean for v in view.ranks.values()) and len(counts) == 1


def _why_spent(view: TestView) -> str:
    """Returns why no other test may run in the world: to leave a group in which a collective is open that a member
    never issued may block a rank until the others have left theirs, and that would be the next test's time.
    """
    counted = [v.counted for v in view.ranks.values() if v.counted is not None]
    is_open = any(c.entered > c.completed for c in counted) and len({c.entered for c in counted}) > 1
    return "the test left a collective open that not all ranks had issued" if is_open else ""


def _has_settled(world: WorldView, failed_s: float, now_s: float) -> bool:
    """Returns whether no other rank is still on its way to the same failure: each has answered, or took over twice as
    long from being up as the first one that failed.
    """
    answered = world.broken.keys() | world.exits.keys() | world.collected.keys()
    if len(answered) == world.size:
        return now_s - failed_s > SETTLE_S
    took_s = failed_s - min((t for t, _ in world.ready.values()), default=failed_s)
    return now_s - failed_s > min(max(START_SETTLE_S, took_s), MAX_START_SETTLE_S)


def _alarm_pause_s(view: TestView, now_s: float) -> float:
    """Returns the seconds between two evaluations of the alarms: a long test in which all goes well needs fewer."""
    if any(rank.out or rank.failure for rank in view.ranks.values()):
        return ALARM_EVERY_S
    return min(ALARM_CALM_S, max(ALARM_EVERY_S, ALARM_SHARE * (now_s - view.started_s)))


def _report_alike(view: TestView) -> bool:
    """Returns whether all ranks report the same green outcome, so that their world goes on. A skip under a gate does no
    harm.
    """
    outcomes = {rank_outcome(rank) for rank in view.ranks.values()}
    return len(outcomes) == 1 and all(outcome.is_green for outcome in outcomes)


def _is_skipped(view: TestView) -> bool:
    """Returns whether the test was skipped: a skip doesn't clear an earlier failure."""
    reports = (r for v in view.ranks.values() for _, r in v.reports.values())
    return any(r.outcome is ReportOutcome.SKIPPED and r.xfail is None for r in reports)
