"""Owns the text of all ranks' stacks, equal ones together; must not know how or when they were asked for."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from pytest_megacpp.recording.events import StackTaken
from pytest_megacpp.recording.ranks import ranks_named
from pytest_megacpp.recording.stacks import Frame, main_thread, short_path, threads
from pytest_megacpp.recording.timeline import Timeline
from pytest_megacpp.report.clean import bounded_lines, one_line
from pytest_megacpp.report.layout import grouped
from pytest_megacpp.report.rank_output import frames_of_test
from pytest_megacpp.report.states import NO_VERDICT, Scene, rank_states

RAW_LINES = 60  # of a dump in which no frame is recognised


@dataclass(frozen=True, slots=True)
class RankStack:
    """The newest stack of a rank. `taken` None: none was ever taken; its text is empty where the rank didn't answer.
    `state` says what else is known of the rank (`waiting in all_reduce #7`).
    """

    rank: int
    time_s: float | None
    taken: StackTaken | None
    state: str = ""
    main: str = ""


def newest_stacks(timeline: Timeline, world: str) -> tuple[RankStack, ...]:
    """One for each rank of a world that lives, or lived at its end, by rank."""
    seen = timeline.worlds[world]
    test = _last_test(timeline, world)
    scene = Scene(test, seen, timeline.tests.get(test)) if test is not None else Scene(-1, seen, None)
    states = {state.rank: state.text for state in rank_states(scene, NO_VERDICT)}
    return tuple(
        _newest(timeline, world, test, rank, states.get(rank, "")) for rank in range(seen.size) if rank in seen.pids
    )


def _last_test(timeline: Timeline, world: str) -> int | None:
    return next((number for number, test in reversed(timeline.tests.items()) if test.world == world), None)


def _newest(timeline: Timeline, world: str, test: int | None, rank: int, state: str) -> RankStack:
    view = timeline.tests[test].ranks.get(rank) if test is not None else None
    taken = [*(view.stacks if view is not None else ())]
    if rank in timeline.worlds[world].stacks:
        taken.append(timeline.worlds[world].stacks[rank])
    newest = max(taken, key=lambda entry: entry[0], default=None)
    main = view.main_thread if view is not None else ""
    return RankStack(rank, newest[0] if newest else None, newest[1] if newest else None, state, main)


def stack_lines(
    stacks: Iterable[RankStack],
    cwd: str,
    *,
    every_thread: bool = False,
    age: Callable[[RankStack], str] = lambda stack: "",
) -> Iterator[str]:
    """The stacks, most recent call first: those of most ranks first. `age` says how old one is where they differ."""
    groups = grouped(((_text(stack, cwd, every_thread), age(stack)), stack) for stack in stacks)
    for (lines, old), alike in sorted(groups.items(), key=lambda group: (-len(group[1]), group[1][0].rank)):
        states = list(dict.fromkeys(stack.state for stack in alike if stack.state))
        said = f": {one_line(states[0])}" if len(states) == 1 else ""
        yield f"{ranks_named(stack.rank for stack in alike)}{said}{f' · {old}' if old else ''}"
        yield from (f"    {line}" for line in lines)
        yield ""


def stacks_json(stacks: Sequence[RankStack]) -> list[Mapping[str, object]]:
    """The same for programs, one entry per rank."""
    return [
        {
            "rank": stack.rank,
            "state": stack.state,
            "taken_s": stack.time_s,
            "method": str(stack.taken.method) if stack.taken else None,
            "answered": bool(stack.taken and stack.taken.ok),
            "text": stack.taken.text if stack.taken else None,
        }
        for stack in stacks
    ]


def _text(stack: RankStack, cwd: str, every_thread: bool) -> tuple[str, ...]:
    taken = stack.taken
    if taken is None:
        return ("no stack was taken of it",)
    if not taken.ok:
        return ("it did not answer",)
    main = main_thread(taken.text, stack.main)
    if main is None or not main.frames:
        return tuple(bounded_lines(taken.text, lines=RAW_LINES))
    if not every_thread:
        return tuple(_frames(frames_of_test(main), cwd))
    others = [thread for thread in threads(taken.text) if thread != main and thread.frames]
    heads = [f"other thread{f' {one_line(thread.name, 80)}' if thread.name else ''}" for thread in others]
    bodies = [line for head, thread in zip(heads, others, strict=True) for line in (head, *_frames(thread.frames, cwd))]
    return (*_frames(main.frames, cwd), *bodies)


def _frames(frames: Sequence[Frame], cwd: str) -> list[str]:
    """As py-spy writes them: `function (file:line)`."""
    named = (replace(frame, file=short_path(frame.file, cwd)) for frame in frames)
    return [one_line(f"{frame.function} ({frame.file}:{frame.line})") for frame in named]
