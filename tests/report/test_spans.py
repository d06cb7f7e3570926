"""A run as spans of time: what each rank was in, from when to when, and what is left out when there is too much."""

import re
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import pytest

from pytest_megacpp.judge.arbiter import judge_run
from pytest_megacpp.judge.phrases import seconds
from pytest_megacpp.judge.verdicts import Code, Verdict
from pytest_megacpp.recording import events as ev
from pytest_megacpp.recording.ranks import ranks_named
from pytest_megacpp.recording.series import Series
from pytest_megacpp.recording.timeline import Timeline, fold
from pytest_megacpp.recording.vocabulary import ActReason, TestEnd
from pytest_megacpp.recording.wire import read_all
from pytest_megacpp.report.collective_spans import LAST_KEPT, OTHERS_NAMED
from pytest_megacpp.report.page.data import page_data
from pytest_megacpp.report.quantities import waited_text
from pytest_megacpp.report.run_spans import run_spans, shares
from pytest_megacpp.report.spans import Kind, MarkKind, OpenWait, RunSpans, Span, WorldSpans
from tests.golden.build import CASES
from tests.golden.drills import cases
from tests.report.pages import results
from tests.scenario import TIMED_OUT, FakeBox

RECORDED = {name: drill.recording for name, drill in cases.load().items()}
RECORDED |= {name: case().recording() for name, case in CASES.items()}
ENDED = ev.TestEnded(0, TestEnd.FINISHED)


def spans_of(timeline: Timeline, most: int = 100_000) -> RunSpans:
    return run_spans(timeline, {test.index: test for test in judge_run(timeline).tests}, most)


def times(spans: RunSpans, rank: int, *kinds: Kind) -> list[tuple[str, float, float]]:
    lane = spans.worlds[0].lanes[rank]
    return [(s.name, round(s.start_s, 3), round(s.end_s, 3)) for s in lane if s.kind in kinds]


def test_a_rank_starts_collects_and_goes_through_the_phases_of_a_test() -> None:
    box = FakeBox(2).begins().after(1).passes().box(ENDED)
    assert times(spans_of(box.timeline()), 1, Kind.START, Kind.COLLECTION, Kind.PHASE) == [
        ("start", 0.0, 0.1),
        ("collection", 0.1, 0.2),
        ("setup", 0.3, 0.35),
        ("call", 0.35, 1.4),
        ("teardown", 1.4, 1.4),
    ]


def test_a_rank_that_never_gets_ready_starts_until_it_dies() -> None:
    box = FakeBox(2).starts_world().readies(0).after(3).exits(1, 3)
    spans = spans_of(box.timeline())
    assert times(spans, 1, Kind.START, Kind.COLLECTION) == [("start", 0.0, 3.2)]
    assert [(m.kind, m.rank, m.text) for m in spans.worlds[0].marks] == [(MarkKind.DEATH, 1, "died (exit 3)")]


def test_what_a_rank_could_not_collect_is_named_where_it_could_not() -> None:
    box = FakeBox(3).starts_world().readies().collects(0).collects(1, (), ("t.py", "no numpy"))
    spans = spans_of(box.collects(2, (), ("t.py", "no numpy"), ("u.py", "no numpy"), ("v.py", "no numpy")).timeline())
    assert [(mark.kind, mark.rank, mark.text) for mark in spans.worlds[0].marks] == [
        (MarkKind.FAILURE, 1, "could not collect t.py"),
        (MarkKind.FAILURE, 2, "could not collect t.py and 2 more"),
    ]


def test_a_collective_lasts_until_its_last_member_came() -> None:
    box = FakeBox(3).begins().enters(0, done=True).after(2).enters((1, 2), done=True).passes().box(ENDED)
    spans = spans_of(box.timeline())
    assert times(spans, 0, Kind.COLLECTIVE) == [("all_reduce(Float [[8]])", 0.4, 2.4)]
    assert times(spans, 1, Kind.COLLECTIVE) == [("all_reduce(Float [[8]])", 2.4, 2.4)]
    assert spans.worlds[0].lanes[0][-2].peers == (1, 2)


