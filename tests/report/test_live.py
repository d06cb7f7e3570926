"""What is shown of a run that goes on: whoever sees only that can name who is waited for."""

import pytest

from pytest_megacpp.box.alarms import Clocks
from pytest_megacpp.box.counting import counting
from pytest_megacpp.recording import events as ev
from pytest_megacpp.recording.vocabulary import TestPhase, WarmUp
from pytest_megacpp.report.live import (
    Live,
    Now,
    Tally,
    board_rows,
    clock,
    estimated_s,
    heartbeat_lines,
    limit_text,
    rank_rows,
    steps,
    wait_sentence,
)
from tests.golden.drills import cases
from tests.golden.live import moments
from tests.scenario import NODEID, FakeBox

DRILLS = {drill.file.removesuffix(".jsonl"): drill for drill in cases.load().values()}
# What the last moment before the box acts says, with the drill's short limits.
LAST = {
    "compiling-first-forward-of-one-among-eight": (
        "ranks 0-4,6,7 have waited 2 s for rank 5, which is compiling (all_reduce #2, limit skew 2 s)"
    ),
    "compiling-one-rank-has-a-cold-cache": (
        "rank 0 has waited 2 s for rank 1, which is compiling (all_reduce #1, limit skew 2 s)"
    ),
    "compiling-one-compiles-and-another-sleeps": (
        "ranks 0,2 have waited 3 s for ranks 1,3: rank 1 is compiling, rank 3 is at drills/test_compiling.py:113 "
        "(all_reduce #2, limit stall 3 s)"
    ),
    "stalls-sleep-before-a-collective": (
        "ranks 0,2-7 have waited 2 s for rank 1, which is at drills/test_stalls.py:26 (all_reduce #2, limit stall 2 s)"
    ),
    "stalls-frozen-process": (
        "ranks 0-2 have waited 2 s for rank 3, which is stopped by a signal (all_reduce #2, limit stall 2 s)"
    ),
    "stalls-chain-of-waits": (
        "ranks 0,1,3 wait for rank 2, which is running; the longest for 2 s (rank 1 in all_reduce #1, limit stall 2 s)"
    ),
    "stalls-pipeline-starves": (
        "ranks 1-3 have waited 2 s in recv, for whom isn't recorded; not waiting: rank 0 is at "
        "drills/test_stalls.py:284 (limit stall 2 s)"
    ),
    "stalls-everybody-receives-and-nobody-sends": (
        "ranks 0-3 have waited 2 s and nobody else is left: ranks 0-3 are waiting in recv (limit stall 2 s)"
    ),
}
AT_ONCE = ("stalls-one-rank-returns-early", "deaths-raise-in-a-late-step")  # the box acts before there is much to see
NAMED = [*(name for name in LAST if name != "stalls-everybody-receives-and-nobody-sends"), *AT_ONCE]


def last(name: str) -> Live:
    *_, live = moments(DRILLS[name].recording)
    return live


@pytest.mark.parametrize("name", LAST)
def test_the_last_moment_of_a_drill(name: str) -> None:
    live = last(name)
    assert wait_sentence(live, live.waits[0]) == LAST[name]
    (line,) = heartbeat_lines(Now(Tally(0, 1, 9.0), (live,)))
    assert LAST[name] in line


@pytest.mark.parametrize("name", AT_ONCE)
def test_a_wait_of_less_than_a_second_is_worth_no_words(name: str) -> None:
    live = last(name)
    assert live.waits
    assert "waited" not in "".join(heartbeat_lines(Now(Tally(0, 1, 9.0), (live,))))
    assert not [row for row in board_rows(Now(Tally(0, 1, 9.0), (live,)), "h200x8") if "waited" in row[-1].text]


@pytest.mark.parametrize("name", NAMED)
def test_whoever_is_waited_for_is_first(name: str) -> None:
    """The ranks that the verdict blames are among those that are marked, and nobody is marked who waits for them."""
    live = last(name)
    marked = {rank for ranks, _, awaited in rank_rows(live) if awaited for rank in ranks}
    assert set(DRILLS[name].expected.ranks or ()) <= marked
    assert not marked & {rank for wait in live.waits for rank in wait.the_wait.waiting}
    assert rank_rows(live)[0][2]
    assert sorted(rank for ranks, _, _ in rank_rows(live) for rank in ranks) == sorted(live.view.ranks)


