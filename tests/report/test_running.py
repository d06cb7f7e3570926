"""A run that goes on: what happens now and what is known so far, and no verdict about what isn't over."""

from pytest_megacpp.judge.arbiter import judge_run
from pytest_megacpp.recording import events as ev
from pytest_megacpp.recording.vocabulary import RunEnd
from pytest_megacpp.report.running import is_through, running_lines
from tests.scenario import NODEID, FakeBox


def lines(box: FakeBox, silent_s: float | None = 0.5) -> list[str]:
    return list(running_lines(box.timeline(), judge_run(box.timeline()).tests, silent_s))


def test_a_test_that_runs() -> None:
    box = FakeBox(4, (NODEID, NODEID + "_2", NODEID + "_3")).begins().passes().ends()
    box.starts(1).phase("setup").phase("call").enters((0, 1, 2)).after(7.0).samples(range(4))
    head, now, ranks, *_ = lines(box)
    assert head == "running: 1 of 3 tests done (1 passed)"
    assert now.startswith(f"now: {NODEID}_2 for 7.0")
    assert now.endswith("on 4 ranks")
    assert "0 wait" in ranks
    results = judge_run(box.timeline()).tests
    assert [is_through(result, box.timeline()) for result in results] == [True, False, False]


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
        "now: preload importing torch once for all ranks",
    ]


def test_between_tests() -> None:
    box = FakeBox(4, (NODEID, NODEID + "_2")).begins().passes().ends()
    assert lines(box) == ["running: 1 of 2 tests done (1 passed)", "now: between tests"]
