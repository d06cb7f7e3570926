"""Owns `megacpp stacks`: where all ranks of a run are now, or were last; must not know how a stack is taken."""

import argparse
import secrets
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from pytest_megacpp.box.asked import ask
from pytest_megacpp.desk.commands.asking import Asking
from pytest_megacpp.desk.commands.command import (
    FAILED,
    OK,
    CannotDo,
    Desk,
    complain,
    say,
    say_json,
    takes_json,
    takes_run,
)
from pytest_megacpp.desk.commands.runs import Entry
from pytest_megacpp.desk.run.directory import RECORDING, read_run_json
from pytest_megacpp.desk.run.runs import GrowingRecording, find_box_run, named_recording
from pytest_megacpp.recording.events import StacksAsked, StackTaken
from pytest_megacpp.recording.plan import Look
from pytest_megacpp.recording.ranks import ranks_named
from pytest_megacpp.recording.timeline import Timeline
from pytest_megacpp.recording.vocabulary import StackMethod
from pytest_megacpp.report.clean import one_line
from pytest_megacpp.report.layout import counted
from pytest_megacpp.report.quantities import age_text, seconds_text
from pytest_megacpp.report.run_json import RunStatus
from pytest_megacpp.report.stack_groups import RankStack, newest_stacks, stack_lines, stacks_json

ANSWER_S = 8.0  # for the box to look, to ask all of its ranks and to record what they say
POLL_S = 0.05


@dataclass
class Looking:
    """The recording of a run while its ranks are asked for their stacks. `asker` is who asks, empty while nobody does;
    `began_s` when the box began to ask the ranks, on its clock; `answered` has those, by world, of which it said since
    then where they are, or that they don't answer; `waited_s` is how long that was waited for.
    """

    recording: GrowingRecording
    timeline: Timeline = field(default_factory=Timeline)
    asker: str = ""
    began_s: float | None = None
    answered: set[tuple[str, int]] = field(default_factory=set)
    waited_s: float = 0.0

    def ask(self) -> Look:
        """The question, which no other one's answer is taken for."""
        self.asker = secrets.token_hex(8)
        return Look(self.asker)

    def read(self) -> None:
        """Takes in what is new."""
        for event in self.recording.read():
            self.timeline.add(event)
            match event.fact:
                case StacksAsked(askers=askers) if self.began_s is None and self.asker and self.asker in askers:
                    self.began_s = event.time_s
                case StackTaken() as taken if self._is_answer(taken, event.time_s):
                    self.answered.add((event.world, taken.rank))
                case _:
                    pass

    def _is_answer(self, taken: StackTaken, time_s: float) -> bool:
        """A rank whose worker server is silent is asked in another way."""
        is_last = taken.ok or taken.method is not StackMethod.TRACEBACK
        return is_last and self.began_s is not None and time_s >= self.began_s

    @property
    def living(self) -> set[tuple[str, int]]:
        worlds = (world for world in self.timeline.worlds.values() if world.ended is None)
        return {(world.name, rank) for world in worlds for rank in world.pids if rank not in world.exits}

    def silent(self, world: str) -> list[int]:
        """The living ranks of a world that have not answered."""
        return sorted(rank for name, rank in self.living - self.answered if name == world)

    @property
    def is_over(self) -> bool:
        """Whether nothing more will come: all living ranks have answered, or none is left that could."""
        return self.timeline.finished is not None or (self.began_s is not None and self.living <= self.answered)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    takes_run(parser)
    parser.add_argument("--threads", action="store_true", help="all threads and all frames, not only those of the test")
    takes_json(parser)


def run(desk: Desk, arguments: argparse.Namespace) -> int:
    """Prints the stacks; FAILED if there are none. Raises RunNotFound and OSError."""
    path, alone = find_box_run(desk.lane_dir, arguments.name), named_recording(arguments.name)
    entry = Entry(alone, {}) if alone is not None else Entry(path, read_run_json(path) or {})
    with tempfile.TemporaryDirectory(prefix="megacpp-stacks-") as into:
        looking = _look(desk, entry, Path(into))
    worlds = _worlds(looking)
    stacks = {world: newest_stacks(looking.timeline, world) for world in worlds}
    if arguments.json:
        say_json([_as_json(world, stacks[world], looking, entry) for world in worlds])
    else:
        say(line for world in worlds for line in _shown(world, stacks[world], looking, entry, arguments.threads))
    if not any(stack.taken for found in stacks.values() for stack in found):
        complain(_nothing(looking, entry))
        return FAILED
    return OK


def _look(desk: Desk, entry: Entry, into: Path) -> Looking:
    """Reads the run, once its ranks have answered if it is running."""
    looking = Looking(GrowingRecording(_recording_of(entry)))
    looking.read()
    if entry.status == RunStatus.RUNNING:
        _ask_here(looking, entry.path)
    elif entry.status == RunStatus.DETACHED:
        elsewhere = Looking(GrowingRecording(into / RECORDING))
        if _ask_elsewhere(desk, elsewhere, entry, into):
            return elsewhere
    return looking


def _recording_of(entry: Entry) -> Path:
    return entry.path if entry.path.is_file() else entry.path / RECORDING


