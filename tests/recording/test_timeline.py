"""The fold of events: what views say, what is dropped, that nothing makes it raise or grow without end."""

import sys
import typing
from array import array
from collections.abc import Iterator
from dataclasses import fields, is_dataclass, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_megacpp.recording import events as ev
from pytest_megacpp.recording import fold_run, interning
from pytest_megacpp.recording.agreement import disagreements
from pytest_megacpp.recording.events import KEPT_RECORDS
from pytest_megacpp.recording.fold_looks import KEPT_STACKS
from pytest_megacpp.recording.fold_run import KEPT_ATTEMPTS, KEPT_DAMAGE, KEPT_PROBLEMS, KEPT_PROGRESS, MAX_WORLD_SIZE
from pytest_megacpp.recording.fold_tests import KEPT_PHASES
from pytest_megacpp.recording.fold_worlds import FREE_VIEWS, VIEWS_PER_EVENT
from pytest_megacpp.recording.numbers import Numbers
from pytest_megacpp.recording.timeline import Timeline, fold
from pytest_megacpp.recording.views import Phase, TestView
from pytest_megacpp.recording.vocabulary import (
    ActReason,
    FlightOrigin,
    ForwardOrigin,
    ProblemCode,
    Purpose,
    ReportOutcome,
    RunEnd,
    SettingOrigin,
    StackMethod,
    Stage,
    Stream,
    TestEnd,
    TestPhase,
    WorldReason,
)
from pytest_megacpp.recording.waits import Moment, wait_graph
from tests.fuzzing import fuzzer
from tests.recording.samples import PERIOD, sample_fact
from tests.recording.strategies import any_events, streams
from tests.recording.telling import BLOCKED, LIMITS, Telling

PASSED, FAILED = ReportOutcome.PASSED, ReportOutcome.FAILED


def sample(rank: int = 0, *, cpu_s: float = 0.0, main_s: float = 0.0, answered: bool = True, **more: Any) -> ev.Fact:
    fields: dict[str, Any] = {"state": "S", "compiling": (), "compile_s": 0.0, "output_bytes": 0, "test": 0} | more
    return ev.Sampled(rank=rank, answered=answered, cpu_s=cpu_s, main_cpu_s=main_s, **fields)


def look(rank: int, *entries: ev.Collective, origin: FlightOrigin = FlightOrigin.POLL) -> ev.FlightRecorded:
    status = (ev.GroupStatus(0, max((e.seq for e in entries), default=0), 0),)
    return ev.FlightRecorded(rank, 0, origin, entries, status)


def entered(seq: int, at_s: float, done: bool = False) -> ev.Collective:
    return ev.Collective("0", seq, "gloo:all_reduce", 8, 8, "Float", "[[8]]", at_s, done)


# -- run and worlds ----------------------------------------------------------------------------------------------


def test_what_is_known_of_a_run() -> None:
    story = Telling(2, test=False)
    story.box(0.5, ev.TestPlanned(0, "test_a.py::test_a", 2), ev.BoxReady({"torch": "2.13"}, {}), world="")
    story.box(
        0.6,
        ev.EnvironmentSet("A", "1", SettingOrigin.PLUGIN, "so"),
        ev.EnvironmentSet("A", None, SettingOrigin.USER, "no"),
        world="",
    )
    story.box(
        0.7,
        ev.Capability("py-spy", False),
        ev.ProblemFound(ProblemCode.BLOCKED, "box", "no"),
        ev.Progress("x"),
        world="",
    )
    story.box(9.0, ev.RunFinished(RunEnd.COMPLETED), world="")
    run = story.timeline
    assert (run.run_id, list(run.planned), run.last_s) == ("r1", [0], 9.0)
    assert run.environment["A"].value is None
    assert not run.capabilities["py-spy", None].available
    assert [p.code for _, p in run.problems] == ["blocked"]
    assert run.finished is not None
    assert run.finished_s == 9.0


