"""Owns what a code review sees of lane tests, when asked: annotations on the terminal, a summary in a file.

GitHub reads `::error` lines from the output of a step and Markdown from the file that `GITHUB_STEP_SUMMARY` names.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pytest_megacpp.recording.timeline import Timeline
from pytest_megacpp.report.annotations import BAD, Annotation, blamed_line, summary, workflow_commands
from pytest_megacpp.report.clean import one_line
from pytest_megacpp.report.reporter import Artefact, Line, Reporter, RunResults, SessionResults, document
from pytest_megacpp.report.text import headline

SUMMARY = "summary.md"


def is_wanted(choice: str, environ: Mapping[str, str]) -> bool:
    """`auto` means: in a GitHub workflow."""
    return choice == "on" or (choice == "auto" and environ.get("GITHUB_ACTIONS") == "true")


@dataclass(frozen=True)
class Repository:
    """`started_in` is where pytest was started, `root` where node ids count from."""

    started_in: Path
    root: Path
    environ: Mapping[str, str]

    def from_top(self, file: Path) -> str:
        """As GitHub names files: from the top of the repository."""
        workspace = Path(self.environ.get("GITHUB_WORKSPACE") or self._top())
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
        found = [
            self._annotation(run, index)
            for run in session.runs
            for index in run.reported
            if run.judged[index].outcome in BAD
        ]
        complaints = session.gate.complaints if session.gate is not None else ()
        found += [Annotation("gate", complaint) for complaint in complaints]
        return [Line(line, command=True) for line in workflow_commands(found)]

    def _annotation(self, run: RunResults, index: int) -> Annotation:
        result, root = run.judged[index], self._repository.root
        place = blamed_line(result, run.timeline)
        file, line = (self._repository.started_in / place[0], place[1]) if place else (root / "?", 0)
        if not place or not file.is_file():
            defined_in, line = run.defined_at[index]
            file = root / defined_in
        title = one_line(run.redact(result.nodeid), 200)
        return Annotation(title, run.redact(headline(result.verdict)), self._repository.from_top(file), line)


class StepSummary(Reporter):
    """Markdown in GitHub's file, else in each run's directory."""

    name = "step summary"

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = environ

    def closing(self, session: SessionResults) -> Iterator[Artefact]:
        target = self._environ.get("GITHUB_STEP_SUMMARY")
        if target:
            with Path(target).open("a", encoding="utf-8", errors="backslashreplace") as file:
                file.write("\n".join(_summaries(session)))
            return
        for run, text in zip(session.runs, _summaries(session), strict=False):
            yield document(f"runs/{run.plan.run_id}/{SUMMARY}", text.encode("utf-8", "backslashreplace"))


def _summaries(session: SessionResults) -> list[str]:
    """One per run; of a session without one, what its gate says."""
    gate = session.gate
    notes = [note.strip() for note in (*gate.rules, *gate.notes)] if gate is not None else []
    complaints = gate.complaints if gate is not None else ()
    if not session.runs and (notes or complaints):
        return [summary("gate", [], Timeline(), notes=notes, complaints=complaints)]
    return [_summary(run, notes, complaints) for run in session.runs]


def _summary(run: RunResults, notes: Sequence[str], complaints: Sequence[str]) -> str:
    dry = ", dry run on CPU/gloo: says nothing about GPUs" if run.plan.dry_run else ""
    title = f"{run.plan.lane} on {run.plan.gpu}{dry}"
    results = [run.judged[index] for index in sorted(run.judged)]
    seconds = f"run {run.plan.run_id}, {run.timeline.last_s:.0f} s"
    return run.redact(summary(title, results, run.timeline, notes=(*notes, seconds), complaints=complaints))
