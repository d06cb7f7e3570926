"""Owns what a code review sees of lane tests, when asked: annotations on the terminal, summaries and reports in files.

GitHub reads `::error` lines from the output of a step and Markdown from the file that `GITHUB_STEP_SUMMARY` names,
GitLab a report of code quality that its job keeps as an artefact, Buildkite Markdown from its agent.
"""

import json
import shutil
import subprocess
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pytest_megacpp.desk.hooks.summary import cut_off
from pytest_megacpp.judge.verdicts import Code
from pytest_megacpp.recording.timeline import Timeline
from pytest_megacpp.report.annotations import Annotation, code_quality, summary, workflow_commands
from pytest_megacpp.report.brief import blamed_line, circumstances, details, standing
from pytest_megacpp.report.clean import one_line
from pytest_megacpp.report.layout import counted
from pytest_megacpp.report.reporter import Artefact, Line, Reporter, RunResults, SessionResults, document
from pytest_megacpp.report.text import headline, said

SUMMARY = "summary.md"
CODE_QUALITY = "gl-code-quality-report.json"
AGENT_S = 5.0  # for its agent to reach Buildkite
_TOPS = ("GITHUB_WORKSPACE", "CI_PROJECT_DIR", "BUILDKITE_BUILD_CHECKOUT_PATH")


def announcers(choice: str, repository: "Repository") -> list[Reporter]:
    """The reports for the CI system that this is. `on` means GitHub's where it is none of them."""
    environ = repository.environ
    found: list[Reporter] = []
    if environ.get("GITLAB_CI") == "true":
        found.append(CodeQuality(repository))
    if environ.get("BUILDKITE") == "true":
        found.append(BuildkiteAnnotation(environ))
    if environ.get("GITHUB_ACTIONS") == "true" or (choice == "on" and not found):
        found += [Annotations(repository), StepSummary(environ)]
    return found if choice != "off" else []


@dataclass(frozen=True)
class Repository:
    """`started_in` is where pytest was started, `root` where node ids count from."""

    started_in: Path
    root: Path
    environ: Mapping[str, str]

    def from_top(self, file: Path) -> str:
        """As code reviews name files: from the top of the repository."""
        named = (self.environ.get(name) for name in _TOPS)
        workspace = Path(next(filter(None, named), None) or self._top())
        path, top = file.resolve(), workspace.resolve()
        return path.relative_to(top).as_posix() if path.is_relative_to(top) else file.as_posix()

    def _top(self) -> Path:
        upwards = (self.root, *self.root.parents)
        return next((place for place in upwards if (place / ".git").exists()), self.root)


class Annotations(Reporter):
    """A failure each, at the line that tells most, and what a gate has against the session."""

    name = "annotations"

    def __init__(self, repository: Repository) -> None:
        self._repository = repository

    def closing(self, session: SessionResults) -> Iterable[Line]:
        found = [*_failures(session, self._repository), *_lacking(session)]
        return [Line(line, command=True) for line in workflow_commands(found)]


def _failures(session: SessionResults, repository: Repository) -> list[Annotation]:
    return [_annotation(run, index, repository) for run in session.runs for index in _failing(run)]


def _lacking(session: SessionResults) -> Iterator[Annotation]:
    """What makes the session red beside failures."""
    for run in session.runs:
        if run.unfinished:
            yield Annotation(f"lane {one_line(run.plan.lane, 100)}", f"{run.unfinished} (run {run.plan.run_id})")
    if session.unreported:
        yield Annotation("lane tests without a result", "\n".join(session.unreported))
    for complaint in session.gate.complaints if session.gate is not None else ():
        yield Annotation("gate", complaint)


def _failing(run: RunResults) -> list[int]:
    """Of a run that was interrupted, also what pytest has not got."""
    return [*(index for index in run.reported if run.judged[index].outcome.is_red), *cut_off(run)]


