"""When a box ends a test early: each rule when it should and not before, and no rule without need."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_megacpp.box import alarms
from pytest_megacpp.box.alarms import (
    SETTLE_S,
    STUCK_BY_STACK_S,
    STUCK_S,
    Clocks,
    alarm,
    to_look_at,
    to_probe,
)
from pytest_megacpp.box.counting import counting
from pytest_megacpp.recording import events as ev
from pytest_megacpp.recording.agreement import disagreements
from pytest_megacpp.recording.timeline import fold
from pytest_megacpp.recording.views import TestView
from pytest_megacpp.recording.vocabulary import ActReason, FlightOrigin, ReportOutcome, TestPhase, WarmUp
from pytest_megacpp.recording.waits import Counted
from tests.box.simulated import (
    FOREVER,
    MAIN_THREAD,
    Collect,
    Compile,
    Die,
    Fail,
    Idle,
    Import,
    Kernel,
    Phase,
    Program,
    Ranks,
    Receive,
    Step,
    StuckCompile,
    Watching,
    Work,
)
from tests.recording.strategies import any_events
from tests.recording.telling import LIMITS, Telling

START_S = 2.0


@pytest.fixture(params=Kernel, ids=lambda kernel: kernel.value, autouse=True, scope="module")
def kernel(request: pytest.FixtureRequest) -> Iterator[Kernel]:
    """Every rule holds where CPU time is exact, and where it is sampled in ticks and nobody counts a thread's runs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Ranks, "kernel", request.param)
        yield request.param


TICK_S = 0.05
SLACK_S = 2.0  # design, section 5: limit + 2 s


class Rehearsal:
    """A test that a box watches. Times are seconds since the test began."""

    def __init__(
        self,
        *programs: Program,
        limits: ev.Limits = LIMITS,
        offsets: Sequence[float] = (0.0, 0.03),
        warmup: WarmUp | None = None,
    ) -> None:
        self.run = Telling(len(programs), test=False)
        for rank in range(len(programs)):
            self.run.rank(1.0, ev.RankReady(rank, rank, MAIN_THREAD))
        self.run.box(START_S, ev.TestStarted(0, "t", len(programs), limits, warmup=warmup))
        self.ranks = Ranks(programs, START_S)
        self.watching = Watching(self.ranks, 0, self._tell, offsets)
        self.clocks = Clocks()
        self.now_s = START_S

    def _tell(self, at_s: float, source: str, fact: ev.Fact) -> None:
        self.run.box(at_s, fact, source=source)

    @property
    def view(self) -> TestView:
        return self.run.test

    def alarm(self, until_s: float = 100.0) -> tuple[float, ev.Acted] | None:
        """When and why the box acts; None when the test ends, or it hasn't by `until_s`."""
        while self.now_s < START_S + until_s:
            self.now_s += TICK_S
            self.watching.advance(self.now_s)
            if not self.view.unfinished() and not any(v.gone for v in self.view.ranks.values()):
                return None
            acted = alarm(self.view, self.clocks, self.now_s)
            if acted is not None and acted.why.rests_on_looks:
                self.watching.look_again(self.now_s, to_look_at(self.view, acted))
                acted = alarm(self.view, self.clocks, self.now_s)
            if acted is not None:
                return self.now_s - START_S, acted
            self.watching.evidence(self.now_s, to_probe(self.view, self.clocks, self.now_s))
        return None


def expect(rehearsal: Rehearsal, why: ActReason, at_s: float, slack_s: float = 0.5) -> ev.Acted:
    """The alarm, which must come at `at_s` or at most `slack_s` later."""
    found = rehearsal.alarm()
    assert found is not None
    assert found[1].why is why
    assert at_s <= found[0] <= at_s + slack_s
    return found[1]


def everybody(*steps: Step, ranks: int) -> list[Program]:
    return [steps] * ranks


# -- exit --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("others", [[Collect()], [Work(30)], [Idle(30)], []])
def test_a_death_ends_the_test_when_its_companions_had_time_to_show(others: list[Step]) -> None:
    acted = expect(Rehearsal([Work(2), Die()], others, others), ActReason.EXIT, 2 + SETTLE_S, 0.1)
    assert acted.test == 0


def test_the_first_of_several_deaths_counts() -> None:
    expect(Rehearsal([Work(2), Die()], [Work(2.1), Die()], [Collect()]), ActReason.EXIT, 2 + SETTLE_S, 0.1)


def test_a_rank_that_ends_after_it_finished_is_an_exit_too() -> None:
    rehearsal = Rehearsal([], [Work(5)])
    rehearsal.watching.advance(START_S + 1)
    rehearsal.run.box(START_S + 1, ev.RankExited(0, 0))
    expect(rehearsal, ActReason.EXIT, 1 + SETTLE_S, 0.1)


def test_a_rank_that_the_box_ended_is_no_alarm() -> None:
    rehearsal = Rehearsal([Idle(FOREVER)], [Work(5)])
    rehearsal.run.box(START_S + 1, ev.RankExited(0, None, "SIGTERM", expected=True))
    assert rehearsal.alarm(10) is None


# -- mismatch ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("odd", [Collect("gloo:broadcast"), Collect(numel=4)])
def test_a_mismatch_ends_the_test(odd: Collect) -> None:
    acted = expect(
        Rehearsal([Work(2), Collect()], [Work(2), odd], [Work(2), Collect()]), ActReason.MISMATCH, 2 + 2 * SETTLE_S
    )
    assert "#1 of group 0" in acted.detail


def test_a_mismatch_that_nobody_waits_for_is_found_too() -> None:
    programs: list[Program] = [[Collect(wait=False), Work(30)], [Collect("gloo:broadcast", wait=False), Work(30)]]
    expect(Rehearsal(*programs), ActReason.MISMATCH, 2 * SETTLE_S)


@pytest.mark.parametrize("op", ["gloo:all_to_all", "nccl:scatter"])
def test_uneven_sizes_are_no_mismatch_where_they_are_allowed(op: str) -> None:
    programs: list[Program] = [[Collect(op, numel=n, wait=False), Work(9)] for n in (1, 2, 3)]
    assert Rehearsal(*programs).alarm() is None


