"""Owns a box in memory: does what a supervisor says by telling facts to its timeline, checks that it may say so.

Ranks come up, run their programs and die as a scenario has it. Time is a number. Must not know why tests end.
"""

import heapq
import itertools
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

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
from pytest_megacpp.box.supervisor import Supervisor
from pytest_megacpp.box.worlds.rank_channel import RankChannel
from pytest_megacpp.recording import events as ev
from pytest_megacpp.recording.numbers import Numbers
from pytest_megacpp.recording.plan import Again, Plan, PlannedTest, SeedPlan
from pytest_megacpp.recording.timeline import Timeline
from pytest_megacpp.recording.vocabulary import Preset, RunEnd, Stage, TestEnd, WarmUp
from pytest_megacpp.recording.wire import dump_line, encode_fact
from tests.box.simulated import MAIN_THREAD, Program, Ranks, Watching

TICK_S = 0.05
START_S, EVIDENCE_S, LEAVE_S, KILL_S = 0.3, 0.2, 0.5, 0.3
HEARD_S = 0.1  # at the desk, of what the box writes
LIMITS = ev.Limits(startup=3.0, skew=2.0, compile=3.0, stall=1.5, test=6.0)


class Birth(StrEnum):
    """How a rank comes up in a world."""

    COLLECTS = "collects"
    SLOW = "slow"
    NEVER = "never"
    BREAKS = "breaks"
    BREAKS_LATE = "breaks long after the others"
    EXITS = "exits"
    EXITS_LATE = "exits long after the others"
    EXITS_AT_ONCE = "exits as soon as it collected"
    EXITS_SOON = "exits soon after it collected"


LATE = {Birth.SLOW: 2.0, Birth.BREAKS_LATE: 1.5, Birth.EXITS_LATE: 1.5}
EXITS_AFTER_S = {Birth.EXITS_AT_ONCE: 0.1, Birth.EXITS_SOON: 0.4}


@dataclass(frozen=True)
class Scenario:
    """What will happen. `births` by world number (from 1; 0: in every world) and rank, `programs` by test, `lacking`
    tests that a rank doesn't find, `late_deaths` of ranks so many seconds after they finished a test. `lies`: what
    ranks say beside the truth, at these times, in whatever world they are then. `pauses`: when the box itself stands
    still, and for how long. `warming`: why tests warm up or don't, `compiling` attempts in which every rank compiles.
    """

    plan: Plan
    programs: Mapping[int, Sequence[Program]] = field(default_factory=dict)
    births: Mapping[tuple[int, int], Birth] = field(default_factory=dict)
    lacking: Mapping[int, frozenset[int]] = field(default_factory=dict)
    late_deaths: Mapping[tuple[int, int], float] = field(default_factory=dict)
    stop_s: float | None = None
    lies: Sequence[tuple[float, int, bytes]] = ()
    pauses: Sequence[tuple[float, float]] = ()
    warming: Mapping[int, WarmUp] = field(default_factory=dict)
    compiling: frozenset[int] = frozenset()


def plan(*tests: PlannedTest, dry_run: bool = True, maxfail: int = 0, run_s: float = 0.0) -> Plan:
    return Plan("r1", "h200x8", "local", "H200", 8, 8, dry_run, False, tests, (), "/", SeedPlan(), run_s, maxfail)


def planned(ranks: int = 2, *, fresh: bool = False, drill: bool = False) -> PlannedTest:
    return PlannedTest("t", ranks, Preset.FULL, LIMITS, fresh, drill)


@dataclass
class LiveWorld:
    size: int
    number: int
    released: list[int] = field(default_factory=list)
    lines: dict[int, RankChannel] = field(default_factory=dict)
    promised: int | None = None
    watching: Watching | None = None
    ending: bool = False


