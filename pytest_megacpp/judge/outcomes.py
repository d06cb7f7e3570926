"""Owns what pytest itself reports, agreed over all ranks: passed, skipped, xfailed, xpassed; must not know faults.

Never green by absence: a test counts only if it ended by itself and every rank reported completely, as
`recording/reports` defines it. A rank that reports nothing leads to a not-run, and so does a plan that is lost.
"""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from typing import assert_never

from pytest_megacpp.judge import aftermath
from pytest_megacpp.judge.case import Case
from pytest_megacpp.judge.causes import VerdictCause
from pytest_megacpp.judge.findings import Finding, Source, Uncertainty
from pytest_megacpp.judge.patience import left_open, opened
from pytest_megacpp.judge.phrases import joined, plain
from pytest_megacpp.judge.verdicts import Code, Evidence, Witness
from pytest_megacpp.judge.wait_roots import from_barrier_timeouts
from pytest_megacpp.recording.errors import Kind, classify, short_type
from pytest_megacpp.recording.events import Reported
from pytest_megacpp.recording.ranks import ranks_named
from pytest_megacpp.recording.reports import RankOutcome, is_full, is_xfail, kept_from_running, rank_outcome, together
from pytest_megacpp.recording.views import Joining, RankView, TestView
from pytest_megacpp.recording.vocabulary import Lost, ReportOutcome, TestEnd, TestPhase


def find(case: Case) -> Finding | None:
    """Returns the agreed outcome of a test that ended by itself on all ranks; None if there is none."""
    if not ended_by_itself(case):
        return None
    everything = {rank: rank_outcome(view) for rank, view in case.ranks.items()}
    return _agreed(case, everything)


def ended_by_itself(case: Case) -> bool:
    """Returns whether all planned ranks ran the test to its end and no process ended in between."""
    ended, full = case.test.ended, is_full(case.timeline, case.test)
    by_itself = case.test.acted is None and ended is not None and ended.reason is TestEnd.FINISHED
    return by_itself and not case.exits and full


def _agreed(case: Case, everything: Mapping[int, RankOutcome]) -> Finding | None:
    match outcome := together(everything.values()):
        case RankOutcome.PASSED:
            return _finding(case, Code.PASSED, f"passed on {_all(case)}")
        case RankOutcome.SKIPPED:
            return _finding(case, Code.SKIPPED, _reason(case) or f"skipped on {_all(case)}")
        case RankOutcome.XFAILED:
            failed = [r for r, s in everything.items() if s is RankOutcome.XFAILED]
            return replace(_xfailed(case, failed), uncertainties=tuple(_lack_of_peers(case, failed)))
        case RankOutcome.XPASSED_STRICT:
            return _strict(case, [r for r, s in everything.items() if s is RankOutcome.XPASSED_STRICT])
        case RankOutcome.XPASSED:
            return _finding(case, Code.XPASSED, f"passed on {_all(case)}, but was expected to fail")
        case RankOutcome.FAILED | RankOutcome.NOTHING | None:
            return None
        case _:
            assert_never(outcome)


def _all(case: Case) -> str:
    return f"all {case.test.size} ranks" if case.test.size > 1 else "its rank"


def _finding(case: Case, code: Code, summary: str) -> Finding:
    uncertainties = _uncompared(case) if code in (Code.PASSED, Code.XPASSED) else ()
    return Finding(code, summary, relies=frozenset({Source.REPORTS}), uncertainties=uncertainties, time_s=case.end_s)


def _uncompared(case: Case) -> tuple[Uncertainty, ...]:
    """Returns a reason for doubt if a recorder lost collectives, or not all members of a group have digests of them:
    then only the others are known to agree.
    """
    missed = [rank for rank, view in sorted(case.ranks.items()) if view.counted and view.counted.missed]
    groups = () if missed else case.test.uncompared()
    if not missed and not groups:
        return ()
    who = ranks_named(missed) if missed else "ranks"
    where = f" of group {plain(groups[0], 40)}" if groups and groups[0] else ""
    text = f"{who} issued collectives{where} that could not be compared with other ranks'"
    return (Uncertainty(Source.COLLECTIVES, text),)


def _reason(case: Case) -> str:
    """Returns why the first rank skipped."""
    reports = [report for view in case.ranks.values() for _, report in view.reports.values()]
    reason = next((plain(r.skip.reason) for r in reports if r.outcome is ReportOutcome.SKIPPED and r.skip), "")
    return reason.removeprefix("Skipped: ")


