"""Owns telling a code review what lane tests came to, when asked: annotations on the terminal, a summary in a file.

GitHub reads `::error` lines from the output of a step and Markdown from the file that `GITHUB_STEP_SUMMARY` names.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from pytest_megacpp.desk.run.directory import replace_file
from pytest_megacpp.desk.run.session import LaneRun
from pytest_megacpp.judge.verdicts import TestResult
from pytest_megacpp.recording.timeline import Timeline
from pytest_megacpp.report.annotations import BAD, Annotation, summary, telling_line, workflow_commands
from pytest_megacpp.report.clean import one_line
from pytest_megacpp.report.text import headline

SUMMARY = "summary.md"


def is_wanted(choice: str, environ: Mapping[str, str]) -> bool:
    """`auto` means: in a GitHub workflow."""
    return choice == "on" or (choice == "auto" and environ.get("GITHUB_ACTIONS") == "true")


@dataclass
class Announcer:
    """`started_in` is where pytest was started, `root` where node ids count from."""

    started_in: Path
    root: Path
    environ: Mapping[str, str] = field(default_factory=lambda: os.environ)
    _annotations: list[Annotation] = field(default_factory=list)
    _complaints: tuple[str, ...] = ()

    def note(self, item: pytest.Item, result: TestResult, run: LaneRun) -> None:
        """A reported result; failures are worth an annotation at the line that tells most."""
        if result.outcome not in BAD:
            return
        redact: Callable[[str], str] = run.redactor.text
        place = telling_line(result, run.timeline)
        file, line = (self.started_in / place[0], place[1]) if place else (self.root / "?", 0)
        if not place or not file.is_file():
            file, line = self.root / item.location[0], (item.location[1] or 0) + 1
        title = one_line(redact(result.nodeid), 200)
        self._annotations.append(Annotation(title, redact(headline(result.verdict)), self._from_top(file), line))

    def complain(self, complaints: Sequence[str]) -> None:
        """What a gate has against this session, which makes it red whatever the tests say."""
        self._complaints = tuple(complaints)
        self._annotations += [Annotation("gate", complaint) for complaint in complaints]

    def lines(self) -> list[str]:
        return workflow_commands(self._annotations)

    def write_summary(self, runs: Sequence[LaneRun], notes: Sequence[str]) -> str | None:
        """Into GitHub's file, else into each run's directory. What couldn't be written, and why."""
        texts = [self._summary(run, notes) for run in runs]
        if not runs and (notes or self._complaints):
            texts = [summary("gate", [], Timeline(), notes=notes, complaints=self._complaints)]
        try:
            self._write(runs, texts)
        except OSError as error:
            return f"the step summary could not be written: {error.strerror or error}"
        return None

    def _write(self, runs: Sequence[LaneRun], texts: Sequence[str]) -> None:
        target = self.environ.get("GITHUB_STEP_SUMMARY")
        if target:
            with Path(target).open("a", encoding="utf-8", errors="backslashreplace") as file:
                file.write("\n".join(texts))
            return
        for run, text in zip(runs, texts, strict=False):
            replace_file(run.directory.path / SUMMARY, text.encode("utf-8", "backslashreplace"))

    def _summary(self, run: LaneRun, notes: Sequence[str]) -> str:
        dry = ", dry run on CPU/gloo: says nothing about GPUs" if run.plan.dry_run else ""
        title = f"{run.plan.lane} on {run.plan.gpu}{dry}"
        results = [run.judged[index] for index in sorted(run.judged)]
        seconds = f"run {run.plan.run_id}, {run.timeline.last_s:.0f} s"
        told = summary(title, results, run.timeline, notes=(*notes, seconds), complaints=self._complaints)
        return run.redactor.text(told)

    def _from_top(self, file: Path) -> str:
        """As GitHub names files: from the top of the repository."""
        workspace = Path(self.environ.get("GITHUB_WORKSPACE") or self._repository())
        path, top = file.resolve(), workspace.resolve()
        return path.relative_to(top).as_posix() if path.is_relative_to(top) else file.as_posix()

    def _repository(self) -> Path:
        upwards = (self.root, *self.root.parents)
        return next((place for place in upwards if (place / ".git").exists()), self.root)
