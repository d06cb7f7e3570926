"""Owns what a code review sees of lane tests: GitHub's annotations and a Markdown summary; must not know where they go.

What ranks wrote is cleaned and escaped: in a workflow command by GitHub's own rules, in Markdown by a backslash.
"""

import posixpath
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pytest_megacpp.judge.verdicts import Outcome, TestResult
from pytest_megacpp.recording.ranks import ranks_named
from pytest_megacpp.recording.stacks import user_frame
from pytest_megacpp.recording.timeline import Timeline
from pytest_megacpp.recording.views import RankView
from pytest_megacpp.report.clean import one_line
from pytest_megacpp.report.layout import counted, grouped
from pytest_megacpp.report.states import rank_states, scene
from pytest_megacpp.report.text import headline

KEPT_ANNOTATIONS = 10  # GitHub shows no more of one step
KEPT_FAILURES = 20
KEPT_STATES = 12
BAD = (Outcome.FAILED, Outcome.ERROR)


@dataclass(frozen=True, slots=True)
class Annotation:
    """`file` counts from the top of the repository; `line` from 1, 0 if it isn't known."""

    title: str
    message: str
    file: str = ""
    line: int = 0


def workflow_commands(annotations: Sequence[Annotation]) -> list[str]:
    """GitHub's `::error` lines, no more than it shows; the last one then says how many there were."""
    lines = [_command(annotation) for annotation in annotations]
    if len(lines) <= KEPT_ANNOTATIONS:
        return lines
    kept = lines[: KEPT_ANNOTATIONS - 1]
    return [*kept, _command(Annotation("lane tests", f"{len(lines) - len(kept)} more failures: see the log"))]


def _command(annotation: Annotation) -> str:
    properties = {"file": annotation.file, "line": str(annotation.line or ""), "title": annotation.title}
    given = ",".join(f"{name}={_property(value)}" for name, value in properties.items() if value)
    return f"::error {given}::{_data(annotation.message)}"


def _data(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")


# -- the line to look at ---------------------------------------------------------------------------------------


def blamed_line(result: TestResult, timeline: Timeline) -> tuple[str, int] | None:
    """Where a blamed rank failed or stood: a file below the directory in which pytest was started, and its line."""
    test = timeline.tests.get(result.number)
    if test is None:
        return None
    cwd = timeline.started.cwd if timeline.started else ""
    blamed = (test.ranks[rank] for rank in result.verdict.blamed_ranks if rank in test.ranks)
    found = (_inside(file, line, cwd) for view in blamed for file, line in _lines_of(view))
    return next((place for place in found if place is not None), None)


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


# -- the summary -----------------------------------------------------------------------------------------------


def summary(
    title: str,
    results: Sequence[TestResult],
    timeline: Timeline,
    *,
    notes: Iterable[str] = (),
    complaints: Sequence[str] = (),
) -> str:
    """One run as Markdown: how it went, what a gate found missing, then each failing test with a table of its ranks."""
    bad = [result for result in results if result.outcome in BAD]
    outcomes = [str(result.outcome) for result in results]
    counts = ", ".join(f"{outcomes.count(str(o))} {o}" for o in Outcome if str(o) in outcomes) or "nothing ran"
    ran = any(result.outcome is not Outcome.SKIPPED for result in results)
    mark = "✗" if bad or complaints else "✓" if ran else "–"
    lines = [f"### {mark} {_markdown(title)}: {counts}", ""]
    lines += [f"- {_markdown(note)}" for note in notes]
    lines += [f"- ✗ {_markdown(complaint)}" for complaint in complaints]
    for result in bad[:KEPT_FAILURES]:
        lines += ["", *_failure(result, timeline)]
    if len(bad) > KEPT_FAILURES:
        lines += ["", f"{counted(len(bad) - KEPT_FAILURES, 'more failure')}: see the log"]
    return "\n".join(lines).rstrip() + "\n"


def _failure(result: TestResult, timeline: Timeline) -> list[str]:
    where = scene(result, timeline)
    states = rank_states(where, result.verdict)
    blamed = set(result.verdict.blamed_ranks)
    groups = grouped(((state.rank in blamed, state.text), state.rank) for state in states)
    ordered = sorted(groups.items(), key=lambda group: (not group[0][0], group[1][0]))
    rows = [
        f"| {'✗ ' if key[0] else ''}{ranks_named(ranks)} | {_markdown(key[1])} |"
        for key, ranks in ordered[:KEPT_STATES]
    ]
    rows += ["| … | |"] if len(ordered) > KEPT_STATES else []
    heading = [f"**{_markdown(result.nodeid)}**<br>", _markdown(headline(result.verdict))]
    return [*heading, *(["", "| ranks | |", "|---|---|", *rows] if rows else [])]


def _markdown(text: str) -> str:
    return re.sub(r"([\\`*_{}\[\]<>|~&])", r"\\\1", one_line(text, 400))