def _xfailed(case: Case, ranks: list[int]) -> Finding:
    """Returns the finding for an expected failure: one rank that fails as expected is enough."""
    where = _all(case) if len(ranks) == case.test.size else ranks_named(ranks)
    reason = plain(next((r.xfail for r in _reports(case) if r.xfail), ""))
    return _finding(case, Code.XFAILED, f"failed as expected on {where}" + (f": {reason}" if reason else ""))


def _lack_of_peers(case: Case, failed: Collection[int]) -> Iterator[Uncertainty]:
    """Yields a reason for doubt where all that failed as expected had waited for others in vain: the test may have
    failed in a way that nobody expected.
    """
    reported = {r: min(_expected_failures(case, r), key=lambda tr: tr[0]) for r in failed}
    lacked = {r: what for r in failed if (what := _lacked(case, r, reported))}
    if lacked and len(lacked) == len(failed) and case.test.size > 1:
        text = f"{ranks_named(failed)} failed because a peer did not come: {next(iter(lacked.values()))}"
        yield Uncertainty(Source.COLLECTIVES, text)


def _expected_failures(case: Case, rank: int) -> Iterator[tuple[float, Reported]]:
    return ((t, r) for t, r in case.ranks[rank].reports.values() if is_xfail(r))


def _lacked(case: Case, rank: int, reported: Mapping[int, tuple[float, Reported]]) -> str:
    """Returns what shows that the rank failed for lack of one that had not failed itself by then; empty if nothing
    does. `reported`: the expected failure of each rank that has one, with its time.
    """
    time_s, report = reported[rank]
    if report.error is not None and classify(report.error).secondary:
        return f"it is what {short_type(plain(report.error.type, 60))} says"
    held = opened(rank, time_s, case.ranks, case.test.groups)
    absent = [r for r in held.absent if r not in reported or reported[r][0] > time_s] if held else []
    if held and absent:
        return f"rank {rank} was in {held.what}, which {ranks_named(absent)} had not entered"
    what = left_open(rank, time_s, report.error, case.ranks)
    return f"rank {rank} was in {what}, which may not have completed" if what else ""


def _reports(case: Case) -> list[Reported]:
    return [report for view in case.ranks.values() for _, report in view.reports.values()]


def _strict(case: Case, ranks: list[int]) -> Finding:
    blamed = tuple(sorted(ranks))
    return Finding(
        Code.TEST_FAILED,
        f"{ranks_named(blamed)} passed a test that is marked xfail(strict=True)",
        blamed,
        VerdictCause.XPASSED_STRICT,
        evidence=aftermath.first_few(blamed, lambda r: Evidence(r, case.ranks[r].finished_s, Witness.REPORT, "passed")),
        relies=frozenset({Source.REPORTS}),
        time_s=case.end_s,
    )


def expected_failure(case: Case) -> Finding | None:
    """Returns the finding for ranks that failed as their xfail mark says while the others only waited for them or lost
    them; less certain where it isn't recorded whom these waited for.
    """
    if case.test.ended is None or case.exits or not is_full(case.timeline, case.test):
        return None
    if any(not t.is_secondary for t in case.failures.values()):
        return None
    failed = [r for r in case.ranks if case.failed_as_expected(r)]
    if _gave_up_on_others(case, failed):
        return None
    led = case.graph.led_to(failed)
    unknown = {r for r in (*aftermath.stuck(case, failed), *case.failures) if not _is_recorded(case, r)} - {*failed}
    others_well = all(
        r in failed or r in led or r in unknown or rank_outcome(view) in (RankOutcome.PASSED, RankOutcome.XPASSED)
        for r, view in case.ranks.items()
    )
    if not failed or not others_well or (case.why is not None and case.why.is_interruption):
        return None
    found = _xfailed(case, sorted(failed))
    doubts = (*_other_reasons_to_wait(case, failed, unknown), *_lack_of_peers(case, failed))
    return replace(found, uncertainties=doubts)


def _other_reasons_to_wait(case: Case, failed: Collection[int], unknown: Collection[int]) -> Iterator[Uncertainty]:
    """Yields why the others might have waited even if none had failed."""
    if unknown:
        yield Uncertainty(Source.GROUPS, f"whom {ranks_named(unknown)} waited for is not recorded")
    waits = [w for w in case.waits if case.knows_for_whom(w) and not {*failed}.issuperset(w.waiting)]
    left = sorted({r for w in waits for r in w.missing if r not in failed and case.has_left(r)})
    if left:
        yield Uncertainty(Source.COLLECTIVES, f"{ranks_named(left)} left the test without what others wait in")
    others = case.graph.without(failed)
    if others.cycle(others.waits):
        yield Uncertainty(Source.COLLECTIVES, "ranks that had not failed wait for each other as well")


