"""Owns what ranks themselves have to say: what they raised, where they were, what they wrote last.

Must not know why a rank was blamed. What ranks wrote is cleaned, bounded and put behind a gutter.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import groupby, takewhile

from pytest_megacpp.judge.verdicts import Code, Verdict
from pytest_megacpp.recording.ranks import ranks_named
from pytest_megacpp.recording.stacks import Frame, Thread, is_users, is_wrapper, short_path
from pytest_megacpp.recording.vocabulary import Stage, Stream, TestPhase
from pytest_megacpp.report.clean import bounded_lines, one_line
from pytest_megacpp.report.layout import counted, grouped, grouped_texts, quoted
from pytest_megacpp.report.states import Scene, last_line, output_lines

TRACEBACK_LINES = 120
TAIL_LINES = 12
CPP_LINES = 3
KEPT_FRAMES = 16
KEPT_LIBRARY_FRAMES = 4  # in a row
KEPT_TRACEBACKS = 3
KEPT_STACKS = 2
KEPT_LINES = 8
_RUNNER = re.compile(r"[/\\](_pytest|pluggy)[/\\]")
_FRAME = re.compile(r'  File "([^"]*)", line ')
_RUNNER_FILE = re.compile(r"[/\\](_pytest|pluggy|pytest_megacpp[/\\]rank)[/\\]")


@dataclass(frozen=True, slots=True)
class Raised:
    """An exception of one rank. `where` is the pytest phase or the stage before any test; `line` 0: not known."""

    rank: int
    where: TestPhase | Stage
    type: str
    message: str
    traceback: str
    file: str = ""
    line: int = 0


def raised(scene: Scene, rank: int) -> Raised | None:
    """What `rank` raised first in the test, or before it could begin one."""
    if scene.test is not None:
        view = scene.test.ranks.get(rank)
        failure = view.failure if view else None
        if failure is None or failure[1].error is None:
            return None
        error = failure[1].error
        return Raised(rank, failure[1].when, error.type, error.message, error.traceback, error.file, error.line)
    if scene.world is not None and rank in scene.world.broken:
        broken = scene.world.broken[rank][1]
        return Raised(rank, broken.stage, broken.type, broken.message, broken.traceback)
    return None


def what_ranks_wrote(verdict: Verdict, scene: Scene, nodeid: str, cwd: str) -> list[list[str]]:
    """One block per distinct exception, collection error, stack or last output of the ranks that matter. Files below
    `cwd` are named from there.
    """
    speaking = verdict.blamed_ranks or tuple(range(scene.size))
    errors = [error for rank in speaking if (error := raised(scene, rank)) is not None]
    blocks = _exceptions(errors) or _collection_errors(scene, speaking, nodeid)
    silent = [rank for rank in verdict.blamed_ranks if rank not in {error.rank for error in errors}]
    return [*blocks, *_last_words(scene, silent), *_stacks(scene, silent, cwd)]


def _exceptions(errors: Sequence[Raised]) -> list[list[str]]:
    groups = grouped(((e.type, e.where, e.file, e.line, _outline(e)), e.rank) for e in errors)
    first = {e.rank: e for e in errors}
    blocks = [_exception(first[ranks[0]], ranks) for ranks in list(groups.values())[:KEPT_TRACEBACKS]]
    others = sum(len(ranks) for ranks in list(groups.values())[KEPT_TRACEBACKS:])
    return [*blocks, *([[f"{counted(others, 'rank')} more raised something else: see the receipt"]] if others else [])]


def _outline(error: Raised) -> str:
    """What tells two exceptions apart when their place isn't known."""
    return "" if error.line else one_line(error.message, 120)


def _exception(error: Raised, ranks: Sequence[int]) -> list[str]:
    phase = "" if error.where is TestPhase.CALL else f" in {error.where}"
    same = " (the text is the first one's)" if len(ranks) > 1 else ""
    text = _without_runner(error.traceback) or ": ".join(filter(None, (error.type, error.message)))
    return [
        f"{ranks_named(ranks)} {'raised' if error.type else 'failed'}{phase}{same}",
        *quoted(bounded_lines(text, lines=TRACEBACK_LINES)),
    ]


def _without_runner(traceback: str) -> str:
    """Returns a traceback as Python prints it (`--tb=native`) without the frames of pytest and of the plugin."""
    kept, is_kept = [], True
    for line in traceback.rstrip().split("\n"):
        if (frame := _FRAME.match(line)) is not None:
            is_kept = _RUNNER_FILE.search(frame[1]) is None
        elif not line.startswith("    "):
            is_kept = True
        kept += [line] if is_kept else []
    return "\n".join(kept)


def _collection_errors(scene: Scene, ranks: Sequence[int], nodeid: str) -> list[list[str]]:
    collected = scene.world.collected if scene.world and scene.test is None else {}
    found = [(r, e) for r in ranks if r in collected for e in collected[r][1].errors if nodeid.startswith(e.nodeid)]
    groups = grouped(((error.nodeid, error.text), rank) for rank, error in found)
    return [
        [
            f"{ranks_named(who)} could not collect {one_line(name, 120)}",
            *quoted(bounded_lines(text, lines=TRACEBACK_LINES)),
        ]
        for (name, text), who in list(groups.items())[:KEPT_TRACEBACKS]
    ]


