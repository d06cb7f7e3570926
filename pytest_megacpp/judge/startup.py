"""Owns tests that never began, or that were cut off: start-up, environment, refusals, a lost box; must not know faults
of a running test.

Which world failed a test is what the box said, else the last world of its size.
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import assert_never

from pytest_megacpp.judge import memory
from pytest_megacpp.judge.aftermath import first_few
from pytest_megacpp.judge.case import (
    NO_OOM_WITNESS,
    Case,
    ended_by_itself,
    exit_cause,
    exit_text,
    may_be_oom,
)
from pytest_megacpp.judge.causes import VerdictCause
from pytest_megacpp.judge.devices import NVLS_FAILED, nvls_setting
from pytest_megacpp.judge.findings import Finding, Source, Uncertainty
from pytest_megacpp.judge.phrases import joined, of_ranks, place, plain, seconds
from pytest_megacpp.judge.verdicts import Certainty, Code, Consequence, Evidence, Witness
from pytest_megacpp.recording import errors
from pytest_megacpp.recording import events as ev
from pytest_megacpp.recording.ranks import ranks_named
from pytest_megacpp.recording.stacks import main_thread, user_frame
from pytest_megacpp.recording.timeline import FROZEN_STATES, Timeline, WorldView
from pytest_megacpp.recording.vocabulary import ActReason, NotRun, RunEnd, Stage, Stream, TestPhase

KEPT_NODEIDS = 10
MEND_CHARS = 4_000  # a command line has to stay whole
_CONFTEST = re.compile(r"^\S*conftest\.py(?=:\d+: in )", re.MULTILINE)
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


@dataclass(frozen=True, slots=True)
class Stumble:
    """What kept one rank from being ready. `told`: the end of a sentence about it."""

    rank: int
    time_s: float
    source: Witness
    cause: str
    told: str
    secondary: bool = False
    nvls: str = ""  # what NCCL said, where it could not set up NVLS


@dataclass(frozen=True)
class Run:
    """What is asked for every test that didn't begin, worked out once per run."""

    timeline: Timeline

    @cached_property
    def last_worlds(self) -> dict[int, WorldView]:
        """The last world of each size."""
        return {world.size: world for world in self.timeline.worlds.values()}

    @cached_property
    def _findings(self) -> dict[str, Finding | None]:
        return {}

    def world_of(self, index: int) -> WorldView | None:
        """The world that failed this test."""
        if index in self.timeline.unreached:
            return self.timeline.worlds.get(self.timeline.unreached[index][0])
        planned = self.timeline.planned.get(index)
        return self.last_worlds.get(planned.ranks) if planned else None

    def start_of(self, world: WorldView) -> Finding | None:
        """Why this world never got ready; None when it did, or nothing is known."""
        if world.name not in self._findings:
            self._findings[world.name] = _world_failed(self.timeline, world)
        return self._findings[world.name]

    @cached_property
    def not_common(self) -> dict[str, str]:
        """By world: what its ranks lack of the plan, in few words."""
        return {}

    def lacking(self, world: WorldView) -> str:
        if world.name not in self.not_common:
            self.not_common[world.name] = _lacking(self, world)
        return self.not_common[world.name]


def find(run: Run, index: int) -> Finding:
    """Why this test never began."""
    refused = _refused(run.timeline, index)
    if refused is not None:
        return refused
    world = run.world_of(index)
    started = run.start_of(world) if world is not None else None
    problem = problem_found(run.timeline)
    if started is not None and (problem is None or started.time_s <= problem.time_s):
        return started
    uncollected = _not_collected(run, world, index) if world is not None else None
    return uncollected or problem or _never_began(run, index)


# -- a world that didn't get ready -------------------------------------------------------------------------


def _world_failed(timeline: Timeline, world: WorldView) -> Finding | None:
    has_begun = any(test.world == world.name for test in timeline.tests.values())
    exited = _exited(world, has_begun=has_begun)
    stumbles = sorted((*_broken(world), *exited), key=lambda s: (s.secondary, s.time_s, s.rank))
    if stumbles and stumbles[0].nvls:
        return _without_nvls(timeline, stumbles)
    if stumbles:
        return _stumbled(world, stumbles)
    if world.acted is not None and world.acted.why is ActReason.STARTUP_LIMIT:
        return _too_slow(world, world.acted)
    return None


