"""Owns the order in which families of rules are asked, and what becomes of the first finding; must not look at events.

Pure: a timeline in, results out. What failed first decides. Limits decide only if no rank caused the end of the test,
and a test for which no rule has an answer is never green.
"""

from collections.abc import Callable

from pytest_megacpp.judge import deaths, devices, handling, limits, mismatches, outcomes, run_end, stalls, startup
from pytest_megacpp.judge.aftermath import bucket_reads, threads_that_raised
from pytest_megacpp.judge.attempts import settle
from pytest_megacpp.judge.case import Case
from pytest_megacpp.judge.certainty import weigh
from pytest_megacpp.judge.findings import Finding
from pytest_megacpp.judge.next_steps import commands, next_step
from pytest_megacpp.judge.phrases import plain
from pytest_megacpp.judge.startup import Run
from pytest_megacpp.judge.verdicts import (
    Attempt,
    Certainty,
    Code,
    Evidence,
    RunResult,
    TestResult,
    Verdict,
    Witness,
    is_escalation,
)
from pytest_megacpp.recording.endings import bad_endings
from pytest_megacpp.recording.events import Json
from pytest_megacpp.recording.ranks import ranks_named
from pytest_megacpp.recording.timeline import Timeline
from pytest_megacpp.recording.views import TestView
from pytest_megacpp.recording.vocabulary import ActReason, Purpose, WarmUp

Rule = Callable[[Case], Finding | None]


def judge_test(timeline: Timeline, index: int) -> TestResult:
    """Returns the result of one test of the plan, by what is known so far. Never raises, and is never green unless all
    ranks reported.
    """
    return _settled(Run(timeline), index)


def judge_run(timeline: Timeline) -> RunResult:
    """Returns the results of all tests in the order of the plan. The time is linear in the number of events."""
    run = Run(timeline)
    further = {number for numbers in timeline.further.values() for number in numbers}
    indices = sorted((timeline.planned.keys() | timeline.tests.keys() | timeline.unreached.keys()) - further)
    results = tuple(_settled(run, index) for index in indices)
    finished = timeline.finished
    facts: dict[str, Json] = {"reason": finished.reason if finished else None, "last_s": timeline.last_s}
    return RunResult(timeline.run_id, results, finished is not None, _problems(timeline), facts)


def attempts_at(timeline: Timeline, index: int) -> tuple[Attempt, ...]:
    """Returns all attempts so far at a test of the plan, each judged by itself."""
    run = Run(timeline)
    return tuple(_attempt(timeline, _result(run, number)) for number in timeline.attempts(index))


def _settled(run: Run, index: int) -> TestResult:
    """Returns the result of all attempts at a test together."""
    timeline, numbers = run.timeline, run.timeline.attempts(index)
    if len(numbers) == 1:
        return _result(run, index)
    was_escalated = is_escalation([_purpose(timeline, number) for number in numbers])
    results = [_result(run, number, was_escalated=was_escalated) for number in numbers]
    command = commands(timeline, results[0].nodeid, index, was_escalated=was_escalated)
    return settle(results, [_attempt(timeline, result) for result in results], timeline, command)


def _attempt(timeline: Timeline, result: TestResult) -> Attempt:
    return Attempt(result.index, _purpose(timeline, result.index), result.outcome, result.verdict)


def _purpose(timeline: Timeline, number: int) -> Purpose:
    """Returns what an attempt was for. A first attempt never looks for a cause, whatever a damaged recording says."""
    view, planned = timeline.tests.get(number), timeline.planned.get(number)
    if planned is not None and planned.of is not None:
        return planned.purpose
    return Purpose.WARM_UP if view is not None and view.warmup is WarmUp.RUNS else Purpose.MEASURED