def _ask_here(looking: Looking, run: Path) -> None:
    """Asks the box, or the desk of a box elsewhere."""
    began_s = time.monotonic()
    ask(run, looking.ask())
    while not looking.is_over and looking.waited_s < ANSWER_S:
        time.sleep(POLL_S)
        looking.read()
        looking.waited_s = time.monotonic() - began_s


def _ask_elsewhere(desk: Desk, looking: Looking, entry: Entry, into: Path) -> bool:
    """Asks the box of a run without a desk; returns whether there is one."""
    asking = Asking(desk, entry, into)
    began_s = time.monotonic()

    def is_over() -> bool:
        looking.read()
        looking.waited_s = time.monotonic() - began_s
        return looking.is_over or asking.has_waited(ANSWER_S)

    try:
        if asking.visit((looking.ask(),), is_over):
            return True
        complain(
            f"no box of run {entry.path.name} is running: pytest --attach {entry.path.name} takes in its recording"
        )
    except CannotDo as error:
        complain(str(error))
    return False


def _worlds(looking: Looking) -> list[str]:
    """Those that live; of a run that is over the last one of which there are stacks."""
    timeline = looking.timeline
    living = [world.name for world in timeline.worlds.values() if world.ended is None and world.pids]
    if living and timeline.finished is None:
        return living
    looked_at = [name for name in timeline.worlds if any(stack.taken for stack in newest_stacks(timeline, name))]
    return looked_at[-1:]


def _shown(
    world: str, stacks: Sequence[RankStack], looking: Looking, entry: Entry, every_thread: bool
) -> Iterator[str]:
    timeline = looking.timeline
    yield f"{one_line(entry.path.name)} · {_what_runs(timeline, world)} · {_age(world, stacks, looking, entry)}"
    yield ""
    started = timeline.started
    cwd = started.cwd if started is not None else ""
    yield from stack_lines(stacks, cwd, every_thread=every_thread, age=partial(_age_of, world, looking))


def _what_runs(timeline: Timeline, world: str) -> str:
    """`test_a.py::test_slow for 12.3 s, 4 ranks`."""
    size = counted(timeline.worlds[world].size, "rank")
    test = next((test for test in reversed(timeline.tests.values()) if test.world == world), None)
    if test is None:
        return f"before the first test, {size}"
    if test.ended is not None:
        return f"after {one_line(test.nodeid)}, {size}"
    return f"{one_line(test.nodeid)} for {seconds_text(timeline.last_s - test.started_s)}, {size}"


def _age_of(world: str, looking: Looking, stack: RankStack) -> str:
    """How old a stack is, where some ranks answered and others did not."""
    living, silent = {rank for name, rank in looking.living if name == world}, set(looking.silent(world))
    if stack.time_s is None or not silent or silent == living or stack.rank not in living:
        return ""
    if stack.rank not in silent:
        return "now"
    return f"{seconds_text(looking.timeline.last_s - stack.time_s)} old"


def _age(world: str, stacks: Sequence[RankStack], looking: Looking, entry: Entry) -> str:
    """How old the stacks are."""
    living, silent = [rank for name, rank in looking.living if name == world], looking.silent(world)
    if living and not silent:
        return "now"
    if looking.asker and len(silent) < len(living):
        return f"{ranks_named(silent)} did not answer within {looking.waited_s:.0f} s; each stack says how old it is"
    taken = [stack.time_s for stack in stacks if stack.time_s is not None]
    if not taken:
        return "no stacks"
    old = f"taken {seconds_text(looking.timeline.last_s - max(taken))} before the last event of its recording"
    quiet_s = _silent_s(_recording_of(entry))
    since = f", {age_text(quiet_s)} ago" if quiet_s is not None else ""
    asked = f"its box did not answer within {looking.waited_s:.0f} s: " if looking.asker and living else ""
    return f"{asked}{old}{since}"


def _silent_s(recording: Path) -> float | None:
    try:
        return time.time() - recording.stat().st_mtime
    except OSError:
        return None


def _as_json(world: str, stacks: Sequence[RankStack], looking: Looking, entry: Entry) -> dict[str, object]:
    living = [rank for name, rank in looking.living if name == world]
    test = next((test for test in reversed(looking.timeline.tests.values()) if test.world == world), None)
    return {
        "run_id": entry.path.name,
        "world": world,
        "test": test.nodeid if test is not None and test.ended is None else None,
        "is_now": bool(living) and not looking.silent(world),
        "last_s": looking.timeline.last_s,
        "silent_s": _silent_s(_recording_of(entry)),
        "ranks": stacks_json(stacks),
    }


def _nothing(looking: Looking, entry: Entry) -> str:
    """Why there are no stacks."""
    timeline = looking.timeline
    if entry.status == RunStatus.DETACHED and not looking.asker:
        return f"no stack of run {entry.path.name} is known here"
    if entry.status not in (RunStatus.RUNNING, RunStatus.DETACHED):
        return f"no stack was taken in run {entry.path.name}: the box takes them of ranks that wait, or are to be ended"
    if timeline.progress and not timeline.worlds:
        _, last = timeline.progress[-1]
        return f"run {entry.path.name} has no ranks yet, it is at {one_line(last.phase, 40)} {one_line(last.detail)}"
    return f"run {entry.path.name} has no living ranks now"