def _broken(world: WorldView) -> Iterable[Stumble]:
    for rank, (time_s, broken) in world.broken.items():
        kind = errors.classify(ev.Error(broken.type, broken.message, "", 0, broken.traceback))
        error = joined((errors.short_type(plain(broken.type, 80)), plain(broken.message)), ": ")
        told = f"can't run tests, {_what_failed(broken.stage)}: {error}"
        nvls = errors.nvls_line(broken.message) if kind is errors.Kind.NVLS else ""
        is_of_peers = kind.secondary or (broken.stage is Stage.RENDEZVOUS and not nvls)
        yield Stumble(rank, time_s, Witness.REPORT, broken.stage, told, is_of_peers, nvls)


def _what_failed(stage: Stage) -> str:
    match stage:
        case Stage.IMPORT:
            return "an import failed"
        case Stage.CONFTEST:
            return "a conftest.py failed"
        case Stage.PLUGIN:
            return "a pytest plugin failed"
        case Stage.USAGE:
            return "pytest refused its arguments"
        case Stage.COLLECTION:
            return "collection failed"
        case Stage.RENDEZVOUS:
            return "joining the others failed"
        case _:
            assert_never(stage)


_BEFORE = "before collecting the tests"


def _exited(world: WorldView, *, has_begun: bool) -> Iterable[Stumble]:
    """`has_begun`: the world ran a test, so that a rank which had collected was through with starting."""
    for rank, (time_s, exited) in world.exits.items():
        if exited.expected or rank in world.broken or (has_begun and rank in world.collected):
            continue
        when = "after collecting the tests, before the first one" if rank in world.collected else _BEFORE
        told = f"{exit_text(exited)} {when}"
        nvls = _written_of_nvls(world, rank) if ended_by_itself(exited) else ""
        yield Stumble(rank, time_s, Witness.EXIT, exit_cause(exited), told, nvls=nvls)


def _written_of_nvls(world: WorldView, rank: int) -> str:
    stderr = world.output.get((rank, Stream.STDERR))
    text = stderr.text[-errors.TAIL_CHARS :] if stderr is not None else ""
    return errors.nvls_line(text) if errors.classify_output(text) is errors.Kind.NVLS else ""


def _without_nvls(timeline: Timeline, stumbles: Sequence[Stumble]) -> Finding:
    """As for a test that runs (judge/devices.py): the machine's matter, and no rank's."""
    first = stumbles[0]
    hit = [s.rank for s in stumbles if s.nvls]
    return Finding(
        Code.ENVIRONMENT,
        f"{NVLS_FAILED}: {ranks_named(hit)} ended with {plain(first.nvls, 300)}",
        (),
        VerdictCause.NVLS,
        TestPhase.SETUP,
        (*nvls_setting(timeline), *(Evidence(s.rank, s.time_s, s.source, s.told) for s in stumbles[:6])),
        relies=frozenset({Source.REPORTS, Source.EXITS} if first.source is Witness.EXIT else {Source.REPORTS}),
        certainty=Certainty.LIKELY if first.source is Witness.EXIT else Certainty.CERTAIN,
        time_s=first.time_s,
    )


def _stumbled(world: WorldView, stumbles: Sequence[Stumble]) -> Finding:
    first = stumbles[0]
    blamed = tuple(sorted(s.rank for s in stumbles if (s.cause, s.told) == (first.cause, first.told)))
    others = [s for s in stumbles if s.rank not in blamed]
    return Finding(
        Code.STARTUP_FAILURE,
        of_ranks(blamed, first.told),
        blamed,
        first.cause,
        TestPhase.SETUP,
        (
            *(Evidence(s.rank, s.time_s, s.source, s.told) for s in stumbles[:6]),
            *first_few(blamed, lambda r: _last_line(world, r, first.time_s), 2),
        ),
        tuple(Consequence(s.rank, s.told, None if s.secondary else s.cause) for s in others),
        _relies(world, first, blamed),
        (Uncertainty(Source.MEMORY, NO_OOM_WITNESS),) if _may_be_oom(world, first, blamed) else (),
        time_s=first.time_s,
    )


