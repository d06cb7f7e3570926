"""The plan that a box elsewhere gets: its paths, its pytest, its environment."""

from dataclasses import replace
from pathlib import Path

import pytest

from pytest_megacpp.recording.events import Limits
from pytest_megacpp.recording.plan import DataSet, Plan, PlannedTest, SeedPlan
from pytest_megacpp.recording.vocabulary import Preset, SeedMode
from pytest_megacpp.surfaces.remote_plan import plan_elsewhere
from pytest_megacpp.surfaces.source import Layout, SourceError

HOME = "/megacpp/source"


def made(plan: Plan, top: Path, run_s: float = 3480.0, **environ: str) -> Plan:
    layout = Layout(top.parent, HOME, (top, top.parent / "lib"))
    variables, data = {"B": "ours", "C": "2"}, (DataSet("tokens", "/megacpp/data/tokens"),)
    stores = ("/megacpp/cache/seeds",)
    return plan_elsewhere(
        plan, layout, stores=stores, image="ours", run_s=run_s, variables=variables, data=data, environ=environ
    )


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    top = tmp_path / "p"
    (top / "tests").mkdir(parents=True)
    return Plan(
        run_id="r1",
        lane="h200x8",
        surface="modal",
        gpu="H200:8",
        devices=8,
        ranks=8,
        dry_run=False,
        fsdp=False,
        tests=(PlannedTest("tests/test_a.py::test_a", 8, Preset.FULL, Limits()),),
        args=("-m", "h200x8", f"{top}/tests", "--junitxml=out.xml"),
        cwd=str(top / "tests"),
        seed=SeedPlan(SeedMode.REQUIRE, ("/home/me/.cache",), 8),
        path=(str(top / "src"), "/usr/lib/python3.11", f"{top.parent}/lib", str(top.parent)),
        environment={"A": "theirs", "B": "1"},
        root="..",
        ini="../pyproject.toml",
        data=(DataSet("tokens", str(tmp_path)),),
    )


def test_every_path_is_the_boxs(plan: Plan, tmp_path: Path) -> None:
    there = made(plan, tmp_path / "p")
    assert there.cwd == f"{HOME}/p/tests"
    assert (there.root, there.ini) == ("..", "../pyproject.toml")
    assert there.args == ("-m", "h200x8", f"{HOME}/p/tests", "--junitxml=out.xml")
    assert there.path == (f"{HOME}/p/src", f"{HOME}/lib")
    assert there.seed == SeedPlan(SeedMode.REQUIRE, ("/megacpp/cache/seeds",), 8, image="ours")
    assert there.data == (DataSet("tokens", "/megacpp/data/tokens"),)
    assert str(tmp_path) not in repr(there)


def test_the_environment_is_what_was_configured_and_pytests_own(plan: Plan, tmp_path: Path) -> None:
    top = tmp_path / "p"
    there = made(
        plan,
        top,
        PYTEST_ADDOPTS=f"-x --ignore={top}/slow",
        PYTEST_PLUGINS="an_editors_own",
        HOME="/home/me",
        HF_TOKEN="t",
    )
    assert there.environment == {
        "A": "theirs",
        "B": "1",
        "C": "2",
        "PYTEST_ADDOPTS": f"-x --ignore={HOME}/p/slow",
    }


@pytest.mark.parametrize(("asked_s", "run_s"), [(0.0, 3480.0), (60.0, 60.0), (9999.0, 3480.0)])
def test_the_run_is_bounded(asked_s: float, run_s: float, plan: Plan, tmp_path: Path) -> None:
    assert made(replace(plan, run_s=asked_s), tmp_path / "p").run_s == run_s


@pytest.mark.parametrize(
    ("field", "said"),
    [
        ("cwd", "pytest was started in /elsewhere/x, which isn't sent to the box"),
        ("root", "pytest's root directory is /elsewhere/x"),
        ("ini", "pytest is configured by /elsewhere/x"),
    ],
)
def test_what_is_not_sent_can_not_be_used(field: str, said: str, plan: Plan, tmp_path: Path) -> None:
    with pytest.raises(SourceError) as error:
        made(replace(plan, **{field: "/elsewhere/x"}), tmp_path / "p")  # type: ignore[arg-type]
    assert said in str(error.value)
    assert "name the directory in extra of [tool.pytest_megacpp.source]" in str(error.value)
