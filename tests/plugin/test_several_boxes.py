"""`--boxes`: a lane's tests on several boxes that run at the same time, with one result."""

import json
import os
import signal
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator

import pytest_megacpp
from pytest_megacpp.box.host import process
from tests.plugin.project import LANE, Json, Project, Ran

TESTS = """
    import os
    import pathlib
    import time
    import pytest

    pytestmark = pytest.mark.h200x8(ranks=2)

    @pytest.mark.parametrize("number", range(4))
    def test_it(number, modal_h200x8):
        pathlib.Path(f"ran-{number}-{os.environ['MEGACPP_RUN_ID']}").touch()

    def test_bad(modal_h200x8):
        assert os.environ["RANK"] != "1"
"""
WAITS = """
    import os
    import pathlib
    import time
    import pytest

    pytestmark = pytest.mark.h200x8(ranks=2, test=100)

    @pytest.mark.parametrize("name", ["one", "two"])
    def test_waits(name, modal_h200x8):
        pathlib.Path(f"{name}.{os.environ['RANK']}").write_text(os.environ["MEGACPP_RUN_ID"])
        while not pathlib.Path("go on").exists():
            time.sleep(0.05)
"""
SCHEMA = json.loads((Path(pytest_megacpp.__file__).parent / "schemas" / "run.json").read_text())


def latest(project: Project) -> tuple[Path, Json]:
    run = project.lane_dir / "runs" / (project.lane_dir / "latest").read_text().strip()
    return run, json.loads((run / "run.json").read_text())


@pytest.fixture(scope="module")
def dealt(tmp_path_factory: pytest.TempPathFactory) -> tuple[Project, Ran]:
    project = Project(tmp_path_factory.mktemp("dealt"))
    project.write("test_a.py", TESTS)
    return project, project.pytest(*LANE, "--boxes", "2", "--lane-budget", "1")


def test_one_result_of_two_boxes(dealt: tuple[Project, Ran]) -> None:
    project, ran = dealt
    names = [f"test_it[{number}]" for number in range(4)]
    assert ran.outcomes() == {**dict.fromkeys(names, "passed"), "test_bad": "failed"}
    assert list(ran.outcomes())[-1] == "test_bad"
    run, document = latest(project)
    assert list(Draft202012Validator(SCHEMA).iter_errors(document)) == []
    assert (document["status"], document["counts"]["passed"], document["counts"]["failed"]) == ("failed", 4, 1)
    assert [test["nodeid"].partition("::")[2] for test in document["tests"]] == [*names, "test_bad"]
    for test in document["tests"]:
        receipt = json.loads((run / test["receipt"]).read_text())
        assert (receipt["nodeid"], receipt["outcome"]) == (test["nodeid"], test["outcome"])


def test_each_test_ran_once_on_its_own_box(dealt: tuple[Project, Ran]) -> None:
    project, _ = dealt
    _, document = latest(project)
    ran = sorted(path.name.split("-", 2)[1:] for path in project.root.glob("ran-*"))
    assert [number for number, _ in ran] == list("0123")
    assert {run_id for _, run_id in ran} == set(document["boxes"])
    assert len(document["boxes"]) == 2


def test_commands_see_one_run(dealt: tuple[Project, Ran]) -> None:
    project, ran = dealt
    run, document = latest(project)
    listed = json.loads(project.megacpp("runs", "--json").text)
    assert [entry["run_id"] for entry in listed] == [run.name]
    assert f"together: run {run.name}, 2 boxes: .megacpp/runs/{run.name}" in ran.text
    shown = project.megacpp("show")
    assert shown.code == 1
    assert shown.text.index(run.name) < shown.text.index(document["boxes"][0]) < shown.text.index(document["boxes"][1])
    assert "test_bad" in shown.text
    logs = project.megacpp("logs")
    assert logs.code == 2
    assert f"name one of {', '.join(document['boxes'])}" in logs.text
    assert project.megacpp("diff", run.name, document["boxes"][0]).code == 0


def test_a_joint_run_is_removed_with_its_boxes(dealt: tuple[Project, Ran]) -> None:
    project, _ = dealt
    assert "1 run would be removed" in project.megacpp("prune", "--keep", "0", "--dry-run").text
    assert project.megacpp("prune", "--keep", "0").code == 0
    assert project.runs() == []


def test_a_lost_box_costs_only_its_own_tests(project: Project) -> None:
    project.write("test_a.py", WAITS)
    with project.start(*LANE, "--boxes", "2") as desk:
        files = [project.root / f"{name}.{rank}" for name in ("one", "two") for rank in (0, 1)]
        desk.wait_until(lambda: all(file.exists() and file.read_text() for file in files))
        lost = (project.root / "one.0").read_text()
        box = next(pid for pid in project.processes() if _is_box(pid, lost))
        os.kill(box, signal.SIGKILL)
        project.write("go on", "")
        ran = desk.ran()
    assert ran.outcomes() == {"test_waits[one]": "error", "test_waits[two]": "passed"}
    _, document = latest(project)
    assert [test["verdict"] for test in document["tests"]] == ["box-lost", "passed"]
    assert document["status"] == "error"


def _is_box(pid: int, run_id: str) -> bool:
    """Whether it is the box itself: the guard is its parent, and its interpreters are its children."""
    seen = {stat.pid: stat for stat in process.all_processes()}
    parents = [pid, seen[pid].parent if pid in seen else 0]
    return all(_belongs(one, run_id) for one in parents) and not _belongs(seen[parents[1]].parent, run_id)


def _belongs(pid: int, run_id: str) -> bool:
    return process.environment_of(pid).get("MEGACPP_RUN_ID") == run_id


def test_a_killed_desk_leaves_one_interrupted_run(project: Project) -> None:
    project.write("test_a.py", WAITS)
    with project.start(*LANE, "--boxes", "2") as desk:
        desk.wait_until(lambda: all((project.root / f"{name}.0").exists() for name in ("one", "two")))
        os.kill(desk.child.pid, signal.SIGKILL)
        desk.wait()
        desk.assert_nothing_left(30.0)
    assert "is now marked as interrupted" in project.megacpp("runs").text
    (entry,) = json.loads(project.megacpp("runs", "--json").text)
    assert entry["status"] == "interrupted"
    _, document = latest(project)
    assert [test["outcome"] for test in document["tests"]] == [None, None]
    assert list(Draft202012Validator(SCHEMA).iter_errors(document)) == []


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--boxes", "0"), "--boxes: the number of boxes must be a whole number of at least 1"),
        (("--boxes", "2", "--attach", "x"), "--boxes and --attach exclude each other"),
        (("--boxes", "2", "--replay", "x"), "--boxes and --replay exclude each other"),
        (("--boxes", "2", "--detach"), "--boxes and --detach exclude each other"),
    ],
)
def test_what_cannot_be_dealt(project: Project, options: tuple[str, ...], said: str) -> None:
    project.write("test_a.py", TESTS)
    ran = project.pytest("-m", "h200x8", *options)
    assert ran.code == pytest.ExitCode.USAGE_ERROR
    assert said in ran.text