def _relies(world: WorldView, first: Stumble, blamed: Iterable[int]) -> frozenset[Source]:
    if first.source is not Witness.EXIT:
        return frozenset({Source.REPORTS})
    memory = {Source.MEMORY} if _may_be_oom(world, first, blamed) else set()
    return frozenset({Source.REPORTS, Source.EXITS} | memory)


def _may_be_oom(world: WorldView, first: Stumble, blamed: Iterable[int]) -> bool:
    """Whether a rank was killed where nobody can say by what."""
    return first.source is Witness.EXIT and may_be_oom(world.exits[r][1] for r in blamed if r in world.exits)


def _last_line(world: WorldView, rank: int, time_s: float) -> Evidence | None:
    read = world.output.get((rank, Stream.STDERR)) or world.output.get((rank, Stream.STDOUT))
    lines = [line for line in read.text[-4_000:].splitlines() if line.strip()] if read else []
    return Evidence(rank, time_s, Witness.OUTPUT, f"last line: {plain(lines[-1])}") if lines else None


def _too_slow(world: WorldView, acted: ev.Acted) -> Finding:
    late = tuple(r for r in range(world.size) if r not in world.collected)
    steps: dict[str, list[int]] = defaultdict(list)
    for rank in late:
        steps[_step(world, rank)].append(rank)
    told = "; ".join(f"{ranks_named(ranks)} {step}" for step, ranks in list(steps.items())[:3])
    waited_s = (world.acted_s or world.started_s) - world.started_s
    return Finding(
        Code.STARTUP_FAILURE,
        f"after {seconds(waited_s)} {told or 'ranks were not ready'}",
        late,
        VerdictCause.STARTUP_LIMIT,
        TestPhase.SETUP,
        (
            Evidence(None, world.acted_s, Witness.BOX, plain(acted.detail)),
            *first_few(late, lambda r: _step_evidence(world, r)),
        ),
        relies=frozenset({Source.REPORTS, Source.STACKS}),
        time_s=world.acted_s or 0.0,
    )


def _step(world: WorldView, rank: int) -> str:
    """How far a rank came, and where it is."""
    if rank in world.ready:
        where = _whereabouts(world, rank)
        return "had not collected the tests" + (f": {where}" if where else "")
    return "had not started pytest (Python or an import hangs)" if rank in world.pids else "had no process"


def _whereabouts(world: WorldView, rank: int) -> str:
    """`still in test_a.py:3 (<module>)`; empty when nothing is known."""
    if rank in world.samples and world.samples[rank].state in FROZEN_STATES:
        return "frozen, stopped by a signal"
    taken = world.stacks[rank][1] if rank in world.stacks else None
    thread = main_thread(taken.text, world.ready[rank][1].main_thread) if taken and taken.ok else None
    frame = user_frame(thread) if thread else None
    frame = frame or (thread.frames[0] if thread and thread.frames else None)
    return f"still in {place(frame)}" if frame else ""


def _step_evidence(world: WorldView, rank: int) -> Evidence | None:
    where = _whereabouts(world, rank) if rank in world.ready else ""
    if not where:
        return _last_line(world, rank, world.acted_s or 0.0)
    time_s = world.stacks[rank][0] if rank in world.stacks else world.acted_s
    witness = Witness.BOX if where.startswith("frozen") else Witness.STACK
    return Evidence(rank, time_s, witness, f"is {where}")


# -- collection --------------------------------------------------------------------------------------------


