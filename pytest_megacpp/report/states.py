"""Owns what each rank was doing when its test came to its verdict; must not know limits, blame rules or layout.

Built from the timeline's views. What the box itself ended doesn't count as a state: the rank is shown as it was before.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum, auto

from pytest_megacpp.judge.verdicts import Code, TestResult, Verdict
from pytest_megacpp.recording import events as ev
from pytest_megacpp.recording.operations import bare_op
from pytest_megacpp.recording.stacks import Thread, communication_call, formats_exception, user_frame, waits_for_peer
from pytest_megacpp.recording.timeline import Timeline
from pytest_megacpp.recording.views import FROZEN_STATES, RankView, TestView, WorldView
from pytest_megacpp.recording.vocabulary import ReportOutcome, Stream, TestPhase
from pytest_megacpp.report.clean import one_line, useful_lines

NO_VERDICT = Verdict(Code.NOT_RUN, "", ())
"""For the states of a test that still runs."""


@dataclass(frozen=True, slots=True)
class RankState:
    """`word` fits a narrow column (`wait`, `SIGKILL`), `text` says it (`waiting in all_reduce #7`)."""

    rank: int
    word: str
    text: str


@dataclass(frozen=True, slots=True)
class Scene:
    """A test (by its index in the plan) on its world, as far as it got: `test` is None when its ranks were never
    released into it.
    """

    index: int
    world: WorldView | None
    test: TestView | None

    @property
    def size(self) -> int:
        return self.test.size if self.test else self.world.size if self.world else 0


def scene(result: TestResult, timeline: Timeline) -> Scene:
    """Where `result` happened: its test, the world that failed before reaching it, or nowhere."""
    test = timeline.tests.get(result.number)
    if test is not None:
        return Scene(result.number, timeline.worlds.get(test.world), test)
    if result.number in timeline.unreached:
        return Scene(result.number, timeline.worlds.get(timeline.unreached[result.number][0]), None)
    if result.verdict.code is Code.STARTUP_FAILURE:
        return Scene(result.number, _broken_world(result, timeline), None)
    return Scene(result.number, None, None)


def _broken_world(result: TestResult, timeline: Timeline) -> WorldView | None:
    """The last world of the test's size that shows a reason; in a recording that ends early, just the last."""
    planned = timeline.planned.get(result.number)
    worlds = [world for world in timeline.worlds.values() if planned is None or world.size == planned.ranks]
    telling = [world for world in worlds if world.broken or world.exits or world.acted]
    return next(reversed(telling or worlds), None)


def rank_states(where: Scene, verdict: Verdict) -> tuple[RankState, ...]:
    """One state per rank, in rank order; empty when nothing is known of any."""
    if where.test is not None:
        blamed, victims = set(verdict.blamed_ranks), {c.rank for c in verdict.consequences if c.cause is None}
        return tuple(
            _in_test(view, where.test, _Part.of(rank, blamed, victims))
            for rank, view in sorted(where.test.ranks.items())
        )
    if where.world is not None:
        return tuple(_before_test(rank, where.world, where.index) for rank in range(where.world.size))
    return ()


class _Part(Enum):
    """A rank's part in the verdict: what a victim raised tells of its peer, not of itself."""

    BLAMED = auto()
    VICTIM = auto()
    OTHER = auto()

    @classmethod
    def of(cls, rank: int, blamed: set[int], victims: set[int]) -> "_Part":
        return cls.BLAMED if rank in blamed else cls.VICTIM if rank in victims else cls.OTHER


def death(exited: ev.RankExited) -> str:
    """`SIGKILL`, `OOM-killed`, `exit 3`."""
    if exited.oom_killed:
        return "OOM-killed"
    if exited.signal:
        return one_line(exited.signal, 20)
    return "died" if exited.code is None else f"exit {exited.code}"


def short_type(name: str) -> str:
    """`torch.cuda.OutOfMemoryError` → `OutOfMemoryError`."""
    return one_line(name, 80).rsplit(".", 1)[-1]


def short_path(path: str) -> str:
    """The last two parts: enough to know a file by, short enough to read."""
    return "/".join(one_line(path).replace("\\", "/").rsplit("/", 2)[-2:])


def last_line(where: Scene, rank: int) -> str | None:
    """The last line of the rank's output that the rank itself meant to write: stdout's, else stderr's."""
    for stream in Stream:
        lines = [line for line in output_lines(where, rank, stream) if not _is_noise(line)]
        if lines:
            return one_line(lines[-1])
    return None


def output_lines(where: Scene, rank: int, stream: Stream) -> list[str]:
    read = _output(where, rank, stream)
    return list(useful_lines(read.text[-8000:])) if read else []


def _output(where: Scene, rank: int, stream: Stream) -> ev.OutputRead | None:
    if where.test is not None and rank in where.test.ranks:
        return where.test.ranks[rank].output.get(stream)
    return where.world.output.get((rank, stream)) if where.world else None


