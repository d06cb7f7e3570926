"""The course of a run, driven against a box in memory: whatever ranks do, it ends, and every test gets its end."""

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_megacpp.box import supervisor
from pytest_megacpp.box.actions import EndWorld, Release, Write
from pytest_megacpp.box.alarms import Clocks, alarm
from pytest_megacpp.box.attempts import MAX_ATTEMPTS, warm_up_limits
from pytest_megacpp.box.supervisor import AGAIN_S, START_SETTLE_S
from pytest_megacpp.recording import events as ev
from pytest_megacpp.recording.plan import Again, PlannedTest
from pytest_megacpp.recording.views import TestView
from pytest_megacpp.recording.vocabulary import Lost, Preset, Purpose, ReportOutcome, Stage, TestEnd, TestPhase, WarmUp
from pytest_megacpp.recording.wire import dump_line, encode_fact
from tests.box.simulated import FOREVER, Collect, Compile, Die, Fail, Idle, Program, Receive, Step, Work
from tests.box.simulated_box import LIMITS, Birth, Scenario, SimulatedBox, plan, planned
from tests.recording.strategies import facts
from tests.scenario import FakeBox

MEASURED, WARM_UP, DIAGNOSTIC, DETAIL = Purpose.MEASURED, Purpose.WARM_UP, Purpose.DIAGNOSTIC, Purpose.DETAIL
HEALTHY: Program = (Work(0.1), Collect(), Work(0.1), Collect())
FAULTS: dict[str, tuple[Step, ...]] = {
    "raises": (Fail(),),
    "raises and tears down together": (Fail(), Collect("gloo:barrier")),
    "is killed": (Die(),),
    "exits with 0": (Die(0, None),),
    "leaves early": (),
    "sleeps": (Idle(FOREVER),),
    "loops": (Work(FOREVER),),
    "compiles forever": (Compile(FOREVER),),
    "compiles for a while": (Compile(1.5), Collect(), Collect()),
    "waits for a message": (Receive(FOREVER),),
    "issues something else": (Collect("gloo:broadcast"), Collect()),
    "is late": (Idle(1.0), Collect(), Collect()),
}
HARMLESS = {"compiles for a while", "is late"}


def faulty(size: int, fault: str, rank: int = 0, place: int = 1) -> list[Program]:
    """Healthy ranks and one that goes its own way after `place` steps."""
    programs: list[Program] = [HEALTHY] * size
    programs[rank % size] = (*HEALTHY[:place], *FAULTS[fault])
    return programs


def run(
    *tests: PlannedTest, dry_run: bool = True, maxfail: int = 0, run_s: float = 0.0, **more: object
) -> SimulatedBox:
    scenario = Scenario(plan(*tests, dry_run=dry_run, maxfail=maxfail, run_s=run_s), **more)  # type: ignore[arg-type]
    return SimulatedBox(scenario).run()


def outcomes(box: SimulatedBox) -> dict[int, tuple[str, str]]:
    return {test: (end.reason, end.detail) for test, end in sorted(box.reasons.items())}


def finish(box: SimulatedBox) -> str:
    assert box.finish is not None
    return box.finish.reason


# -- the ordinary course --------------------------------------------------------------------------------------


def test_nothing_to_do() -> None:
    box = run()
    assert (finish(box), box.made) == ("completed", 0)


@pytest.mark.parametrize("size", [1, 2, 4, 8])
def test_one_world_serves_all_tests_of_its_size(size: int) -> None:
    box = run(*[planned(size)] * 4, programs={i: [HEALTHY] * size for i in range(4)})
    assert outcomes(box) == dict.fromkeys(range(4), ("finished", ""))
    assert (box.made, box.released, len(box.supervisor.attempts.failed)) == (1, [0, 1, 2, 3], 0)


def test_worlds_of_several_sizes_live_side_by_side_without_devices_and_one_by_one_with() -> None:
    tests = [planned(2), planned(4), planned(2), planned(4)]
    assert run(*tests, dry_run=True).made == 2
    assert run(*tests, dry_run=False).made == 4