def _not_collected(run: Run, world: WorldView, index: int) -> Finding | None:
    item = run.timeline.test_of(index)
    lacking = tuple(r for r, (_, seen) in sorted(world.collected.items()) if item not in seen.found)
    if not lacking:
        return None
    nodeid = run.timeline.planned[item].nodeid if item in run.timeline.planned else ""
    failed = {r: e for r in lacking if (e := _error_for(world.collected[r][1], nodeid)) is not None}
    times = [world.collected[r][0] for r in lacking]
    if failed:
        return _not_imported(world, failed, min(times))
    skipped = {r: e.text for r in lacking if (e := world.collected[r][1].skip_of(nodeid)) is not None}
    if len(skipped) == world.size:
        return _skipped(world, skipped, nodeid)
    why = f" (the file is skipped there: {_reason(skipped)})" if len(skipped) == len(lacking) else ""
    return Finding(
        Code.STARTUP_FAILURE,
        f"{ranks_named(lacking)} did not collect this test{why}, {_others(world, lacking)} did"
        f"{_in_its_place(world, lacking, nodeid)}",
        lacking,
        Stage.COLLECTION,
        TestPhase.SETUP,
        (
            Evidence(None, max(times), Witness.REPORT, run.lacking(world)),
            *_digests(world),
            *first_few(lacking, lambda r: _instead(world, r, nodeid)),
        ),
        relies=frozenset({Source.REPORTS}),
        time_s=min(times),
    )


def _reason(skipped: dict[int, str]) -> str:
    return plain(skipped[min(skipped)]).removeprefix("Skipped: ")


def _skipped(world: WorldView, skipped: dict[int, str], nodeid: str) -> Finding:
    """All ranks skip the whole file, which the desk did not: a library that only the box lacks."""
    return Finding(
        Code.SKIPPED,
        _reason(skipped) or f"skipped on all {world.size} ranks",
        relies=frozenset({Source.REPORTS}),
        time_s=max(time_s for time_s, _ in world.collected.values()),
    )


def _instead(world: WorldView, rank: int, nodeid: str) -> Evidence | None:
    """The same test with other parameters: values that differ from process to process."""
    time_s, other = world.collected[rank][0], _other(world, rank, nodeid)
    return Evidence(rank, time_s, Witness.REPORT, f"has {plain(other, 160)} instead") if other else None


def _other(world: WorldView, rank: int, nodeid: str) -> str:
    name = nodeid.partition("[")[0]
    return next((n for n in world.collected[rank][1].unplanned if n.partition("[")[0] == name), "")


def _in_its_place(world: WorldView, lacking: Sequence[int], nodeid: str) -> str:
    """`; in its place: test_a[x] on rank 0 …`, where these ranks have the test with other parameters; else empty."""
    others: dict[str, list[int]] = defaultdict(list)
    for rank in lacking:
        if other := _other(world, rank, nodeid):
            others[other.partition("::")[2]].append(rank)
    told = ", ".join(f"{plain(other, 60)} on {ranks_named(ranks)}" for other, ranks in list(others.items())[:2])
    return f"; in its place: {told} (parameters that differ by process, as the order of a set does)" if told else ""


def _others(world: WorldView, lacking: Sequence[int]) -> str:
    others = [r for r in world.collected if r not in lacking]
    return ranks_named(others) if others else "only the desk"


def _error_for(seen: ev.RankCollected, nodeid: str) -> ev.CollectError | None:
    """The collection error of this rank that took the test along: of its file or a directory above."""
    return next((e for e in seen.errors if e.nodeid == "." or nodeid.startswith(e.nodeid)), None)


def _not_imported(world: WorldView, failed: dict[int, ev.CollectError], time_s: float) -> Finding:
    blamed = tuple(sorted(failed))
    error = failed[blamed[0]]
    conftest = _conftest_in(error)
    what = f"{conftest or plain(error.nodeid)} does not import on {ranks_named(blamed)}: {_exception(error.text)}"
    return Finding(
        Code.STARTUP_FAILURE,
        what,
        blamed,
        Stage.CONFTEST if conftest else Stage.IMPORT,
        TestPhase.SETUP,
        first_few(blamed, lambda r: Evidence(r, world.collected[r][0], Witness.REPORT, _exception(failed[r].text))),
        relies=frozenset({Source.REPORTS}),
        time_s=time_s,
    )


