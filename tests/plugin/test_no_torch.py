"""A desk that has no torch, with boxes that do: lane files are read from their source, and the box names the tests."""

import json
from pathlib import Path
from xml.etree import ElementTree

import pytest

from pytest_megacpp.recording import events as ev
from pytest_megacpp.recording.wire import read_all
from tests.plugin.gated import GATE, Gated
from tests.plugin.project import LANE, WITHOUT_TORCH, Project, Ran

HELPER = """
    import pytest
    import torch

    TYPES = [torch.float32, torch.bfloat16]
    IS_ABSENT = False
    WIDER = [1, pytest.param(2, marks=pytest.mark.h200x8(ranks=1))]

    class Suite:
        @pytest.mark.parametrize("n", [1, 2])
        def test_of_the_base(self, n):
            assert torch.ones(n).sum() == n

    def define(names):
        def test_hidden(): ...
        names["test_hidden"] = pytest.mark.h200x8(ranks=2)(test_hidden)
"""
READ = """
    import pytest
    import torch
    from helper import TYPES, Suite

    lane = pytest.mark.h200x8(ranks=2)

    @lane
    @pytest.mark.parametrize("n", [1, 2.5, "w", None])
    def test_literal(modal_h200x8, n):
        assert modal_h200x8.ranks == 2

    @lane
    @pytest.mark.parametrize("dtype", TYPES, ids=str)
    def test_open(dtype):
        assert dtype != torch.bfloat16

    @lane
    class TestSuite(Suite): ...

    @lane
    @pytest.mark.skipif(not torch.cuda.is_available(), reason="wants a GPU")
    def test_skipped(): ...
"""
MORE = """    import helper
    helper.define(globals())
"""
STRANGE = """
    import pytest
    import helper

    lane = pytest.mark.h200x8(ranks=2)

    if helper.IS_ABSENT:
        @lane
        def test_absent(): ...

    @lane
    @pytest.mark.parametrize("n", helper.WIDER)
    def test_wider(n): ...

    @lane
    def test_there(): ...

    helper.define(globals())
"""
HOOKS = """
    import json
    import os
    import pathlib
    import pytest

    def note(*words):
        if "MEGACPP_BOX" not in os.environ:
            with pathlib.Path("hooks.jsonl").open("a") as file:
                print(json.dumps(words), file=file)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(item, call):
        if call.excinfo is not None:
            note(item.nodeid, call.when, call.excinfo.typename)
        return (yield)

    def pytest_exception_interact(node, call, report):
        note(node.nodeid, report.nodeid, call.excinfo.typename)
"""
GATED = """
    import pytest
    import torch

    @pytest.mark.h200x8(ranks=1)
    @pytest.mark.parametrize("d", [torch.int8])
    def test_gated(d): ...
"""
PLAIN = "def test_plain(): ...\n"


def project_in(path: Path, **files: str) -> Project:
    project = Project(path)
    project.write("helper.py", HELPER)
    project.write("test_plain.py", PLAIN)
    for name, text in files.items():
        project.write(f"{name}.py", text)
    return project


def source_read(ran: Ran) -> ev.SourceRead:
    assert ran.directory is not None
    events = read_all((ran.directory / "recording.jsonl").read_bytes())
    return next(event.fact for event in events if isinstance(event.fact, ev.SourceRead))


@pytest.fixture(scope="module")
def known(tmp_path_factory: pytest.TempPathFactory) -> Project:
    return project_in(tmp_path_factory.mktemp("read") / "project", test_read=READ)


@pytest.fixture(scope="module")
def first(known: Project) -> Ran:
    return known.pytest(*LANE, "--junitxml=junit.xml", env=WITHOUT_TORCH)


OUTCOMES = {
    "test_literal[1]": "passed",
    "test_literal[2.5]": "passed",
    "test_literal[w]": "passed",
    "test_literal[None]": "passed",
    "test_open[torch.float32]": "passed",
    "test_open[torch.bfloat16]": "failed",
    "TestSuite::test_of_the_base[1]": "passed",
    "TestSuite::test_of_the_base[2]": "passed",
    "test_skipped": "skipped",
}