def test_a_fresh_test_gets_a_world_of_its_own() -> None:
    box = run(planned(), planned(fresh=True), planned(), planned())
    assert (box.made, finish(box)) == (3, "completed")


def test_the_world_of_a_failed_test_is_replaced() -> None:
    box = run(planned(), planned(), planned(), programs={0: faulty(2, "raises")})
    assert [r for r, _ in outcomes(box).values()] == ["aborted", "finished", "finished"]
    assert (box.made, len(box.supervisor.attempts.failed)) == (2, 1)


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("size", [1, 2, 8])
def test_whatever_a_rank_does_the_next_test_runs(fault: str, size: int) -> None:
    box = run(planned(size), planned(size), programs={0: faulty(size, fault), 1: [HEALTHY] * size})
    assert outcomes(box)[1] == ("finished", "")
    assert (finish(box), box.released) == ("completed", [0, 1])
    if size > 1:
        assert box.made == (1 if fault in HARMLESS else 2)
        assert len(box.supervisor.attempts.failed) == (0 if fault in HARMLESS else 1)


def test_a_drill_that_fails_does_not_count() -> None:
    tests = planned(drill=True), planned(drill=True), planned(4, drill=True), planned()
    births = {(3, r): Birth.BREAKS for r in range(4)}
    programs = {0: faulty(2, "raises"), 1: faulty(2, "is killed")}
    box = run(*tests, maxfail=1, programs=programs, births=births)
    assert [r for r, _ in outcomes(box).values()] == ["aborted", "aborted", "not-run", "finished"]
    assert (len(box.supervisor.attempts.failed), finish(box)) == (0, "completed")


def test_a_group_is_kept_from_clean_test_to_clean_test_that_asks_for_it() -> None:
    asked: list[bool] = []
    box = SimulatedBox(Scenario(plan(*[planned()] * 5), {i: [HEALTHY] * 2 for i in range(5)}, {}, {0: frozenset({4})}))
    release = box._release

    def released(action: Release) -> None:
        asked.append(action.keep_group)
        release(action)

    box._release = released  # type: ignore[method-assign]
    box.run()
    assert asked == [False, False, True, False]  # ranks say that tests 0, 2 and 4 ask for the lane


@pytest.mark.parametrize(
    ("counted", "goes_on"),
    [(((1, 0), (0, 0)), False), (((1, 0), (1, 0)), True), (((2, 2), (1, 1)), True)],
    ids=["left open", "all had issued it", "groups of some ranks"],
)
def test_a_world_ends_with_a_collective_that_not_all_ranks_issued(
    counted: tuple[tuple[int, int], ...], goes_on: bool
) -> None:
    """To leave such a group may block a rank, and that would be the next test's time."""
    box = FakeBox(2).begins().reports(TestPhase.CALL).phase("teardown").reports(TestPhase.TEARDOWN).after(0.01)
    for rank, (entered, completed) in enumerate(counted):
        box.rank(ev.Finished(rank, box.index, False, entered=entered, completed=completed))
    course = supervisor.Supervisor(plan(planned()), box.timeline())
    course.attempts.queue, course.running, course._worlds = [], 0, {2: box.world}
    assert any(isinstance(action, EndWorld) for action in course.step(box.now_s)) == (not goes_on)


def test_a_test_that_passed_with_different_collectives_counts_as_failed() -> None:
    box = run(planned(), planned(), programs={0: [[Collect(wait=False)], [Collect("gloo:broadcast", wait=False)]]})
    assert outcomes(box)[0] == ("finished", "")
    assert (box.made, len(box.supervisor.attempts.failed)) == (2, 1)


def _half_xfailed() -> FakeBox:
    box = FakeBox(2).begins().reports(TestPhase.CALL, 0, ReportOutcome.SKIPPED, xfail="why")
    return box.reports(TestPhase.CALL, 1, xfail="why").finishes()


