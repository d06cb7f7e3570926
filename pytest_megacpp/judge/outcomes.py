"""Owns what pytest itself reports, agreed over all ranks: passed, skipped, xfailed, xpassed; must not know faults.

Never green by absence: only a complete testimony of every rank of a test that ended by itself counts, and a rank
that says nothing makes a not-run.
"""

from collections.abc import Mapping
from dataclasses import replace
from enum import StrEnum

from pytest_megacpp.judge import aftermath
from pytest_megacpp.judge.case import Case, is_strict_xpass
from pytest_megacpp.judge.causes import VerdictCause
from pytest_megacpp.judge.findings import Finding, Source
from pytest_megacpp.judge.phrases import joined, plain
from pytest_megacpp.judge.verdicts import Code, Evidence, Witness
from pytest_megacpp.recording.events import Reported
from pytest_megacpp.recording.ranks import ranks_named
from pytest_megacpp.recording.timeline import RankView, TestView
from pytest_megacpp.recording.vocabulary import Lost, ReportOutcome, TestEnd, TestPhase

_UNRUN = "reason: [NOTRUN]"  # pytest's words for `xfail(run=False)`


class Said(StrEnum):
    """What one rank's reports come to."""

    PASSED = "passed"
    SKIPPED = "skipped"
    XFAILED = "xfailed"
    XPASSED = "xpassed"
    XPASSED_STRICT = "xpassed-strict"
    FAILED = "failed"
    NOTHING = "nothing"


def said(view: RankView) -> Said:
    """The outcome of a rank's reports; `NOTHING` when one of them is missing."""
    reports = {when: report for when, (_, report) in view.reports.items()}
    failed = [r for r in reports.values() if r.outcome is ReportOutcome.FAILED]
    if failed:
        return Said.XPASSED_STRICT if all(is_strict_xpass(r) for r in failed) and _complete(view) else Said.FAILED
    if not _complete(view) or any(r.outcome is ReportOutcome.OTHER for r in reports.values()):
        return Said.NOTHING
    skipped = [r for r in reports.values() if r.outcome is ReportOutcome.SKIPPED]
    if skipped:
        return Said.XFAILED if all(r.xfail is not None for r in skipped) else Said.SKIPPED
    return Said.XPASSED if any(r.xfail is not None for r in reports.values()) else Said.PASSED


def _complete(view: RankView) -> bool:
    """Set-up and teardown reported, the call too unless set-up kept it from running, and through with the test; none
    of its reports left out.
    """
    setup, is_torn_down = view.reports.get(TestPhase.SETUP), TestPhase.TEARDOWN in view.reports
    if setup is None or view.muted is Lost.REPORTS or not is_torn_down or view.finished_s is None:
        return False
    return TestPhase.CALL in view.reports or setup[1].outcome is not ReportOutcome.PASSED


def find(case: Case) -> Finding | None:
    """The agreed outcome of a test that ended by itself on all ranks, None when there is none."""
    if not ended_by_itself(case):
        return None
    everything = {rank: said(view) for rank, view in case.ranks.items()}
    return _agreed(case, everything)


def ended_by_itself(case: Case) -> bool:
    """All planned ranks ran it to its end, and no process ended on the way."""
    ended, planned = case.test.ended, case.timeline.planned.get(case.test.index)
    full = planned is None or planned.ranks == case.test.size
    return (
        case.test.acted is None and ended is not None and ended.reason is TestEnd.FINISHED and not case.exits and full
    )


def _agreed(case: Case, everything: Mapping[int, Said]) -> Finding | None:
    kinds = set(everything.values())
    if kinds == {Said.PASSED}:
        return _finding(case, Code.PASSED, f"passed on {_all(case)}")
    if kinds == {Said.SKIPPED}:
        return _finding(case, Code.SKIPPED, _reason(case) or f"skipped on {_all(case)}")
    if kinds & {Said.NOTHING, Said.FAILED, Said.SKIPPED}:
        return None
    if Said.XFAILED in kinds:
        return _xfailed(case, [r for r, s in everything.items() if s is Said.XFAILED])
    if Said.XPASSED_STRICT in kinds:
        return _strict(case, [r for r, s in everything.items() if s is Said.XPASSED_STRICT])
    return _finding(case, Code.XPASSED, f"passed on {_all(case)}, but was expected to fail")


def _all(case: Case) -> str:
    return f"all {case.test.size} ranks" if case.test.size > 1 else "its rank"


def _finding(case: Case, code: Code, summary: str) -> Finding:
    return Finding(code, summary, relies=frozenset({Source.REPORTS}), time_s=case.end_s)