def test_other_groups_may_do_other_things() -> None:
    left, right = (0, 1), (2, 3)
    programs: list[Program] = [
        [Collect(op, group, ranks), Collect()]
        for op, group, ranks in [("gloo:all_reduce", "1", left)] * 2 + [("gloo:broadcast", "2", right)] * 2
    ]
    assert Rehearsal(*programs).alarm() is None


# -- a failure, and all others wait ------------------------------------------------------------------------------


@pytest.mark.parametrize("ranks", [2, 4, 8])
def test_a_failure_ends_the_test_when_everybody_else_waits(ranks: int) -> None:
    programs: list[Program] = [[Work(3), Fail()], *everybody(Collect(), ranks=ranks - 1)]
    acted = expect(Rehearsal(*programs), ActReason.FAILURE_STUCK, 3 + STUCK_S, 0.5)
    assert (acted.waiting, acted.missing) == (tuple(range(1, ranks)), (0,))


def test_the_failed_rank_may_be_stuck_in_its_teardown() -> None:
    expect(
        Rehearsal([Work(1), Fail(), Collect("gloo:barrier", "1", (0, 1))], [Collect()]), ActReason.FAILURE_STUCK, 1, 1.5
    )


def test_a_rank_that_left_early_counts_as_lost() -> None:
    acted = expect(Rehearsal([Work(1)], [Collect()], [Collect()]), ActReason.FAILURE_STUCK, 1 + STUCK_S, 0.5)
    assert acted.missing == (0,)


def test_nothing_ends_while_somebody_still_works() -> None:
    expect(Rehearsal([Fail()], [Work(3), Collect()], [Collect()]), ActReason.FAILURE_STUCK, 3 + STUCK_S, 1.0)


@pytest.mark.parametrize("busy", [Idle(20), Work(20), Compile(3.5)])
def test_everybody_else_may_come_through_by_itself(busy: Step) -> None:
    assert Rehearsal([Fail()], [busy], [Work(20)]).alarm() is None


def test_a_failure_and_a_wait_that_only_stacks_show() -> None:
    expect(Rehearsal([Work(2), Fail()], [Receive(FOREVER)]), ActReason.FAILURE_STUCK, 2 + STUCK_BY_STACK_S, 1.0)


def test_a_failed_test_whose_others_go_on_together_runs_to_its_end() -> None:
    pair = (1, 2)
    steps: Program = [Collect("gloo:all_reduce", "1", pair), Work(0.4)]
    programs: list[Program] = [[Fail()], *everybody(*[*steps] * 9, ranks=2)]
    assert Rehearsal(*programs).alarm() is None


SLOW_S = 3.0


def slow(op: str = "gloo:all_reduce", ranks: tuple[int, ...] | None = None, lasts_s: float = SLOW_S) -> Collect:
    """Its bytes take their time once all have come: gloo's threads move them while the main thread sleeps."""
    return Collect(op, "1" if ranks else "0", ranks, lasts_s=lasts_s)


@pytest.mark.parametrize("op", ["gloo:all_reduce", "gloo:reduce", "gloo:broadcast", "gloo:scatter", "gloo:all_to_all"])
def test_a_slow_collective_of_a_group_may_end_when_others_have_left(op: str) -> None:
    """A rank that is no member has nothing else to do."""
    some = slow(op, (0, 1, 2))
    assert Rehearsal([some], [some], [some], []).alarm() is None
    assert Rehearsal([Work(1), some], [some], [Idle(1.5), some], [], [Idle(2)]).alarm() is None


def test_a_slow_collective_may_end_when_some_members_are_through_with_it() -> None:
    """Those that send to the root go on, and leave, before it has everything."""
    gathers, sends = slow("gloo:gather"), Collect("gloo:gather", wait=False)
    assert Rehearsal([gathers], [sends], [sends], [sends]).alarm() is None
    assert Rehearsal([Work(1), gathers], [sends], [Idle(1.5), sends], [sends]).alarm() is None


def test_a_slow_collective_may_end_when_a_rank_failed() -> None:
    some = slow(ranks=(1, 2))
    assert Rehearsal([Fail()], [some], [some]).alarm() is None


def test_who_waits_for_a_member_of_a_slow_collective_may_come_through() -> None:
    some, all_three = slow(ranks=(0, 1)), Collect("gloo:barrier", "2", (0, 1, 2))
    assert Rehearsal([some, all_three], [some, all_three], [all_three], []).alarm() is None


def test_a_rank_in_a_slow_collective_may_have_another_open_that_a_lost_one_never_enters() -> None:
    beside, some = Collect(wait=False), slow(ranks=(0, 1))
    assert Rehearsal([beside, some], [beside, some], []).alarm(0.9 * SLOW_S) is None


def test_a_slow_message_may_arrive_when_others_have_left() -> None:
    """Which of the two sends isn't recorded."""
    assert Rehearsal([Receive(SLOW_S)], [Receive(SLOW_S)], [], []).alarm() is None


def test_a_slow_message_may_arrive_from_a_rank_that_waits_for_another() -> None:
    """Rank 1 sends in the background."""
    pair = Collect("gloo:barrier", "1", (0, 1))
    assert Rehearsal([Receive(SLOW_S), pair], [pair], []).alarm() is None


def test_a_group_is_slow_to_be_made_when_others_have_left() -> None:
    """All members are making it: a name server may take seconds."""
    rehearsal = Rehearsal([Receive(SLOW_S)], [Receive(SLOW_S)], [])
    for rank in (0, 1):
        rehearsal.run.rank(START_S, ev.GroupBegun(rank, 0, "1", (0, 1), 2, True))
    assert rehearsal.alarm() is None


def test_a_group_that_one_member_never_makes_ends_the_test_when_that_one_has_left() -> None:
    rehearsal = Rehearsal([Receive(FOREVER)], [Receive(FOREVER)], [])
    for rank in (0, 1):
        rehearsal.run.rank(START_S, ev.GroupBegun(rank, 0, "1", (0, 1, 2), 3, True))
    acted = expect(rehearsal, ActReason.FAILURE_STUCK, STUCK_BY_STACK_S, 1.0)
    assert (acted.waiting, acted.missing) == ((0, 1), (2,))