@pytest.mark.parametrize(
    ("make_box", "failed", "goes_on"),
    [
        (lambda: FakeBox(2).begins().passes(), 0, True),
        (lambda: FakeBox(2).begins().skips().finishes(), 0, True),
        (lambda: FakeBox(2, must_run=True).begins().skips().finishes(), 1, True),
        (lambda: FakeBox(2).begins().skips(0).reports(TestPhase.CALL, 1).finishes(), 1, False),
        (lambda: FakeBox(2).begins().reports(TestPhase.CALL, 1).finishes(), 1, False),
        (lambda: FakeBox(2).begins().finishes(), 1, False),
        (lambda: FakeBox(2).begins().passes().box(ev.Muted(0, Lost.REPORTS, 0)), 1, False),
        (_half_xfailed, 0, False),
    ],
    ids=["passed", "skipped", "a-gate-takes-no-skip", "half-skipped", "half-silent", "silent", "muted", "half-xfailed"],
)
def test_a_test_counts_as_failed_where_the_desk_calls_it_red(
    make_box: Callable[[], FakeBox], failed: int, goes_on: bool
) -> None:
    """A world in which ranks did different things ends all the same."""
    box = make_box()
    course = supervisor.Supervisor(plan(planned()), box.timeline())
    course.attempts.queue, course.running, course._worlds = [], 0, {2: box.world}
    actions = course.step(box.now_s)
    assert Write(box.world, ev.TestEnded(0, TestEnd.FINISHED)) in actions
    assert len(course.attempts.failed) == failed
    assert any(isinstance(action, EndWorld) for action in actions) == (not goes_on)


@pytest.mark.parametrize(("theirs", "worlds"), [("1-9:aa", 1), ("1-9:bb", 2), ("5-9:bb", 1), ("1:bb", 1), ("", 1)])
def test_only_the_same_stretch_of_collectives_is_compared(theirs: str, worlds: int) -> None:
    box = SimulatedBox(Scenario(plan(planned(), planned())))
    say = box._say

    def counted(at_s: float, world: str, source: str, fact: ev.Fact) -> None:
        if isinstance(fact, ev.Finished):
            fact = replace(fact, digests={"0": "1-9:aa" if fact.rank else theirs} if theirs else {})
        say(at_s, world, source, fact)

    box._say = counted  # type: ignore[method-assign]
    assert box.run().made == worlds


# -- start-up -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("birth", "why", "worlds"),
    [
        (Birth.NEVER, "startup-limit", 2),
        (Birth.BREAKS, "broken", 1),
        (Birth.EXITS, "exit", 2),
        (Birth.EXITS_AT_ONCE, "exit", 2),
    ],
)
@pytest.mark.parametrize("size", [1, 4])
def test_a_rank_that_never_gets_there_costs_two_worlds_at_most(birth: Birth, why: str, worlds: int, size: int) -> None:
    box = run(*[planned(size)] * 5, births={(0, size - 1): birth})
    assert outcomes(box) == dict.fromkeys(range(5), ("not-run", why))
    assert (box.made, box.released, len(box.supervisor.attempts.failed)) == (worlds, [], 5)


def test_other_sizes_go_on_when_one_can_not_start() -> None:
    box = run(planned(4), planned(2), planned(4), planned(2), births={(0, 3): Birth.BREAKS})
    assert [r for r, _ in outcomes(box).values()] == ["not-run", "finished", "not-run", "finished"]


def test_one_bad_start_costs_one_test() -> None:
    box = run(planned(), planned(), planned(), births={(1, 1): Birth.EXITS})
    assert [r for r, _ in outcomes(box).values()] == ["not-run", "finished", "finished"]


def test_a_bad_start_after_a_good_one_is_the_first_again() -> None:
    births = {(1, 0): Birth.EXITS, (3, 0): Birth.EXITS}
    box = run(*[planned()] * 5, births=births, programs={1: faulty(2, "raises")})
    assert [r for r, _ in outcomes(box).values()] == ["not-run", "aborted", "not-run", "finished", "finished"]


@pytest.mark.parametrize("births", [(Birth.BREAKS, Birth.BREAKS_LATE), (Birth.EXITS, Birth.EXITS_LATE)])
def test_ranks_that_fail_to_start_for_one_reason_are_all_waited_for(births: tuple[Birth, Birth]) -> None:
    box = run(planned(2), births={(1, 0): births[0], (1, 1): births[1]})
    world = box.timeline.worlds["w1"]
    of_themselves = world.broken.keys() | {r for r, (_, exited) in world.exits.items() if not exited.expected}
    assert of_themselves == {0, 1}