def _last_words(scene: Scene, ranks: Sequence[int]) -> list[list[str]]:
    dead = [rank for rank in ranks if _died(scene, rank)]
    words = {rank: last_words(scene, rank) for rank in dead[:KEPT_STACKS]}
    return [[f"rank {rank} wrote last", *quoted(lines)] for rank, lines in words.items() if lines]


def last_words(scene: Scene, rank: int) -> list[str]:
    """The end of what a dead rank wrote, cleaned: interpreters and C libraries say there why they die. Nothing of a
    rank that lives.
    """
    if not _died(scene, rank):
        return []
    lines = output_lines(scene, rank, Stream.STDERR) or output_lines(scene, rank, Stream.STDOUT)
    lines = _of_the_crash(lines) or lines[-TAIL_LINES:]
    return bounded_lines("\n".join(lines), lines=TAIL_LINES) if lines else []


def _of_the_crash(lines: Sequence[str]) -> list[str]:
    """Returns the last lines of a C++ runtime, and the dump's frames down to the test: its end tells less."""
    at = next((i for i in reversed(range(len(lines))) if lines[i].startswith("Fatal Python error")), None)
    if at is None:
        return []
    before = [line for line in lines[max(0, at - CPP_LINES) : at] if line.startswith(("terminate called", "  what():"))]
    dump = takewhile(lambda line: not _RUNNER.search(line), lines[at : at + TAIL_LINES])
    return [*before, *(line for line in dump if line.strip())]


def _died(scene: Scene, rank: int) -> bool:
    exits = scene.world.exits if scene.world else {}
    view = scene.test.ranks.get(rank) if scene.test else None
    ended = view.exit if view else exits[rank][1] if rank in exits else None
    return ended is not None and not ended.expected


def _stacks(scene: Scene, ranks: Sequence[int], cwd: str) -> list[list[str]]:
    views = {rank: scene.test.ranks[rank] for rank in ranks if rank in scene.test.ranks} if scene.test else {}
    taken = {rank: stack[1] for rank, view in views.items() if (stack := view.stack()) is not None}
    groups = grouped((thread.frames, rank) for rank, thread in taken.items())
    return [
        [f"where {ranks_named(who)} stood, most recent call first", *quoted(_frames(taken[who[0]], cwd))]
        for who in list(groups.values())[:KEPT_STACKS]
    ]


def frames_of_test(thread: Thread) -> list[Frame]:
    """The frames down to the test function, without those of the plugin's wrappers; all of them outside of a test."""
    called = [frame for frame in thread.frames if not is_wrapper(frame)]
    return list(takewhile(lambda frame: not _RUNNER.search(frame.file), called)) or called


def _frames(thread: Thread, cwd: str) -> list[str]:
    """The frames down to the test function, innermost first, but the user's before what these called in libraries; of
    many in a row that aren't the user's the first ones. Those of the plugin's wrappers are left out.
    """
    runs = [(whole, list(frames)) for whole, frames in groupby(frames_of_test(thread), key=is_users)]
    innermost = [] if len(runs) < 2 or runs[0][0] else _shown(False, runs.pop(0)[1], cwd)
    lines = [line for whole, frames in runs for line in _shown(whole, frames, cwd)]
    below = ["called from there:", *(f"  {line}" for line in innermost)] if innermost else []
    return [*lines[: KEPT_FRAMES - len(below)], *below]


def _shown(whole: bool, frames: Sequence[Frame], cwd: str) -> list[str]:
    shown = frames if whole or len(frames) <= KEPT_LIBRARY_FRAMES + 1 else frames[:KEPT_LIBRARY_FRAMES]
    lines = [one_line(str(replace(frame, file=short_path(frame.file, cwd)))) for frame in shown]
    return [*lines, *([f"… {len(frames) - len(shown)} frames of libraries"] if len(shown) < len(frames) else [])]


def last_lines(verdict: Verdict, scene: Scene) -> list[str]:
    """The last useful line of the ranks, the blamed ones first; not where it is shown anyway: what dead ranks wrote,
    and plain failures, whose output pytest shows.
    """
    if verdict.code is Code.TEST_FAILED or not scene.size:
        return []
    blamed = set(verdict.blamed_ranks)
    order = [
        *(r for r in verdict.blamed_ranks if not _died(scene, r)),
        *(r for r in range(scene.size) if r not in blamed),
    ]
    last = [(rank, line) for rank in order if (line := last_line(scene, rank))]
    groups = grouped_texts(last, KEPT_LINES)[:KEPT_LINES]
    left = len(last) - sum(len(ranks) for ranks, _ in groups)
    lines = [f"{ranks_named(ranks)} {part}" for ranks, line in groups for part in quoted([line])]
    return ["last line of each rank's output", *(f"  {line}" for line in lines), *_more(left)] if lines else []


def _more(left: int) -> list[str]:
    return [f"  … and of {counted(left, 'more rank')}"] if left else []