def test_ranks_that_use_a_group_which_nobody_announced_may_be_all_of_it() -> None:
    """Two pairs of one name: ranks 2 and 3 did less in theirs, and have left."""
    some, alike = slow(ranks=(0, 1)), Collect("gloo:all_reduce", "1", (2, 3))
    assert unannounced([some, some], [some, some], [alike], [alike]).alarm() is None


def unannounced(*programs: Program) -> Rehearsal:
    """Groups whose members nobody tells."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Ranks, "_groups", lambda *_: {})
        return Rehearsal(*programs)


def test_what_could_still_come_through_ends_at_the_stall_limit() -> None:
    expect(Rehearsal([Receive(FOREVER)], [Receive(FOREVER)], []), ActReason.STALL, LIMITS.stall, SLACK_S)
    for_ever = slow(ranks=(0, 1), lasts_s=FOREVER)
    acted = expect(Rehearsal([for_ever], [for_ever], []), ActReason.STALL, LIMITS.stall, SLACK_S)
    assert (acted.waiting, acted.missing) == ((0, 1), ())


@pytest.mark.parametrize("left", [1, 3])
def test_a_call_that_only_a_stack_shows_may_be_answered_when_all_others_have_left(left: int) -> None:
    """By a message that is still on its way, by a thread that a rank left behind, by a child process."""
    assert Rehearsal([Receive(SLOW_S)], *everybody(ranks=left)).alarm() is None
    expect(Rehearsal([Receive(FOREVER)], *everybody(ranks=left)), ActReason.STALL, LIMITS.stall, SLACK_S)


# -- stall, skew, compile ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("away", [Work(FOREVER), Idle(FOREVER)])
@pytest.mark.parametrize("ranks", [2, 8])
def test_waiting_for_a_living_peer_ends_at_the_stall_limit(away: Step, ranks: int) -> None:
    programs = [[away], *everybody(Work(1), Collect(), ranks=ranks - 1)]
    acted = expect(Rehearsal(*programs), ActReason.STALL, 1 + LIMITS.stall, SLACK_S)
    assert (acted.waiting, acted.missing, acted.compiling) == (tuple(range(1, ranks)), (0,), ())
    assert acted.waited_s == pytest.approx(LIMITS.stall, abs=SLACK_S)
    assert "all_reduce #1" in acted.detail


def test_waiting_for_a_message_ends_at_the_stall_limit() -> None:
    acted = expect(Rehearsal([Receive(FOREVER)], [Work(FOREVER)]), ActReason.STALL, LIMITS.stall, SLACK_S + 1)
    assert (acted.waiting, acted.missing) == ((0,), (1,))


def worlds(rehearsal: Rehearsal, *begun: tuple[int, str, int], made: bool = True) -> Rehearsal:
    """(rank, world, size) of default groups that aren't the whole launch."""
    for rank, scope, size in begun:
        rehearsal.run.rank(START_S, ev.GroupBegun(rank, 0, "0", (), size, True, scope, True))
        if made:
            rehearsal.run.rank(START_S, ev.GroupCreated(rank, 0, "0", (), "gloo"))
    return rehearsal


PAIR = (0, "a", 2), (1, "a", 2)


@pytest.mark.parametrize("away", [Work(FOREVER), Idle(FOREVER)])
@pytest.mark.parametrize("pair", [[Work(20)], [Idle(20)], []], ids=["computes", "sleeps", "has left"])
def test_waiting_for_a_world_of_its_own_ends_at_the_stall_limit(away: Step, pair: list[Step]) -> None:
    """Who will be in it is not known; ranks that are in another one are not missing."""
    rehearsal = worlds(Rehearsal(pair, pair, [Receive(FOREVER)], [away]), *PAIR)
    acted = expect(worlds(rehearsal, (2, "b", 2), made=False), ActReason.STALL, LIMITS.stall, SLACK_S)
    assert (acted.waiting, acted.missing) == ((2,), (3,))


def test_waiting_in_a_world_to_which_not_all_came_ends_at_the_stall_limit() -> None:
    """NCCL makes a group without its peers."""
    rehearsal = Rehearsal([Work(20)], [Work(20)], [Collect(group="0", ranks=(2, 3))], [Idle(FOREVER)])
    acted = expect(worlds(rehearsal, *PAIR, (2, "b", 2)), ActReason.STALL, LIMITS.stall, SLACK_S)
    assert (acted.waiting, acted.missing) == ((2,), (3,))


def test_waiting_for_a_world_beside_the_default_group_ends_at_the_stall_limit() -> None:
    rehearsal = Rehearsal([Receive(FOREVER)], [Work(FOREVER)], [Receive(FOREVER)], [Idle(FOREVER)])
    for rank in (0, 2):
        rehearsal.run.rank(START_S, ev.GroupBegun(rank, 0, "weights", (), 3, True, "a"))
    acted = expect(rehearsal, ActReason.STALL, LIMITS.stall, SLACK_S)
    assert (acted.waiting, acted.missing) == ((0, 2), (1, 3))


@pytest.mark.parametrize("late", [Work(0.8 * LIMITS.stall), Idle(0.8 * LIMITS.stall)])
def test_a_pair_that_is_slow_to_find_together_is_left_alone(late: Step) -> None:
    rehearsal = Rehearsal([Work(20)], [Idle(20)], [Receive(0.8 * LIMITS.stall), Work(9)], [late, Work(9)])
    assert worlds(worlds(rehearsal, *PAIR), (2, "b", 2), made=False).alarm() is None


def test_nobody_in_another_world_is_missing_where_two_ranks_look_for_each_other() -> None:
    """Rank 3 has another address: that ranks 0 and 1 compute meanwhile is nothing to them. They may still find together
    when those have left.
    """
    rehearsal = worlds(Rehearsal([Work(20)], [Work(20)], [Receive(FOREVER)], [Receive(FOREVER)]), *PAIR)
    acted = expect(worlds(rehearsal, (2, "b", 2), (3, "c", 2), made=False), ActReason.STALL, 20 + LIMITS.stall, SLACK_S)
    assert (acted.waiting, acted.missing) == ((2, 3), ())


def test_waiting_for_a_compiling_peer_ends_at_the_skew_limit() -> None:
    acted = expect(Rehearsal([Compile(FOREVER)], [Collect()], [Collect()]), ActReason.SKEW, LIMITS.skew, SLACK_S)
    assert (acted.waiting, acted.missing, acted.compiling) == ((1, 2), (0,), (0,))


