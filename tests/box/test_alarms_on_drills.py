"""Whether a box would end the kept drills (`tests/golden/drills`) at once, look by look: never those that came through,
and those that it did when they were kept, but for what decision 0081 leaves to the limits.

Limits can't be tried so: of looks in which little happens, not all are kept.
"""

import pytest

from pytest_megacpp.box.alarms import Clocks, alarm
from pytest_megacpp.recording import events as ev
from pytest_megacpp.recording.timeline import Timeline
from pytest_megacpp.recording.vocabulary import ActReason
from pytest_megacpp.recording.wire import read_all
from tests.golden.drills import cases

TICK_S = 0.1
LATER_S = 0.5  # the recorded box had looked when it acted; here the last look may be a tick old
DRILLS = cases.load()


def stuck_s(recording: bytes) -> float | None:
    """When the box ends the test at once, by what had been recorded before it acted, at most a little later."""
    seen, clocks, now_s = Timeline(), Clocks(), 0.0
    for event in read_all(recording):
        if not isinstance(event, ev.Event):
            continue
        acts = isinstance(event.fact, ev.Acted)
        until_s = event.time_s + LATER_S * acts
        while 0 in seen.tests and seen.tests[0].ended is None and now_s < until_s:
            now_s = min(until_s, now_s + TICK_S)
            found = alarm(seen.tests[0], clocks, now_s)
            if found is not None and found.why is ActReason.FAILURE_STUCK:
                return now_s
        if acts:
            return None
        seen.add(event)
        now_s = event.time_s
    return None


def acted(recording: bytes) -> tuple[ActReason, float] | None:
    found = (e for e in read_all(recording) if isinstance(e, ev.Event) and isinstance(e.fact, ev.Acted))
    return next(((e.fact.why, e.time_s) for e in found if isinstance(e.fact, ev.Acted)), None)


HEALTHY = [name for name, drill in DRILLS.items() if acted(drill.recording) is None]
AT_ONCE = [name for name, d in DRILLS.items() if (a := acted(d.recording)) and a[0] is ActReason.FAILURE_STUCK]
LEFT_TO_THE_LIMIT = {  # where no rank failed on its own: calls that only a stack shows, and whole collectives
    "test_a_key_that_nobody_sets",
    "test_nobody_sends_what_rank_1_receives",
    "test_a_rank_does_not_shut_rpc_down",
    "test_pipeline_stages_disagree",
    "test_one_rank_comes_when_the_others_gave_up",
}


@pytest.mark.parametrize("nodeid", HEALTHY)
def test_what_came_through_is_left_alone(nodeid: str) -> None:
    assert stuck_s(DRILLS[nodeid].recording) is None


@pytest.mark.parametrize("nodeid", AT_ONCE)
def test_what_nobody_can_free_ends_as_soon_as_it_did(nodeid: str) -> None:
    found, was = stuck_s(DRILLS[nodeid].recording), acted(DRILLS[nodeid].recording)
    if nodeid.partition("::")[2] in LEFT_TO_THE_LIMIT:
        assert found is None
        return
    assert was is not None
    assert found is not None
    assert found <= was[1] + LATER_S
