"""What a code review sees of real failures: the line that tells most, and a summary of the ranks."""

from pathlib import Path

import pytest

from tests.plugin.project import DRY, Project, Ran

TESTS = """
    import pytest
    from lib.loading import load
    from lib.checking import check

    pytestmark = pytest.mark.h200x8(ranks=2, test=60, stall=2)

    def test_a_rank_raises(modal_h200x8):
        check(modal_h200x8.rank)

    def test_a_rank_is_late(modal_h200x8):
        import torch
        import torch.distributed as dist
        if modal_h200x8.rank == 1:
            load()
        dist.all_reduce(torch.ones(1))

    def test_fine(modal_h200x8): pass
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    project = Project(tmp_path_factory.mktemp("announcing") / "repo" / "project")
    (project.root.parent / ".git").mkdir()
    project.write("pyproject.toml", "[tool.pytest.ini_options]\npythonpath = ['.']\n")
    project.write("lib/__init__.py", "")
    project.write("lib/checking.py", "def check(rank):\n    message = '50 %'\n    assert rank == 0, message\n")
    project.write("lib/loading.py", "import time\n\n\ndef load():\n    while True:\n        time.sleep(0.01)\n")
    project.write("test_review.py", TESTS)
    return project


@pytest.fixture(scope="module")
def ran(project: Project) -> Ran:
    return project.pytest(*DRY, "--lane-annotations", "on")


def commands(ran: Ran) -> dict[str, str]:
    """`::error` lines by the test that they are about."""
    lines = [line for line in ran.text.splitlines() if line.startswith("::")]
    return {line.partition("%3A%3A")[2].partition("::")[0]: line for line in lines}


def test_a_failure_is_annotated_where_the_rank_raised(ran: Ran) -> None:
    line = commands(ran)["test_a_rank_raises"]
    assert line.startswith("::error file=project/lib/checking.py,line=3,title=test_review.py%3A%3Atest_a_rank_raises::")
    assert "50 %25" in line


def test_a_straggler_is_annotated_where_it_stood(ran: Ran) -> None:
    line = commands(ran)["test_a_rank_is_late"]
    assert line.startswith("::error file=project/lib/loading.py,line=")
    assert "straggler · rank 1" in line


def test_nothing_else_is_announced(ran: Ran) -> None:
    assert commands(ran).keys() == {"test_a_rank_raises", "test_a_rank_is_late"}


def test_the_summary_lies_in_the_run_when_github_has_no_place_for_it(ran: Ran) -> None:
    assert ran.directory is not None
    text = (ran.directory / "summary.md").read_text()
    assert text.startswith("### ✗ h200x8 on H200:8, dry run on CPU/gloo: says nothing about GPUs: 1 passed, 2 failed\n")
    assert "| ✗ rank 1 |" in text
    assert "| rank 0 | waiting in all\\_reduce" in text


def test_nothing_is_announced_unless_asked_for_or_on_github(project: Project, tmp_path: Path) -> None:
    environment = {"GITHUB_ACTIONS": "true", "GITHUB_STEP_SUMMARY": str(tmp_path / "summary.md")}
    off = project.pytest(*DRY, "--lane-annotations", "off", "-k", "raises", env=environment)
    assert (commands(off), (tmp_path / "summary.md").exists()) == ({}, False)


def test_a_summary_that_cannot_be_written_costs_a_line(project: Project) -> None:
    """`run.json` is written by then, and the exit code has to agree with it."""
    environment = {"GITHUB_ACTIONS": "true", "GITHUB_STEP_SUMMARY": "/nonexistent/summary.md"}
    ran = project.pytest(*DRY, "-k", "fine", env=environment)
    assert (ran.code, ran.run and ran.run["status"]) == (pytest.ExitCode.OK, "passed")
    assert "the step summary could not be written: No such file or directory" in ran.text
