"""The guide, followed in a repository with a small model, ordinary tests and two kernels; the rules are its own."""

import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from tests.desk.repository import Repository
from tests.plugin.project import LANE, WITHOUT_NUMPY, Project, Ran

GUIDE = (Path(__file__).parents[2] / "docs" / "guide.md").read_text(encoding="utf-8")
RULES = next(block for block in re.findall(r"```toml\n(.*?)```", GUIDE, re.DOTALL) if "[[tool.pytest_megacpp" in block)
GATE = (*LANE, "--gate-since", "main")
FILES = {
    "mymodel/__init__.py": "",
    "mymodel/helper.py": "EPS = 1e-6\n",
    "mymodel/kernels/__init__.py": "",
    "mymodel/kernels/norm.py": """
        import torch
        from mymodel.helper import EPS

        def rmsnorm(x):
            return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + EPS)
    """,
    "mymodel/kernels/swiglu.py": """
        import torch

        def swiglu(x):
            a, b = x.chunk(2, -1)
            return torch.nn.functional.silu(a) * b
    """,
    "mymodel/model.py": """
        import torch
        from mymodel.kernels.norm import rmsnorm
        from mymodel.kernels.swiglu import swiglu

        class Block(torch.nn.Module):
            def __init__(self, width):
                super().__init__()
                self.up = torch.nn.Linear(width, 2 * width)

            def forward(self, x):
                return x + swiglu(self.up(rmsnorm(x)))
    """,
    "mymodel/blocks/__init__.py": "",
    "tests/test_model.py": """
        import torch
        from mymodel.model import Block

        def test_shapes():
            assert Block(8)(torch.ones(2, 8)).shape == (2, 8)
    """,
    "smoke_suites/kernels/test_rmsnorm.py": """
        import os
        import pytest
        import torch
        from mymodel.kernels.norm import rmsnorm

        @pytest.mark.skipif("NO_NVLINK" in os.environ, reason="needs NVLink")
        @pytest.mark.h200x8(ranks=2, test=60)
        def test_rmsnorm_agrees_on_all_ranks(modal_h200x8):
            lane = modal_h200x8
            with lane.first_forward():
                out = rmsnorm(torch.ones(4, 8, device=lane.device))
            lane.assert_same(out)
    """,
    "smoke_suites/kernels/test_swiglu.py": """
        import pytest
        import torch
        from mymodel.kernels.swiglu import swiglu

        @pytest.mark.h200x8(ranks=2, test=60)
        def test_swiglu_agrees_on_all_ranks(modal_h200x8):
            modal_h200x8.assert_same(swiglu(torch.ones(4, 8, device=modal_h200x8.device)))
    """,
    "smoke_suites/test_blocks.py": "",
    "smoke_suites/test_step.py": "",
    "README.md": "A model.\n",
    ".gitignore": ".witness*\njunit.xml\n",
}
RMSNORM, SWIGLU = "test_rmsnorm_agrees_on_all_ranks", "test_swiglu_agrees_on_all_ranks"


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    project = Project(tmp_path_factory.mktemp("guide") / "mymodel")
    repository = Repository.new(project.root)
    for name, text in FILES.items():
        project.write(name, text)
    pytest_options = "[tool.pytest.ini_options]\naddopts = ['--strict-markers']\npythonpath = ['.']\n"
    project.write("pyproject.toml", f"{pytest_options}\n{RULES}")
    repository.commit()
    repository.git("checkout", "-q", "-b", "work")
    return project


@pytest.fixture(autouse=True)
def _as_it_was(project: Project) -> None:
    Repository(project.root).git("checkout", "-q", ".")


def test_a_documentation_change_runs_nothing_and_says_so(project: Project) -> None:
    project.write("README.md", "A better model.\n")
    ran = project.megacpp("run", *GATE)
    assert (ran.code, ran.outcomes()) == (0, {})
    assert "rule kernels: does not run, no file that it watches changed" in ran.text
    assert "2 lane tests left out: no file that their rules watch changed" in ran.text


