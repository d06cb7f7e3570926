"""Owns what completes a headline where nobody sees the whole text: a place in the code, last words, both lines of a
mismatch. Must not know where it is shown.
"""

import posixpath
import re
from collections.abc import Iterable, Iterator

from pytest_megacpp.judge.verdicts import Code, TestResult, Witness
from pytest_megacpp.recording.ranks import ranks_named
from pytest_megacpp.recording.stacks import user_frame
from pytest_megacpp.recording.timeline import Timeline
from pytest_megacpp.recording.views import RankView
from pytest_megacpp.report.clean import one_line
from pytest_megacpp.report.layout import grouped
from pytest_megacpp.report.rank_output import last_words, raised
from pytest_megacpp.report.states import Scene, rank_states, scene
from pytest_megacpp.report.text import facts, headline

KEPT_RANKS = 2
KEPT_WORDS = 3
KEPT_PLACES = 4
_DUMP = "Fatal Python error"  # by faulthandler, most recent call first
_PLACE = re.compile(  # linear, whatever a rank wrote
    r'^(?:E(?= ))?+ *+(?:File "([^"\n]+)", line (\d+)|([^\s:][^\n:]*\.py):(\d+):)', re.MULTILINE
)


def details(result: TestResult, timeline: Timeline) -> list[str]:
    """A few lines, each cleaned and short; none where the headline says it all."""
    said = headline(result.verdict)
    words, calls = list(_words(result, scene(result, timeline))), list(_calls(result, said))
    return [*_place(result, timeline, [said, *calls]), *words, *calls]


def circumstances(result: TestResult, timeline: Timeline) -> str:
    """How certain it is and on what it ran, for whoever doesn't see the session."""
    lane = timeline.started.lane if timeline.started is not None else ""
    return " · ".join(facts(result.verdict, scene(result, timeline), timeline, lane))


def standing(result: TestResult, timeline: Timeline) -> str:
    """What its ranks were in: `ranks 0-2 waiting in barrier #1, rank 3 at train.py:25`; empty if it had not begun."""
    states = rank_states(scene(result, timeline), result.verdict)
    groups = grouped((state.text, state.rank) for state in states)
    shown = [f"{ranks_named(ranks)} {one_line(text)}" for text, ranks in list(groups.items())[:KEPT_PLACES]]
    return ", ".join([*shown, *(["…"] if len(groups) > KEPT_PLACES else [])])


def _place(result: TestResult, timeline: Timeline, said: Iterable[str]) -> Iterator[str]:
    place = blamed_line(result, timeline)
    named = f"{posixpath.basename(place[0])}:{place[1]}" if place is not None else ""
    if place is not None and not any(named in line for line in said):
        yield f"at {one_line(place[0])}:{place[1]}"


def _words(result: TestResult, where: Scene) -> Iterator[str]:
    """What blamed ranks wrote last that died without an exception: it often says why."""
    silent = [rank for rank in result.verdict.blamed_ranks if raised(where, rank) is None]
    for rank in silent[:KEPT_RANKS]:
        words = [one_line(line) for line in last_words(where, rank)]
        kept = words if len(words) <= KEPT_WORDS else [words[0], *words[1 - KEPT_WORDS :]]
        yield from (f"rank {rank} wrote: {line}" for line in kept)


def _calls(result: TestResult, said: str) -> Iterator[str]:
    """Where ranks stood or called what doesn't match; the same of several ranks once."""
    sources = (Witness.STACK, Witness.REPORT) if result.verdict.code is Code.COLLECTIVE_MISMATCH else (Witness.STACK,)
    seen = [e for e in result.verdict.evidence if e.rank is not None and e.source in sources]
    groups = grouped((e.text, e.rank) for e in seen if e.rank is not None)
    for text, ranks in list(groups.items())[:KEPT_PLACES]:
        if one_line(text.removeprefix("is in ")) not in said:
            yield f"{ranks_named(ranks)}: {one_line(text)}"


# -- the line to look at ---------------------------------------------------------------------------------------


def blamed_line(result: TestResult, timeline: Timeline) -> tuple[str, int] | None:
    """Where a blamed rank failed or stood: a file below the directory in which pytest was started, and its line."""
    cwd = timeline.started.cwd if timeline.started else ""
    where = scene(result, timeline)
    places = (p for rank in result.verdict.blamed_ranks for p in _places(where, rank, result.nodeid))
    return next((found for file, line in places if (found := _inside(file, line, cwd)) is not None), None)


def _places(where: Scene, rank: int, nodeid: str) -> Iterator[tuple[str, int]]:
    if where.test is not None:
        yield from _lines_of(where.test.ranks[rank]) if rank in where.test.ranks else ()
        words = last_words(where, rank)
        yield from reversed(_named("\n".join(words))) if any(w.startswith(_DUMP) for w in words) else ()
    elif where.world is not None:
        collected, broken = where.world.collected.get(rank), where.world.broken.get(rank)
        texts = [e.text for e in collected[1].errors if nodeid.startswith(e.nodeid)] if collected is not None else []
        texts += [broken[1].traceback] if broken is not None else []
        yield from (place for text in texts for place in _named(text))


def _named(traceback: str) -> list[tuple[str, int]]:
    """Files and lines in a traceback, pytest's or Python's own, the innermost first."""
    found = [(m[1] or m[3], int(m[2] or m[4])) for m in _PLACE.finditer(traceback) if len(m[2] or m[4]) < 9]
    return found[::-1]


def _lines_of(view: RankView) -> Iterable[tuple[str, int]]:
    """What the rank raised, then where it was seen, most recent call first."""
    if view.failure is not None and view.failure[1].error is not None:
        error = view.failure[1].error
        yield error.file, error.line
    stack = view.stack()
    if stack is not None:
        frame = user_frame(stack[1])
        yield from ((f.file, f.line) for f in ([frame] if frame else []))
        yield from ((f.file, f.line) for f in stack[1].frames)


def _inside(file: str, line: int, cwd: str) -> tuple[str, int] | None:
    """`file` relative to `cwd`; None for libraries and what isn't known."""
    if not file or line <= 0 or "-packages/" in file or "\n" in file:
        return None
    if posixpath.isabs(file):
        if not cwd or not file.startswith(f"{cwd.rstrip('/')}/"):
            return None
        file = file[len(cwd.rstrip("/")) + 1 :]
    return posixpath.normpath(file), line