class SimulatedBox:
    """Runs a scenario to its end; every assertion in here is a promise of the supervisor's."""

    def __init__(self, scenario: Scenario, patience_s: float = 0.0) -> None:
        self.scenario = scenario
        self.patience_s = patience_s  # for a desk that has nothing to say
        self.plan = scenario.plan
        self.timeline = Timeline()
        self.supervisor = Supervisor(self.plan, self.timeline)
        self.supervisor.attempts.plan_warm_ups(scenario.warming)
        for item, test in enumerate(self.plan.tests):
            self.timeline.add(ev.Event("r1", "", "box", item, 0.0, ev.TestPlanned(item, test.nodeid, test.ranks)))
        self.now_s = 0.0
        self.steps = 0
        self.worlds: dict[str, LiveWorld] = {}
        self.made = 0
        self.ends: Counter[int] = Counter()
        self.planned_at_the_end_of: dict[int, tuple[int, ...]] = {}
        self.reasons: dict[int, ev.TestEnded] = {}
        self.acted: dict[int, ev.Acted] = {}
        self.released: list[int] = []
        self.desk: Callable[[int, float], None] | None = None  # hears of the end of each attempt a moment later
        self.finish: Finish | None = None
        self._running: int | None = None
        self._seq: Counter[tuple[str, str]] = Counter()
        self._order = itertools.count()
        self._due: list[tuple[float, int, Callable[[float], None]]] = []
        self._pauses = sorted(scenario.pauses)
        for at_s, rank, data in scenario.lies:
            self._at(at_s, lambda t, r=rank, d=data: self._lie(r, d))  # type: ignore[misc]

    @property
    def most_s(self) -> float:
        """No run may take longer."""
        costs_s = 2.0 + 4 * EVIDENCE_S + 2 * (LEAVE_S + KILL_S + START_S)
        paused_s = sum(s for _, s in self.scenario.pauses)
        tests_s = sum(t.limits.startup + t.limits.test + 2 * t.limits.compile + costs_s for t in self.plan.tests)
        return 5.0 + paused_s + self.patience_s + (1 + bool(self.scenario.warming)) * tests_s + 20.0 * self.plan.triage

    def hear(self, wanted: Again, now_s: float) -> bool:
        """An order of the desk; whether anything came of it."""
        actions = self.supervisor.request_attempt(wanted, now_s)
        for action in actions:
            self._perform(action)
        return bool(actions)

    def run(self) -> "SimulatedBox":
        while not self.supervisor.finished:
            self.steps += 1
            assert self.now_s < self.most_s
            assert self.steps < 60 * self.most_s
            if self.scenario.stop_s is not None and self.now_s >= self.scenario.stop_s:
                self.supervisor.stop = (RunEnd.INTERRUPTED, "somebody pressed Ctrl-C")
            actions = self.supervisor.step(self.now_s)
            for action in actions:
                assert self.finish is None
                self._perform(action)
            if not actions:
                self._pass(TICK_S)
                self._stand_still()
        assert self.finish is not None
        assert self.worlds == {}
        assert self.supervisor.step(self.now_s) == ()
        return self

    # -- time and facts ------------------------------------------------------------------------------------

    def tell(self, at_s: float, world: str, source: str, fact: ev.Fact) -> None:
        seq = self._seq[world, source]
        self._seq[world, source] += 1
        self.timeline.add(ev.Event("r1", world, source, seq, at_s, fact))

    def _at(self, at_s: float, do: Callable[[float], None]) -> None:
        heapq.heappush(self._due, (at_s, next(self._order), do))

    def _stand_still(self) -> None:
        """Ranks go on meanwhile; what they do is seen afterwards."""
        while self._pauses and self._pauses[0][0] <= self.now_s:
            self.now_s += self._pauses.pop(0)[1]

    def _lie(self, rank: int, data: bytes) -> None:
        for name, live in self.worlds.items():
            if rank < live.size:
                self._hear(name, live, rank, data)

    def _hear(self, world: str, live: LiveWorld, rank: int, data: bytes) -> None:
        for fact, at_s in live.lines.setdefault(rank, RankChannel(rank)).feed(data, self.now_s):
            self.tell(at_s, world, "box" if isinstance(fact, ev.Muted) else f"rank {rank}", fact)

    def _pass(self, seconds: float) -> None:
        self.now_s += seconds
        while self._due and self._due[0][0] <= self.now_s:
            at_s, _, do = heapq.heappop(self._due)
            do(at_s)
        for world in self.worlds.values():
            if world.watching is not None:
                world.watching.advance(self.now_s)

    # -- what the supervisor says --------------------------------------------------------------------------

    def _perform(self, action: Action) -> None:
        match action:
            case StartWorld():
                self._start(action)
            case EndWorld():
                self._end(action)
            case Write():
                self._write(action)
            case Release():
                self._release(action)
            case TakeEvidence():
                watching = self.worlds[action.world].watching
                if watching is not None and action.test is not None:
                    watching.evidence(self.now_s, action.stacks_of)
                self._pass(EVIDENCE_S)
            case LookAgain():
                watching = self.worlds[action.world].watching
                assert watching is not None
                watching.look_again(self.now_s, action.stacks_of)
            case ReadOutput():
                assert action.world in self.worlds
            case Finish():
                self.finish = action

    def _start(self, action: StartWorld) -> None:
        assert action.name not in self.timeline.worlds
        assert self._running is None
        if self.plan.dry_run:
            assert action.size not in {w.size for w in self.worlds.values()}
        else:
            assert self.worlds == {}, "the devices are taken"
        self.made += 1
        self.worlds[action.name] = LiveWorld(action.size, self.made)
        self.tell(self.now_s, action.name, "box", ev.WorldStarted(action.size, action.reason))
        for rank in range(action.size):
            self.tell(self.now_s, action.name, "box", ev.RankStarted(rank, rank))
            births = self.scenario.births
            birth = births.get((self.made, rank), births.get((0, rank), Birth.COLLECTS))
            self._born(action.name, rank, birth)
        self._pass(START_S)

    def _born(self, world: str, rank: int, birth: Birth) -> None:
        at_s = self.now_s + 0.2 + rank * 0.013 + LATE.get(birth, 0.0)
        found = tuple(i for i in range(len(self.plan.tests)) if i not in self.scenario.lacking.get(rank, ()))
        source = f"rank {rank}"

        def say(fact: ev.Fact, after_s: float = 0.0, source: str = source) -> None:
            self._at(at_s + after_s, lambda t: self._say(t, world, source, fact))

        if birth is Birth.NEVER:
            return
        if birth in (Birth.EXITS, Birth.EXITS_LATE):
            say(ev.RankExited(rank, 1), source="box")
            return
        say(ev.RankReady(rank, rank, MAIN_THREAD))
        if birth in (Birth.BREAKS, Birth.BREAKS_LATE):
            say(ev.RankBroken(rank, Stage.CONFTEST, "ImportError", "no x", ""), 0.1)
            return
        say(ev.RankCollected(rank, Numbers(found), "d", (), Numbers(found[::2])), 0.1)
        if birth in EXITS_AFTER_S:
            say(ev.RankExited(rank, None, "SIGSEGV"), EXITS_AFTER_S[birth], "box")

    def _say(self, at_s: float, world: str, source: str, fact: ev.Fact) -> None:
        """A fact of a rank or its end, unless its world is over."""
        live = self.worlds.get(world)
        if live is not None and source != "box":
            rank = int(source.removeprefix("rank "))
            self._hear(world, live, rank, dump_line({"t": at_s} | encode_fact(fact)))
        elif live is not None and not (live.ending and isinstance(fact, ev.RankExited)):
            self.tell(at_s, world, source, fact)

    def _end(self, action: EndWorld) -> None:
        live = self.worlds[action.name]
        assert self._running not in live.released, "its test has not ended"
        live.ending = True
        if action.graceful:
            self._pass(LEAVE_S)
        gone = self.timeline.worlds[action.name].exits
        for rank in range(live.size):
            if rank not in gone:
                self.tell(self.now_s, action.name, "box", ev.RankExited(rank, 0, None, False, True))
        self._pass(KILL_S)
        self.tell(self.now_s, action.name, "box", ev.WorldEnded(action.reason))
        del self.worlds[action.name]

    def _write(self, action: Write) -> None:
        further = isinstance(action.fact, ev.TestPlanned | ev.TestEnded) and action.fact.test >= len(self.plan.tests)
        assert action.world in self.worlds or further
        match action.fact:
            case ev.TestStarted(test=test):
                assert self._running is None
                assert test not in self.timeline.tests
                self._running = test
            case ev.TestEnded(test=test, reason=reason):
                self.ends[test] += 1
                self.reasons[test] = action.fact
                self.planned_at_the_end_of[test] = tuple(self.timeline.planned)
                assert self.ends[test] == 1
                if self.desk is not None:
                    self._at(self.now_s + HEARD_S, lambda t, n=test: self.desk(n, t))  # type: ignore[misc]
                assert (self._running == test) == (reason is not TestEnd.NOT_RUN)
                assert (test in self.acted) == (reason is TestEnd.ABORTED)
                if reason is TestEnd.FINISHED:
                    views = self.timeline.tests[test].ranks.values()
                    ends = [(v.finished_s, v.exit_s) for v in views]
                    assert all(end_s is not None and (exit_s is None or exit_s > end_s) for end_s, exit_s in ends)
                self._running = None if reason is not TestEnd.NOT_RUN else self._running
            case ev.Acted(test=int(test)):
                assert self._running == test
                self.acted[test] = action.fact
            case _:
                pass
        self.tell(self.now_s, action.world, "box", action.fact)

    def _release(self, action: Release) -> None:
        live, view = self.worlds[action.world], self.timeline.worlds[action.world]
        item, test = action.attempt.item, self.plan.tests[action.attempt.item]
        assert self._running == action.test
        assert (test.ranks, len(view.collected)) == (live.size, live.size)
        assert all(item in seen.found for _, seen in view.collected.values())
        assert view.exits == {}
        assert view.broken == {}
        assert live.promised in (None, item) or self.plan.triage  # a ladder may come first: ranks then tear down more
        assert not (test.fresh and (live.released or action.next_item is not None))
        assert not action.keep_group or (live.released and self.reasons[live.released[-1]].reason == "finished")
        if action.next_item is not None:
            assert self.plan.tests[action.next_item].ranks == live.size
            assert all(action.next_item in seen.found for _, seen in view.collected.values())
        for line in live.lines.values():
            line.begin()
        live.promised = action.next_item
        live.released.append(action.test)
        self.released.append(action.test)
        self._let_run(action, live)

    def _let_run(self, action: Release, live: LiveWorld) -> None:
        programs = self.scenario.programs.get(action.test, [()] * live.size)
        for rank in range(live.size) if action.test in self.scenario.compiling else ():
            self.tell(self.now_s, action.world, f"rank {rank}", ev.Compiled(rank, action.test, 9.0, 1, 0, 1))
        ranks = Ranks(programs, self.now_s)

        def tell(at_s: float, source: str, fact: ev.Fact) -> None:
            self._say(at_s, action.world, source, fact)

        live.watching = Watching(ranks, action.test, tell)
        for rank, life in enumerate(ranks.lives):
            delay_s = self.scenario.late_deaths.get((action.test, rank))
            if delay_s is not None and life.finished_s is not None:
                at_s, died = life.finished_s + delay_s, ev.RankExited(rank, 3)
                self._at(at_s, lambda t, d=died: self._say(t, action.world, "box", d))  # type: ignore[misc]