@pytest.mark.parametrize("name", NAMED)
def test_at_every_moment_the_same_ranks_or_nobody(name: str) -> None:
    """Once others have waited for a second, only the ranks that the verdict blames are named as missing, or some of
    them beside others that don't wait either.
    """
    blamed, seen = set(DRILLS[name].expected.ranks or ()), 0
    for live in moments(DRILLS[name].recording):
        for wait in live.waits:
            if wait.waited_s > 1 and wait.ranks:
                seen += 1
                assert blamed & set(wait.ranks), wait_sentence(live, wait)
                assert wait.seconds <= wait.waited_s <= live.elapsed_s + 0.001
    assert seen or name in AT_ONCE


@pytest.mark.parametrize("name", [name for name in DRILLS if name.startswith("healthy-")])
def test_a_healthy_drill_can_be_looked_at_at_every_moment(name: str) -> None:
    for live in moments(DRILLS[name].recording):
        assert heartbeat_lines(Now(Tally(0, 1, 9.0), (live,)))
        assert all(wait_sentence(live, wait) for wait in live.waits)


def live_of(box: FakeBox, for_s: float = 0.0) -> Live:
    """As a clock of a tenth of a second counted it; nothing more is heard of the box `for_s` seconds."""
    view, clocks = box.timeline().tests[box.index], Clocks()
    now_s = box.now_s
    clocks.catch_up(view, now_s)
    while now_s < box.now_s + for_s:
        now_s += 0.1
        clocks.advance(view, now_s)
    return Live(view, counting(view, clocks, now_s), now_s)


def test_a_compile_that_others_wait_for_counts_from_where_it_began() -> None:
    """The limit that is near is the one on waiting, and what a phase is called is said."""
    box = FakeBox(4, limits=ev.Limits(skew=120)).begins().phase("step 3").enters((0, 1, 3))
    box.samples(2, compiling=("inductor",), compile_s=1.0).after(31).samples(range(2)).samples(3)
    live = live_of(box, for_s=2.0)
    assert wait_sentence(live, live.waits[0]) == (
        "ranks 0,1,3 have waited 33 s for rank 2, which is compiling (all_reduce #1, limit skew 120 s)"
    )
    assert rank_rows(live) == [
        ((2,), "step 3: compiling for 33 s", True),
        ((0, 1, 3), "step 3: waiting in all_reduce #1 for rank 2", False),
    ]
    assert limit_text(live) == "1:26 of limit skew left"


def test_ranks_that_wait_for_the_same_rank_in_different_calls() -> None:
    """How long one has waited in one call isn't said of the others."""
    box = FakeBox(4, limits=ev.Limits(stall=100)).begins().announces("left", (0, 3)).announces("right", (1, 2, 3))
    box.enters(0, seq=12, group="left").after(29).enters((1, 2), seq=4, group="right").after(1).samples(range(4))
    live = live_of(box, for_s=1.0)
    assert wait_sentence(live, live.waits[0]) == (
        "ranks 0-2 wait for rank 3, which is running; the longest for 31 s "
        "(rank 0 in all_reduce #12, limit stall 100 s)"
    )


def test_ranks_that_came_later_have_not_waited_as_long() -> None:
    box = FakeBox(4, limits=ev.Limits(stall=100)).begins().enters((0, 3)).after(12).enters(2).after(9).samples(range(4))
    live = live_of(box)
    assert wait_sentence(live, live.waits[0]) == (
        "ranks 0,2,3 wait for rank 1, which is running; the longest for 21 s "
        "(ranks 0,3 in all_reduce #1, limit stall 100 s)"
    )


def test_ranks_that_came_later_to_a_call_that_only_stacks_show() -> None:
    box = FakeBox(3, limits=ev.Limits(stall=100)).begins().blocked(0).after(9)
    box.box(ev.Sampled(1, box.index, True, "S", (), 0.0, cpu_s=9.0, main_cpu_s=9.0)).blocked((0, 1)).after(4)
    live = live_of(box)
    assert wait_sentence(live, live.waits[0]) == (
        "ranks 0,1 wait in recv, for whom isn't recorded; not waiting: rank 2 is running; the longest for 13 s "
        "(rank 0, limit stall 100 s)"
    )