def test_every_case_has_a_result_under_its_own_name(known: Project, first: Ran) -> None:
    assert first.outcomes() == OUTCOMES
    assert first.code == pytest.ExitCode.TESTS_FAILED
    said = "1 test file cannot be imported here (No module named 'torch'); its tests were read from the source"
    assert f"{said}; the box finds the cases of 2 tests" in first.text
    assert "megacpp: 7 tests read from the source: 9 tests at the box\n" in first.text
    assert "1 failed, 7 passed, 1 skipped, 1 deselected" in first.text
    assert "lane tests without a result" not in first.text


def test_documents_name_the_cases(known: Project, first: Ran) -> None:
    assert first.run is not None
    assert [test["nodeid"] for test in first.run["tests"]] == [f"test_read.py::{name}" for name in OUTCOMES]
    assert (first.run["unreported"], first.run["status"]) == ([], "failed")
    assert first.receipt("test_open[torch.bfloat16]")["nodeid"] == "test_read.py::test_open[torch.bfloat16]"
    cases = ElementTree.parse(known.root / "junit.xml").iter("testcase")
    assert sorted(f"{case.get('classname')}.{case.get('name')}" for case in cases) == sorted(
        f"test_read.{name.replace('::', '.')}" for name in OUTCOMES
    )


def test_the_recording_is_judged_as_the_run_was(known: Project, first: Ran) -> None:
    assert first.directory is not None
    again = known.pytest("-m", "h200x8", "--replay", str(first.directory / "recording.jsonl"), env=WITHOUT_TORCH)
    assert again.outcomes() == OUTCOMES
    with_torch = known.pytest("-m", "h200x8", "--replay", str(first.directory / "recording.jsonl"))
    assert with_torch.outcomes() == OUTCOMES


def test_last_failed_runs_the_one_case_that_failed(known: Project, first: Ran) -> None:
    ran = known.pytest(*LANE, "--lf", env=WITHOUT_TORCH)
    assert ran.outcomes() == {"test_open[torch.bfloat16]": "failed"}
    assert "lane tests without a result" not in ran.text


def test_what_the_box_has_otherwise_is_named_and_red(tmp_path: Path) -> None:
    project = project_in(tmp_path / "project", test_strange=STRANGE)
    ran = project.pytest(*LANE, env=WITHOUT_TORCH)
    assert ran.outcomes() == {"test_absent": "error", "test_wider[1]": "passed", "test_there": "passed"}
    assert ran.verdict("test_absent")["code"] == "startup-failure"
    assert "did not collect this test, only the desk did" in ran.failure("test_absent")
    assert source_read(ran) == ev.SourceRead(
        tests=3,
        read=3,
        cases=2,
        missing=1,
        differing=("test_strange.py::test_wider[2]",),
        differing_count=1,
        more=("test_strange.py::test_hidden",),
        more_count=1,
    )
    said = "3 tests read from the source: 2 tests at the box, 1 not there, 1 marked differently there, so not run"
    assert f"{said}, 1 more there, not run" in ran.text
    assert ran.run is not None
    assert ran.run["unreported"] == ["test_strange.py::test_wider[2]", "test_strange.py::test_hidden"]


def test_more_tests_at_the_box_alone_make_a_session_red(tmp_path: Path) -> None:
    project = project_in(tmp_path / "project", test_strange=STRANGE)
    ran = project.pytest(*LANE, "-k", "test_there or hidden", env=WITHOUT_TORCH)
    assert ran.outcomes() == {"test_there": "passed", "test_wider": "skipped"}
    assert ran.code == pytest.ExitCode.TESTS_FAILED
    assert "1 lane test of the box could not be read from the source here, so not run." in ran.text
    assert ran.run is not None
    assert ran.run["status"] == "failed"


@pytest.fixture(scope="module")
def dealt(tmp_path_factory: pytest.TempPathFactory) -> tuple[Project, Ran]:
    project = project_in(tmp_path_factory.mktemp("dealt") / "project", test_read=f"{READ}\n{MORE}", conftest=HOOKS)
    return project, project.pytest(*LANE, "--boxes", "2", env=WITHOUT_TORCH)