def _conftest_in(error: ev.CollectError) -> str:
    """The conftest.py that a directory's collection failed in; pytest reports it under the directory's name."""
    if error.nodeid.endswith(".py"):
        return ""
    named = _CONFTEST.search(error.text)
    return plain(named[0], 120) if named else ""


def _exception(text: str) -> str:
    """The line of a collection error that names the exception."""
    lines = [line[1:].strip() for line in text[-8_000:].splitlines() if line.startswith("E ")]
    lines = lines or [line for line in text[-8_000:].splitlines() if line.strip()]
    return plain(lines[-1]) if lines else "no reason given"


def _lacking(run: Run, world: WorldView) -> str:
    """`rank 1 lacks 2 of 12 tests: a.py::b, a.py::c`."""
    planned = run.timeline.planned
    everything = frozenset(number for number, test in planned.items() if test.of is None)
    groups: dict[frozenset[int], list[int]] = defaultdict(list)
    for rank, (_, seen) in sorted(world.collected.items()):
        if absent := frozenset(number for number in everything if number not in seen.found):
            groups[absent].append(rank)
    parts = []
    for absent, ranks in list(groups.items())[:3]:
        names = [plain(planned[i].nodeid, 120) for i in sorted(absent)[:KEPT_NODEIDS]]
        more = ", …" if len(absent) > KEPT_NODEIDS else ""
        verb = "lacks" if len(ranks) == 1 else "lack"
        parts.append(f"{ranks_named(ranks)} {verb} {len(absent)} of {len(everything)} tests: {', '.join(names)}{more}")
    return "; ".join(parts)


def _digests(world: WorldView) -> tuple[Evidence, ...]:
    groups: dict[str, list[int]] = defaultdict(list)
    for rank, (_, seen) in sorted(world.collected.items()):
        groups[seen.digest].append(rank)
    told = ", ".join(f"{ranks_named(ranks)} {plain(digest, 16)}" for digest, ranks in list(groups.items())[:4])
    return (Evidence(None, None, Witness.REPORT, f"digest of what was collected: {told}"),) if len(groups) > 1 else ()


# -- the box and the run -----------------------------------------------------------------------------------


def problem_found(timeline: Timeline) -> Finding | None:
    """What the box or the desk said that the run can't do."""
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


def mend(timeline: Timeline, finding: Finding) -> str:
    """What the box proposed to do about the problem that became this finding."""
    has_own_step = finding.code is Code.BOX_LOST and finding.cause == VerdictCause.OOM
    if has_own_step or not finding.code.traits.has_remedy or not timeline.problems:
        return ""
    return plain(timeline.problems[0][1].mend, MEND_CHARS)


def _refused(timeline: Timeline, index: int) -> Finding | None:
    """A further attempt that the box did not make."""
    end = timeline.unreached[index][1] if index in timeline.unreached else None
    if end is None or end.detail not in _REFUSALS:
        return None
    told = _REFUSALS[end.detail]
    evidence = (Evidence(None, None, Witness.BOX, told),)
    return Finding(Code.NOT_RUN, told, cause=end.detail, phase=TestPhase.SETUP, evidence=evidence)


def _never_began(run: Run, index: int) -> Finding:
    finished = run.timeline.finished
    if finished is None or finished.reason is RunEnd.BROKEN:
        return box_lost(run.timeline)
    why = _STOPS.get(finished.reason) or f"the run ended ({finished.reason})"
    unreached = run.timeline.unreached.get(index)
    detail = plain(unreached[1].detail) if unreached else plain(finished.detail)
    return Finding(
        Code.NOT_RUN,
        joined((f"{why} before this test began", detail), ": "),
        (),
        finished.reason if finished.reason is not RunEnd.COMPLETED else None,
        TestPhase.SETUP,
        (
            Evidence(
                None, run.timeline.finished_s, Witness.BOX, joined((finished.reason, plain(finished.detail)), ": ")
            ),
        ),
        time_s=run.timeline.finished_s or 0.0,
    )


def box_lost(timeline: Timeline, phase: TestPhase = TestPhase.SETUP) -> Finding:
    """The recording stops without an end: nobody was left to write one."""
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
    """A test that was running when the run was stopped, or when the box was lost."""
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
