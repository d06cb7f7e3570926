"""The local lane under gVisor: a fault of each kind gets the code, ranks and cause that it gets on Linux."""

import json
import os
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from pytest_megacpp.box.host import process
from tests.gvisor.builds import ROOT, Build

DRILLS = "smoke_suites/drills"
LANE = ("-m", "h200x8", "--surface", "local", "--dry-run", "-p", "no:randomly")
FAULTS = {
    "healthy": "test_healthy.py::test_ranks_differ_where_they_may",
    "a world of 8": "test_healthy.py::test_sub_second[0]",
    "raise": "test_deaths.py::test_raise_before_a_collective",
    "SIGKILL": "test_deaths.py::test_rank_zero_is_killed_while_others_wait",
    "SIGSEGV": "test_deaths.py::test_segmentation_fault",
    "early exit": "test_deaths.py::test_process_ends_itself_with_success",
    "SIGSTOP": "test_stalls.py::test_frozen_process",
    "straggler": "test_stalls.py::test_sleep_before_a_collective",
    "leaves early": "test_stalls.py::test_one_rank_returns_early",
    "hang": "test_stalls.py::test_everybody_receives_and_nobody_sends",
    "everybody sleeps": "test_stalls.py::test_everybody_sleeps",
    "everybody computes": "test_stalls.py::test_busy_beyond_the_limit",
    "messages": "test_healthy.py::test_one_message_after_the_other",
    "wrong operation": "test_mismatches.py::test_wrong_operation",
    "wrong size": "test_mismatches.py::test_wrong_size",
    "compile skew": "test_compiling.py::test_one_rank_compiles_what_the_others_do_not",
    "a conftest fails": "test_startup.py::test_conftest_fails_on_one_rank",
    "killed at the start": "test_startup.py::test_killed_while_collecting",
    "an import fails": "test_startup_import.py::test_not_importable_on_rank_1",
}
"""A drill for each kind; each passes only when exactly the verdict of its mark is reached."""
LIVES = ("test_a_killed_box", "test_a_killed_desk", "test_a_killed_rank", "test_an_interrupted_desk[ctrl-c]")
LIMIT_S = 1200.0


@pytest.fixture(scope="session")
def drills(build: Build, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The `run.json` of one lane command in one sandbox, for all faults."""
    kept = tmp_path_factory.mktemp(f"gvisor-{build.month}")
    ran = under(build, kept, *LANE, "--lane-dir", str(kept), *map(argument, FAULTS.values()))
    documents = list(kept.glob("runs/*/run.json"))
    assert len(documents) == 1, ran
    return documents[0]


@pytest.fixture(scope="session")
def lives(build: Build, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What tests of this project's own reported in one sandbox, as JUnit's XML."""
    report = tmp_path_factory.mktemp(f"gvisor-{build.month}-lives") / "junit.xml"
    ran = under(build, report.parent, f"--junitxml={report}", *(f"tests/plugin/test_life.py::{name}" for name in LIVES))
    assert report.exists(), ran
    return report


def argument(drill: str) -> str:
    """A file with one drill by its name: where it does not import, pytest refuses a node id, and with it all tests."""
    file, _, name = drill.partition("::")
    return f"{DRILLS}/{file}" if name == "test_not_importable_on_rank_1" else f"{DRILLS}/{drill}"


def under(build: Build, kept: Path, *arguments: str) -> str:
    """Runs pytest of this checkout in a sandbox; what it printed."""
    tool = [sys.executable, "-m", "tests.gvisor", "--runsc", str(build.path), "--keep", str(kept)]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    environment.pop("CI", None)  # the box is what is tested here, not what a desk does in CI
    environment["TESTS_PATIENCE"] = "4"
    environment["TORCHINDUCTOR_VEC_ISA_OK"] = "1"  # else torch compiles and loads a program for each: over a minute
    pytest_here = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *arguments]
    ran = subprocess.run(
        [*tool, "--", *pytest_here], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=LIMIT_S
    )
    return ran.stdout + ran.stderr


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_judged_as_on_linux(drills: Path, fault: str) -> None:
    run = json.loads(drills.read_text())
    (test,) = (test for test in run["tests"] if test["nodeid"] == f"{DRILLS}/{FAULTS[fault]}")
    verdict = json.loads((drills.parent / test["receipt"]).read_text())["verdict"]
    assert test["outcome"] == "passed", json.dumps(verdict, indent=1)


def test_the_run_knows_that_it_was_in_a_sandbox_and_what_it_lacked(drills: Path) -> None:
    recording = (drills.parent / "recording.jsonl").read_text().splitlines()
    facts = [json.loads(line) for line in recording]
    missing = {fact["name"] for fact in facts if fact["kind"] == "capability" and not fact["available"]}
    assert {"kernel_log", "memory_events", "thread_runs", "hole_punching"} <= missing
    assert [fact["facts"]["gvisor"] for fact in facts if fact["kind"] == "box-ready"] == [True]


@pytest.mark.parametrize("life", LIVES)
def test_whoever_is_killed_nothing_survives(lives: Path, life: str) -> None:
    cases = {case.get("name"): case for case in ElementTree.parse(lives).iter("testcase")}
    problems = [(found.tag, found.text) for found in cases[life] if found.tag in ("failure", "error", "skipped")]
    assert problems == []


def test_a_killed_command_leaves_no_sandbox(build: Build) -> None:
    command = [sys.executable, "-m", "tests.gvisor", "--runsc", str(build.path), "--", "sh", "-c", "echo up; sleep 300"]
    with (
        tempfile.TemporaryDirectory(prefix="killed-", ignore_cleanup_errors=True) as place,  # short, for sockets
        subprocess.Popen(
            command,
            cwd=ROOT,
            env={**os.environ, "TMPDIR": place},
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        ) as child,
    ):
        assert child.stdout is not None
        assert child.stdout.readline() == b"up\n"
        carriers = [stat.pid for stat in process.descendants(child.pid)]
        assert len(carriers) >= 3, "runsc, the kernel of the sandbox and its file server"
        child.kill()
    deadline = time.monotonic() + 10
    while (left := [pid for pid in carriers if process.stat(pid) is not None]) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert left == []