def test_ranks_that_came_later_to_make_a_group() -> None:
    box = FakeBox(3, limits=ev.Limits(stall=100)).begins()
    for rank in (0, 1):
        box.rank(ev.GroupBegun(rank, box.index, "1", (0, 1, 2), 3, True)).blocked(rank, "new_group").after(10)
    live = live_of(box)
    assert wait_sentence(live, live.waits[0]) == (
        "ranks 0,1 wait for rank 2, which is running; the longest for 20 s (rank 0 in new_group, limit stall 100 s)"
    )


def test_the_rank_at_the_end_of_a_chain_may_wait_for_nobody_knows_whom() -> None:
    """The last rank is no member of the group, and computes."""
    box = FakeBox(4, limits=ev.Limits(stall=100)).begins().announces("1", (0, 1, 2)).enters((0, 1), group="1")
    live = live_of(box.blocked(2, "get").after(5).samples(range(4)).blocked(2, "get"))
    assert wait_sentence(live, live.waits[0]) == (
        "ranks 0,1 have waited 5 s for rank 2, which is waiting in get, for whom isn't recorded "
        "(all_reduce #1, limit stall 100 s)"
    )
    assert [ranks for ranks, _, awaited in rank_rows(live) if awaited] == [(2,)]


def test_a_wait_lasts_longer_than_the_clock_of_its_limit() -> None:
    box = FakeBox(2, limits=ev.Limits(skew=100, stall=60)).begins().enters(0).samples(1, compiling=("inductor",))
    view, clocks = box.timeline().tests[0], Clocks()
    clocks.advance(view, box.now_s)
    for seconds, compiling in ((20, ("inductor",)), (5, ())):
        box.after(seconds).samples(0).samples(1, compiling=compiling)
        clocks.advance(box.timeline().tests[0], box.now_s)
    live = Live(box.timeline().tests[0], counting(box.timeline().tests[0], clocks, box.now_s), box.now_s)
    assert wait_sentence(live, live.waits[0]).startswith("rank 0 has waited 25 s for rank 1, which is running")
    assert limit_text(live) == "0:55 of limit stall left"


def test_whom_only_a_guess_names_is_not_who_a_collective_waits_for() -> None:
    """Ranks 2 and 3 receive from each other; rank 0, which is through, isn't even in the group."""
    box = FakeBox(4, limits=ev.Limits(stall=100)).begins().announces("rest", (1, 2, 3)).passes(0)
    box.enters(1, seq=1, group="rest").samples((1, 2, 3)).after(0.2).blocked((2, 3)).after(5)
    live = live_of(box, for_s=1.0)
    assert wait_sentence(live, live.waits[0]) == (
        "rank 1 has waited 6 s for ranks 2,3, which are waiting in recv, for whom isn't recorded "
        "(all_reduce #1, limit stall 100 s)"
    )


def test_nobody_is_named_behind_a_rank_that_is_on_its_way() -> None:
    box = FakeBox(4, limits=ev.Limits(stall=100)).begins().announces("a", (0, 1, 2)).announces("b", (2, 3))
    box.enters((0, 1), "gloo:barrier", group="a").after(20).enters(2, seq=14, group="b").after(0.5).samples(range(4))
    live = live_of(box, for_s=1.0)
    assert wait_sentence(live, live.waits[0]) == (
        "ranks 0,1 have waited 21 s for rank 2, which is waiting in all_reduce #14 of group b "
        "(barrier #1, limit stall 100 s)"
    )


def test_a_rank_of_which_nothing_is_known() -> None:
    """As in a recording that lost its beginning."""
    live = live_of(FakeBox(3, limits=ev.Limits(stall=100)).begins().enters((0, 1)).after(5).samples(range(3)))
    del live.view.ranks[2]
    assert wait_sentence(live, live.waits[0]).startswith(
        "ranks 0,1 have waited 5 s for rank 2, which is not looked at yet (all_reduce #1,"
    )


def test_nobody_waits() -> None:
    box = FakeBox(2, limits=ev.Limits(test=7200)).begins().after(8).samples(range(2), cpu_s=8.0, state="R")
    live = live_of(box)
    assert (live.waits, limit_text(live)) == ((), "")
    assert heartbeat_lines(Now(Tally(3, 12, 101, 250, "$0.31"), (live,))) == [
        f"3/12 tests · 1:41 · about 4:10 left · $0.31 · {NODEID} for 0:08 · ranks 0,1 running"
    ]