def test_a_rank_that_never_answers_delays_a_failed_start_by_seconds_only() -> None:
    box = run(planned(2), births={(0, 0): Birth.BREAKS, (0, 1): Birth.NEVER})
    assert outcomes(box)[0] == ("not-run", "broken")
    world = box.timeline.worlds["w1"]
    assert world.ended_s is not None
    assert START_SETTLE_S < world.ended_s - world.broken[0][0] < 2 * START_SETTLE_S


def test_a_slow_rank_is_waited_for() -> None:
    assert outcomes(run(planned(4), births={(0, 2): Birth.SLOW}))[0] == ("finished", "")


def test_a_test_that_a_rank_does_not_find_is_not_run_and_the_others_are() -> None:
    box = run(*[planned()] * 4, lacking={1: frozenset({1, 2})}, programs={i: [HEALTHY] * 2 for i in range(4)})
    assert [r for r, _ in outcomes(box).values()] == ["finished", "not-run", "not-run", "finished"]
    assert (box.made, len(box.supervisor.attempts.failed)) == (1, 2)


# -- between tests --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("delay_s", [0.0, 0.01, 0.2])
def test_a_rank_that_dies_after_its_test_is_replaced_with_its_world(delay_s: float) -> None:
    tests = [planned(), planned(4), planned()]
    box = run(*tests, late_deaths={(0, 1): delay_s}, programs={0: [HEALTHY] * 2, 1: [HEALTHY] * 4})
    assert outcomes(box)[2] == ("finished", "")
    assert box.made == 3


def test_a_rank_that_breaks_between_tests_costs_its_world_only() -> None:
    box = SimulatedBox(Scenario(plan(planned(), planned(4), planned(), planned())))
    broken = ev.RankBroken(0, Stage.PLUGIN, "SystemExit", "", "")
    box._at(0.6, lambda t: box._say(t, "w1", "rank 0", broken))
    box.run()
    assert "w1" in box.timeline.worlds
    assert box.timeline.worlds["w1"].broken
    assert {r for r, _ in outcomes(box).values()} == {"finished"}


# -- early ends -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("maxfail", [1, 2])
def test_no_test_is_released_after_as_many_failures_as_asked_for(maxfail: int) -> None:
    box = run(*[planned()] * 4, maxfail=maxfail, programs={i: faulty(2, "raises") for i in range(4)})
    assert (len(box.released), finish(box)) == (maxfail, "stopped")


def test_not_run_is_a_failure_too() -> None:
    assert run(planned(), planned(4), maxfail=1, births={(1, 0): Birth.EXITS}).released == []
    lacking = run(planned(), planned(), maxfail=1, lacking={0: frozenset({0})})
    assert (lacking.released, finish(lacking)) == ([], "stopped")


def test_a_calm_test_is_asked_less_often_what_is_wrong_until_a_rank_is_through(monkeypatch: pytest.MonkeyPatch) -> None:
    asked_s: list[float] = []

    def counted(view: TestView, clocks: Clocks, now_s: float) -> ev.Acted | None:
        asked_s.append(now_s - view.started_s)
        return alarm(view, clocks, now_s)

    monkeypatch.setattr(supervisor, "alarm", counted)
    box = run(planned(), programs={0: [(Work(4.0),), (Work(5.0),)]})
    pauses = [(begin, end - begin) for begin, end in pairwise(asked_s)]
    assert outcomes(box) == {0: ("finished", "")}
    assert max(pause for begin, pause in pauses if begin < 1.0) < 2 * supervisor.ALARM_EVERY_S
    assert min(pause for begin, pause in pauses if 3.0 < begin < 3.7) > 3 * supervisor.ALARM_EVERY_S
    assert max(pause for begin, pause in pauses if begin > 4.3) < 2 * supervisor.ALARM_EVERY_S


def test_the_run_limit_ends_a_running_test() -> None:
    box = run(planned(), planned(), run_s=2.0, programs={0: [[Work(FOREVER)]] * 2})
    assert outcomes(box) == {0: ("aborted", "run-limit")}
    assert (finish(box), box.acted[0].why) == ("run-limit", "run-limit")
    assert box.now_s < 4.0


