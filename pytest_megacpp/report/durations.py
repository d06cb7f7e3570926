"""Owns how long a test took, phase by phase, as pytest's own reports tell it; must not know pytest.

A rank's own seconds are no measure of the test: ranks that wait are as slow as the one that they wait for, and a phase
that the box ended was never reported. So phases are cut from the time between the test's start and its end.
"""

from collections.abc import Mapping

from pytest_megacpp.judge.verdicts import TestResult
from pytest_megacpp.recording.timeline import Timeline
from pytest_megacpp.recording.views import TestView
from pytest_megacpp.recording.vocabulary import TestEnd, TestPhase

SETUP, CALL, TEARDOWN = TestPhase


def phase_seconds(result: TestResult, timeline: Timeline) -> Mapping[TestPhase, float]:
    """Returns the seconds of each phase; together they are those of all attempts at the test, on the box. Attempts
    other than the one that was judged count to the phase that the verdict is about.
    """
    views = {n: timeline.tests[n] for n in timeline.attempts(result.index) if n in timeline.tests}
    if not views:
        return dict.fromkeys(TestPhase, 0.0)
    last = result.verdict.phase
    judged = views.get(result.number)
    found = _phases(judged, last, timeline.last_s) if judged is not None else dict.fromkeys(TestPhase, 0.0)
    others = [view for number, view in views.items() if number != result.number]
    found[last] += sum(max(0.0, _end_s(view, timeline.last_s) - view.started_s) for view in others)
    return found


def _phases(view: TestView, last: TestPhase, now_s: float) -> dict[TestPhase, float]:
    """A phase lasts until the last rank has reported it. `last`: the phase that a test was in when it was ended."""
    start_s, end_s = view.started_s, max(view.started_s, _end_s(view, now_s))
    setup_s = min(end_s, max(start_s, _reported_s(view, SETUP)))
    call_s = min(end_s, max(setup_s, _reported_s(view, CALL)))
    if view.ended is None or view.ended.reason is not TestEnd.FINISHED:
        setup_s = end_s if last is SETUP else setup_s
        call_s = end_s if last is not TEARDOWN else call_s
    return {SETUP: setup_s - start_s, CALL: call_s - setup_s, TEARDOWN: end_s - call_s}


def _reported_s(view: TestView, when: TestPhase) -> float:
    """When the last rank that did so reported the phase."""
    return max((rank.reports[when][0] for rank in view.ranks.values() if when in rank.reports), default=0.0)


def _end_s(view: TestView, now_s: float) -> float:
    return view.ended_s if view.ended_s is not None else now_s