# Log lines of torch's C++ side, bodies of Python warnings, and the stack dumps that the box itself asked for.
_NOISE = re.compile(
    r'\s*(\[rank\d+\]:?\[|\[[WEI]\d{4} |Thread 0x|Current thread 0x|File "|warnings\.warn\(|Extension modules:)'
)


def _is_noise(line: str) -> bool:
    return _NOISE.match(line) is not None


def _in_test(view: RankView, test: TestView, part: _Part) -> RankState:
    word, text = next(_findings(view, test, part), ("?", "no sign of life"))
    return RankState(view.rank, word, text)


def _findings(view: RankView, test: TestView, part: _Part) -> Iterator[tuple[str, str]]:
    """What is known of the rank, the most telling first."""
    if view.exit is not None and not view.exit.expected:
        yield death(view.exit), f"died ({death(view.exit)})"
    if part is not _Part.BLAMED and _cut_off_waiting(view, test):
        yield "wait", waiting_text(view)
    if part is _Part.VICTIM and view.failure is not None:
        error = view.failure[1].error
        yield "lost peer", f"lost a peer ({short_type(error.type)})" if error else "lost a peer"
    yield from reported(view)
    yield from _living(view)


def _cut_off_waiting(view: RankView, test: TestView) -> bool:
    """It failed only when the box ended the test, and until then it waited."""
    if test.acted is None or test.acted_s is None or view.rank not in test.acted.waiting:
        return False
    return view.failure is None or view.failure[0] >= test.acted_s


def waiting_text(view: RankView) -> str:
    """`waiting in all_reduce #7`, by what is recorded of it, else by its stack."""
    pending = view.collectives.pending()
    if pending:
        return f"waiting in {bare_op(one_line(pending[0].op, 60))} #{pending[0].seq}{_of_group(pending[0].group)}"
    taken = view.stack()
    call = communication_call(taken[1]) if taken else None
    return f"waiting in {one_line(call, 60)}" if call else "waiting for a peer"


def _of_group(name: str) -> str:
    """Nothing for the default group, which has the name 0."""
    return "" if name.partition("@")[0] in ("0", "default_pg", "") else f" of group {one_line(name, 40)}"


def reported(view: RankView) -> Iterator[tuple[str, str]]:
    """How far the rank itself says that it is through with the test: word and text."""
    if view.failure is not None:
        report = view.failure[1]
        name = short_type(report.error.type) if report.error else ""
        yield name or "failed", (f"raised {name}" if name else "failed") + _in_phase(report.when)
    if view.finished_s is not None or TestPhase.TEARDOWN in view.reports:
        skipped = any(
            report.outcome is ReportOutcome.SKIPPED and report.xfail is None for _, report in view.reports.values()
        )
        yield ("skipped", "skipped") if skipped else ("done", "finished")


def _in_phase(when: TestPhase) -> str:
    return "" if when is TestPhase.CALL else f" in {when}"


def _living(view: RankView) -> Iterator[tuple[str, str]]:
    sample = view.sample
    if sample is not None and sample.state in FROZEN_STATES:
        yield "frozen", "frozen by a signal"
    if view.compiling_since_s is not None:
        yield "compiling", "compiling"
    if view.collectives.pending():
        yield "wait", waiting_text(view)
    taken = view.stack()
    if taken is not None:
        yield placed(taken[1])
    if view.open_phase is not None:
        yield "busy", f"in {one_line(view.open_phase, 40)}"
    if sample is not None:
        yield ("alive", "alive") if sample.answered else ("mute", "alive, not answering")


def placed(thread: Thread) -> tuple[str, str]:
    """Where a thread is: word and text."""
    if waits_for_peer(thread):
        return "wait", f"waiting in {one_line(communication_call(thread) or 'a distributed call', 60)}"
    if formats_exception(thread):
        return "busy", "formatting an exception"
    frame = user_frame(thread) or (thread.frames[0] if thread.frames else None)
    return "busy", f"at {short_path(frame.file)}:{frame.line}" if frame else "running"


def _before_test(rank: int, world: WorldView, index: int) -> RankState:
    word, text = next(_beginnings(rank, world, index), ("starting", "starting"))
    return RankState(rank, word, text)


def _beginnings(rank: int, world: WorldView, index: int) -> Iterator[tuple[str, str]]:
    """How far the rank came towards its first test, the most telling first."""
    if rank in world.broken:
        broken = world.broken[rank][1]
        yield short_type(broken.type), f"{short_type(broken.type)} at {broken.stage}"
    if rank in world.exits and not world.exits[rank][1].expected:
        word = death(world.exits[rank][1])
        yield word, f"died ({word})"
    if rank in world.collected:
        collected = world.collected[rank][1]
        if index in collected.found:
            yield "collected", "collected the test"
        yield ("import error", "could not import") if collected.errors else ("lacks it", "did not collect the test")
    if rank in world.ready:
        yield "ready", "ready"