def test_a_root_may_be_through_before_others_came_so_nothing_is_said_of_its_length() -> None:
    box = FakeBox(2).begins().enters(0, "gloo:broadcast", done=True).after(2).enters(1, "gloo:broadcast", done=True)
    spans = spans_of(box.passes().box(ENDED).timeline())
    assert times(spans, 0, Kind.COLLECTIVE) == [("broadcast(Float [[8]])", 0.4, 0.4)]
    assert not [s for s in spans.worlds[0].lanes[0] if s.peers]


def test_one_that_lacks_a_member_is_a_wait_until_the_box_acted() -> None:
    box = FakeBox(4).begins().enters((0, 1, 3)).after(5)
    box.box(ev.Acted(0, ActReason.STALL, "all_reduce #1", (0, 1, 3), (2,), (), 5.0)).after(1)
    spans = spans_of(box.box(ev.TestEnded(0, TestEnd.ABORTED, "stall")).timeline())
    assert times(spans, 0, Kind.WAIT) == [("all_reduce(Float [[8]])", 0.4, 5.4)]
    assert times(spans, 2, Kind.WAIT, Kind.COLLECTIVE) == []
    (wait,) = spans.worlds[0].waits[0]
    assert (wait.ranks, wait.peers, wait.number, wait.group) == ((0, 1, 3), (2,), 1, "0")


def test_who_lost_a_peer_waited_for_it_until_it_said_so() -> None:
    box = FakeBox(3).begins().enters((0, 2)).after(1).exits(1, signal="SIGKILL").after(0.5).loses_peer((0, 2))
    spans = spans_of(box.box(ev.TestEnded(0, TestEnd.ABORTED, "exit")).timeline())
    (wait,) = spans.worlds[0].waits[0]
    assert (wait.ranks, wait.peers) == ((0, 2), (1,))
    assert [m.kind for m in spans.worlds[0].marks] == [MarkKind.DEATH, MarkKind.FAILURE, MarkKind.FAILURE]


def test_what_ended_before_a_death_was_no_wait_though_the_dead_rank_was_not_seen_in_it() -> None:
    box = FakeBox(4).begins()
    for seq in range(1, 14):
        box.enters((0, 1, 2, 3) if seq == 1 else (0, 1, 2), seq=seq, done=True).after(0.01)
    box.enters((0, 1, 2), seq=14).after(0.5).exits(3, signal="SIGKILL").after(0.5).loses_peer((0, 1, 2))
    spans = spans_of(box.box(ev.TestEnded(0, TestEnd.ABORTED, "exit")).timeline())
    (wait,) = spans.worlds[0].waits[0]
    assert (wait.ranks, wait.peers, wait.number) == ((0, 1, 2), (3,), 14)
    ended = [s for s in spans.worlds[0].lanes[0] if s.kind is Kind.COLLECTIVE]
    assert [s.number for s in ended] == [*range(1, 14)]
    assert all(s.start_s == s.end_s for s in ended)


def test_who_is_past_it_has_come_whatever_others_mean_by_the_group_s_name() -> None:
    """Rank 1 issued more in their pair than a recorder kept, and failed later."""
    box = FakeBox(4).begins()
    for rank, members in enumerate(((0, 1), (0, 1), (2, 3), (2, 3))):
        box.rank(ev.GroupCreated(rank, box.index, "1", members, "gloo"))
    box.enters(0, group="1", done=True).after(1).enters(1, seq=3, group="1", done=True).after(1).raises(1)
    found = times(spans_of(box.passes((0, 2, 3)).ends().timeline()), 0, Kind.COLLECTIVE)
    assert [end_s - start_s for _, start_s, end_s in found] == [0.0]


def test_what_a_peer_finished_did_not_hold_a_rank_that_died_before_the_next_look() -> None:
    box = FakeBox(3).begins().enters((0, 2), done=True).enters(1).after(0.5).exits(1, signal="SIGABRT")
    spans = spans_of(box.after(1).loses_peer((0, 2)).box(ev.TestEnded(0, TestEnd.ABORTED, "exit")).timeline())
    assert times(spans, 1, Kind.COLLECTIVE, Kind.WAIT) == [("all_reduce(Float [[8]])", 0.4, 0.4)]
    assert spans.worlds[0].waits[0] == ()


