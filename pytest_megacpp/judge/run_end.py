"""Owns tests that ended with the run: problems of box or desk, refusals, a stopped run, a lost box; must not know
faults of a world or of a running test.
"""

from collections.abc import Mapping

from pytest_megacpp.judge import memory
from pytest_megacpp.judge.case import Case
from pytest_megacpp.judge.causes import VerdictCause
from pytest_megacpp.judge.findings import Finding
from pytest_megacpp.judge.phrases import joined, plain, seconds
from pytest_megacpp.judge.verdicts import Certainty, Code, Evidence, Witness
from pytest_megacpp.recording.timeline import Timeline
from pytest_megacpp.recording.vocabulary import ActReason, NotRun, RunEnd, TestPhase

REMEDY_CHARS = 4_000  # a command line has to stay whole
_REFUSALS: Mapping[str, str] = {
    NotRun.UNSAFE_NCCL: "torch compares collectives in safety on gloo only, and this lane has NCCL",
    NotRun.UNSAFE_FSDP: "while torch compares collectives fully_shard can deadlock, and the test's file is about FSDP",
    NotRun.UNAFFORDABLE: "what is left of the run's time or budget doesn't pay for it",
}
_STOPS: Mapping[str, str] = {
    RunEnd.STOPPED: "the run had been stopped",
    RunEnd.INTERRUPTED: "the run was interrupted",
    RunEnd.BUDGET: "the budget was spent",
}


def problem_found(timeline: Timeline) -> Finding | None:
    """The first problem for which box or desk gave up the run; None where there was none."""
    if not timeline.problems:
        return None
    time_s, problem = timeline.problems[0]
    finding = Finding(
        Code(problem.code),
        plain(problem.detail, 400) or plain(problem.cause),
        (),
        plain(problem.cause, 80) or None,
        TestPhase.SETUP,
        (Evidence(None, time_s, Witness.BOX, joined((plain(problem.cause, 80), plain(problem.detail, 400)), ": ")),),
        time_s=time_s,
    )
    return memory.explained(finding, timeline)


def remedy(timeline: Timeline, finding: Finding) -> str:
    """What the box proposed to do about the problem that became this finding."""
    has_own_step = finding.code is Code.BOX_LOST and finding.cause == VerdictCause.OOM
    if has_own_step or not finding.code.traits.has_remedy or not timeline.problems:
        return ""
    return plain(timeline.problems[0][1].remedy, REMEDY_CHARS)


def refused(timeline: Timeline, index: int) -> Finding | None:
    """Why the box did not make this further attempt; None where it did not refuse it."""
    end = timeline.unreached[index][1] if index in timeline.unreached else None
    if end is None or end.detail not in _REFUSALS:
        return None
    why = _REFUSALS[end.detail]
    evidence = (Evidence(None, None, Witness.BOX, why),)
    return Finding(Code.NOT_RUN, why, cause=end.detail, phase=TestPhase.SETUP, evidence=evidence)


def never_began(timeline: Timeline, index: int) -> Finding:
    """Why a test that nothing else explains never began: the run, or the box, had ended."""
    finished = timeline.finished
    if finished is None or finished.reason is RunEnd.BROKEN:
        return box_lost(timeline)
    why = _STOPS.get(finished.reason) or f"the run ended ({finished.reason})"
    unreached = timeline.unreached.get(index)
    detail = plain(unreached[1].detail) if unreached else plain(finished.detail)
    return Finding(
        Code.NOT_RUN,
        joined((f"{why} before this test began", detail), ": "),
        (),
        finished.reason if finished.reason is not RunEnd.COMPLETED else None,
        TestPhase.SETUP,
        (Evidence(None, timeline.finished_s, Witness.BOX, joined((finished.reason, plain(finished.detail)), ": ")),),
        time_s=timeline.finished_s or 0.0,
    )


def box_lost(timeline: Timeline, phase: TestPhase = TestPhase.SETUP) -> Finding:
    """The finding of a recording that stops without an end: nobody was left to write one."""
    last = timeline.progress[-1][1] if timeline.progress and not timeline.worlds else None
    reached = f", while it was at {plain(last.phase, 40)}" if last else ""
    broken = timeline.finished is not None
    why = f"the box broke: {plain(timeline.finished.detail)}" if timeline.finished else "the box was cut off"
    finding = Finding(
        Code.BOX_LOST,
        f"{why} {seconds(timeline.last_s)} into the run{reached}" if not broken else why,
        (),
        VerdictCause.BROKEN if broken else VerdictCause.CUT_OFF,
        phase,
        (Evidence(None, timeline.last_s, Witness.BOX, "the last event of the recording"),),
        time_s=timeline.last_s,
    )
    return memory.explained(finding, timeline)


def cut_short(case: Case) -> Finding | None:
    """What cut off this running test: the end of the run, or the loss of the box; None where nothing did."""
    timeline, ended = case.timeline, case.test.ended
    was_stopped = case.why is ActReason.STOP or (ended is None and timeline.finished is not None)
    if ended is not None and not was_stopped:
        return None
    problem = problem_found(timeline)
    if problem is not None and case.test.started_s <= problem.time_s <= (case.test.ended_s or problem.time_s):
        return problem
    return _stopped(case) if was_stopped else box_lost(timeline, TestPhase.CALL)


def _stopped(case: Case) -> Finding:
    finished, ended = case.timeline.finished, case.test.ended
    reason = ended.detail if ended and ended.detail else finished.reason if finished else ""
    cause = plain(reason, 40) or RunEnd.INTERRUPTED
    detail = plain(case.test.acted.detail) if case.test.acted else ""
    return Finding(
        Code.NOT_RUN,
        joined((f"{_STOPS.get(cause, 'the run was ended')} while this test ran", detail), ": "),
        (),
        cause,
        TestPhase.CALL,
        (Evidence(None, case.end_s, Witness.BOX, joined((cause, detail), ": ")),),
        certainty=Certainty.CERTAIN,
        time_s=case.end_s,
    )
