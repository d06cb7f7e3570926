"""Owns the texts about the attempts at a test; must not know what verdict they lead to."""

from pytest_megacpp.judge.causes import VerdictCause
from pytest_megacpp.judge.verdicts import Attempt, Code, TestResult
from pytest_megacpp.recording.ranks import ranks_named
from pytest_megacpp.recording.timeline import Timeline
from pytest_megacpp.recording.vocabulary import Purpose, TestPhase
from pytest_megacpp.report.clean import one_line
from pytest_megacpp.report.layout import WIDTH, wrapped


def attempt_lines(result: TestResult, timeline: Timeline, width: int = WIDTH) -> list[str]:
    """All attempts at a test, if there were several: how each ended, and why."""
    if not result.attempts:
        return []
    numbered = enumerate(result.attempts, 1)
    made = (wrapped(_attempt_line(n, a, result, timeline), "", " " * 17, width) for n, a in numbered)
    return ["attempts", *(line for lines in made for line in lines)]


def _attempt_line(number: int, attempt: Attempt, result: TestResult, timeline: Timeline) -> str:
    view = timeline.tests.get(attempt.number)
    took = f", {view.ended_s - view.started_s:.1f} s" if view is not None and view.ended_s is not None else ""
    head = f"  {number}  {attempt.purpose:<10}  {_end(attempt)}{took}"
    summary = "" if attempt.verdict.code.is_green or attempt.number == result.number else attempt.verdict.summary
    return head + (f" · {one_line(summary, 400)}" if summary else "")


def attempts_line(result: TestResult) -> str | None:
    """`compile-skew (rank 1) → warm-up passed → passed`; None where nothing was tried after a verdict."""
    if not result.was_escalated:
        return None
    found = [VerdictCause.INFRASTRUCTURE] if result.verdict.cause == VerdictCause.INFRASTRUCTURE else []
    return " → ".join([*map(_step, result.attempts), *found])


def _step(attempt: Attempt) -> str:
    blamed = attempt.verdict.blamed_ranks
    who = f" ({ranks_named(blamed)})" if blamed else ""
    what = "" if attempt.purpose is Purpose.MEASURED else f"{attempt.purpose} "
    return f"{what}{_end(attempt)}{who}"


def _end(attempt: Attempt) -> str:
    """What was never begun was not tried."""
    if attempt.verdict.code is not Code.NOT_RUN:
        return str(attempt.verdict.code)
    return "not tried" if attempt.verdict.phase is TestPhase.SETUP else "cut short"