def test_a_peer_that_compiles_first_and_sleeps_then_is_a_stall() -> None:
    expect(Rehearsal([Compile(3), Idle(FOREVER)], [Collect()]), ActReason.STALL, 3 + LIMITS.stall, SLACK_S)


def test_the_two_clocks_do_not_add_up() -> None:
    expect(Rehearsal([Idle(3), Compile(FOREVER)], [Collect()]), ActReason.SKEW, 3 + LIMITS.skew, SLACK_S)


def test_waits_one_after_another_do_not_add_up() -> None:
    pause = 0.8 * LIMITS.stall
    programs: list[Program] = [[Idle(pause), Collect()] * 5, [Collect()] * 5]
    assert Rehearsal(*programs).alarm() is None


def test_a_wait_behind_a_wait_for_a_compiling_peer_has_the_skew_limit_too() -> None:
    near, far = (Collect(group=g, ranks=r) for g, r in (("1", (0, 1)), ("2", (1, 2))))
    acted = expect(Rehearsal([near], [far, near], [Compile(FOREVER)]), ActReason.SKEW, LIMITS.skew, SLACK_S)
    assert acted.compiling == (2,)


def test_a_compiling_peer_does_not_excuse_another_that_sleeps() -> None:
    acted = expect(Rehearsal([Compile(FOREVER)], [Idle(FOREVER)], [Collect()]), ActReason.STALL, LIMITS.stall, SLACK_S)
    assert (acted.missing, acted.compiling) == ((0, 1), (0,))


def test_a_compile_that_makes_no_progress_ends_at_the_stall_limit() -> None:
    acted = expect(Rehearsal([Work(1), StuckCompile(FOREVER)], [Collect()]), ActReason.STALL, 1 + LIMITS.stall, SLACK_S)
    assert acted.compiling == (0,)
    assert "no progress" in acted.detail


@pytest.mark.parametrize("warm_up", [False, True])
def test_who_watches_is_told_of_the_limit_on_a_compile_without_progress(warm_up: bool) -> None:
    """Others may wait longer for a compile, in a warm-up much longer, but not for one in which nothing moves."""
    limits = replace(LIMITS, skew=3 * LIMITS.stall, test=9 * LIMITS.stall)
    rehearsal = Rehearsal([WARM_UP] * warm_up + [Work(1), StuckCompile(FOREVER)], [Collect()], limits=limits)
    assert rehearsal.alarm(until_s=1 + 0.75 * LIMITS.stall) is None
    near = min(counting(rehearsal.view, rehearsal.clocks, rehearsal.now_s), key=lambda one: one.left_s)
    assert (near.name, near.ranks) == ("stall", (0,))
    expect(rehearsal, ActReason.STALL, rehearsal.now_s - START_S + near.left_s - SLACK_S, 2 * SLACK_S)


def test_a_compile_that_goes_on_is_not_near_that_limit() -> None:
    rehearsal = Rehearsal([Compile(FOREVER)], [Collect()])
    assert rehearsal.alarm(until_s=0.75 * LIMITS.skew) is None
    counts = counting(rehearsal.view, rehearsal.clocks, rehearsal.now_s)
    assert {one.name for one in counts} == {"test", "skew", "compile"}


def test_the_limit_on_compiling_peers_counts_only_while_one_compiles() -> None:
    """Seconds of a clock that has stopped end no test. How long the wait has lasted is no matter of clocks."""
    rehearsal = Rehearsal([Compile(3), Idle(FOREVER)], [Collect()])
    assert rehearsal.alarm(until_s=2.5) is None
    assert [one.name for one in counting_of_waits(rehearsal)] == ["skew"]
    assert rehearsal.alarm(until_s=3 + 0.6 * LIMITS.stall) is None
    (stall,) = counting_of_waits(rehearsal)
    assert (stall.name, stall.ranks) == ("stall", (0,))
    assert stall.seconds == pytest.approx(0.6 * LIMITS.stall, abs=0.5)
    assert stall.waited_s == pytest.approx(3 + 0.6 * LIMITS.stall, abs=0.5)