def test_a_budget_ends_the_run_in_its_own_words() -> None:
    tests = planned(), planned(), planned()
    scenario = Scenario(replace(plan(*tests), budget_s=3.0), programs={1: [[Work(FOREVER)]] * 2})
    box = SimulatedBox(scenario).run()
    assert outcomes(box) == {0: ("finished", ""), 1: ("aborted", "budget")}
    assert box.finish is not None
    assert (box.finish.reason, box.acted[1].why) == ("budget", "stop")
    assert "after 3 s there is only enough left to end in order" in box.finish.detail
    assert box.now_s < 5.0


@pytest.mark.parametrize("stop_s", [0.0, 0.1, 0.4, 0.9, 1.3, 2.0])
def test_a_stop_ends_the_run_wherever_it_is(stop_s: float) -> None:
    box = run(*[planned(4)] * 3, stop_s=stop_s, programs={i: [(Work(1.0),)] * 4 for i in range(3)})
    assert finish(box) == "interrupted"
    assert set(box.released) <= set(box.reasons)
    assert box.now_s < stop_s + 2.0


# -- a box that stands still ------------------------------------------------------------------------------------


@pytest.mark.parametrize("at_s", [0.3, 0.8, 1.2, 1.6])
@pytest.mark.parametrize("seconds", [2.5, 60.0])
@pytest.mark.parametrize("step", [Idle(1.2), Work(1.2), Compile(1.2)])
def test_nobody_is_blamed_for_what_the_box_did_not_see(at_s: float, seconds: float, step: Step) -> None:
    """Stopped, starved or suspended: afterwards all limits are long over by the clock."""
    programs = {0: [HEALTHY, (step, Collect(), Collect())], 1: [HEALTHY] * 2}
    box = run(planned(), planned(), programs=programs, pauses=[(at_s, seconds)])
    assert outcomes(box) == dict.fromkeys((0, 1), ("finished", ""))
    assert (box.made, box.acted) == (1, {})


@pytest.mark.parametrize("fault", sorted(FAULTS.keys() - HARMLESS))
def test_a_pause_hides_no_fault(fault: str) -> None:
    box = run(planned(), planned(), programs={0: faulty(2, fault), 1: [HEALTHY] * 2}, pauses=[(1.0, 30.0)])
    assert (outcomes(box)[1], len(box.supervisor.attempts.failed)) == (("finished", ""), 1)


# -- any run ---------------------------------------------------------------------------------------------------


@st.composite
def scenarios(draw: st.DrawFn) -> Scenario:
    """Up to six tests and a few things that go wrong, anywhere."""
    sizes = st.sampled_from([1, 2, 2, 4, 8])
    rarely = st.sampled_from([False, False, False, True])
    tests = [planned(draw(sizes), fresh=draw(rarely), drill=draw(rarely)) for _ in range(draw(st.integers(1, 6)))]
    indices = st.integers(0, len(tests) - 1)
    ranks = st.integers(0, 7)
    faults = draw(
        st.dictionaries(indices, st.tuples(st.sampled_from(sorted(FAULTS)), ranks, st.integers(0, 4)), max_size=3)
    )
    programs: dict[int, list[Program]] = {i: [HEALTHY] * t.ranks for i, t in enumerate(tests)}
    programs |= {i: faulty(tests[i].ranks, *fault) for i, fault in faults.items()}
    worlds = st.integers(0, 4)
    return Scenario(
        plan=plan(
            *tests,
            dry_run=draw(st.booleans()),
            maxfail=draw(st.sampled_from([0, 0, 1, 2])),
            run_s=draw(st.sampled_from([0.0, 0.0, 3.0, 12.0])),
        ),
        programs=programs,
        births=draw(st.dictionaries(st.tuples(worlds, ranks), st.sampled_from(Birth), max_size=2)),
        lacking=draw(st.dictionaries(ranks, st.frozensets(indices, max_size=2), max_size=2)),
        late_deaths=draw(st.dictionaries(st.tuples(indices, ranks), st.floats(0.0, 1.0), max_size=2)),
        stop_s=draw(st.none() | st.none() | st.floats(0.0, 20.0)),
        lies=draw(st.lists(st.tuples(st.floats(0.0, 12.0), ranks, lies()), max_size=draw(st.sampled_from([0, 8])))),
        pauses=draw(st.lists(st.tuples(st.floats(0.0, 12.0), st.floats(0.0, 100.0)), max_size=1)),
    )


