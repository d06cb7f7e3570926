"""Owns the texts about a run that is still running; must not know a clock, a file or how verdicts come about."""

from collections.abc import Iterator, Sequence

from pytest_megacpp.judge.verdicts import TestResult
from pytest_megacpp.recording.timeline import Timeline
from pytest_megacpp.recording.views import TestView
from pytest_megacpp.recording.vocabulary import WarmUp
from pytest_megacpp.report.clean import one_line
from pytest_megacpp.report.layout import counted
from pytest_megacpp.report.states import NO_VERDICT, Scene, rank_states
from pytest_megacpp.report.text import picture


def is_through(result: TestResult, timeline: Timeline) -> bool:
    """Returns whether a test is done: every attempt at it has ended, or will never begin."""
    return timeline.finished is not None or all(map(timeline.has_ended, timeline.attempts(result.index)))


def running_lines(timeline: Timeline, results: Sequence[TestResult], silent_s: float | None) -> Iterator[str]:
    """Yields the current state of a run. `silent_s` are the seconds since the box last wrote anything. A box may have
    ended long before its desk, which goes on with other tests of its session.
    """
    done = [result for result in results if is_through(result, timeline)]
    outcomes = [str(result.outcome) for result in done]
    tally = ", ".join(f"{outcomes.count(outcome)} {outcome}" for outcome in dict.fromkeys(outcomes))
    so_far = f"{len(done)} of {counted(len(results), 'test')} done" + (f" ({tally})" if tally else "")
    if timeline.finished is not None:
        yield f"its box has ended, its pytest goes on: {so_far}"
        return
    silent = f", last event {silent_s:.0f} s ago" if silent_s is not None and silent_s >= 2 else ""
    yield f"running: {so_far}{silent}"
    now = next((test for test in reversed(timeline.tests.values()) if test.ended is None), None)
    if now is not None:
        yield from _in_test(now, timeline)
    elif timeline.progress and not timeline.tests:
        _, last = timeline.progress[-1]
        yield f"now: {one_line(' '.join((last.phase, last.detail)))}"
    else:
        yield "now: between tests"


def _in_test(test: TestView, timeline: Timeline) -> Iterator[str]:
    lasted_s = timeline.last_s - test.started_s
    warming = ", warming up" if test.warmup is WarmUp.RUNS else ""
    yield f"now: {one_line(test.nodeid)} for {lasted_s:.1f} s on {counted(test.size, 'rank')}{warming}"
    yield from picture(rank_states(Scene(test.index, timeline.worlds.get(test.world), test), NO_VERDICT), ())