def test_start_up_of_a_world() -> None:
    story = Telling(2, test=False)
    story.box(1.1, ev.RankStarted(0, 100), ev.RankStarted(1, 101))
    story.rank(2.0, ev.RankReady(0, 100, "0x12"), ev.RankCollected(0, Numbers((0,)), "d"))
    story.rank(
        2.5, ev.RankBroken(1, Stage.IMPORT, "ImportError", "no x", ""), ev.RankBroken(1, Stage.PLUGIN, "X", "later", "")
    )
    story.box(3.0, ev.RankExited(1, 1), ev.WorldEnded("start-up failed"))
    world = story.timeline.worlds["w1"]
    assert world.pids == {0: 100, 1: 101}
    assert (list(world.ready), list(world.collected)) == ([0], [0])
    assert world.broken[1][1].message == "no x"
    assert world.exits[1][0] == 3.0
    assert world.ended_s == 3.0
    assert story.timeline.stray == 0


def test_the_first_exit_counts() -> None:
    story = Telling()
    story.box(5.0, ev.RankExited(1, None, "SIGKILL"))
    story.box(6.0, ev.RankExited(1, 0, expected=True))
    assert story.timeline.worlds["w1"].exits[1][1].signal == "SIGKILL"
    assert (story.of(1).exit_s, story.of(1).gone, story.of(1).out) == (5.0, True, True)


def test_a_test_not_reached_names_its_world() -> None:
    story = Telling(test=False)
    story.box(4.0, ev.TestEnded(7, TestEnd.NOT_RUN, "broken"))
    assert story.timeline.unreached[7][0] == "w1"
    assert 7 not in story.timeline.tests


# -- a test ------------------------------------------------------------------------------------------------------


def test_a_rank_goes_through_a_test() -> None:
    story = Telling()
    story.rank(3.0, ev.PhaseStarted(0, 0, "call"), ev.PhaseStarted(0, 0, "step"))
    assert story.of(0).open_phase == "step"
    story.rank(4.0, ev.PhaseEnded(0, 0, "step"), ev.PhaseEnded(0, 0, "never began"))
    assert story.of(0).phases == [Phase("call", 3.0), Phase("step", 3.0, 4.0)]
    story.rank(4.5, ev.Recorded(0, 0, "loss", [1.0]), ev.FirstForward(0, 0, "model", 2.0, ForwardOrigin.TEST))
    story.rank(4.6, ev.Compiled(0, 0, 1.0, 2, 3, 4))
    story.rank(5.0, ev.Reported(0, 0, TestPhase.CALL, ReportOutcome.PASSED, 2.0), ev.Finished(0, 0, True, entered=3))
    rank = story.of(0)
    assert (rank.finished_s, rank.group_clean, rank.out, rank.gone, rank.failure) == (5.0, True, True, False, None)
    assert rank.records == {"loss": [1.0]}
    assert [v.rank for v in story.test.unfinished()] == [1]


def test_the_earliest_failure_counts_and_stays() -> None:
    story = Telling()
    story.rank(6.0, ev.Reported(0, 0, TestPhase.TEARDOWN, ReportOutcome.FAILED, 1.0))
    story.rank(5.0, ev.Reported(0, 0, TestPhase.CALL, ReportOutcome.FAILED, 1.0))
    story.rank(7.0, ev.Reported(0, 0, TestPhase.CALL, ReportOutcome.PASSED, 1.0))
    failure = story.of(0).failure
    assert failure is not None
    assert (failure[0], failure[1].when) == (5.0, "call")


def test_a_test_runs_once() -> None:
    story = Telling()
    story.rank(3.0, ev.Finished(0, 0, True))
    story.box(4.0, ev.TestStarted(0, "again", 2, LIMITS))
    assert story.of(0).finished_s == 3.0
    assert story.timeline.stray == 1


def test_what_ranks_say_while_the_box_ends_them_is_no_testimony() -> None:
    story = Telling()
    story.box(5.0, ev.TestEnded(0, TestEnd.ABORTED, "stall"))
    story.rank(5.1, ev.Reported(0, 0, TestPhase.CALL, ReportOutcome.FAILED, 1.0), ev.Finished(0, 0, False))
    story.box(5.2, ev.RankExited(0, None, "SIGTERM", expected=True))
    assert (story.of(0).failure, story.of(0).finished_s, story.of(0).exit) == (None, None, None)
    assert story.test.ended_s == 5.0


