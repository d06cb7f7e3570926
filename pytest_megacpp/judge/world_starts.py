"""Owns why a world never got ready for its first test; must not know what ranks collected, or faults of a running test.

A rank that said what failed is a witness of its own failure; of one that said nothing, its end is all that is known. A
rank that failed at joining the others may be a victim of one of them: it is secondary.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import assert_never

from pytest_megacpp.judge.aftermath import first_few
from pytest_megacpp.judge.case import (
    NO_OOM_WITNESS,
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
from pytest_megacpp.recording.timeline import Timeline
from pytest_megacpp.recording.views import FROZEN_STATES, WorldView
from pytest_megacpp.recording.vocabulary import ActReason, Stage, Stream, TestPhase


@dataclass(frozen=True, slots=True)
class StartupFailure:
    """What kept one rank from being ready. `text`: the end of a sentence about it."""

    rank: int
    time_s: float
    source: Witness
    cause: str
    text: str
    secondary: bool = False
    nvls: str = ""  # what NCCL said, where it could not set up NVLS


def find(timeline: Timeline, world: WorldView) -> Finding | None:
    """Why this world never got ready; None when it did, or nothing is known."""
    has_begun = any(test.world == world.name for test in timeline.tests.values())
    exited = _exited(world, has_begun=has_begun)
    failures = sorted((*_broken(world), *exited), key=lambda f: (f.secondary, f.time_s, f.rank))
    if failures and failures[0].nvls:
        return _without_nvls(timeline, failures)
    if failures:
        return _failed(world, failures)
    if world.acted is not None and world.acted.why is ActReason.STARTUP_LIMIT:
        return _too_slow(world, world.acted)
    return None


def _broken(world: WorldView) -> Iterable[StartupFailure]:
    """The ranks that said what failed."""
    for rank, (time_s, broken) in world.broken.items():
        kind = errors.classify(ev.Error(broken.type, broken.message, "", 0, broken.traceback))
        error = joined((errors.short_type(plain(broken.type, 80)), plain(broken.message)), ": ")
        text = f"can't run tests, {_what_failed(broken.stage)}: {error}"
        nvls = errors.nvls_line(broken.message) if kind is errors.Kind.NVLS else ""
        is_of_peers = kind.secondary or (broken.stage is Stage.RENDEZVOUS and not nvls)
        yield StartupFailure(rank, time_s, Witness.REPORT, broken.stage, text, is_of_peers, nvls)


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


def _exited(world: WorldView, *, has_begun: bool) -> Iterable[StartupFailure]:
    """The ranks that ended without a word. `has_begun`: the world ran a test, so that a rank which had collected was
    through with starting.
    """
    for rank, (time_s, exited) in world.exits.items():
        if exited.expected or rank in world.broken or (has_begun and rank in world.collected):
            continue
        when = "after collecting the tests, before the first one" if rank in world.collected else _BEFORE
        text = f"{exit_text(exited)} {when}"
        nvls = _written_of_nvls(world, rank) if ended_by_itself(exited) else ""
        yield StartupFailure(rank, time_s, Witness.EXIT, exit_cause(exited), text, nvls=nvls)


def _written_of_nvls(world: WorldView, rank: int) -> str:
    """What the rank wrote about NVLS before its end; empty where that was not the reason."""
    stderr = world.output.get((rank, Stream.STDERR))
    text = stderr.text[-errors.TAIL_CHARS :] if stderr is not None else ""
    return errors.nvls_line(text) if errors.classify_output(text) is errors.Kind.NVLS else ""


def _without_nvls(timeline: Timeline, failures: Sequence[StartupFailure]) -> Finding:
    """Returns the same finding as for a test that runs (`judge.devices`): the machine is at fault, and no rank."""
    first = failures[0]
    hit = [f.rank for f in failures if f.nvls]
    return Finding(
        Code.ENVIRONMENT,
        f"{NVLS_FAILED}: {ranks_named(hit)} ended with {plain(first.nvls, 300)}",
        (),
        VerdictCause.NVLS,
        TestPhase.SETUP,
        (*nvls_setting(timeline), *(Evidence(f.rank, f.time_s, f.source, f.text) for f in failures[:6])),
        relies=frozenset({Source.REPORTS, Source.EXITS} if first.source is Witness.EXIT else {Source.REPORTS}),
        certainty=Certainty.LIKELY if first.source is Witness.EXIT else Certainty.CERTAIN,
        time_s=first.time_s,
    )


def _failed(world: WorldView, failures: Sequence[StartupFailure]) -> Finding:
    first = failures[0]
    blamed = tuple(sorted(f.rank for f in failures if (f.cause, f.text) == (first.cause, first.text)))
    others = [f for f in failures if f.rank not in blamed]
    return Finding(
        Code.STARTUP_FAILURE,
        of_ranks(blamed, first.text),
        blamed,
        first.cause,
        TestPhase.SETUP,
        (
            *(Evidence(f.rank, f.time_s, f.source, f.text) for f in failures[:6]),
            *first_few(blamed, lambda r: _last_line(world, r, first.time_s), 2),
        ),
        tuple(Consequence(f.rank, f.text, None if f.secondary else f.cause) for f in others),
        _relies(world, first, blamed),
        (Uncertainty(Source.MEMORY, NO_OOM_WITNESS),) if _may_be_oom(world, first, blamed) else (),
        time_s=first.time_s,
    )


def _relies(world: WorldView, first: StartupFailure, blamed: Iterable[int]) -> frozenset[Source]:
    if first.source is not Witness.EXIT:
        return frozenset({Source.REPORTS})
    memory = {Source.MEMORY} if _may_be_oom(world, first, blamed) else set()
    return frozenset({Source.REPORTS, Source.EXITS} | memory)


def _may_be_oom(world: WorldView, first: StartupFailure, blamed: Iterable[int]) -> bool:
    """Whether a rank was killed and no witness can tell by what."""
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
    stuck = "; ".join(f"{ranks_named(ranks)} {step}" for step, ranks in list(steps.items())[:3])
    waited_s = (world.acted_s or world.started_s) - world.started_s
    return Finding(
        Code.STARTUP_FAILURE,
        f"after {seconds(waited_s)} {stuck or 'ranks were not ready'}",
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
    """Returns how far a rank came, and where it is."""
    if rank in world.ready:
        where = _whereabouts(world, rank)
        return "had not collected the tests" + (f": {where}" if where else "")
    return "had not started pytest (Python or an import hangs)" if rank in world.pids else "had no process"


def _whereabouts(world: WorldView, rank: int) -> str:
    """Returns where a rank is: `still in test_a.py:3 (<module>)`; empty when nothing is known."""
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
