"""A run that goes on: what happens now and what is known so far, and no verdict about what isn't over."""

import re

from pytest_megacpp.desk.hooks.live import seen_once
from pytest_megacpp.judge.arbiter import judge_run
from pytest_megacpp.recording import events as ev
from pytest_megacpp.recording.vocabulary import RunEnd
from pytest_megacpp.report.live import wait_sentence
from pytest_megacpp.report.running import is_through, running_lines
from tests.scenario import NODEID, FakeBox


def lines(box: FakeBox, silent_s: float | None = 0.5) -> list[str]:
    timeline = box.timeline()
    tests = seen_once(timeline, timeline.last_s + (silent_s or 0.0))
    return list(running_lines(timeline, judge_run(timeline).tests, tests, silent_s))


def test_a_test_that_runs() -> None:
    box = FakeBox(4, (NODEID, NODEID + "_2", NODEID + "_3")).begins().passes().ends()
    box.starts(1).phase("setup").phase("call").enters((0, 1, 2)).after(7.0).samples(range(4))
    head, now, *ranks = lines(box)
    assert head == "running: 1 of 3 tests done (1 passed)"
    assert now == f"now: {NODEID}_2 for 0:07 on 4 ranks"
    assert any(line.startswith("  ranks 0-2 waiting in all_reduce #") for line in ranks)
    results = judge_run(box.timeline()).tests
    assert [is_through(result, box.timeline()) for result in results] == [True, False, False]


def test_it_says_for_whom_ranks_wait_how_long_and_by_which_limit() -> None:
    """As the session's own lines do, also for who looks at a run that nobody watched."""
    box = FakeBox(4).begins().phase("call").enters((0, 1, 2)).after(7.0).samples((0, 1, 2), cpu_s=0)
    box.samples(3, state="R")
    _, _, wait, near, *ranks = lines(box, None)
    (live,) = seen_once(box.timeline(), box.timeline().last_s)
    assert wait == f"  {wait_sentence(live, live.long_waits[0])}"
    assert re.match(r"  ranks 0-2 have waited \d+ s for rank 3, which .*\(all_reduce #\d+, limit stall \d+ s\)$", wait)
    assert near.endswith(" of limit stall left")
    assert ranks[0].startswith("  > rank 3 ")
    assert ranks[1].endswith(" for rank 3")


def test_a_run_whose_box_has_ended() -> None:
    """Its desk goes on with other tests; those of the lane that never began are done."""
    box = FakeBox(4, (NODEID, NODEID + "_2")).begins().passes().ends().done(RunEnd.INTERRUPTED, "megacpp stop")
    assert lines(box, 40.0) == ["its box has ended, its pytest goes on: 2 of 2 tests done (1 passed, 1 error)"]
    assert all(is_through(result, box.timeline()) for result in judge_run(box.timeline()).tests)


def test_before_the_first_test() -> None:
    box = FakeBox(4)
    box.say(ev.Progress("preload", "importing torch once for all ranks"), world="")
    assert lines(box, silent_s=12.0) == [
        "running: 0 of 1 test done, last event 12 s ago",
        "now: preload (importing torch once for all ranks) for 0:12",
    ]


def test_between_tests() -> None:
    box = FakeBox(4, (NODEID, NODEID + "_2")).begins().passes().ends()
    assert lines(box) == ["running: 1 of 2 tests done (1 passed)", "now: world w1 (ranks 0-3): ready"]