def test_a_warm_up_and_ranks_that_are_through() -> None:
    box = FakeBox(3).begins(warmup=WarmUp.RUNS).passes(0).raises(1).phase("teardown", 2)
    live = live_of(box)
    (line,) = heartbeat_lines(Now(Tally(0, 1, 5), (live,)))
    assert f"{NODEID} for 0:00, warming up" in line
    assert [text for _, text, _ in rank_rows(live)] == ["finished", "raised ValueError", "in teardown"]
    assert box.index == 0
    assert TestPhase.TEARDOWN in live.view.ranks[0].reports


def test_what_ranks_and_tests_are_called_acts_on_no_terminal() -> None:
    box = FakeBox(2, ("a.py::test_\x1b[31mred",)).begins().phase("\x1b]0;title\x07\n::error::x")
    (line,) = heartbeat_lines(Now(Tally(0, 1, 5), (live_of(box),)))
    assert "\x1b" not in line
    assert "\n" not in line


def test_the_way_to_a_box_elsewhere() -> None:
    box = FakeBox(2)
    reported = [("source", "0.3 s"), ("source", "12 files"), ("image", ""), ("image", "3.2 s"), ("capacity", "H200:8")]
    for phase, detail in reported:
        box.say(ev.Progress(phase, detail), "surface", world="")
    assert steps(box.timeline(), 0.0, 41.4) == ("source 0.3 s", "image 3.2 s", "queue (H200:8) for 0:41")
    box.say(ev.Progress("capacity", "50.0 s"), "surface", world="")
    assert steps(box.timeline(), 0.0, 0.4)[-1] == "queue 50.0 s"
    assert steps(box.timeline(), 0.0, 4.4)[-1] == "queue 50.0 s · start for 0:04"
    box.say(ev.Progress("seed", "2.0 s"), world="")
    assert steps(box.timeline(), 0.0, 4.4)[-1] == "seed 2.0 s · then nothing for 0:04"
    assert steps(FakeBox(2).timeline(), 0.0, 3.0) == ("starting the box for 0:03",)


def test_a_world_that_starts_names_who_is_not_through() -> None:
    box = FakeBox(4).starts_world()
    assert steps(box.timeline(), 7.0, 0.0) == ("world w1: 0 of 4 ranks are up for 0:07",)
    box.readies()
    assert steps(box.timeline(), 9.0, 0.0) == ("world w1: collection for 0:09",)
    box.collects((0, 1, 3))
    assert steps(box.timeline(), 9.0, 0.0) == ("world w1: collection, rank 2 of 4 not yet through",)
    assert heartbeat_lines(Now(Tally(0, 1, 9.0), (), steps(box.timeline(), 9.0, 0.0))) == [
        "0/1 tests · 0:09 · world w1: collection, rank 2 of 4 not yet through"
    ]


def test_a_box_that_has_run_everything_says_what_it_still_does() -> None:
    box = FakeBox(2).begins().passes().ends()
    over_s = box.now_s
    assert steps(box.timeline(), over_s + 2, 0.0, is_through=True) == (
        "the box is ending 1 world, 0:02 after the last test",
    )
    box.box(ev.WorldEnded("done"))
    assert steps(box.timeline(), over_s + 2, 0.0) == ("between tests",)
    assert steps(box.timeline(), over_s + 72, 0.0, is_through=True) == (
        "the box is keeping what was compiled, 1:12 after the last test",
    )
    box.done()
    assert steps(box.timeline(), over_s + 3, 0.0, is_through=True) == ("the box is ending, 0:03 after the last test",)


def test_an_estimate_needs_something_known() -> None:
    assert estimated_s(["a", "b"], {}, {}) is None
    assert estimated_s(["a", "b", "c"], {"a": 10.0, "d": 20.0}, {"a": 4.0, "b": 90.0}) == 6.0 + 0.0 + 15.0


def test_clock() -> None:
    assert [clock(s) for s in (-1, 0.9, 41, 725, 3723)] == ["0:00", "0:00", "0:41", "12:05", "1:02:03"]


def test_an_estimate_that_is_used_up_is_none() -> None:
    assert str(Tally(1, 2, 63.0, 0.4)) == "1/2 tests · 1:03"