def assert_as_long_as_said(wait: OpenWait, verdict: Verdict) -> None:
    """By every sentence of the verdict that has a rank of the wait and a number."""
    about = [c.text for c in verdict.consequences if c.rank in wait.waited_s]
    said = [float(s) for text in (verdict.summary, *about) for s in re.findall(r"waited ([\d.]+) s", text)]
    is_of_its_ranks = f"{ranks_named(wait.ranks)} waited" in verdict.summary or about
    if said and is_of_its_ranks:
        assert float(re.findall(r"[\d.]+", waited_text(wait.longest_s, wait.longest_s))[0]) <= max(said)


def assert_as_long_as_shown(wait: OpenWait, world: WorldSpans) -> None:
    for rank, waited_s in wait.waited_s.items():
        same = [s for s in world.lanes[rank] if (s.kind, s.name, s.number) == (Kind.WAIT, wait.name, wait.number)]
        assert any(s.start_s + waited_s <= min(s.end_s, wait.at_s) + 1e-6 for s in same)


@pytest.mark.parametrize("name", RECORDED)
def test_waits_are_those_of_the_verdict(name: str) -> None:
    """No rank that had died waits, and no straggler in what others wait for it in, or in what all came to. Nobody is
    said to have waited longer than the verdict says, or than its lane shows.
    """
    timeline = fold(read_all(RECORDED[name]))
    judged = {test.index: test for test in judge_run(timeline).tests}
    worlds = {world.name: world for world in run_spans(timeline, judged).worlds}
    for result in judged.values():
        test = timeline.tests.get(result.number)
        if test is None or result.verdict.code.is_green:
            continue
        end_s = next((s for s in (test.acted_s, test.ended_s) if s is not None), timeline.last_s)
        left = [rank for rank, view in test.ranks.items() if view.exit and not view.exit.expected]
        dead = {rank for rank in left if (test.ranks[rank].exit_s or 0.0) <= end_s}
        late = set(result.verdict.blamed_ranks) if result.verdict.code is Code.STRAGGLER else set()
        world = worlds[test.world]
        for wait in world.waits[test.index]:
            assert_as_long_as_said(wait, result.verdict)
            if test.acted is None or test.acted_s != wait.at_s:
                assert_as_long_as_shown(wait, world)
            assert not dead & set(wait.ranks)
            assert not set(wait.peers) & set(wait.ranks)
            assert not (late & set(wait.ranks) and wait.number and not wait.peers)


@pytest.mark.parametrize("waited_s", [0.042, 0.999, 1.0, 9.96, 31.4])
def test_a_wait_is_written_as_in_verdicts(waited_s: float) -> None:
    assert waited_text(waited_s, waited_s) == seconds(waited_s)


def test_one_number_holds_for_all_ranks_of_a_wait_or_there_are_two() -> None:
    assert waited_text(0.998, 1.04) == "1.0 s"
    assert waited_text(0.69, 0.71) == "0.69 to 0.71 s"
    assert waited_text(0.001, 0.004) == ""


def test_each_rank_waited_from_its_own_coming_to_the_moment_of_the_verdict() -> None:
    """Rank 0 gives up first, rank 3 goes on waiting until the box acts."""
    box = FakeBox(4).begins().enters((0, 2)).after(0.4).enters(3).after(0.6).finishes(1)
    box.loses_peer(0).after(0.2).loses_peer(2).after(1)
    box.box(ev.Acted(0, ActReason.FAILURE_STUCK, "every rank left waits", (3,), (1,), (), 1.8))
    spans = spans_of(box.box(ev.TestEnded(0, TestEnd.ABORTED, "stuck")).timeline())
    (wait,) = spans.worlds[0].waits[0]
    assert {rank: round(of, 3) for rank, of in wait.waited_s.items()} == {0: 1.01, 2: 1.01, 3: 0.61}
    ends = {rank: times(spans, rank, Kind.WAIT)[0][2] for rank in wait.ranks}
    assert ends == {0: 1.41, 2: 1.61, 3: 2.61}