def test_who_watches_costs_no_second_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 1,024 ranks that wait for each other, one takes tens of milliseconds."""
    rehearsal = Rehearsal([Idle(FOREVER)], [Collect()])
    assert rehearsal.alarm(until_s=0.5 * LIMITS.stall) is None
    monkeypatch.setattr(alarms, "wait_graph", lambda *_: pytest.fail("built again"))
    assert [one.ranks for one in counting_of_waits(rehearsal)] == [(0,)]


def counting_of_waits(rehearsal: Rehearsal) -> list[Counted]:
    return [one for one in counting(rehearsal.view, rehearsal.clocks, rehearsal.now_s) if one.wait is not None]


def test_two_limits_on_one_wait_do_not_make_it_last_longer() -> None:
    """One peer compiles and another one sleeps, so both clocks run; before, who waits had something to do."""
    rehearsal = Rehearsal([Compile(FOREVER)], [Idle(FOREVER)], [Collect(wait=False), Work(4), Collect(group="1")])
    assert rehearsal.alarm(until_s=4 + 0.6 * LIMITS.stall) is None
    found = counting_of_waits(rehearsal)
    assert {one.name for one in found} == {"skew", "stall"}
    assert all(one.waited_s == pytest.approx(0.6 * LIMITS.stall, abs=0.5) for one in found)


def test_who_watches_sees_the_recorded_end_of_a_chain() -> None:
    """For whom rank 2 waits is a guess, by which limits count; for whom ranks 0 and 1 wait is known."""
    collect = Collect(group="1", ranks=(0, 1, 2))
    rehearsal = Rehearsal([collect], [collect], [Receive(FOREVER)], [Idle(FOREVER)])
    assert rehearsal.alarm(until_s=0.8 * LIMITS.stall) is None
    awaited = {one.the_wait.waiting: (one.ranks, one.guessed) for one in counting_of_waits(rehearsal)}
    assert awaited == {(0, 1): ((2,), False), (2,): ((3,), True)}
    assert set(rehearsal.clocks.late.values()) == {(3,)}


def test_a_compile_that_sleeps_has_the_skew_limit() -> None:
    expect(Rehearsal([StuckCompile(FOREVER, asleep=True)], [Collect()]), ActReason.SKEW, LIMITS.skew, SLACK_S)


def test_loading_the_compiler_is_compiling() -> None:
    """No counter tells of it, so the stack of a missing peer is asked for before it is called late."""
    acted = expect(Rehearsal([Import(FOREVER)], [Collect()]), ActReason.SKEW, LIMITS.skew, SLACK_S)
    assert acted.compiling == (0,)
    patient = replace(LIMITS, stall=30.0)
    expect(Rehearsal([Import(FOREVER)], [Collect()], limits=patient), ActReason.SKEW, LIMITS.skew, SLACK_S)
    near_skew = 0.9 * LIMITS.skew
    loads: Program = [Work(15), Import(2), Compile(2), Collect()]
    assert Rehearsal(loads, [Collect()], limits=patient).alarm() is None  # what came before the import was no compile
    assert Rehearsal([Import(near_skew), Collect()], [Collect()]).alarm() is None
    assert Rehearsal([Import(near_skew / 2), Compile(near_skew / 2), Collect()], [Collect()]).alarm() is None
    expect(Rehearsal([Import(1), Idle(FOREVER)], [Collect()]), ActReason.STALL, LIMITS.stall, SLACK_S)


def test_one_stuck_compile_beside_another_that_moves_has_the_skew_limit() -> None:
    expect(Rehearsal([StuckCompile(FOREVER)], [Compile(FOREVER)], [Collect()]), ActReason.SKEW, LIMITS.skew, SLACK_S)


def test_waiting_for_the_lock_of_a_compiling_process_has_the_skew_limit() -> None:
    expect(Rehearsal([StuckCompile(FOREVER, lock=True)], [Collect()]), ActReason.SKEW, LIMITS.skew, SLACK_S)


def test_nobody_compiles_longer_than_the_compile_limit() -> None:
    expect(Rehearsal(*everybody(Work(1), Compile(FOREVER), ranks=4)), ActReason.COMPILE, 1 + LIMITS.compile, SLACK_S)


def test_several_compiles_do_not_add_up() -> None:
    step = (Compile(0.7 * LIMITS.compile), Work(2))
    assert Rehearsal(*everybody(*step, *step, *step, ranks=2)).alarm() is None


WARM_UP, WARM = Phase("warmup"), Phase("warmup", over=True)


def test_who_compiles_in_a_warm_up_is_waited_for_as_long_as_a_compile_may_take() -> None:
    waits: Program = [WARM_UP, Collect(), WARM]
    for long in ((Compile(0.9 * LIMITS.compile),), (Import(1), Compile(2 * LIMITS.skew))):
        assert Rehearsal([WARM_UP, *long, Collect(), WARM], waits, waits).alarm() is None
    expect(Rehearsal([WARM_UP, Compile(FOREVER)], waits, waits), ActReason.COMPILE, LIMITS.compile, SLACK_S)
    many: Program = [Compile(0.7 * LIMITS.compile), Idle(1.0)] * 2
    expect(Rehearsal([WARM_UP, *many, Collect()], waits), ActReason.SKEW, LIMITS.compile, SLACK_S)


def test_only_a_warm_up_of_the_one_that_compiles_counts() -> None:
    waits: Program = [WARM_UP, Collect(), WARM]
    expect(Rehearsal([WARM_UP, WARM, Compile(FOREVER)], waits), ActReason.SKEW, LIMITS.skew, SLACK_S)
    expect(Rehearsal([WARM_UP, Compile(FOREVER)], [Compile(FOREVER)], waits), ActReason.SKEW, LIMITS.skew, SLACK_S)
    expect(Rehearsal([WARM_UP, Idle(FOREVER)], waits), ActReason.STALL, LIMITS.stall, SLACK_S)


TIMED_OUT = ev.Error(
    "RuntimeError", "[/gloo/unbound_buffer.cc:78] Timed out waiting 1000ms for recv operation to complete", "", 0, ""
)
NO_STORE = ev.Error("torch.distributed.DistStoreError", "wait timeout after 1000ms, keys: /k", "", 0, "")
IN_TORCH = ev.Error(
    "RuntimeError", "Socket Timeout", "", 0, "", raised_in="/x/site-packages/torch/distributed/distributed_c10d.py"
)


@pytest.mark.parametrize("error", [TIMED_OUT, IN_TORCH], ids=["native", "torch"])
def test_the_time_of_a_missing_peer_goes_on_when_those_that_waited_gave_up(error: ev.Error) -> None:
    """Their own time-out may be shorter than any limit."""
    gives_up: Program = [Work(1), Collect(wait=False), Idle(1), Fail(error)]
    acted = expect(Rehearsal(gives_up, gives_up, [Work(FOREVER)]), ActReason.STALL, 1 + LIMITS.stall, 0.5)
    assert (acted.waiting, acted.missing) == ((0, 1), (2,))
    acted = expect(Rehearsal(gives_up, gives_up, [Compile(FOREVER)]), ActReason.SKEW, 1 + LIMITS.skew, 0.5)
    assert acted.compiling == (2,)


def test_a_rank_that_gave_up_on_a_message_or_a_key_still_lacks_its_peer() -> None:
    gives_up: Program = [Work(1), Fail(NO_STORE)]
    acted = expect(Rehearsal(gives_up, [Idle(FOREVER)]), ActReason.STALL, 1 + LIMITS.stall, 0.5)
    assert (acted.waiting, acted.missing) == ((0,), (1,))


def test_a_missing_peer_that_comes_too_late_ends_the_test_by_itself() -> None:
    gives_up: Program = [Collect(wait=False), Idle(1), Fail(TIMED_OUT)]
    assert Rehearsal(gives_up, gives_up, [Work(3), Collect(wait=False), Idle(1), Fail(TIMED_OUT)]).alarm() is None


def test_a_failure_of_a_ranks_own_gives_the_others_no_limit() -> None:
    assert Rehearsal([Collect(wait=False), Fail()], [Work(3 * LIMITS.stall), Collect(wait=False)]).alarm() is None


def test_what_was_seen_a_while_ago_is_looked_at_again_before_it_ends_a_test() -> None:
    """Rank 0 is through; rank 1 was last seen waiting for it, and goes on to something of its own."""
    reduce = Collect()
    late: Program = [Work(10.2), reduce]
    early: Program = [Work(7.2), reduce, Idle(20)]
    for offset in (0.0, 0.031, 0.062, 0.093):
        assert Rehearsal(late, early, offsets=[offset]).alarm() is None


def test_nccl_ranks_wait_though_they_burn_cpu() -> None:
    op = Collect("nccl:all_reduce")
    expect(Rehearsal([Work(FOREVER)], [op], [op]), ActReason.STALL, LIMITS.stall, SLACK_S)


# -- nobody moves, test limit ------------------------------------------------------------------------------------


def test_waits_for_one_message_after_the_other_do_not_add_up() -> None:
    """The waking in between costs no CPU time that could be seen."""
    receives = [Receive(0.8 * LIMITS.stall)] * 5
    assert Rehearsal([Idle(5 * LIMITS.stall)], receives).alarm() is None
    staggered: list[Program] = [[Idle(0.2 * LIMITS.stall * r), *receives] for r in range(4)]
    assert Rehearsal(*staggered).alarm() is None
    expect(Rehearsal([Idle(FOREVER)], [*receives, Receive(FOREVER)]), ActReason.STALL, 5 * LIMITS.stall, SLACK_S)


def test_all_receive_and_nobody_sends() -> None:
    acted = expect(
        Rehearsal(*everybody(Work(1), Receive(FOREVER), ranks=4)), ActReason.STALL, 1 + LIMITS.stall, SLACK_S
    )
    assert (acted.waiting, acted.missing) == ((0, 1, 2, 3), ())


def test_a_deadlock_across_groups_is_a_hang_of_all() -> None:
    pair = (0, 1)
    one, other = Collect("gloo:all_reduce", "1", pair), Collect("gloo:all_reduce", "2", pair)
    acted = expect(Rehearsal([one, other], [other, one]), ActReason.STALL, LIMITS.stall, SLACK_S)
    assert acted.test == 0


@pytest.mark.parametrize("programs", [[[Work(FOREVER)]] * 2, [[Idle(FOREVER)]] * 2, [[Idle(FOREVER)]]])
def test_where_nobody_communicates_only_the_test_limit_counts(programs: list[Program]) -> None:
    expect(Rehearsal(*programs), ActReason.TEST_LIMIT, LIMITS.test, 0.2)


def test_warm_ups_have_time_of_their_own() -> None:
    """As long as any rank warms up, but no longer than a compile may take."""
    one: Program = [Work(2), WARM_UP, Work(8), WARM, Work(FOREVER)]
    other: Program = [Work(6), WARM_UP, Work(9), WARM, Work(FOREVER)]
    expect(Rehearsal(one, other), ActReason.TEST_LIMIT, LIMITS.test + 13, 0.2)
    expect(
        Rehearsal([WARM_UP, Work(FOREVER)], [Work(FOREVER)]), ActReason.TEST_LIMIT, LIMITS.test + LIMITS.compile, 0.2
    )
    twice: Program = [WARM_UP, Work(3), WARM, Work(3), WARM_UP, Work(4), WARM, Work(FOREVER)]
    expect(Rehearsal(twice), ActReason.TEST_LIMIT, LIMITS.test + 7, 0.2)
    expect(Rehearsal(twice, warmup=WarmUp.RUNS), ActReason.TEST_LIMIT, LIMITS.test, 0.2)
    expect(Rehearsal(twice, warmup=WarmUp.USER_DISABLED), ActReason.TEST_LIMIT, LIMITS.test + 7, 0.2)


def test_a_warm_up_in_which_the_box_stood_still_gives_that_time_once() -> None:
    rehearsal = Rehearsal([WARM_UP, Work(10), WARM, Work(FOREVER)])
    rehearsal.clocks.pauses = [(START_S + 4, START_S + 8)]
    expect(rehearsal, ActReason.TEST_LIMIT, LIMITS.test + 10, 0.2)


def test_an_alarm_needs_no_look_at_all() -> None:
    rehearsal = Rehearsal([Idle(FOREVER)], [Collect()])
    assert alarm(rehearsal.view, Clocks(), START_S + LIMITS.test) is None
    acted = alarm(rehearsal.view, Clocks(), START_S + LIMITS.test + 0.1)
    assert acted is not None
    assert acted.why is ActReason.TEST_LIMIT


# -- no alarm ----------------------------------------------------------------------------------------------------

STEPPING: list[Step] = [Collect(), Work(0.02)]


@pytest.mark.parametrize(
    "programs",
    [
        everybody(Work(50), ranks=4),
        everybody(Idle(50), ranks=4),
        [[Idle(0.9 * LIMITS.stall), Collect()], [Collect()]],
        [[Compile(0.9 * LIMITS.skew), Collect()], [Collect()]],
        [[Work(30), Collect()], [Collect(wait=False), Work(35)]],
        [[Idle(30), Collect()], [Collect(wait=False), Idle(35)]],
        [[Idle(3), Collect(group="1", ranks=(0, 1))], [Collect(wait=False, group="1", ranks=(0, 1)), Idle(4)], []],
        [[Receive(0.8 * LIMITS.stall), Work(1)], [Idle(0.8 * LIMITS.stall)]],
        everybody(*STEPPING * 400, ranks=2),
        [[Compile(15), Collect()]] * 3,
        [[Work(1)], [Work(40)], [Idle(40)]],
        [[Fail()], [Fail()], [Fail()]],
    ],
    ids=[
        "long compute",
        "all sleep",
        "a wait below the limit",
        "a compiling peer below the limit",
        "async beside work",
        "async beside sleep",
        "async beside sleep when others have left",
        "a late message",
        "many collectives",
        "all compile",
        "uneven ends",
        "all fail",
    ],
)
def test_no_alarm_for(programs: list[Program]) -> None:
    assert Ranks(programs).ended
    assert Rehearsal(*programs).alarm() is None


def test_a_step_back_in_time_adds_no_waiting() -> None:
    rehearsal = Rehearsal([Idle(FOREVER)], [Collect()])
    rehearsal.watching.advance(START_S + 1)
    clocks = Clocks()
    for now_s in (START_S + 1, START_S + 3, START_S + 1, START_S + 3):
        clocks.advance(rehearsal.view, now_s)
    assert clocks.plain_s["0", 1] == pytest.approx(4.0)
    clocks.advance(rehearsal.view, START_S - 50)
    assert clocks.plain_s == {} or clocks.plain_s["0", 1] == pytest.approx(4.0)


def looks(rehearsal: Rehearsal) -> list[tuple[float, int]]:
    """At whose stack the box looks, and when; filled while the rehearsal goes on."""
    taken: list[tuple[float, int]] = []
    probe = rehearsal.watching.evidence

    def evidence(at_s: float, stacks_of: tuple[int, ...] | None = None) -> None:
        taken.extend((at_s, r) for r in stacks_of or ())
        probe(at_s, stacks_of)

    rehearsal.watching.evidence = evidence  # type: ignore[method-assign]
    return taken


def test_stacks_are_taken_of_quiet_ranks_and_not_all_the_time() -> None:
    rehearsal = Rehearsal([Work(FOREVER)], [Idle(FOREVER)], [Collect(group="1", ranks=(1, 2))])
    taken = looks(rehearsal)
    assert rehearsal.alarm(3.9) is None
    assert {r for _, r in taken} == {1, 2}
    assert len(taken) <= 8


def test_stacks_are_taken_of_busy_ranks_that_others_wait_for() -> None:
    rehearsal = Rehearsal([Work(FOREVER)], [Work(FOREVER)], [Collect(group="1", ranks=(1, 2))])
    taken = looks(rehearsal)
    assert rehearsal.alarm(3.9) is None
    assert {r for _, r in taken} == {1, 2}
    assert 1 <= sum(r == 1 for _, r in taken) <= 3


def test_ranks_that_wait_a_moment_leave_the_others_alone() -> None:
    programs: list[Program] = [[Work(0.9 if r else 0.1), Collect()] * 10 for r in range(2)]
    rehearsal = Rehearsal(*programs)
    taken = looks(rehearsal)
    assert rehearsal.alarm() is None
    assert [r for _, r in taken if r == 1] == []


# -- whole programs ----------------------------------------------------------------------------------------------


PACES: list[type[Work | Idle | Compile]] = [Work, Idle, Compile]
AWAY: list[Step] = [Idle(FOREVER), Work(FOREVER), Compile(FOREVER), Die(), Fail()]


@st.composite
def healthy(draw: st.DrawFn) -> list[Program]:
    """Round after round all come to the same collectives, one of them later than the others but below the limit."""
    size = draw(st.integers(1, 5))
    programs: list[list[Step]] = [[] for _ in range(size)]
    for _ in range(draw(st.integers(0, 4))):
        members = tuple(range(draw(st.integers(1, size))))
        some = Collect(group=f"g{len(members)}", ranks=members, wait=draw(st.booleans()))
        late = draw(st.integers(0, size - 1))
        for rank, program in enumerate(programs):
            pace = draw(st.sampled_from(PACES))
            program.append(pace(0.85 * LIMITS.stall if rank == late else draw(st.sampled_from([0.0, 0.05, 0.4]))))
            program.extend([some] * (rank in members))
            program.append(Collect())
    last = tuple(range(draw(st.integers(0, size))))  # the others leave meanwhile
    for rank in last:
        programs[rank].append(Collect(group="last", ranks=last, lasts_s=0.3 * LIMITS.stall))
    return list(programs)


OFFSETS = st.lists(st.floats(0.0, 0.09), min_size=1, max_size=4)


@given(healthy(), OFFSETS)
@settings(max_examples=60)
def test_a_healthy_program_is_left_alone(programs: list[Program], offsets: list[float]) -> None:
    assert Ranks(programs).ended
    assert Rehearsal(*programs, offsets=offsets).alarm(1000) is None


@given(healthy(), OFFSETS, st.data())
@settings(max_examples=60)
def test_one_that_never_comes_is_found_in_time(
    programs: list[Program], offsets: list[float], data: st.DataObject
) -> None:
    rank = data.draw(st.integers(0, len(programs) - 1))
    away = data.draw(st.sampled_from(AWAY))
    broken: list[list[Step]] = [list(p) for p in programs]
    broken[rank][data.draw(st.integers(0, len(broken[rank]))) :] = [away]
    truth = Ranks(broken)
    held = any(r != rank and life.end_s == FOREVER for r, life in enumerate(truth.lives))
    last_s = max(a for life in truth.lives for a, _, _ in [(life.clock_s, 0, ""), *life.spans] if a < FOREVER)
    found = Rehearsal(*broken, offsets=offsets).alarm(1000)
    why: ActReason | None
    match away:
        case Die():
            why, limit_s = ActReason.EXIT, SETTLE_S
        case Fail():
            why, limit_s = (ActReason.FAILURE_STUCK if held else None), STUCK_BY_STACK_S
        case Compile():
            why, limit_s = (ActReason.SKEW, LIMITS.skew) if held else (ActReason.COMPILE, LIMITS.compile)
        case _:
            why, limit_s = (ActReason.STALL, LIMITS.stall) if held else (ActReason.TEST_LIMIT, LIMITS.test)
    if why is None:
        assert found is None
        return
    assert found is not None
    assert found[1].why is why
    assert found[0] <= last_s + limit_s + SLACK_S
    if why in ("stall", "skew"):
        assert rank in found[1].missing  # others that wait for it elsewhere may be missing too


@given(any_events())
@settings(max_examples=200)
def test_whatever_ranks_say_there_is_an_answer(events: list[ev.Event]) -> None:
    for view in fold(events).tests.values():
        clocks = Clocks()
        for now_s in (2.0, 2.5, 60.0, 1e9):
            acted = alarm(view, clocks, now_s)
            assert acted is None or acted.test == view.index
            assert set(to_probe(view, clocks, now_s)) <= set(view.ranks)


ISSUED = st.tuples(st.integers(0, 2), st.integers(1, 4), st.sampled_from(["all_reduce", "broadcast"]), st.booleans())


@given(st.lists(ISSUED, max_size=30))
def test_comparing_only_what_is_new_finds_all_that_differs(issued: list[tuple[int, int, str, bool]]) -> None:
    run, clocks = Telling(3), Clocks()
    ranks = {r: v.collectives for r, v in run.test.ranks.items()}
    for i, (rank, seq, op, look) in enumerate(issued):
        entry = ev.Collective("0", seq, op, 8, 8, "Float", "[[8]]", 3.0 + i, False)
        run.rank(4.0 + i, ev.FlightRecorded(rank, 0, FlightOrigin.EVIDENCE, (entry,), ()))
        if look:
            found = disagreements(ranks, run.test.groups, clocks.to_compare(run.test))
            clocks.suspects = {(d.group, d.seq) for d in found}
            assert found == disagreements(ranks, run.test.groups)


# -- devices -----------------------------------------------------------------------------------------------------


def on_devices(*began: bool | None, op: str = "nccl:all_reduce") -> Rehearsal:
    """Ranks that queued a collective (None: didn't) and burn CPU since; whether their devices have begun it."""
    rehearsal = Rehearsal(*[[Work(FOREVER)] for _ in began])
    for rank, started in enumerate(began):
        if started is not None:
            entry = ev.Collective("0", 1, op, 8, 8, "Float", "[[8]]", START_S + 0.1, False, " " in op, 0, started)
            rehearsal.run.box(START_S + 0.1, ev.FlightRecorded(rank, 0, FlightOrigin.POLL, (entry,), ()))
    return rehearsal


def test_devices_that_wait_for_one_that_is_busy_stall() -> None:
    acted = expect(on_devices(True, False, True), ActReason.STALL, LIMITS.stall)
    assert (acted.waiting, acted.missing) == ((0, 2), (1,))


def test_hosts_that_spin_in_a_collective_which_all_devices_began_hang() -> None:
    acted = expect(on_devices(True, True), ActReason.STALL, LIMITS.stall, SLACK_S)
    assert acted.detail == "everybody waits"


def test_devices_that_compute_before_the_collective_may_go_on() -> None:
    acted = expect(on_devices(False, False), ActReason.TEST_LIMIT, LIMITS.test)
    assert acted.missing == ()


def test_a_message_that_nobody_sends_stalls_although_the_host_spins() -> None:
    acted = expect(on_devices(True, None, op="nccl:recv 0<-1"), ActReason.STALL, LIMITS.stall)
    assert (acted.waiting, acted.missing) == ((0,), (1,))


def test_a_failure_is_found_although_the_hosts_of_the_others_spin() -> None:
    """Rank 1 raised; rank 0's device waits for it, and rank 0's host burns CPU meanwhile."""
    rehearsal = on_devices(True, None)
    rehearsal.run.rank(
        START_S + 0.2, ev.Reported(1, 0, TestPhase.CALL, ReportOutcome.FAILED, 0.1, ev.Error("E", "", "", 0, ""))
    )
    rehearsal.run.rank(START_S + 0.3, ev.Finished(1, 0, False))
    expect(rehearsal, ActReason.FAILURE_STUCK, 0.3, SLACK_S)


def test_who_came_late_and_went_at_once_does_not_leave_the_others_hanging() -> None:
    """Rank 1 compiled for longer than `stall`, entered what rank 0 waits in, and is through with the test. That rank 0
    is free is seen at the next look only: a healthy test was ended in between.
    """
    run, clocks = Telling(2, test=False), Clocks()
    run.box(START_S, ev.TestStarted(0, "t", 2, replace(LIMITS, skew=30.0)))
    entry = ev.Collective("0", 1, "gloo:all_reduce", 8, 8, "Float", "[[8]]", START_S + 0.1, False)
    run.box(START_S + 0.1, ev.FlightRecorded(0, 0, FlightOrigin.POLL, (entry,), ()))
    late_s, now_s = START_S + 2 * LIMITS.stall, START_S
    while (now_s := now_s + 0.5) < late_s:
        run.box(now_s, ev.Sampled(1, 0, True, "R", ("compile_inductor",), now_s, now_s, now_s))
        assert alarm(run.test, clocks, now_s) is None
    came = replace(entry, entered_s=late_s, done=True)
    run.rank(late_s, ev.FlightRecorded(1, 0, FlightOrigin.FINISH, (came,), ()))
    run.rank(late_s, ev.Finished(1, 0, True))
    assert alarm(run.test, clocks, late_s + 0.1) is None
    found = [alarm(run.test, clocks, late_s + 0.5 * tick) for tick in range(1, int(2 * LIMITS.stall) + 4)]
    assert [acted.detail for acted in found if acted][:1] == ["everybody waits"]


# -- debuggers ---------------------------------------------------------------------------------------------------


def debugged(*, chosen: int, claims: int) -> Rehearsal:
    """Rank 0 rests for good and rank 1 waits for it; `claims` says after a second that somebody debugs it, and for as
    long as all limits together.
    """
    rehearsal = Rehearsal([Idle(1000)], [Collect()])
    rehearsal.clocks = Clocks(debugged_rank=chosen)
    assert rehearsal.alarm(until_s=1.0) is None
    rehearsal.run.rank(START_S + 1.0, ev.Debugged(claims, 0, 1, True))
    return rehearsal


def test_no_limit_runs_while_somebody_debugs_the_chosen_rank() -> None:
    rehearsal = debugged(chosen=0, claims=0)
    closed_s = 1.0 + LIMITS.test + LIMITS.stall
    assert rehearsal.alarm(until_s=closed_s) is None
    rehearsal.run.rank(START_S + closed_s, ev.Debugged(0, 0, 1, False))
    found = rehearsal.alarm(until_s=closed_s + LIMITS.test)
    assert found is not None
    assert found[1].why is ActReason.STALL
    assert abs(found[0] - (closed_s - 1.0 + LIMITS.stall)) < 1.0


def test_a_rank_that_nobody_chose_has_no_say() -> None:
    found = debugged(chosen=1, claims=0).alarm(until_s=2 * LIMITS.stall)
    assert found is not None
    assert found[1].why is ActReason.STALL
    assert found[0] < LIMITS.stall + 1.0


def test_a_rank_that_died_is_debugged_by_nobody() -> None:
    rehearsal = debugged(chosen=0, claims=0)
    rehearsal.run.box(START_S + 2.0, ev.RankExited(0, 3))
    found = rehearsal.alarm(until_s=5.0)
    assert found is not None
    assert found[1].why is ActReason.EXIT