def _result(run: Run, index: int, *, was_escalated: bool = False) -> TestResult:
    """Returns the result of one attempt. `was_escalated`: the order of diagnosis was followed."""
    timeline = run.timeline
    view, planned = timeline.tests.get(index), timeline.planned.get(index)
    nodeid = planned.nodeid if planned else view.nodeid if view else ""
    finding = _started(timeline, view) if view is not None else startup.find(run, index)
    if planned is not None and planned.must_run:
        finding = outcomes.under_gate(finding, view)
    certainty, reasons = weigh(finding, timeline, _world_of(timeline, view, index))
    if view is not None and view.ended is None and finding.code is not Code.BOX_LOST:
        certainty = certainty.lowered()
        reasons = (
            *reasons,
            Evidence(None, timeline.last_s, Witness.BOX, "less certain: the recording stops during this test"),
        )
    if view is not None and not finding.code.is_green:
        reasons = (*reasons, *threads_that_raised(view), *bucket_reads(view))
    muted = tuple(v.rank for v in view.ranks.values() if v.muted) if view is not None else ()
    if muted:
        certainty = certainty.lowered()
        text = f"less certain: {ranks_named(muted)} exceeded the event limit of a test; later events were dropped"
        reasons = (*reasons, Evidence(None, None, Witness.BOX, text))
    verdict = Verdict(
        finding.code,
        finding.summary,
        finding.blamed,
        finding.cause,
        certainty,
        tuple(dict.fromkeys((*finding.evidence, *reasons))),
        finding.consequences,
        next_step(
            finding, commands(timeline, nodeid, index, was_escalated=was_escalated), run_end.remedy(timeline, finding)
        ),
        finding.phase,
    )
    return TestResult(index, nodeid, finding.code.traits.outcome_in(finding.phase), verdict, _durations(view))


def _world_of(timeline: Timeline, view: TestView | None, index: int) -> str | None:
    unreached = timeline.unreached.get(index)
    return view.world if view is not None else unreached[0] if unreached else None


def _started(timeline: Timeline, view: TestView) -> Finding:
    """Asks the rules in their order about a test that began; the first finding decides."""
    # A broken GPU explains the failures of ranks, and these explain waits. What all ranks agree on is asked before
    # waits, because a test that ended by itself was not stuck.
    case = Case(timeline, view, timeline.worlds[view.world])
    faults = (devices.broken, _fault)
    rules = (*faults, outcomes.find, outcomes.expected_failure, deaths.skipped_on_some, deaths.not_joined, _waiting)
    for rule in (*rules, run_end.cut_short, outcomes.incomplete):
        found = rule(case)
        if found is not None:
            return handling.behind(case, stalls.with_other_waits(case, found))
    return _unexplained(case)


def _fault(case: Case) -> Finding | None:
    """Returns the finding for what ranks did wrong: a mismatch or a failure of their own, whichever came first; but a
    mismatch that came after a failure only where that does not explain it. None if what explains it is that a rank
    lost its peer: that is no fault of its own.
    """
    mismatch, failure = mismatches.find(case), deaths.find(case)
    if mismatch is None:
        return failure
    if failure is None:
        return mismatches.without_victims(case, mismatch)
    explained = failure.time_s < mismatch.time_s or mismatches.is_explained(case)
    return mismatches.unexplained(case) or (failure if explained else mismatch)


def _waiting(case: Case) -> Finding | None:
    found = stalls.find(case) or limits.find(case)
    if found is not None or case.why is not ActReason.MISMATCH:
        return found
    return mismatches.of_those_gone(case) or _unexplained(case)


def _unexplained(case: Case) -> Finding:
    """Returns the finding for a test that was ended early without anything that shows why."""
    acted = case.test.acted
    reason = f"{acted.why}: {plain(acted.detail)}" if acted else "no reason was recorded"
    return Finding(
        Code.UNCLEAR,
        f"the box ended the test ({reason}), but the recording holds no evidence of a cause",
        evidence=(Evidence(None, case.end_s, Witness.BOX, reason),),
        certainty=Certainty.GUESS,
        time_s=case.end_s,
    )


def _durations(view: TestView | None) -> dict[str, float]:
    """Returns the seconds that each phase took on its slowest rank."""
    found: dict[str, float] = {}
    for rank in view.ranks.values() if view else ():
        for when, (_, report) in rank.reports.items():
            found[when] = max(found.get(when, 0.0), report.duration_s)
    return found


def _problems(timeline: Timeline) -> tuple[str, ...]:
    """Returns what is wrong with the run or its recording, apart from the tests."""
    found = [f"{p.code}: {plain(p.detail, 400)}" for _, p in timeline.problems]
    lost = sum(gap.last - gap.first + 1 for gap in timeline.gaps)
    found += [f"events missing from the recording: {lost}"] if lost else []
    found += [f"unreadable lines in the recording: {len(timeline.damaged)}"] if timeline.damaged else []
    found += [f"events of kinds unknown to this version: {timeline.unknown}"] if timeline.unknown else []
    if timeline.started is not None and timeline.selected != timeline.listed:
        found.append(f"{timeline.selected} tests were selected, but the recording lists {timeline.listed}")
    return (*found, *(plain(str(ending)) for ending in bad_endings(timeline)))