def test_who_gave_up_waits_until_its_time_out_though_it_reports_that_later() -> None:
    box = FakeBox(2).begins().enters(0).after(9).loses_peer(0, TIMED_OUT).after(1)
    spans = spans_of(box.box(ev.TestEnded(0, TestEnd.ABORTED)).timeline())
    assert [time[2] for time in times(spans, 0, Kind.WAIT)] == [6.4]
    assert [round(of, 3) for of in spans.worlds[0].waits[0][0].waited_s.values()] == [6.0]


class Counting(list[Span]):
    """Spans of a lane, and how many of those of all lanes were looked at."""

    seen = 0

    def __iter__(self) -> Iterator[Span]:
        for span in super().__iter__():
            Counting.seen += 1
            yield span


def test_the_page_of_many_failures_looks_at_each_span_a_few_times() -> None:
    box = FakeBox(2, tests=[f"t.py::test_{number}" for number in range(60)])
    for number in range(60):
        box.begins(number).enters(0, seq=number + 1).raises(1, line=number + 1).after(1)
        box.box(ev.TestEnded(number, TestEnd.ABORTED))
    run = results(box.timeline())
    spans = run_spans(run.timeline, run.judged)
    (world,) = spans.worlds
    world.lanes = {rank: Counting(lane) for rank, lane in world.lanes.items()}
    Counting.seen = 0
    data: Any = page_data(run, spans)
    assert all(test["waits"] for test in data["tests"])
    assert Counting.seen <= 3 * sum(map(len, world.lanes.values()))


@pytest.mark.parametrize(
    "name", ["straggler-frozen-inside", "straggler-after-taking-evidence", "straggler-device-busy"]
)
def test_others_wait_for_a_straggler_that_is_in_it_only_by_name(name: str) -> None:
    spans = spans_of(fold(read_all(RECORDED[name])))
    (wait,) = spans.worlds[0].waits[0]
    assert (wait.ranks, wait.peers) == ((0, 1, 3), (2,))


def test_different_operations_under_one_number_are_marked_on_the_rank_that_differs() -> None:
    box = FakeBox(4).begins().enters((0, 1, 3)).enters(2, "gloo:broadcast").after(1)
    box.box(ev.Acted(0, ActReason.MISMATCH, "operation differs"))
    spans = spans_of(box.box(ev.TestEnded(0, TestEnd.ABORTED, "mismatch")).timeline())
    marks = [(m.rank, m.text) for m in spans.worlds[0].marks if m.kind is MarkKind.MISMATCH]
    assert [rank for rank, _ in marks] == [2]
    assert marks[0][1].startswith("issued broadcast(Float [[8]]) as #1, and ranks 0,1,3 all_reduce")
    assert times(spans, 2, Kind.WAIT) == [("broadcast(Float [[8]])", 0.4, 1.4)]


def test_compiles_last_from_the_first_look_that_saw_them_to_the_first_that_did_not() -> None:
    box = FakeBox(2).begins().after(1).samples(0, compiling=("dynamo", "inductor")).after(2)
    box.samples(0, compiling=("inductor",)).after(1).samples(0).after(1).samples(0, compiling=("dynamo",)).after(1)
    spans = spans_of(box.passes().box(ENDED).timeline())
    assert times(spans, 0, Kind.COMPILE) == [("dynamo, inductor", 1.4, 4.4), ("dynamo", 5.4, 6.41)]


def test_a_mark_names_some_of_the_others_that_issued_something_else() -> None:
    box = FakeBox(8).begins()
    for rank in range(8):
        box.enters(rank, f"gloo:own_{rank}")
    box.after(1).box(ev.Acted(0, ActReason.MISMATCH, "operation differs"))
    spans = spans_of(box.box(ev.TestEnded(0, TestEnd.ABORTED, "mismatch")).timeline())
    texts = [m.text for m in spans.worlds[0].marks if m.kind is MarkKind.MISMATCH]
    assert len(texts) == 8
    assert texts[7].count("own_") == 1 + OTHERS_NAMED
    assert " and 4 more: " in texts[7]