def test_taking_evidence_is_no_progress_and_ends_no_wait() -> None:
    story = Telling()
    story.rank(3.0, look(0, entered(1, 2.9)))
    story.box(9.0, ev.Acted(0, ActReason.STALL), ev.Acted(0, ActReason.TEST_LIMIT))
    busy_s = story.of(0).busy_s
    story.box(9.1, sample(0, main_s=50.0), sample(0, main_s=60.0))
    story.rank(9.2, look(0))
    assert story.test.acted is not None
    assert story.test.acted.why == "stall"
    assert story.of(0).busy_s == busy_s
    assert [w.waiting for w in wait_graph(story.test, Moment()).waits] == [(0,)]


# -- samples -----------------------------------------------------------------------------------------------------


def test_the_main_threads_cpu_time_tells_since_when_it_is_quiet() -> None:
    story = Telling()
    for at_s, main_s in ((3.0, 1.0), (4.0, 1.5), (5.0, 1.51), (6.0, 1.52)):
        story.box(at_s, sample(0, cpu_s=10 * at_s, main_s=main_s))
    assert story.of(0).busy_s == 4.0
    assert story.of(0).progress_s == 6.0


@pytest.mark.parametrize(("share", "computes"), [(0.02, False), (0.1, True)], ids=["housekeeping", "starved"])
def test_a_small_share_of_a_busy_machine_is_computing_too(share: float, computes: bool) -> None:
    story = Telling()
    for look in range(40):
        story.box(3.0 + look / 10, sample(0, cpu_s=share * look / 10, main_s=share * look / 10))
    assert (story.of(0).busy_s > 6.0, story.of(0).progress_s > 6.0) == (computes, computes)


@pytest.mark.parametrize("more", [{"output_bytes": 5}, {"compile_s": 0.5}, {"compiling": ("compile_inductor",)}])
def test_output_and_compiling_are_progress_but_keep_no_thread_busy(more: dict[str, Any]) -> None:
    story = Telling()
    story.box(3.0, sample(0))
    story.box(8.0, sample(0, **more))
    assert (story.of(0).busy_s, story.of(0).progress_s) == (2.0, 8.0)


def test_what_compiles_after_a_collective_is_another_compile() -> None:
    """Looks missed the time between the two."""
    story = Telling()
    story.box(3.0, sample(0, compiling=("a",)))
    story.box(9.0, look(0, entered(1, 8.5)))
    story.box(9.5, sample(0, compiling=("a",)))
    assert (story.of(0).compiling_since_s, story.of(0).compiling) == (8.5, True)
    assert [(phase.start_s, phase.end_s) for phase in story.of(0).compiles] == [(3.0, 8.5), (8.5, None)]


def test_compiling_lasts_until_a_look_says_otherwise() -> None:
    story = Telling()
    story.box(3.0, sample(0, compiling=("a",)))
    story.box(4.0, sample(0, answered=False))
    story.box(5.0, sample(0, compiling=("b",)))
    assert (story.of(0).compiling_since_s, story.of(0).compiling, story.of(0).answered_s) == (3.0, True, 5.0)
    story.box(6.0, sample(0))
    assert not story.of(0).compiling
    story.box(7.0, sample(0, compiling=("a",)))
    story.box(8.0, ev.RankExited(0, 1))
    assert not story.of(0).compiling


def test_collectives_keep_a_rank_busy() -> None:
    story = Telling()
    story.rank(5.0, look(0, entered(1, 4.9)))
    story.rank(6.0, look(0, entered(1, 4.9)))
    assert story.of(0).busy_s == 5.0
    story.rank(7.0, look(0, entered(2, 6.9)))
    assert story.of(0).busy_s == 7.0


# -- stacks ------------------------------------------------------------------------------------------------------


def test_a_thread_that_waits_for_a_peer_is_blocked_since_it_was_last_busy() -> None:
    story = Telling()
    story.box(5.0, ev.StackTaken(0, 0, StackMethod.TRACEBACK, True, BLOCKED))
    assert story.of(0).blocked_since() == 2.0
    story.rank(6.0, ev.PhaseStarted(0, 0, "next"))
    assert story.of(0).blocked_since() is None


@pytest.mark.parametrize("text", ["", "nothing", BLOCKED.replace("distributed_c10d", "nn")])
def test_other_stacks_block_nothing(text: str) -> None:
    story = Telling()
    story.box(5.0, ev.StackTaken(0, 0, StackMethod.TRACEBACK, bool(text), text))
    assert story.of(0).blocked_since() is None