def _annotation(run: RunResults, index: int, repository: Repository) -> Annotation:
    result, root = run.judged[index], repository.root
    place = blamed_line(result, run.timeline)
    file, line = (repository.started_in / place[0], place[1]) if place else (root / "?", 0)
    if not place or not file.is_file():
        defined_in, line = run.defined_at[index]
        file = root / defined_in
    lines = [
        result.missed,
        headline(result.verdict),
        circumstances(result, run.timeline),
        *details(result, run.timeline),
    ]
    if result.verdict.code is Code.NOT_RUN:
        lines.append(standing(result, run.timeline))
    message = "\n".join(filter(None, lines))
    return Annotation(one_line(run.redact(result.nodeid), 200), run.redact(message), repository.from_top(file), line)


class CodeQuality(Reporter):
    """The failures as GitLab shows them in a merge request: `artifacts: reports: codequality:` names the file."""

    name = "code quality report"

    def __init__(self, repository: Repository) -> None:
        self._repository = repository

    def closing(self, session: SessionResults) -> Iterator[Artefact]:
        issues = code_quality(_failures(session, self._repository))
        yield document(CODE_QUALITY, json.dumps(issues, indent=1).encode())


class BuildkiteAnnotation(Reporter):
    """The summary on top of a build's page. Without the agent its log has a group of failures that is open."""

    name = "Buildkite annotation"

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = environ

    def closing(self, session: SessionResults) -> Iterator[Line]:
        """Waits for the agent: the job may end right after."""
        bad = [(run, run.judged[i]) for run in session.runs for i in _failing(run)]
        lacking = list(_lacking(session))
        text = "\n".join(_summaries(session))
        agent = shutil.which("buildkite-agent", path=self._environ.get("PATH"))
        if agent is not None and text:
            style = "error" if bad or lacking else "success"
            words = [agent, "annotate", "--style", style, "--context", "megacpp", "--append"]
            try:
                given = text.encode(errors="replace")
                subprocess.run(words, input=given, check=True, capture_output=True, timeout=AGENT_S)
            except (OSError, subprocess.SubprocessError) as e:
                yield Line(f"buildkite-agent did not take the annotation: {one_line(str(e))}", yellow=True)
        if bad or lacking:
            yield Line(f"+++ {counted(len(bad), 'failing lane test')}", command=True)
        for run, result in bad:
            yield Line(run.redact(f"{result.nodeid}: {said(result)}"), red=True)
        for annotation in lacking:
            yield Line(f"{annotation.title}: {annotation.message}", red=True)


class StepSummary(Reporter):
    """Markdown in GitHub's file, else in each run's directory."""

    name = "step summary"

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = environ

    def closing(self, session: SessionResults) -> Iterator[Artefact]:
        target = self._environ.get("GITHUB_STEP_SUMMARY")
        if target:
            with Path(target).open("a", encoding="utf-8", errors="backslashreplace", newline="\n") as file:
                file.write("\n".join(_summaries(session)))
            return
        for run, text in zip(session.runs, _summaries(session), strict=False):
            yield document(f"runs/{run.plan.run_id}/{SUMMARY}", text.encode("utf-8", "backslashreplace"))


def _summaries(session: SessionResults) -> list[str]:
    """One per run; of a session without one, what its gate says, and which tests it lost."""
    gate = session.gate
    notes = [note.strip() for note in (*gate.rules, *gate.notes)] if gate is not None else []
    complaints = [line.strip() for line in (*(gate.complaints if gate is not None else ()), *session.unreported)]
    if not session.runs and (notes or complaints):
        title = "gate" if gate is not None else "lane tests without a result"
        return [summary(title, [], Timeline(), notes=notes, complaints=complaints)]
    return [_summary(run, notes, complaints) for run in session.runs]


def _summary(run: RunResults, notes: Sequence[str], complaints: Sequence[str]) -> str:
    dry = ", dry run on CPU/gloo: says nothing about GPUs" if run.plan.dry_run else ""
    title = f"{run.plan.lane} on {run.plan.gpu}{dry}"
    results = [run.judged[index] for index in sorted(run.judged)]
    seconds = f"run {run.plan.run_id}, {run.timeline.last_s:.0f} s"
    notes = (*notes, seconds)
    text = summary(title, results, run.timeline, unfinished=run.unfinished, notes=notes, complaints=complaints)
    return run.redact(text)