def _reason(case: Case) -> str:
    """Why the first rank skipped."""
    reports = [report for view in case.ranks.values() for _, report in view.reports.values()]
    reason = next((plain(r.skip.reason) for r in reports if r.outcome is ReportOutcome.SKIPPED and r.skip), "")
    return reason.removeprefix("Skipped: ")


def _xfailed(case: Case, ranks: list[int]) -> Finding:
    """One rank that fails as expected makes the test fail as expected."""
    where = _all(case) if len(ranks) == case.test.size else ranks_named(ranks)
    reason = plain(next((r.xfail for r in _reports(case) if r.xfail), ""))
    return _finding(case, Code.XFAILED, f"failed as expected on {where}" + (f": {reason}" if reason else ""))


def _reports(case: Case) -> list[Reported]:
    return [report for view in case.ranks.values() for _, report in view.reports.values()]


def _strict(case: Case, ranks: list[int]) -> Finding:
    blamed = tuple(sorted(ranks))
    return Finding(
        Code.TEST_FAILED,
        f"{ranks_named(blamed)} passed a test that is marked to fail (xfail, strict)",
        blamed,
        VerdictCause.XPASSED_STRICT,
        evidence=aftermath.first_few(blamed, lambda r: Evidence(r, case.ranks[r].finished_s, Witness.REPORT, "passed")),
        relies=frozenset({Source.REPORTS}),
        time_s=case.end_s,
    )


def expected_failure(case: Case) -> Finding | None:
    """Ranks failed as their xfail mark says, and all else is others waiting for them or losing them."""
    if case.test.ended is None or case.exits or any(not t.secondary for t in case.troubles.values()):
        return None
    failed = [r for r, view in case.ranks.items() if _xfailed_early(case, view)]
    stuck = aftermath.stuck(case, failed)
    others_well = all(
        r in failed or r in stuck or r in case.troubles or said(view) in (Said.PASSED, Said.XPASSED)
        for r, view in case.ranks.items()
    )
    if not failed or not others_well or (case.why is not None and case.why.is_interruption):
        return None
    return _xfailed(case, sorted(failed))


def _xfailed_early(case: Case, view: RankView) -> bool:
    return any(t <= case.moment_s for t, r in view.reports.values() if _is_xfail(r))


def _is_xfail(report: Reported) -> bool:
    return report.outcome is ReportOutcome.SKIPPED and report.xfail is not None


def under_gate(finding: Finding, view: TestView | None) -> Finding:
    """What a test that a gate wants to run comes to: a skip, however it came about, leaves the question open."""
    unrun = _kept_from_running(view) if finding.code is Code.XFAILED else ""
    if finding.code is not Code.SKIPPED and not unrun:
        return finding
    why = f"{unrun} (xfail, run=False)" if unrun else finding.summary
    told = joined(("the gate was triggered for this test, but it was skipped", why), ": ")
    evidence = finding.evidence or (Evidence(None, finding.time_s, Witness.REPORT, "skipped on every rank"),)
    return replace(finding, code=Code.NOT_RUN, cause=VerdictCause.SKIPPED, summary=told, evidence=evidence)


def _kept_from_running(view: TestView | None) -> str:
    """The reason, if `xfail(run=False)` kept every rank from running it."""
    reasons = [
        next((r.xfail or "" for _, r in rank.reports.values() if _is_xfail(r)), "")
        for rank in (view.ranks.values() if view is not None else ())
    ]
    unrun = bool(reasons) and all(reason.startswith(_UNRUN) for reason in reasons)
    return (plain(reasons[0].removeprefix(_UNRUN)) or "no reason given") if unrun else ""


def incomplete(case: Case) -> Finding | None:
    """The test ended, but not every rank's testimony arrived."""
    planned = case.timeline.planned.get(case.test.index)
    silent = tuple(r for r, view in sorted(case.ranks.items()) if said(view) is Said.NOTHING)
    if planned is not None and planned.ranks != case.test.size:
        text = f"ran on {case.test.size} ranks, {planned.ranks} were asked for"
        return Finding(
            Code.NOT_RUN, text, (), VerdictCause.WORLD_SIZE, evidence=(Evidence(None, None, Witness.PLAN, text),)
        )
    if not silent:
        return None
    return Finding(
        Code.NOT_RUN,
        f"no complete result came back from {ranks_named(silent)}",
        silent,
        VerdictCause.NO_RESULT,
        evidence=aftermath.first_few(silent, lambda r: Evidence(r, None, Witness.REPORT, _missing(case.ranks[r]))),
        relies=frozenset({Source.REPORTS}),
        time_s=case.end_s,
    )


def _missing(view: RankView) -> str:
    if view.muted is Lost.REPORTS:
        return "said more than is recorded: reports are left out"
    absent = [when for when in TestPhase if when not in view.reports]
    return f"no report of {', '.join(absent)}" if absent else "never said that it was through"