def test_the_newest_readable_stack_counts() -> None:
    story = Telling()
    story.box(
        5.0,
        ev.StackTaken(0, 0, StackMethod.TRACEBACK, True, BLOCKED),
        ev.StackTaken(0, 0, StackMethod.TRACEBACK, False, ""),
    )
    stack = story.of(0).stack()
    assert stack is not None
    assert stack[0] == 5.0


def test_stacks_and_output_outside_a_test_belong_to_the_world() -> None:
    story = Telling(test=False)
    story.box(
        5.0, ev.StackTaken(0, None, StackMethod.TRACEBACK, True, BLOCKED), ev.OutputRead(1, None, Stream.STDERR, "oops")
    )
    world = story.timeline.worlds["w1"]
    assert (list(world.stacks), list(world.output)) == ([0], [(1, "stderr")])


# -- groups ------------------------------------------------------------------------------------------------------


def test_groups_outlive_the_test_that_made_them_and_end_with_the_default_one() -> None:
    story = Telling(4)
    story.rank(3.0, ev.GroupCreated(1, 0, "7", (1, 3)))
    story.box(4.0, ev.TestEnded(0, TestEnd.FINISHED), ev.TestStarted(1, "b", 4, LIMITS))
    second = story.timeline.tests[1]
    assert second.groups.of("7", ()) == {1, 3}
    story.rank(5.0, ev.FlightRecorded(1, 1, FlightOrigin.DESTROY, (), ()), ev.GroupCreated(1, 1, "7", (0, 1)))
    assert second.groups.of("7@1", ()) == {0, 1}
    assert second.groups.of("7", ()) == {1, 3}


def test_a_rank_that_has_made_its_group_does_not_wait_in_it() -> None:
    """Its newest stack shows it there for as long as nobody takes another one."""
    c10d = "/x/site-packages/torch/distributed/distributed_c10d.py"
    story = Telling(2)
    story.rank(3.0, ev.GroupBegun(0, 0, "1", (0, 1), 2, True))
    stack = f'Thread 0x12 (most recent call first):\n  File "{c10d}", line 9 in new_group\n'
    story.box(3.1, ev.StackTaken(0, 0, StackMethod.TRACEBACK, True, stack))
    assert story.of(0).blocked_since() is not None
    assert not story.of(0).would_be_seen_moving()
    story.rank(8.0, ev.GroupCreated(0, 0, "1", (0, 1), "gloo"))
    assert story.of(0).blocked_since() is None


def test_waits_of_a_test() -> None:
    story = Telling(3)
    story.rank(4.0, look(0, entered(3, 3.9)), look(1, entered(2, 3.5, done=True)))
    (wait,) = wait_graph(story.test, Moment()).waits
    assert (wait.waiting, wait.missing, wait.since_s) == ((0,), (1, 2), 3.9)


# -- what does not belong ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fact", "world", "source"),
    [
        (ev.Finished(2, 0, True), "w1", "rank 2"),
        (ev.Finished(-1, 0, True), "w1", "rank -1"),
        (ev.Finished(0, 0, True), "w9", "rank 0"),
        (ev.Finished(0, 0, True), "w1", "rank 1"),
        (ev.Finished(0, 5, True), "w1", "rank 0"),
        (ev.Capability("worker_server", False), "w1", "rank 0"),
        (ev.TestStarted(3, "x", 2, LIMITS), "w1", "rank 0"),
        (ev.RunFinished(RunEnd.COMPLETED), "", "rank 0"),
        (ev.WorldStarted(2, WorldReason.NEXT), "w1", "box"),
        (ev.WorldStarted(0, WorldReason.NEXT), "w2", "box"),
        (ev.WorldStarted(MAX_WORLD_SIZE + 1, WorldReason.NEXT), "w2", "box"),
        (ev.RankExited(4, 0), "w1", "box"),
        (ev.TestPlanned(3, "a", 0), "", "box"),
        (ev.TestPlanned(3, "a", 10**18), "", "box"),
    ],
)
def test_stray_facts_are_counted_and_dropped(fact: ev.Fact, world: str, source: str) -> None:
    story = Telling()
    story.box(4.0, fact, world=world, source=source)
    run = story.timeline
    assert run.stray == 1
    assert (list(run.worlds), list(run.tests), run.finished, run.capabilities) == (["w1"], [0], None, {})
    assert all(v.finished_s is None and not v.gone for v in story.test.ranks.values())


