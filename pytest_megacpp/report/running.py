"""Owns the texts about a run that is still running; must not know a clock, a file or how verdicts come about."""

from collections.abc import Iterator, Sequence

from pytest_megacpp.judge.verdicts import TestResult
from pytest_megacpp.recording.timeline import Timeline
from pytest_megacpp.report.layout import counted
from pytest_megacpp.report.live import Live, steps, whole_lines


def is_through(result: TestResult, timeline: Timeline) -> bool:
    """Returns whether a test is done: every attempt at it has ended, or will never begin."""
    return timeline.finished is not None or all(map(timeline.has_ended, timeline.attempts(result.index)))


def running_lines(
    timeline: Timeline, results: Sequence[TestResult], tests: Sequence[Live], silent_s: float | None
) -> Iterator[str]:
    """Yields the current state of a run, of which `tests` run now. `silent_s` are the seconds since the box last wrote
    anything. A box may have ended long before its desk, which goes on with other tests of its session.
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
    for live in tests:
        first, *others = whole_lines(live)
        yield f"now: {first}"
        yield from (f"  {line}" for line in others)
    if not tests:
        now_s = timeline.last_s + (silent_s or 0.0)
        since_s = now_s - (timeline.progress[-1][0] if timeline.progress else 0.0)
        at = steps(timeline, now_s, since_s, is_through=len(done) == len(results))
        yield f"now: {' · '.join(at)}"
