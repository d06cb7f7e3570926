"""Owns what a code review sees of lane tests: GitHub's annotations, GitLab's issues of code quality, Markdown; must not
know where they go.

What ranks wrote is cleaned and escaped: in a workflow command by GitHub's own rules, in Markdown by a backslash.
"""

import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pytest_megacpp.judge.verdicts import Outcome, TestResult
from pytest_megacpp.recording.events import Json
from pytest_megacpp.recording.ranks import ranks_named
from pytest_megacpp.recording.timeline import Timeline
from pytest_megacpp.report.brief import circumstances, details
from pytest_megacpp.report.clean import one_line
from pytest_megacpp.report.layout import counted, grouped
from pytest_megacpp.report.states import rank_states, scene
from pytest_megacpp.report.text import headline

KEPT_ANNOTATIONS = 10  # GitHub shows no more of one step
KEPT_FAILURES = 20
KEPT_STATES = 12


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


def code_quality(annotations: Sequence[Annotation]) -> list[dict[str, Json]]:
    """GitLab's report of the same, which knows no issue without a file. A fingerprint tells issues of two commits
    apart, so it is without the line and the times in a message.
    """
    return [_issue(annotation) for annotation in annotations if annotation.file]


def _issue(annotation: Annotation) -> dict[str, Json]:
    named = f"{annotation.file}\n{annotation.title}".encode(errors="replace")
    return {
        "description": one_line(f"{annotation.title}: {annotation.message}".replace("\n", "; "), 1000),
        "check_name": "megacpp",
        "fingerprint": hashlib.sha256(named).hexdigest(),
        "severity": "major",
        "location": {"path": annotation.file, "lines": {"begin": max(annotation.line, 1)}},
    }


# -- the summary -----------------------------------------------------------------------------------------------


def summary(
    title: str,
    results: Sequence[TestResult],
    timeline: Timeline,
    *,
    unfinished: str = "",
    notes: Iterable[str] = (),
    complaints: Sequence[str] = (),
) -> str:
    """One run as Markdown: how it went, what a gate found missing, then each failing test with a table of its ranks.
    `unfinished` says what the run did not come to.
    """
    bad = [result for result in results if result.outcome.is_red]
    outcomes = [str(result.outcome) for result in results]
    counts = [f"{outcomes.count(str(o))} {o}" for o in Outcome if str(o) in outcomes]
    said = ", ".join([*counts, *([unfinished] if unfinished else [])]) or "nothing ran"
    ran = any(result.outcome is not Outcome.SKIPPED for result in results)
    mark = "✗" if bad or complaints or unfinished else "✓" if ran else "–"
    lines = [f"### {mark} {_markdown(title)}: {said}", ""]
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
    lines = filter(None, (result.missed, headline(result.verdict)))
    heading = [f"**{_markdown(result.nodeid)}**<br>", *(f"{_markdown(line)}<br>" for line in lines)]
    heading.append(_markdown(circumstances(result, timeline)))
    more = [f"- {_markdown(line)}" for line in details(result, timeline)]
    heading += ["", *more] if more else []
    return [*heading, *(["", "| ranks | |", "|---|---|", *rows] if rows else [])]


def _markdown(text: str) -> str:
    return re.sub(r"([\\`*_{}\[\]<>|~&])", r"\\\1", one_line(text, 400))