AGAIN = ev.TestPlanned(1, "test_a.py::test_a", 2, of=0, purpose=Purpose.MEASURED)


@pytest.mark.parametrize(
    "other",
    [
        replace(AGAIN, ranks=1),
        replace(AGAIN, nodeid="test_a.py::test_b"),
        replace(AGAIN, must_run=True),
        replace(AGAIN, of=7),
        replace(AGAIN, test=0),
        replace(AGAIN, test=2, of=1),
        replace(AGAIN, purpose=Purpose.WARM_UP),
    ],
)
def test_a_further_attempt_is_one_at_the_same_test_and_stays_so(other: ev.TestPlanned) -> None:
    story = Telling()
    story.box(0.0, ev.TestPlanned(0, "test_a.py::test_a", 2), AGAIN, other, AGAIN, world="")
    assert (story.timeline.stray, story.timeline.attempts(0), story.timeline.test_of(1)) == (1, (0, 1), 0)


def test_attempts_at_one_test_have_an_end() -> None:
    story = Telling()
    story.box(0.0, ev.TestPlanned(0, "test_a.py::test_a", 2), world="")
    story.box(4.0, *(replace(AGAIN, test=number) for number in range(1, 3 * KEPT_ATTEMPTS)), world="")
    assert len(story.timeline.attempts(0)) == 1 + KEPT_ATTEMPTS


def test_a_fact_of_another_worlds_test_is_stray() -> None:
    story = Telling()
    story.box(3.0, ev.WorldStarted(2, WorldReason.NEXT), world="w2")
    story.rank(4.0, ev.Reported(0, 0, TestPhase.CALL, ReportOutcome.FAILED, 1.0), world="w2")
    story.box(4.0, ev.TestEnded(0, TestEnd.ABORTED), world="w2")
    assert story.timeline.stray == 1
    assert story.of(0).failure is None
    assert story.test.ended is None


def test_a_short_recording_can_not_ask_for_much_memory() -> None:
    """Each line would be a test on thousands of ranks."""
    run = Timeline()
    for number in range(200):
        run.add(ev.Event("r", f"w{number}", "box", 0, 1.0, ev.WorldStarted(MAX_WORLD_SIZE, WorldReason.NEXT)))
        run.add(ev.Event("r", f"w{number}", "box", 1, 1.0, ev.TestStarted(number, "a", MAX_WORLD_SIZE, LIMITS)))
    assert sum(test.size for test in run.tests.values()) <= FREE_VIEWS + 400 * VIEWS_PER_EVENT
    assert run.stray == 200 - len(run.tests)


def test_what_the_reader_found_is_counted() -> None:
    story = Telling()
    story.box(4.0, ev.Gap("rank 0", 3, 5), ev.Damaged(7, "torn"), ev.Unknown("newer"), source="reader")
    run = story.timeline
    assert (len(run.gaps), len(run.damaged), run.unknown) == (1, 1, 1)


# -- whatever comes ----------------------------------------------------------------------------------------------


def questions(test: TestView) -> Iterator[object]:
    graph = wait_graph(test, Moment())
    yield graph.waits
    yield graph.roots(graph.waits)
    yield graph.cycle(graph.waits)
    yield disagreements({r: v.collectives for r, v in test.ranks.items()}, test.groups)
    for view in test.ranks.values():
        yield from (view.blocked_since(), view.stack(), view.failure, view.open_phase, view.compiling, view.out)
        yield view.collectives.pending()
        yield view.collectives.last()


@fuzzer(300)
@given(any_events() | streams())
def test_no_event_makes_it_raise_and_its_views_can_be_asked(events: list[ev.Event]) -> None:
    timeline = Timeline()
    for event in events:
        timeline.add(event)
        for world in timeline.worlds.values():
            assert world.test is None or timeline.tests[world.test].world == world.name
    for test in timeline.tests.values():
        assert list(test.ranks) == list(range(test.size))
        assert len(list(questions(test))) > 0
    assert timeline.last_s == max([0.0, *(e.time_s for e in events)])