def lies() -> st.SearchStrategy[bytes]:
    """Any fact about any rank and test at any time, and nonsense."""
    any_test, any_rank = st.integers(-1, 6), st.integers(-1, 7)
    anything = facts(test=any_test, rank=any_rank, found=st.lists(any_test, max_size=3).map(tuple))
    make_box = st.tuples(anything, st.floats(-1e9, 1e9)).map(lambda t: dump_line({"t": t[1]} | encode_fact(t[0])))
    return make_box | st.binary(max_size=40).map(lambda nonsense: nonsense + b"\n")


@given(scenarios())
@settings(max_examples=300)
def test_every_run_ends_and_every_test_has_one_end(scenario: Scenario) -> None:
    """The box in memory holds the supervisor to its promises step by step, and to a bound of steps and seconds."""
    box = SimulatedBox(scenario).run()
    tests = range(len(scenario.plan.tests))
    assert box.made <= len(tests)
    assert box.released == sorted(box.released)
    assert set(box.released) <= set(box.reasons)
    if finish(box) == "completed":
        assert box.ends == dict.fromkeys(tests, 1)
    else:
        assert finish(box) in ("stopped", "run-limit", "interrupted")
    assert all(w.ended is not None for w in box.timeline.worlds.values())
    assert len(box.supervisor.attempts.failed) == sum(_counts(box, test) for test in box.reasons)


def _counts(box: SimulatedBox, test: int) -> bool:
    """Whether a test's end counts for `maxfail`."""
    if box.plan.tests[test].drill:
        return False
    end = box.reasons[test]
    if end.reason != "finished":
        return end.detail not in ("run-limit", "interrupted")
    return any(v.failure for v in box.timeline.tests[test].ranks.values())


def test_limits_used_here_are_short() -> None:
    assert LIMITS.test < 10


# -- attempts -------------------------------------------------------------------------------------------------


def cold(tests: int) -> dict[int, WarmUp]:
    return dict.fromkeys(range(tests), WarmUp.RUNS)


def test_what_compiled_in_its_warm_up_is_measured_in_processes_that_did_not() -> None:
    tests = [planned()] * 3
    box = run(*tests, programs={i: [HEALTHY] * 2 for i in range(6)}, warming=cold(3), compiling=frozenset({0, 2}))
    assert box.released == [0, 1, 2, 3, 4]
    assert (box.timeline.attempts(0), box.timeline.attempts(1), box.timeline.attempts(2)) == ((0, 3), (1,), (2, 4))
    worlds = [box.timeline.tests[test].world for test in box.released]
    assert worlds == ["w1", "w1", "w1", "w2", "w2"]
    limits = [box.timeline.tests[test].limits for test in (0, 3)]
    assert limits == [warm_up_limits(LIMITS), LIMITS]
    assert [box.timeline.tests[test].warmup for test in (0, 3)] == [WarmUp.RUNS, None]


def test_a_further_attempt_is_planned_before_the_one_ends_from_which_it_follows() -> None:
    box = run(planned(), programs={0: [HEALTHY] * 2, 1: [HEALTHY] * 2}, warming=cold(1), compiling=frozenset({0}))
    assert box.planned_at_the_end_of[0] == (0, 1)


@pytest.mark.parametrize("fault", sorted(FAULTS.keys() - HARMLESS))
def test_a_warm_up_that_fails_is_the_result(fault: str) -> None:
    programs = {0: faulty(2, fault)}
    box = run(planned(), programs=programs, warming=cold(1), compiling=frozenset({0}))
    assert (box.released, len(box.supervisor.attempts.failed)) == ([0], 1)


