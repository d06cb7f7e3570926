"""A box in an image that lacks what ranks need says so in its recording, before anything costs time."""

import ast
import json
import os
import subprocess
import sys
import venv
from pathlib import Path

import pytest

from pytest_megacpp.box.remote import start
from pytest_megacpp.judge.arbiter import judge_run
from pytest_megacpp.recording import events as ev
from pytest_megacpp.recording.codec import to_json
from pytest_megacpp.recording.plan import Plan, PlannedTest
from pytest_megacpp.recording.timeline import Timeline, fold
from pytest_megacpp.recording.vocabulary import Preset
from pytest_megacpp.recording.wire import read_all

START = Path(start.__file__)
PLAN = Plan(
    run_id="20261125-100000-ab12",
    lane="h200x8",
    surface="local",
    gpu="H200:8",
    devices=0,
    ranks=2,
    dry_run=True,
    fsdp=False,
    tests=tuple(PlannedTest(f"test_a.py::test_{name}", 2, Preset.FULL, ev.Limits()) for name in "ab"),
    args=(),
    cwd="/src",
)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    (tmp_path / "plan.json").write_text(json.dumps(to_json(PLAN)))
    return tmp_path


def timeline_of(directory: Path) -> Timeline:
    return fold(read_all((directory / "recording.jsonl").read_bytes()))


def causes(timeline: Timeline) -> list[tuple[str, str | None]]:
    return [(str(test.verdict.code), test.verdict.cause) for test in judge_run(timeline).tests]


def test_without_torch_and_pytest(directory: Path) -> None:
    bare = directory / "bare"
    venv.create(bare, with_pip=False, symlinks=True)
    env = {"PATH": os.environ["PATH"], "HOME": str(directory)}
    done = subprocess.run(
        [bare / "bin" / "python", START, "__main__", directory / "plan.json", directory],
        env=env,
        cwd=directory,
        stdin=subprocess.PIPE,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, "")
    timeline = timeline_of(directory)
    assert causes(timeline) == [("environment", "pytest")] * 2
    ((_, problem),) = timeline.problems
    assert "pytest is not installed here" in problem.detail
    assert "torch is not installed here" in problem.detail
    assert timeline.ready is not None
    assert set(timeline.ready.versions) == {"python"}


def test_with_a_variable_that_breaks_every_launch(directory: Path) -> None:
    env = {"PATH": os.environ["PATH"], "HOME": str(directory), "TORCH_DISTRIBUTED_DEBUG": "DETAIL"}
    command = [sys.executable, str(START), "__main__", str(directory / "plan.json"), str(directory)]
    subprocess.run(command, env=env, cwd=directory, stdin=subprocess.PIPE, timeout=60, check=True)
    timeline = timeline_of(directory)
    assert causes(timeline) == [("blocked", "environment")] * 2
    ((_, problem),) = timeline.problems
    assert problem.detail.startswith("TORCH_DISTRIBUTED_DEBUG='DETAIL' is refused: ")
    assert "the image or a secret" in problem.remedy
    refused = timeline.environment["TORCH_DISTRIBUTED_DEBUG"]
    assert (refused.value, refused.origin, refused.phase) == ("DETAIL", "refused", "import")
    assert not timeline.worlds


def test_with_an_older_python(directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    start.refuse(str(directory / "plan.json"), str(directory / "run"), "3.9.18")
    timeline = timeline_of(directory / "run")
    assert capsys.readouterr().out.encode() == (directory / "run" / "recording.jsonl").read_bytes()
    assert causes(timeline) == [("environment", "python")] * 2
    assert "the image's Python is 3.9.18, ranks need 3.11 or newer" in timeline.problems[0][1].detail
    assert timeline.finished is not None
    assert not timeline.damaged
    assert timeline.started is not None
    assert (timeline.started.run_id, timeline.started.ranks) == (PLAN.run_id, 2)


def test_an_older_python_is_asked_before_anything_it_cannot_read(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ast.parse(START.read_text(), feature_version=(3, 6))
    monkeypatch.setattr(start, "OLDEST_PYTHON", (sys.version_info[0], sys.version_info[1] + 1))
    monkeypatch.setattr(sys, "path", [str(START.parent), *sys.path])
    monkeypatch.setenv("PYTHONPATH", "/the/images/own")
    assert start.main("__main__", str(directory / "plan.json"), str(directory)) == os.EX_UNAVAILABLE
    assert causes(timeline_of(directory)) == [("environment", "python")] * 2
    assert start.main("remote.follow", str(directory), "0") == os.EX_UNAVAILABLE
    assert os.environ["PYTHONPATH"].split(os.pathsep) == [str(START.parents[3]), "/the/images/own"]