@given(st.permutations(range(3)), st.lists(st.integers(0, 2), max_size=30))
def test_only_the_order_within_a_source_matters(order: list[int], picks: list[int]) -> None:
    """Facts of different ranks at given times may arrive interleaved in any way."""
    speech: dict[int, list[tuple[float, ev.RankFact]]] = {
        r: [
            (3.0 + r, ev.PhaseStarted(r, 0, "call")),
            (4.0 + r, look(r, entered(1, 3.5 + r))),
            (5.0 + r, ev.Reported(r, 0, TestPhase.CALL, PASSED if r else FAILED, 1.0)),
            (6.0 + r, ev.Finished(r, 0, True)),
        ]
        for r in range(3)
    }
    in_turn, mixed = Telling(3), Telling(3)
    for r in range(3):
        for time_s, fact in speech[r]:
            in_turn.rank(time_s, fact)
    rest = {r: list(facts) for r, facts in speech.items()}
    for r in [*picks, *(r for r in order for _ in range(4))]:
        if rest[r]:
            mixed.rank(rest[r][0][0], rest[r].pop(0)[1])
    assert mixed.test == in_turn.test


def size_of(value: object) -> int:
    """How many things a view holds, all the way down."""
    if is_dataclass(value) and not isinstance(value, type):
        return sum(size_of(getattr(value, f.name)) for f in fields(value))
    if isinstance(value, dict):
        return sum(1 + size_of(v) for v in value.values())
    if isinstance(value, list | tuple | set | frozenset | array):
        return sum(1 + size_of(v) for v in value)
    return 0


def lower_bounds(patch: pytest.MonkeyPatch, most: int) -> None:
    """Whatever has a bound is full after a few facts, wherever in the fold the bound is."""
    for module in [module for name, module in sys.modules.items() if name.startswith("pytest_megacpp.recording.")]:
        for name, value in list(vars(module).items()):
            if name.startswith(("KEPT_", "MAX_")) and isinstance(value, int) and value > most:
                patch.setattr(module, name, most)


