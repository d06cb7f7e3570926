"""How long a test took, from the recording: what waits is as slow as what it waits for."""

import pytest

from pytest_megacpp.judge.arbiter import judge_test
from pytest_megacpp.recording.vocabulary import ActReason, Purpose, TestPhase
from pytest_megacpp.report.durations import CALL, SETUP, TEARDOWN, phase_seconds
from tests.scenario import FakeBox


def seconds(box: FakeBox) -> dict[TestPhase, float]:
    timeline = box.timeline()
    return {phase: round(s, 3) for phase, s in phase_seconds(judge_test(timeline, 0), timeline).items()}


def test_a_phase_lasts_until_the_last_rank_reports_it() -> None:
    """Each rank is slow in another phase, so the slowest rank of each phase would add up to more than the test."""
    box = FakeBox(2).starts().after(3).reports(SETUP, 0).after(1).reports(SETUP, 1)
    box.after(1).reports(CALL, 1).after(5).reports(CALL, 0).after(2).finishes().ends().done()
    assert seconds(box) == {SETUP: 4.0, CALL: 6.0, TEARDOWN: 2.02}


def test_what_the_box_ended_lasted_until_then() -> None:
    """No rank reported its call, and the straggler no phase at all."""
    box = FakeBox().begins().enters((0, 1, 3)).after(5.4).at(2)
    box.acts(ActReason.STALL, "", (0, 1, 3), (2,), (), 5.4).aborts("stall").done()
    assert seconds(box) == {SETUP: 0.05, CALL: 5.57, TEARDOWN: 0.0}


def test_a_set_up_that_never_came_to_an_end_is_all_set_up() -> None:
    box = FakeBox(4).starts().phase("setup").enters((0, 1, 2)).after(9).at(3, function="fixture")
    box.acts(ActReason.STALL, "", (0, 1, 2), (3,), (), 9.0).aborts("stall").done()
    timeline = box.timeline()
    result = judge_test(timeline, 0)
    found = phase_seconds(result, timeline)
    assert result.verdict.phase is SETUP
    assert found == {SETUP: pytest.approx(9.12), CALL: 0.0, TEARDOWN: 0.0}


def test_a_long_teardown_after_a_failure_is_teardown() -> None:
    box = FakeBox(2).begins().raises((0, 1)).after(7).finishes().ends().done()
    assert seconds(box) == {SETUP: 0.05, CALL: 0.05, TEARDOWN: 7.02}


def test_all_attempts_count() -> None:
    box = FakeBox(2).begins().after(2).passes().ends().tries(Purpose.MEASURED).after(3).passes().ends().done()
    assert sum(seconds(box).values()) == pytest.approx(2 + 3 + 2 * (0.05 + 0.05 + 0.02))


def test_a_test_that_never_began_took_no_time() -> None:
    assert set(phase_seconds(judge_test((timeline := FakeBox().done().timeline()), 0), timeline).values()) == {0.0}
