"""Owns what the reports of all ranks come to, and so the one definition of green; must not know blame or a seed.

The box keeps a seed, ends a world and counts failures by it, the desk passes a test by it. Never green by absence: only
the complete reports of every planned rank count, of a test that ended by itself and that no process left, and only if
all issued the same collectives as far as that is on record. A gate that is triggered for a test takes no skip of it.

A failure as expected that leaves other ranks waiting passes at the desk, and isn't green here: those ranks reported
nothing that a seed could be made of.
"""

from collections.abc import Iterable
from enum import StrEnum

from pytest_megacpp.recording.events import Reported
from pytest_megacpp.recording.timeline import Timeline
from pytest_megacpp.recording.views import RankView, TestView
from pytest_megacpp.recording.vocabulary import Lost, Purpose, ReportOutcome, TestEnd, TestPhase

_UNRUN = "reason: [NOTRUN]"  # pytest's words for `xfail(run=False)`


class RankOutcome(StrEnum):
    """What the reports of one rank come to, or of all."""

    PASSED = "passed"
    SKIPPED = "skipped"
    XFAILED = "xfailed"
    XPASSED = "xpassed"
    XPASSED_STRICT = "xpassed-strict"
    FAILED = "failed"
    NOTHING = "nothing"

    @property
    def is_green(self) -> bool:
        return self in (RankOutcome.PASSED, RankOutcome.SKIPPED, RankOutcome.XFAILED, RankOutcome.XPASSED)


def is_strict_xpass(report: Reported) -> bool:
    """Whether pytest calls a pass a failure because the test was marked to fail for certain."""
    return report.error is not None and report.error.message.startswith("[XPASS(strict)]")


def is_xfail(report: Reported) -> bool:
    """Whether it failed, or was kept from running, as its mark says."""
    return report.outcome is ReportOutcome.SKIPPED and report.xfail is not None


def rank_outcome(view: RankView) -> RankOutcome:
    """The outcome of a rank's reports; `NOTHING` when one of them is missing."""
    reports = {when: report for when, (_, report) in view.reports.items()}
    failed = [r for r in reports.values() if r.outcome is ReportOutcome.FAILED]
    if failed:
        return (
            RankOutcome.XPASSED_STRICT
            if all(is_strict_xpass(r) for r in failed) and _complete(view)
            else RankOutcome.FAILED
        )
    if not _complete(view) or any(r.outcome is ReportOutcome.OTHER for r in reports.values()):
        return RankOutcome.NOTHING
    skipped = [r for r in reports.values() if r.outcome is ReportOutcome.SKIPPED]
    if skipped:
        return RankOutcome.XFAILED if all(r.xfail is not None for r in skipped) else RankOutcome.SKIPPED
    return RankOutcome.XPASSED if any(r.xfail is not None for r in reports.values()) else RankOutcome.PASSED


def _complete(view: RankView) -> bool:
    """Set-up and teardown reported, the call too unless set-up kept it from running, and through with the test; none
    of its reports left out.
    """
    setup, is_torn_down = view.reports.get(TestPhase.SETUP), TestPhase.TEARDOWN in view.reports
    if setup is None or view.muted is Lost.REPORTS or not is_torn_down or view.finished_s is None:
        return False
    return TestPhase.CALL in view.reports or setup[1].outcome is not ReportOutcome.PASSED


def together(everything: Iterable[RankOutcome]) -> RankOutcome | None:
    """What all ranks' outcomes come to; None where one failed or is missing, or only some skipped."""
    kinds = set(everything)
    if len(kinds) == 1 and all(outcome.is_green for outcome in kinds):
        return kinds.pop()
    if not kinds or kinds & {RankOutcome.NOTHING, RankOutcome.FAILED, RankOutcome.SKIPPED}:
        return None
    return next(
        outcome
        for outcome in (RankOutcome.XFAILED, RankOutcome.XPASSED_STRICT, RankOutcome.XPASSED)
        if outcome in kinds
    )


def is_full(timeline: Timeline, view: TestView) -> bool:
    """Whether it ran on as many ranks as were planned, which only the plan's own line tells."""
    planned = timeline.planned.get(view.index)
    return planned is not None and planned.ranks == view.size


def agreed(timeline: Timeline, view: TestView) -> RankOutcome | None:
    """What an attempt comes to of which all planned ranks are through; None where the reports don't say."""
    if not is_full(timeline, view) or view.acted is not None or _lost_one(timeline, view):
        return None
    return together(map(rank_outcome, view.ranks.values()))


def _lost_one(timeline: Timeline, view: TestView) -> bool:
    """Whether a rank's process, or its session, ended without the box's doing before the test did."""
    world, over_s = timeline.worlds[view.world], view.ended_s if view.ended_s is not None else float("inf")
    exited = any(not fact.expected and time_s <= over_s for time_s, fact in world.exits.values())
    return exited or any(view.started_s <= time_s <= over_s for time_s, _ in world.broken.values())


def kept_from_running(view: TestView) -> str | None:
    """The reason, if `xfail(run=False)` kept every rank from running it."""
    reasons = [
        next((r.xfail or "" for _, r in rank.reports.values() if is_xfail(r)), "") for rank in view.ranks.values()
    ]
    unrun = bool(reasons) and all(reason.startswith(_UNRUN) for reason in reasons)
    return reasons[0].removeprefix(_UNRUN) if unrun else None


def issued_alike(view: TestView) -> bool:
    """Whether all ranks made the same groups and issued the same collectives, as far as that is on record, and no
    collective is left open that not all issued.
    """
    alike = not view.differing() and not view.disagreements() and not view.groups.contradictions()
    return alike and not view.left_open()


def goes_well(timeline: Timeline, view: TestView) -> bool:
    """Whether the reports of an attempt of which all ranks are through are green; they must have issued alike, too."""
    outcome = agreed(timeline, view)
    if outcome is None or not outcome.is_green:
        return False
    unrun = outcome is RankOutcome.SKIPPED or kept_from_running(view) is not None
    return not (unrun and timeline.planned[view.index].must_run)


def is_green(timeline: Timeline, view: TestView) -> bool:
    """Whether an attempt was green."""
    finished = view.ended is not None and view.ended.reason is TestEnd.FINISHED
    return finished and goes_well(timeline, view) and issued_alike(view)


def counting(timeline: Timeline, item: int) -> list[int]:
    """Attempts at the test as it is: those that look for a cause build or run something else."""
    planned = {number: timeline.planned.get(number) for number in timeline.attempts(item)}
    purposes = {number: test.purpose if test else Purpose.FIRST for number, test in planned.items()}
    return [number for number, purpose in purposes.items() if purpose is Purpose.FIRST or purpose.counts]


def green_attempt(timeline: Timeline, item: int) -> TestView | None:
    """The attempt that decides about a test of the plan, if it was green. After a failure only a measured one that was
    not skipped takes that away.
    """
    *before, last = (timeline.tests.get(number) for number in counting(timeline, item))
    if last is None or not is_green(timeline, last):
        return None
    failed = any(view is None or not is_green(timeline, view) for view in before)
    measured = (
        timeline.planned[last.index].purpose is Purpose.MEASURED and agreed(timeline, last) is not RankOutcome.SKIPPED
    )
    return last if measured or not failed else None