def _gave_up_on_others(case: Case, failed: Collection[int]) -> bool:
    """Returns whether ranks gave up waiting, and for none of those that failed: the time-out of a barrier names others,
    or the group that they could not join has none of these as a member.
    """
    named = from_barrier_timeouts(case)
    if named is not None and not set(named.roots) <= set(failed):
        return True
    joins = (t for t in aftermath.victims(case) if t.kind is Kind.JOIN)
    sought = ((t.rank, case.ranks[t.rank].not_joined(t.time_s)) for t in joins)
    groups = (_members(case, joining, rank) for rank, joining in sought if joining is not None)
    return any(members and members.isdisjoint(failed) for members in groups)


def _members(case: Case, joining: Joining, rank: int) -> frozenset[int]:
    """Returns the members of a group that a rank makes; none if they aren't known."""
    if joining.members or not case.knows_members(joining.group):
        return frozenset(joining.members)
    return case.test.groups.of(joining.group, (rank,))


def _is_recorded(case: Case, rank: int) -> bool:
    """Returns whether it is recorded for whom the rank waited."""
    wait = case.waiting_in.get(rank)
    return wait is not None and bool(wait.missing) and case.knows_for_whom(wait)


def under_gate(finding: Finding, view: TestView | None) -> Finding:
    """Returns the finding for a test that a gate requires: a skip, however it came about, becomes a not-run."""
    unrun = _kept_from_running(view) if finding.code is Code.XFAILED and view is not None else ""
    if finding.code is not Code.SKIPPED and not unrun:
        return finding
    why = f"{unrun} (xfail, run=False)" if unrun else finding.summary
    summary = joined(("the gate requires this test, but it was skipped", why), ": ")
    evidence = finding.evidence or (Evidence(None, finding.time_s, Witness.REPORT, "skipped on every rank"),)
    return replace(finding, code=Code.NOT_RUN, cause=VerdictCause.SKIPPED, summary=summary, evidence=evidence)


def _kept_from_running(view: TestView) -> str:
    reason = kept_from_running(view)
    return "" if reason is None else plain(reason) or "no reason given"


def incomplete(case: Case) -> Finding | None:
    """Returns the finding for a test that ended without complete reports of every rank, or whose number of ranks isn't
    known.
    """
    planned = case.timeline.planned.get(case.test.index)
    silent = tuple(r for r, view in sorted(case.ranks.items()) if rank_outcome(view) is RankOutcome.NOTHING)
    if planned is not None and planned.ranks != case.test.size:
        text = f"ran on {case.test.size} ranks instead of {planned.ranks}"
        return Finding(
            Code.NOT_RUN, text, (), VerdictCause.WORLD_SIZE, evidence=(Evidence(None, None, Witness.PLAN, text),)
        )
    if not silent:
        return _unplanned() if planned is None else None
    return Finding(
        Code.NOT_RUN,
        f"no complete result was received from {ranks_named(silent)}",
        silent,
        VerdictCause.NO_RESULT,
        evidence=aftermath.first_few(silent, lambda r: Evidence(r, None, Witness.REPORT, _missing(case.ranks[r]))),
        relies=frozenset({Source.REPORTS}),
        uncertainties=_seen_by_the_box(case, silent),
        time_s=case.end_s,
    )


def _seen_by_the_box(case: Case, silent: Collection[int]) -> tuple[Uncertainty, ...]:
    """Returns a reason for doubt if the box saw ranks finish of which the recording has no such line: it was lost."""
    by_itself = case.test.acted is None and case.test.ended is not None and case.test.ended.reason is TestEnd.FINISHED
    lost = [r for r in silent if by_itself and r not in case.exits and case.ranks[r].finished_s is None]
    text = f"the box saw {ranks_named(lost)} finish, so the recording lost what they reported"
    return (Uncertainty(Source.REPORTS, text),) if lost else ()


def _unplanned() -> Finding:
    text = "the recording lost this test's line of the plan: its number of ranks is unknown, and so is may_skip"
    return Finding(Code.NOT_RUN, text, (), VerdictCause.PLAN_LOST, evidence=(Evidence(None, None, Witness.PLAN, text),))


def _missing(view: RankView) -> str:
    if view.muted is Lost.REPORTS:
        return "exceeded the event limit of a test; reports were dropped"
    absent = [when for when in TestPhase if when not in view.reports]
    return f"no report of {', '.join(absent)}" if absent else "never reported that it had finished"