def test_cases_stay_with_their_box_and_are_in_the_joint_run(dealt: tuple[Project, Ran]) -> None:
    project, ran = dealt
    assert ran.outcomes() == OUTCOMES
    run = project.lane_dir / "runs" / (project.lane_dir / "latest").read_text().strip()
    joint = json.loads((run / "run.json").read_text())
    assert [test["nodeid"] for test in joint["tests"]] == [f"test_read.py::{name}" for name in OUTCOMES]
    assert [test["outcome"] for test in joint["tests"]] == list(OUTCOMES.values())
    assert (joint["counts"]["selected"], joint["status"]) == (9, "failed")
    parts = [json.loads((run.parent / part / "run.json").read_text()) for part in joint["boxes"]]
    of_part = [{test["nodeid"].partition("[")[0] for test in part["tests"]} for part in parts]
    assert not of_part[0] & of_part[1] - {"test_read.py::test_literal"}
    for test in joint["tests"]:
        assert json.loads((run / test["receipt"]).read_text())["nodeid"] == test["nodeid"]


def test_what_both_boxes_have_more_is_named_once(dealt: tuple[Project, Ran]) -> None:
    project, ran = dealt
    assert "1 lane test of the box could not be read from the source here, so not run." in ran.text
    assert "tests read from the source, box 1 of 2: " in ran.text
    run = project.lane_dir / "runs" / (project.lane_dir / "latest").read_text().strip()
    assert json.loads((run / "run.json").read_text())["unreported"] == ["test_read.py::test_hidden"]


def test_hooks_see_each_case_under_its_own_name(dealt: tuple[Project, Ran]) -> None:
    project, _ = dealt
    noted = [json.loads(line) for line in (project.root / "hooks.jsonl").read_text().splitlines()]
    failed = "test_read.py::test_open[torch.bfloat16]"
    assert sorted(noted) == [
        [failed, "call", "LaneTestFailed"],
        [failed, failed, "LaneTestFailed"],
        ["test_read.py::test_skipped", "setup", "Skipped"],
    ]


def test_distributed_sessions_have_every_case_once(tmp_path: Path) -> None:
    pytest.importorskip("xdist")
    project = project_in(tmp_path / "project", test_read=READ)
    ran = project.pytest(*LANE[2:], "-n", "2", "-k", "plain or float32 or (literal and w)", env=WITHOUT_TORCH)
    assert ran.outcomes() == {
        "test_plain": "passed",
        "test_literal[w]": "passed",
        "test_open[torch.float32]": "passed",
        "TestSuite": "skipped",
    }
    assert ran.code == 0


def test_a_gate_takes_tests_that_were_read(tmp_path: Path) -> None:
    gated = Gated(tmp_path / "project")
    gated.write("suites/kernels/test_rms.py", GATED)
    gated.write("suites/blocks/test_moe.py", GATED)
    gated.repository.commit()
    gated.repository.git("branch", "-f", "main")
    gated.write("kernels/rms.py", "changed")
    ran = gated.pytest(*GATE, env=WITHOUT_TORCH)
    assert ran.outcomes() == {"test_gated[d0]": "passed"}
    assert "1 lane test left out" in ran.text
    assert ran.run is not None
    assert ran.run["gate"]["complaints"] == []
    assert ran.code == 0


def test_a_mark_that_says_how_to_run_a_test_has_to_be_readable(tmp_path: Path) -> None:
    project = Project(tmp_path / "project")
    source = "import pytest\nimport torch\n\n@pytest.mark.h200x8(ranks=torch.N)\ndef test_a(): ...\n"
    project.write("test_read.py", source)
    ran = project.pytest(*LANE, env=WITHOUT_TORCH)
    assert ran.code == pytest.ExitCode.USAGE_ERROR
    assert "test_read.py::test_a: the arguments of @pytest.mark.h200x8 can't be read from the source" in ran.text