def thousands(collectives: int) -> FakeBox:
    """The fifth takes longest by far."""
    box = FakeBox(2).begins()
    for seq in range(1, collectives + 1):
        box._entered = {0: {}, 1: {}}
        box.enters(0, seq=seq, done=True).after(1 if seq == 5 else 0.001).enters(1, seq=seq, done=True).after(0.001)
    return box.passes().box(ENDED)


def test_what_took_longest_and_what_came_last_is_kept_and_the_rest_counted() -> None:
    timeline = thousands(400).timeline()
    everything, some = spans_of(timeline), spans_of(timeline, 100)
    kept = [s.number for s in some.worlds[0].lanes[1] if s.kind is Kind.COLLECTIVE]
    assert everything.left_out == 0
    assert 5 in kept
    assert kept[-LAST_KEPT:] == [*range(401 - LAST_KEPT, 401)]
    assert kept == [s.number for s in some.worlds[0].lanes[0] if s.kind is Kind.COLLECTIVE]
    shown = [sum(map(len, spans.worlds[0].lanes.values())) for spans in (everything, some)]
    assert some.left_out == shown[0] - shown[1] > 0
    assert [m for m in times(some, 0, Kind.PHASE) if m[0] == "call"]


def test_who_waits_for_whom_is_kept_before_any_number_of_phases() -> None:
    box = FakeBox(4).begins().enters(range(4), seq=1, done=True).after(0.1).enters(range(4), seq=2, done=True)
    for step in range(100):
        box.phase(f"step {step}").after(40)
    box.enters((0, 2, 3), seq=3).after(31)
    box.box(ev.Acted(0, ActReason.STALL, "all_reduce #3", (0, 2, 3), (1,), (), 31.0))
    spans = spans_of(box.box(ev.TestEnded(0, TestEnd.ABORTED, "stall")).timeline(), 40)
    (world,) = spans.worlds
    assert spans.left_out > 300
    assert [times(spans, rank, Kind.WAIT) != [] for rank in range(4)] == [True, False, True, True]
    assert [[span.number for span in world.lanes[rank] if span.number] for rank in (0, 1)] == [[1, 2, 3], [1, 2]]
    assert any(span.kind is Kind.STEP for span in world.lanes[0])
    assert [(wait.ranks, wait.peers) for wait in world.waits[0]] == [((0, 2, 3), (1,))]


def test_of_those_that_took_equally_long_the_first_ones_are_kept() -> None:
    box = FakeBox(2).begins()
    for seq in range(1, 201):
        box.enters((0, 1), seq=seq, done=True).after(0.001)
    some = spans_of(box.passes().box(ENDED).timeline(), 100)
    kept = [s.number for s in some.worlds[0].lanes[1] if s.kind is Kind.COLLECTIVE]
    before = kept[:-LAST_KEPT]
    assert before == [*range(1, len(before) + 1)] != []


@pytest.mark.parametrize(
    ("needs", "weights", "most", "given"),
    [
        ([10, 10], [1, 1], 100, [10, 10]),
        ([100, 10, 100], [1, 1, 1], 90, [40, 10, 40]),
        ([100, 100], [3, 1], 80, [60, 20]),
        ([], [], 10, []),
    ],
)
def test_what_small_tests_do_not_need_goes_to_the_others(
    needs: list[int], weights: list[int], most: int, given: list[int]
) -> None:
    assert shares(needs, weights, most) == given


def test_a_series_keeps_its_first_and_its_newest_point_and_some_between() -> None:
    series = Series()
    for second in range(10_000):
        series.add(float(second), float(second * second), 64)
        series.add(float(second), -1.0, 64)  # no later: left out
    points = series.points()
    assert 32 <= len(points) <= 64
    assert (points[0], points[-1]) == ((0.0, 0.0), (9999.0, 9999.0**2))
    assert all(value == at_s * at_s for at_s, value in points)
    assert max(later[0] - at_s for (at_s, _), later in pairwise(points)) < 10_000 / 30