def test_a_peer_that_compiles_is_waited_for_in_a_warm_up() -> None:
    programs = {i: [(Compile(2.8), Collect()), (Collect(),)] for i in range(2)}
    assert outcomes(run(planned(), programs=programs, warming={0: WarmUp.SEED_WARM}))[0] == ("aborted", "skew")
    assert outcomes(run(planned(), programs=programs, warming=cold(1)))[0] == ("finished", "")


# -- a desk that orders attempts --------------------------------------------------------------------------------

SKEWED: list[Program] = [(Compile(2.8), Collect()), (Collect(),)]
WELL: list[Program] = [HEALTHY] * 2


def climbed(scenario: Scenario, *ladders: list[Purpose], **more: Any) -> SimulatedBox:
    """With a desk that wants these attempts at the tests, whatever comes of them."""
    box = SimulatedBox(replace(scenario, plan=replace(scenario.plan, triage=True, **more)))
    left = {item: list(purposes) for item, purposes in enumerate(ladders)}

    def desk(number: int, now_s: float) -> None:
        item = box.timeline.test_of(number)
        if any(n not in box.reasons for n in box.timeline.attempts(item)):
            return
        if left.get(item):
            assert box.hear(Again(item, left[item].pop(0), number), now_s)
        else:
            box.supervisor.settle(item, now_s)

    box.desk = desk
    return box.run()


def test_a_warm_up_that_a_desk_orders_is_followed_by_a_measured_attempt() -> None:
    programs = {0: SKEWED, 1: WELL, 2: SKEWED, 3: WELL}
    box = climbed(Scenario(plan(planned(), planned()), programs, compiling=frozenset({2})), [WARM_UP], [])
    assert outcomes(box) == {0: ("aborted", "skew"), **dict.fromkeys((1, 2, 3), ("finished", ""))}
    assert [box.timeline.planned[n].purpose for n in box.timeline.attempts(0)] == [Purpose.FIRST, WARM_UP, MEASURED]
    assert box.timeline.tests[2].world != box.timeline.tests[3].world
    assert (finish(box), box.supervisor.attempts.failed) == ("completed", set())


def test_a_box_ends_as_soon_as_its_desk_has_enough() -> None:
    box = climbed(Scenario(plan(planned()), {0: WELL}), [])
    assert box.now_s < 5.0


def test_a_failure_that_may_be_none_holds_the_other_tests() -> None:
    programs = {0: SKEWED, 1: WELL, 2: SKEWED, 3: WELL}
    scenario = Scenario(plan(planned(), planned(), maxfail=1), programs, compiling=frozenset({2}))
    box = climbed(scenario, [WARM_UP], [])
    assert (box.released, finish(box)) == ([0, 2, 3, 1], "completed")


def test_a_failure_that_stays_one_ends_the_run_at_once() -> None:
    programs = {0: SKEWED, 1: WELL, 2: faulty(2, "raises")}
    box = climbed(Scenario(plan(planned(), planned(), maxfail=1), programs), [DIAGNOSTIC], [])
    assert (box.released, finish(box)) == ([0, 2], "stopped")
    assert box.now_s < 20.0


def test_a_diagnostic_attempt_makes_no_failure_of_a_test_nor_mends_one() -> None:
    programs = {0: faulty(2, "raises"), 1: WELL, 2: WELL, 3: faulty(2, "raises")}
    box = climbed(Scenario(plan(planned(), planned()), programs), [DIAGNOSTIC], [DIAGNOSTIC])
    assert box.supervisor.attempts.failed == {0}
    assert [box.timeline.tests[n].preset for n in (2, 3)] == [Preset.DIAGNOSTIC] * 2


@pytest.mark.parametrize(
    ("shape", "test", "why"),
    [
        ({"dry_run": False}, planned(), "unsafe-nccl"),
        ({}, replace(planned(), shards=True), "unsafe-fsdp"),
    ],
)
def test_torch_compares_collectives_only_where_that_is_safe(shape: dict[str, Any], test: PlannedTest, why: str) -> None:
    box = climbed(Scenario(plan(test, **shape), {0: faulty(2, "raises")}), [DETAIL])
    assert outcomes(box)[1] == ("not-run", why)
    assert (finish(box), box.released) == ("completed", [0])


