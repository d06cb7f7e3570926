"""What code reviews on GitHub, GitLab and Buildkite show of failures, by replays of drills: each names the cause."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.plugin.project import Project, Ran
from tests.plugin.replays import Replays

EXITS = "deaths-process-ends-itself-with-a-code"
CRASHES = "deaths-segmentation-fault"
DIFFERS = "mismatches-wrong-operation"
FAILS_TO_IMPORT = "startup-import-not-importable-on-rank-1"


@pytest.fixture(scope="module")
def replays(tmp_path_factory: pytest.TempPathFactory) -> Replays:
    return Replays(Project(tmp_path_factory.mktemp("reviews") / "project"))


def on_github(replays: Replays, drill: str, tmp_path: Path) -> tuple[str, str]:
    """The annotation, and the step summary."""
    summary = tmp_path / "summary.md"
    ran = replays.pytest(drill, GITHUB_ACTIONS="true", GITHUB_STEP_SUMMARY=str(summary))
    (annotation,) = (line for line in ran.text.splitlines() if line.startswith("::error"))
    return annotation, summary.read_text()


def test_last_words_are_in_annotation_and_summary(replays: Replays, tmp_path: Path) -> None:
    annotation, summary = on_github(replays, CRASHES, tmp_path)
    assert "%0Arank 1 wrote: Fatal Python error: Segmentation fault%0A" in annotation
    assert " ranks · dry run (CPU/gloo: says nothing about GPUs)%0A" in annotation
    assert "\n- rank 1 wrote: Fatal Python error: Segmentation fault\n" in summary


def test_both_lines_of_a_mismatch_are_in_annotation_and_summary(replays: Replays, tmp_path: Path) -> None:
    said = on_github(replays, DIFFERS, tmp_path)
    for text in said:
        called = text.count("is called at")
        assert called == 2, text


def test_a_failing_import_is_annotated_at_its_line(replays: Replays, tmp_path: Path) -> None:
    annotation, summary = on_github(replays, FAILS_TO_IMPORT, tmp_path)
    assert "%0Aat smoke_suites/" in annotation
    assert "\n- at smoke\\_suites/" in summary


def test_gitlab_gets_a_report_of_code_quality(replays: Replays) -> None:
    ran = replays.pytest(EXITS, GITLAB_CI="true")
    (issue,) = issues(replays)
    assert issue["description"].startswith("smoke_suites/drills/test_deaths.py::")
    assert "rank-death · rank 2 exited with code" in issue["description"]
    assert issue["location"]["path"] == "smoke_suites/drills/test_deaths.py"
    assert "::error" not in ran.text


def issues(replays: Replays) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((replays.project.lane_dir / "gl-code-quality-report.json").read_text())
    return found


AGENT = """#!/bin/sh
echo "$@" > agent.txt
cat >> agent.txt
exit {}
"""


def on_buildkite(replays: Replays, code: int) -> tuple[Ran, str]:
    agent = replays.project.write("bin/buildkite-agent", AGENT.format(code))
    agent.chmod(0o755)
    ran = replays.pytest(EXITS, BUILDKITE="true", PATH=f"{agent.parent}:/usr/bin:/bin")
    return ran, (replays.project.root / "agent.txt").read_text()


def test_buildkite_gets_an_annotation(replays: Replays) -> None:
    ran, said = on_buildkite(replays, 0)
    assert said.startswith("annotate --style error --context megacpp --append\n### ✗ h200x8")
    assert "rank 2 exited with code" in said
    assert "\n+++ 1 failing lane test\nsmoke_suites/drills/test_deaths.py::" in ran.text
    assert "did not take" not in ran.text


def test_an_agent_that_fails_costs_a_line(replays: Replays) -> None:
    ran, _ = on_buildkite(replays, 3)
    assert "buildkite-agent did not take the annotation: " in ran.text
    assert ran.code == pytest.ExitCode.TESTS_FAILED


def test_an_agent_that_does_not_start_costs_a_line(replays: Replays) -> None:
    """As one of another architecture doesn't. The open group is there nevertheless."""
    agent = replays.project.write("bin/buildkite-agent", "\x7fELF of another machine")
    agent.chmod(0o755)
    ran = replays.pytest(EXITS, BUILDKITE="true", PATH=f"{agent.parent}:/usr/bin:/bin")
    assert "buildkite-agent did not take the annotation: " in ran.text
    assert "\n+++ 1 failing lane test\nsmoke_suites/" in ran.text


def test_buildkite_without_an_agent_has_an_open_group(replays: Replays) -> None:
    ran = replays.pytest(EXITS, BUILDKITE="true", PATH="/usr/bin:/bin")
    assert "\n+++ 1 failing lane test\nsmoke_suites/" in ran.text


def test_off_is_off_everywhere(replays: Replays) -> None:
    systems = dict.fromkeys(("GITHUB_ACTIONS", "GITLAB_CI", "BUILDKITE"), "true")
    (replays.project.lane_dir / "gl-code-quality-report.json").unlink(missing_ok=True)
    others = ("-p", "no:pytest_github_actions_annotate_failures")  # which annotates what this plugin doesn't
    ran = replays.pytest(EXITS, "--lane-annotations", "off", *others, PATH="/usr/bin:/bin", **systems)
    assert [mark in ran.text for mark in ("::error", "+++")] == [False, False]
    assert not (replays.project.lane_dir / "gl-code-quality-report.json").exists()