def test_a_kernel_change_runs_the_kernel_suite(project: Project) -> None:
    project.write("mymodel/kernels/swiglu.py", FILES["mymodel/kernels/swiglu.py"].replace("a, b", "b, a"))
    ran = project.pytest(*GATE, "--junitxml=junit.xml")
    assert (ran.code, ran.outcomes()) == (0, {RMSNORM: "passed", SWIGLU: "passed"})
    assert "rule kernels: runs: mymodel/kernels/swiglu.py matches mymodel/kernels/**" in ran.text
    assert_junit_tells(project, ran)


def assert_junit_tells(project: Project, ran: Ran) -> None:
    cases = {
        case.get("name"): {p.get("name"): p.get("value") for p in case.iter("property")}
        for case in ElementTree.parse(project.root / "junit.xml").iter("testcase")
    }
    assert ran.run is not None
    said = cases[RMSNORM]
    assert (said["megacpp_verdict"], said["megacpp_run"]) == ("passed", ran.run["run_id"])
    assert float(said["megacpp_first_forward_s"] or -1) > 0
    assert float(said["megacpp_seconds"] or -1) > 0
    assert [said[f"megacpp_{name}"] for name in ("gpu_seconds", "usd", "dry_run")] == ["0.0", "0.0", "true"]
    assert "megacpp_first_forward_s" not in cases[SWIGLU]


def test_a_helper_that_a_kernel_imports_runs_its_test(project: Project) -> None:
    project.write("mymodel/helper.py", "EPS = 1e-5\n")
    ran = project.pytest(*GATE)
    assert (ran.code, ran.outcomes()) == (0, {RMSNORM: "passed"})
    assert (
        "rule kernels: runs, 1 of 2 test files: mymodel/helper.py is imported by mymodel/kernels/norm.py"
        " ← smoke_suites/kernels/test_rmsnorm.py" in ran.text
    )


def test_a_lane_test_that_skips_itself_turns_the_gate_red(project: Project, tmp_path: Path) -> None:
    """And the review says so: an annotation, and a summary with its ranks."""
    project.write("mymodel/helper.py", "EPS = 1e-5\n")
    github = {"GITHUB_ACTIONS": "true", "GITHUB_STEP_SUMMARY": str(tmp_path / "summary.md"), "NO_NVLINK": "1"}
    ran = project.megacpp("run", *GATE, env=github)
    assert (ran.code, ran.outcomes()) == (1, {RMSNORM: "error"})
    verdict = ran.verdict(RMSNORM)
    assert (verdict["code"], verdict["cause"]) == ("not-run", "skipped")
    (command,) = [line for line in ran.text.splitlines() if line.startswith("::error ")]
    assert command.startswith("::error file=smoke_suites/kernels/test_rmsnorm.py,line=")
    said = command.rpartition("::")[2].split("%0A")
    assert said[0] == "not-run · the gate requires this test, but it was skipped: needs NVLink"
    assert said[1].startswith("certain · cause skipped · lane h200x8, 2 ranks · dry run")
    summary = (tmp_path / "summary.md").read_text()
    assert "### ✗ h200x8 on H200:8, dry run on CPU/gloo" in summary
    assert "| ranks 0,1 | skipped |" in summary
    assert "rule kernels: runs, 1 of 2 test files" in summary


def test_lane_tests_that_all_skip_are_no_success_for_a_script(project: Project) -> None:
    ran = project.megacpp("run", *LANE, "-k", "rmsnorm", env={"NO_NVLINK": "1"})
    assert (ran.code, ran.outcomes()) == (2, {RMSNORM: "skipped"})
    assert "megacpp run: untested: no lane test was run" in ran.text


def test_what_init_writes_passes_at_once_as_a_dry_run(tmp_path: Path) -> None:
    """By init's own words and by the guide's, in a new directory, on the documented install: torch brings no numpy."""
    project = Project(tmp_path / "fresh")
    (project.root / "pyproject.toml").unlink()
    written = project.megacpp("init")
    assert written.code == 0
    by_init = written.text.strip().splitlines()[-1].removeprefix("try it: ")
    by_guide = re.findall(r"^pytest .*", GUIDE, re.MULTILINE)[0]
    for command in (by_init, by_guide):
        ran = project.pytest(*command.split()[1:], env=WITHOUT_NUMPY)
        assert (ran.code, ran.outcomes()) == (0, {"test_all_ranks_agree": "passed"})
        assert ran.receipt("test_all_ranks_agree")["distributed_mode"] == "ddp"