def test_what_compares_collectives_has_a_world_of_its_own() -> None:
    box = climbed(Scenario(plan(planned(), planned()), dict.fromkeys(range(4), WELL)), [DETAIL], [DIAGNOSTIC])
    worlds = [box.timeline.tests[n].world for n in (0, 1, 2, 3)]
    assert worlds[0] == worlds[1]
    assert len(set(worlds)) == 3


@pytest.mark.parametrize("money", ["run_s", "budget_s"])
def test_what_can_not_be_paid_for_is_not_begun(money: str) -> None:
    programs = {0: SKEWED, 1: WELL}
    box = climbed(Scenario(plan(planned()), programs), [WARM_UP], **{money: 4.5})
    assert outcomes(box)[1] == ("not-run", "unaffordable")
    assert finish(box) == "completed"


@pytest.mark.parametrize(
    "wanted",
    [
        Again(-1, WARM_UP, 0),
        Again(2, WARM_UP, 0),
        Again(0, Purpose.FIRST, 0),
        Again(0, WARM_UP, 1),
        Again(0, WARM_UP, 7),
        Again(1, WARM_UP, 1),
    ],
)
def test_an_order_without_sense_is_none(wanted: Again) -> None:
    box = SimulatedBox(Scenario(replace(plan(planned(), planned()), triage=True), {0: WELL, 1: [(Work(9.0),)] * 2}))
    heard: list[bool] = []

    def desk(number: int, now_s: float) -> None:
        if number == 0:
            heard.append(box.hear(wanted, now_s))
        box.supervisor.settle(number, now_s)

    box.desk = desk
    box.run()
    assert heard == [False]


def test_an_order_that_comes_twice_is_one_and_nobody_gets_more_than_a_few() -> None:
    box = SimulatedBox(Scenario(replace(plan(planned()), triage=True), dict.fromkeys(range(9), WELL)))
    heard: list[bool] = []

    def desk(number: int, now_s: float) -> None:
        heard.extend(box.hear(Again(0, DIAGNOSTIC, number), now_s) for _ in range(2))
        if not heard[-2]:
            box.supervisor.settle(0, now_s)

    box.desk = desk
    box.run()
    assert heard == [True, False] * 3 + [False, False]


@given(scenarios(), st.randoms(use_true_random=False))
@settings(max_examples=100)
def test_every_ladder_ends(scenario: Scenario, dice: Random) -> None:
    """Whatever a desk wants, and of whichever test."""
    box = SimulatedBox(replace(scenario, plan=replace(scenario.plan, triage=True)), patience_s=400.0)

    def desk(number: int, now_s: float) -> None:
        item = box.timeline.test_of(number)
        wanted = Again(dice.choice([item, 0, 99]), dice.choice(list(Purpose)), dice.choice([number, number + 1]))
        if dice.random() < 0.7:
            box.hear(wanted, now_s)
        if all(n in box.reasons for n in box.timeline.attempts(item)):
            box.supervisor.settle(item, now_s)

    box.desk = desk
    box.run()
    items = range(len(scenario.plan.tests))
    attempts = [number for item in items for number in box.timeline.attempts(item)]
    assert all(len(box.timeline.attempts(item)) <= MAX_ATTEMPTS for item in items)
    assert set(box.released) <= set(box.reasons) <= set(attempts)
    if finish(box) == "completed":
        assert set(box.reasons) == set(attempts)
    assert box.supervisor.attempts.failed <= set(items)


def test_without_triage_nothing_is_tried_again() -> None:
    box = SimulatedBox(Scenario(plan(planned(), planned()), {0: SKEWED, 1: WELL}))
    heard: list[bool] = []
    box.desk = lambda number, now_s: heard.append(box.hear(Again(0, WARM_UP, 0), now_s))
    box.run()
    assert set(heard) == {False}


def test_a_desk_that_says_nothing_is_not_waited_for_for_ever() -> None:
    scenario = Scenario(replace(plan(planned()), triage=True), {0: [HEALTHY] * 2})
    box = SimulatedBox(scenario, patience_s=200.0).run()
    assert AGAIN_S < box.now_s < AGAIN_S + 10