@pytest.mark.parametrize("kind", typing.get_args(ev.Fact), ids=lambda kind: kind.__name__)
def test_a_talkative_rank_fills_no_memory(kind: type[ev.Fact], monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor does a talkative box. Samples are derived from the types, so a new kind needs no line here."""
    lower_bounds(monkeypatch, 8)
    story = Telling()
    source = "rank 0" if kind in typing.get_args(ev.RankFact) else "box"

    def tell(first: int) -> int:
        for i in range(first, first + 12 * PERIOD):
            for world in ("", "w1", f"w{i}"):
                story.box(3.0, sample_fact(kind, i), world=world, source=source)
        return size_of(story.timeline)

    full = tell(0)
    assert tell(12 * PERIOD) == full


def test_what_is_kept_is_enough() -> None:
    story = Telling()
    for i in range(2 * KEPT_PHASES):
        story.rank(3.0, ev.PhaseStarted(0, 0, f"p{i}"), ev.Recorded(0, 0, f"k{i}", i))
        story.box(4.0 + i, ev.StackTaken(0, 0, StackMethod.TRACEBACK, True, BLOCKED))
    story.rank(5.0, ev.Recorded(0, 0, "k0", "newer"))
    rank = story.of(0)
    assert (len(rank.phases), len(rank.records), len(rank.stacks)) == (KEPT_PHASES, KEPT_RECORDS, KEPT_STACKS)
    assert rank.records["k0"] == "newer"
    assert rank.stacks[-1][0] == 3.0 + 2 * KEPT_PHASES


def test_reads_of_a_bucket_keep_the_first_path_and_the_largest_count() -> None:
    story = Telling()
    for time_s, name, path, reads in ((3.0, "a", "/b/1", 1), (3.5, "b", "/c/1", 1), (4.0, "a", "/b/2", 7)):
        story.rank(time_s, ev.BucketRead(0, 0, name, path, reads))
    story.rank(5.0, ev.BucketRead(0, 0, "a", "/b/3", 1))
    seen = story.of(0).bucket_reads
    assert [(time_s, fact.path, fact.reads) for time_s, fact in seen.values()] == [(3.0, "/b/1", 7), (3.5, "/c/1", 1)]


def test_problems_and_steps_have_an_end() -> None:
    story = Telling()
    for i in range(2 * KEPT_PROBLEMS):
        story.box(
            3.0 + i,
            ev.ProblemFound(ProblemCode.BLOCKED, "", f"problem {i}"),
            ev.Progress("seed", f"step {i}"),
            world="",
        )
    run = story.timeline
    assert [p.detail for _, p in run.problems] == [f"problem {i}" for i in range(KEPT_PROBLEMS)]
    assert len(run.progress) == KEPT_PROGRESS
    assert run.progress[-1] == (2 + 2 * KEPT_PROBLEMS, ev.Progress("seed", f"step {2 * KEPT_PROBLEMS - 1}"))


def test_a_plan_has_an_end_and_room_for_further_attempts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fold_run, "MAX_TESTS", 3)
    monkeypatch.setattr(fold_run, "MAX_ATTEMPTS", 6)
    story = Telling()
    first = [ev.TestPlanned(i, f"t{i}", 2) for i in range(5)]
    further = [ev.TestPlanned(10 + i, "t0", 2, of=0, purpose=Purpose.MEASURED) for i in range(5)]
    story.box(3.0, *first, *further, *first, *further, world="")
    assert list(story.timeline.planned) == [0, 1, 2, 10, 11, 12]
    assert story.timeline.stray == 2 * (2 + 2)


def test_worlds_have_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fold_run, "MAX_WORLDS", 3)
    story = Telling()
    for i in range(1, 6):
        story.box(3.0, ev.WorldStarted(2, WorldReason.FIRST), world=f"w{i}")
    assert list(story.timeline.worlds) == ["w1", "w2", "w3"]
    assert story.timeline.stray == 2


def test_what_all_ranks_collected_is_kept_once_and_what_is_beyond_measure_not_at_all(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(interning, "KEPT_TEXTS", 5)
    story = Telling(4)
    for rank, name in enumerate("aaab"):
        errors = tuple(ev.CollectError(f"{name}{i}.py", "x") for i in range(3))
        story.rank(3.0, ev.RankCollected(rank, Numbers(range(0, 9, 2)), "d", errors, unplanned=("u",)))
    seen = [fact for _, fact in story.timeline.worlds["w1"].collected.values()]
    assert seen[0].errors is seen[1].errors is seen[2].errors
    assert all(fact.found is seen[0].found for fact in seen)
    assert [len(fact.errors) for fact in seen] == [3, 3, 3, 0]
    assert [len(fact.unplanned) for fact in seen] == [1, 1, 1, 1]
    assert story.timeline.stray == 1


def test_a_recording_of_garbage_fills_no_memory() -> None:
    story = Telling()
    for i in range(KEPT_DAMAGE + 500):
        story.box(3.0, ev.Damaged(i, "not JSON"), ev.Gap("box", i, i), source="reader")
    assert (len(story.timeline.damaged), len(story.timeline.gaps)) == (KEPT_DAMAGE, KEPT_DAMAGE)


@given(streams())
def test_fold_is_add_after_add(events: list[ev.Event]) -> None:
    timeline = Timeline()
    for event in events:
        timeline.add(event)
    assert fold(events) == timeline


def test_looks_that_a_busy_box_writes_late_are_no_clock_that_goes_back() -> None:
    story = Telling()
    story.box(9.0, ev.RankExited(1, 0))
    story.box(5.0, sample(0), ev.StackTaken(0, 0, StackMethod.TRACEBACK, True, BLOCKED))
    story.box(9.5, sample(1))
    assert story.timeline.backwards == 0
    story.box(4.0, sample(1))
    assert story.timeline.backwards == 1


# -- who reads files from a slow disk ------------------------------------------------------------------------------


def on_disk(state: str, main_s: float, main_runs: int, disk_waits: int = 1) -> ev.Fact:
    return sample(main_s=main_s, cpu_s=main_s, state=state, main_runs=main_runs, disk_waits=disk_waits)


def test_who_reads_a_file_bit_by_bit_makes_progress() -> None:
    """Triton hashes its own library when it first compiles: 3 % of a core where the disk is busy."""
    story = Telling()
    for look_ in range(40):
        story.box(3.0 + look_ / 10, on_disk("D", 0.003 * look_, 5 * look_))
    assert story.of(0).progress_s == story.of(0).busy_s == 6.9


def test_a_disk_that_does_not_answer_is_no_progress() -> None:
    story = Telling()
    for look_ in range(40):
        story.box(3.0 + look_ / 10, on_disk("D", 0.1, 5))
    assert (story.of(0).busy_s, story.of(0).progress_s) == (2.0, 2.0)


def test_nor_does_another_thread_tell_of_the_main_thread_that_waits_for_a_disk() -> None:
    story = Telling()
    for look_ in range(40):
        story.box(3.0 + look_ / 10, sample(main_s=0.1, cpu_s=0.1 + look_ / 1000, main_runs=5, state="D", disk_waits=1))
    assert (story.of(0).busy_s, story.of(0).progress_s) == (2.0, 2.0)


def test_a_child_that_reads_a_file_does_not_keep_the_main_thread_busy() -> None:
    story = Telling()
    for look_ in range(40):
        story.box(3.0 + look_ / 10, on_disk("S", 0.003 * look_, 5))
    assert (story.of(0).busy_s, story.of(0).progress_s) == (2.0, 6.9)


# -- where CPU time is sampled in ticks, and nobody counts a thread's runs ------------------------------------------


def ticks(state: str, main_s: float, *, packets: int = 0) -> ev.Fact:
    return sample(main_s=main_s, cpu_s=main_s, state=state, main_runs=None, packets=packets)


def test_a_thread_that_sleeps_ten_milliseconds_at_a_time_computes_nothing() -> None:
    """It is charged up to 65 % of the time."""
    story = Telling()
    for look_ in range(100):
        story.box(3.0 + look_ / 10, ticks("R" if look_ % 20 == 0 else "S", 0.065 * look_))
    assert (story.of(0).busy_s, story.of(0).progress_s) == (2.0, 2.0)


def test_a_thread_that_computes_is_charged_nearly_all_of_the_time() -> None:
    story = Telling()
    for look_ in range(20):
        story.box(3.0 + look_ / 2, ticks("S", 0.78 * look_ / 2))
    assert story.of(0).busy_s >= 12.0
    assert story.of(0).progress_s >= 12.0


def test_a_thread_that_is_seen_running_at_five_looks_in_a_row_computes() -> None:
    """A busy machine charges it little."""
    story = Telling()
    for look_ in range(5):
        assert story.of(0).busy_s == 2.0
        story.box(3.0 + look_ / 10, ticks("R", 0.0))
    assert (story.of(0).busy_s, story.of(0).progress_s) == (3.4, 3.4)


def test_a_thread_that_polls_is_running_at_a_few_looks_in_a_row() -> None:
    """It wakes every millisecond, so one look in eight finds it awake, or waiting for a core."""
    story = Telling()
    for look_ in range(50):
        story.box(3.0 + look_ / 10, ticks("S" if look_ % 5 == 0 else "R", 0.05 * look_))
    assert (story.of(0).busy_s, story.of(0).progress_s) == (2.0, 2.0)


def test_a_wait_that_a_stack_shows_begins_when_the_stack_was_first_seen() -> None:
    story = Telling()
    story.box(3.0, ticks("S", 0.0))
    for time_s in (5.0, 6.0, 9.0):
        story.box(time_s, ev.StackTaken(0, 0, StackMethod.TRACEBACK, True, BLOCKED))
        assert story.of(0).blocked_since() == 5.0
    story.box(10.0, ev.StackTaken(0, 0, StackMethod.TRACEBACK, True, BLOCKED.replace("line 4", "line 5")))
    assert story.of(0).blocked_since() == 10.0


def test_such_a_wait_starts_anew_when_anybody_received_something() -> None:
    story = Telling()
    story.box(3.0, ticks("S", 0.0, packets=7))
    story.box(5.0, ev.StackTaken(0, 0, StackMethod.TRACEBACK, True, BLOCKED))
    story.box(6.0, ticks("S", 0.0, packets=9))
    assert story.of(0).blocked_since() is None
    story.box(7.0, ev.StackTaken(0, 0, StackMethod.TRACEBACK, True, BLOCKED))
    assert story.of(0).blocked_since() == 6.0
