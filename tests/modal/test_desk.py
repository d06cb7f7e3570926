"""The whole way, from `pytest` at a desk to ranks in a sandbox and back: real desks, real boxes, gloo ranks."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import pytest_megacpp
from pytest_megacpp.box.host import process
from pytest_megacpp.recording import events as ev
from pytest_megacpp.recording.wire import read_all
from tests.modal_emulator import Emulator
from tests.modal_emulator.control import Result, Sandbox
from tests.plugin.project import WITHOUT_TORCH, Desk, Project, Ran

LANE = ("-m", "h200x8", "--surface", "modal", "--dry-run")
TESTS = """
    import pathlib
    import time
    import pytest

    pytestmark = pytest.mark.h200x8(ranks=2)
    GO = pathlib.Path("/tmp") / "{gate}"

    def test_first(modal_h200x8):
        print("said by rank", modal_h200x8.rank)

    def test_slow(modal_h200x8):
        while not GO.exists():
            time.sleep(0.02)

    def test_wrong(modal_h200x8):
        assert modal_h200x8.rank != 1
"""
WRONG_FIRST = """
    import pathlib
    import time
    import pytest

    pytestmark = pytest.mark.h200x8(ranks=2)

    def test_wrong(modal_h200x8):
        assert modal_h200x8.rank != 1

    def test_shut(modal_h200x8):
        while not (pathlib.Path("/tmp") / "{gate}").exists():
            time.sleep(0.02)
"""
MEETING = """
    import pathlib
    import time
    import pytest

    pytestmark = pytest.mark.h200x8(ranks=2)

    @pytest.mark.parametrize("number", [0, 1])
    def test_meets(number, modal_h200x8):
        mine, other = (pathlib.Path("/tmp") / f"{gate}-{n}" for n in (number, 1 - number))
        mine.touch()
        while not other.exists():
            time.sleep(0.02)
"""
SETTINGS = """
    [tool.pytest.ini_options]
    addopts = ["--strict-markers"]
    [tool.pytest_megacpp.modal]
    lease_s = 3
"""
NO_LEASE = SETTINGS.replace("lease_s = 3", "lease_s = 600")  # what ends a sandbox must be the desk
DEAR = """
    cpu = 4
    [tool.pytest_megacpp.prices]
    cpu_core = 900
    memory_gib = 0
"""


class Site(Project):
    """A project whose desks know one emulator. `go` lets the slow test end."""

    emulator: Emulator
    gate: Path

    def run(self, *args: str) -> Ran:
        """A desk from its start to its end; unlike a `with`, it leaves alone what goes on without it."""
        desk = self.desk(*args)
        code = desk.wait()
        return Ran(code, desk.text, desk._reports(), desk._run_json(), desk.directory, 0.0)

    def desk(self, *args: str) -> Desk:
        return self.start(*args, env=self.emulator.environment)

    def go(self) -> None:
        self.gate.touch()

    @property
    def sandbox(self) -> Sandbox:
        assert len(self.emulator.sandboxes) == 1, "one sandbox for all tests"
        return self.emulator.sandboxes[0]

    def assert_given_back(self, limit_s: float = 20.0) -> None:
        deadline = time.monotonic() + limit_s
        while self.sandbox.result is None and time.monotonic() < deadline:
            time.sleep(0.05)
        assert self.sandbox.result is not None
        assert self.sandbox.container is not None
        assert self.sandbox.container.processes() == []


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    package = Path(pytest_megacpp.__file__ or "").parent
    with Emulator(hide=[tmp_path, package]) as emulator:
        site = Site(tmp_path / "project")
        site.emulator = emulator
        site.gate = Path("/tmp") / f"megacpp-gate-{os.getpid()}-{time.monotonic_ns()}"
        site.write("pyproject.toml", SETTINGS)
        site.write("test_it.py", TESTS.replace("{gate}", site.gate.name))
        yield site
        site.gate.unlink(missing_ok=True)


def facts(directory: Path | None) -> list[ev.Fact]:
    path = directory / "recording.jsonl" if directory else None
    return [event.fact for event in read_all(path.read_bytes())] if path is not None and path.exists() else []


def started(directory: Path | None, name: str) -> bool:
    return any(isinstance(fact, ev.TestStarted) and fact.nodeid.endswith(name) for fact in facts(directory))


def test_one_sandbox_for_all_tests_and_a_connection_that_is_cut_and_back(site: Site) -> None:
    """The artefacts are a local run's; the connection's adventure costs nothing."""
    with site.desk(*LANE, "-v") as desk:
        desk.wait_until(lambda: started(desk.directory, "test_slow"))
        site.emulator.cut()
        site.go()
        time.sleep(1.0)
        site.emulator.repair()
        code = desk.wait()
        ran = Ran(code, desk.text, desk._reports(), desk._run_json(), desk.directory, 0.0)
    assert ran.outcomes() == {"test_first": "passed", "test_slow": "passed", "test_wrong": "failed"}, ran.text
    assert code == pytest.ExitCode.TESTS_FAILED
    assert ran.verdict("test_wrong")["blamed_ranks"] == [1]
    said = facts(ran.directory)
    assert [fact for fact in said if isinstance(fact, ev.Gap | ev.Damaged)] == []
    assert sum(isinstance(fact, ev.RunFinished) for fact in said) == 1
    assert ran.run is not None
    assert ran.directory is not None
    assert (ran.run["status"], ran.run["surface"], ran.run["dry_run"]) == ("failed", "modal", True)
    assert ran.run["ids"] == {"app": site.sandbox.app_id, "sandbox": site.sandbox.id}
    assert "said by rank 1" in (ran.directory / "ranks" / "w1" / "1" / "stdout.log").read_text()
    assert "said by rank 0" in ran.sections("test_first")["Captured stdout of rank 0"]
    phases = re.findall(r"megacpp: (\w[\w-]*) [\d.]+ s", ran.text)
    assert phases == ["source", "connect", "image", "upload", "capacity", "start"]
    assert re.search(r"megacpp: collection done [\d.]+ s after the box began", ran.text)
    site.assert_given_back()
    assert site.sandbox.name == ran.run["run_id"]
    assert site.sandbox.tags == {"megacpp_run": site.sandbox.name, "lane": "h200x8", "suite": "project"}
    assert site.emulator.app_tags(site.sandbox.app_id) == site.sandbox.tags


def test_the_lane_s_gpus_are_asked_for_and_checked(site: Site) -> None:
    """Here the sandbox has none: the guard says so before anything costs time."""
    ran = site.run(*(word for word in LANE if word != "--dry-run"))
    assert set(ran.outcomes().values()) == {"error"}
    assert ran.verdict("test_first")["code"] == "environment"
    assert site.sandbox.gpu == "H200:8"
    site.assert_given_back()


def test_a_budget_refuses_before_anything_is_asked_for(site: Site) -> None:
    ran = site.run(*LANE, "--lane-budget", "0.000001")
    assert {ran.verdict(name)["cause"] for name in ran.outcomes()} == {"budget"}
    assert site.emulator.sandboxes == []


def test_a_killed_sandbox(site: Site) -> None:
    with site.desk(*LANE) as desk:
        desk.wait_until(lambda: started(desk.directory, "test_slow"))
        site.emulator.kill(site.sandbox, Result.GENERIC_STATUS_KERNEL_OOM_KILL)
        desk.wait()
        ran = Ran(0, desk.text, desk._reports(), desk._run_json(), desk.directory, 0.0)
    assert ran.outcomes() == {"test_first": "passed", "test_slow": "error", "test_wrong": "error"}, ran.text
    assert [ran.verdict(name)["cause"] for name in ("test_slow", "test_wrong")] == ["killed", "killed"]
    assert ran.run is not None
    assert ran.run["status"] == "error"


def test_a_desk_that_dies_takes_its_box_along(site: Site) -> None:
    """By the lease. What the run came to can still be had."""
    with site.desk(*LANE) as desk:
        desk.wait_until(lambda: started(desk.directory, "test_slow"))
        run_id = site.sandbox.name
        os.kill(desk.child.pid, signal.SIGKILL)
        site.assert_given_back()
    ran = site.run("-m", "h200x8", "--attach", run_id)
    assert ran.outcomes() == {"test_first": "passed", "test_slow": "error", "test_wrong": "error"}, ran.text
    document = json.loads((site.lane_dir / "runs" / run_id / "run.json").read_text())
    assert [test["verdict"] for test in document["tests"]] == ["passed", "not-run", "not-run"]


def test_a_connection_that_is_lost_for_good(site: Site) -> None:
    with site.desk(*LANE) as desk:
        desk.wait_until(lambda: started(desk.directory, "test_slow"))
        run_id = site.sandbox.name
        site.emulator.cut()
        desk.wait()
        ran = Ran(0, desk.text, desk._reports(), desk._run_json(), desk.directory, 0.0)
        site.assert_given_back()
    assert ran.outcomes() == {"test_first": "passed", "test_slow": "error", "test_wrong": "error"}, ran.text
    assert ran.verdict("test_slow")["cause"] == "connection"
    assert f"--attach {run_id}" in ran.failure("test_slow")
    site.emulator.repair()
    again = site.run("-m", "h200x8", "--attach", run_id)
    assert again.outcome("test_first") == "passed", again.text


def test_detach_and_attach(site: Site) -> None:
    """Left at once, listened to live from another place, and again when only the records are there."""
    left = site.run(*LANE, "--detach")
    assert left.code == pytest.ExitCode.OK, left.text
    assert set(left.outcomes().values()) == {"skipped"}
    assert left.run is not None
    assert left.run["status"] == "detached"
    run_id = left.run["run_id"]
    assert f"pytest --attach {run_id}" in left.text
    megacpp = [sys.executable, "-m", "pytest_megacpp.desk.commands.cli", "runs"]
    listed = subprocess.run(megacpp, cwd=site.root, capture_output=True, text=True, timeout=60, check=True).stdout
    assert re.search(rf"{run_id} .* detached .* h200x8  modal \(dry run\)", listed)
    elsewhere = ("-m", "h200x8", "--attach", run_id, "--lane-dir", "elsewhere")
    with site.desk(*elsewhere) as desk:
        directory = site.root / "elsewhere" / "runs" / run_id
        desk.wait_until(lambda: started(directory, "test_slow"))
        time.sleep(3.5)  # longer than a lease: a detached box needs no desk
        site.go()
        desk.wait()
        live = Ran(0, desk.text, desk._reports(), None, directory, 0.0)
    wanted = {"test_first": "passed", "test_slow": "passed", "test_wrong": "failed"}
    assert live.outcomes() == wanted, live.text
    assert json.loads((directory / "run.json").read_text())["status"] == "failed"
    assert (directory / "ranks" / "w1" / "0" / "stdout.log").exists()
    site.assert_given_back()
    again = site.run("-m", "h200x8", "--attach", run_id)
    assert again.outcomes() == wanted, again.text
    assert json.loads((site.lane_dir / "runs" / run_id / "run.json").read_text())["status"] == "failed"


def test_the_way_to_a_box_is_shown_with_its_times(site: Site) -> None:
    """What is over has its seconds, the queue lasts for as long as it does; what ranks wrote comes with each result."""
    site.emulator.faults.capacity_after_s = 3.0
    site.go()
    ran = site.run(*LANE, "-q", "-s", "--lane-heartbeat", "0.5", "--lane-output", "1")
    way = " · ".join(rf"{step} [\d.]+ s" for step in ("source", "connect", "image", "upload", "queue"))
    begins = rf"^megacpp: 0/3 tests · \d:\d\d · {way} · start for \d:\d\d$"
    assert re.search(begins, ran.text, re.MULTILINE), ran.text
    assert re.search(r"^\[rank 1\] said by rank 1$", ran.text, re.MULTILINE), ran.text
    assert "[rank 0]" not in ran.text
    assert ran.text.index("[rank 1] said") < ran.text.index("FAILURES")
    assert f"{ran.directory.relative_to(site.root) if ran.directory else ''}/ranks/w1/1/stdout.log" in ran.text


def megacpp(site: Site, *arguments: str) -> "subprocess.CompletedProcess[str]":
    """The command in a second terminal."""
    env = {**os.environ, **site.emulator.environment}
    command = [sys.executable, "-m", "pytest_megacpp", *arguments]
    return subprocess.run(command, cwd=site.root, env=env, capture_output=True, text=True, timeout=120)


def test_a_run_with_a_desk_is_looked_into_and_stopped(site: Site) -> None:
    """What is asked goes through the connection that its desk has."""
    with site.desk(*LANE) as desk:
        desk.wait_until(lambda: started(desk.directory, "test_slow"))
        stacks = megacpp(site, "stacks")
        assert stacks.returncode == 0, stacks.stderr
        assert stacks.stdout.splitlines()[0].endswith("2 ranks · now"), stacks.stdout
        assert "test_slow (test_it.py:" in stacks.stdout
        assert megacpp(site, "logs").stdout == "[rank 0] said by rank 0\n[rank 1] said by rank 1\n"
        stopped = megacpp(site, "stop")
        assert stopped.returncode == 0, stopped.stderr
        assert "its desk had its box end" in stopped.stdout
        desk.wait()
        ran = Ran(0, desk.text, desk._reports(), desk._run_json(), desk.directory, 0.0)
    assert ran.verdict("test_slow")["code"] == "not-run"
    assert "megacpp stop asked for it" in ran.failure("test_slow")
    site.assert_given_back()


def test_a_run_without_a_desk_is_looked_into_and_stopped(site: Site) -> None:
    left = site.run(*LANE, "--detach")
    assert left.run is not None
    run_id = left.run["run_id"]
    deadline = time.monotonic() + 60.0
    stacks = megacpp(site, "stacks")
    while "test_slow (test_it.py:" not in stacks.stdout and time.monotonic() < deadline:
        stacks = megacpp(site, "stacks")
    assert stacks.stdout.splitlines()[0].endswith("2 ranks · now"), stacks.stdout + stacks.stderr
    logs = megacpp(site, "logs", "--rank", "1")
    assert (logs.returncode, logs.stdout) == (0, "said by rank 1\n"), logs.stderr
    stopped = megacpp(site, "stop", run_id)
    assert stopped.returncode == 0, stopped.stderr
    assert "ended in order" in stopped.stdout
    assert f"pytest -m h200x8 --attach {run_id}" in stopped.stdout
    site.assert_given_back()
    ran = site.run("-m", "h200x8", "--attach", run_id)
    assert ran.outcomes() == {"test_first": "passed", "test_slow": "error", "test_wrong": "error"}, ran.text
    again = megacpp(site, "stop", run_id)
    assert "there is nothing to stop" in again.stdout


def test_ctrl_c_in_the_queue(site: Site) -> None:
    site.emulator.faults.capacity = False
    with site.desk(*LANE) as desk:
        desk.wait_until(lambda: site.emulator.sandboxes)
        os.kill(desk.child.pid, signal.SIGINT)
        assert desk.wait() == pytest.ExitCode.INTERRUPTED
        document = desk._run_json()
    assert document is not None
    assert document["status"] == "interrupted"
    deadline = time.monotonic() + 5
    while site.sandbox.result is None and time.monotonic() < deadline:
        time.sleep(0.05)
    assert site.sandbox.result is not None


def test_ctrl_c_in_a_running_test(site: Site) -> None:
    site.write("pyproject.toml", NO_LEASE)
    with site.desk(*LANE) as desk:
        desk.wait_until(lambda: started(desk.directory, "test_slow"))
        os.kill(desk.child.pid, signal.SIGINT)
        assert desk.wait() == pytest.ExitCode.INTERRUPTED
        document = desk._run_json()
    assert document is not None
    assert document["status"] == "interrupted"
    assert document["tests"][0]["outcome"] == "passed"
    assert {test["outcome"] for test in document["tests"][1:]} <= {"error", None}
    site.assert_given_back()


def test_the_first_failure_is_enough(site: Site) -> None:
    """With `-x`. Whoever went on would wait in the next test for good: its gate stays shut."""
    site.write("pyproject.toml", NO_LEASE)
    site.write("test_it.py", WRONG_FIRST.replace("{gate}", site.gate.name))
    ran = site.run(*LANE, "-x")
    assert ran.code == pytest.ExitCode.TESTS_FAILED
    assert ran.outcomes() == {"test_wrong": "failed"}, ran.text
    site.assert_given_back()


def test_a_budget_ends_the_test_that_runs(site: Site) -> None:
    """A dollar a second: 25 of them, and 15 that are kept back for the end."""
    site.write("pyproject.toml", NO_LEASE + DEAR)
    ran = site.run(*LANE, "--lane-budget", "40")
    assert ran.code == pytest.ExitCode.TESTS_FAILED
    assert ran.outcomes() == {"test_first": "passed", "test_slow": "error", "test_wrong": "error"}, ran.text
    assert {ran.verdict(name)["cause"] for name in ("test_slow", "test_wrong")} == {"budget"}
    assert "the budget was spent while this test ran" in ran.failure("test_slow")
    assert "the budget was spent before this test began" in ran.failure("test_wrong")
    assert ran.run is not None
    assert 25 < ran.run["cost"]["usd"] < 40
    site.assert_given_back()


def test_two_sandboxes_at_the_same_time(site: Site) -> None:
    """Each test waits for the other one to begin, so neither box waits for the other's end."""
    site.write("test_it.py", MEETING.replace("{gate}", site.gate.name))
    ran = site.run(*LANE, "--boxes", "2")
    assert ran.outcomes() == {"test_meets[0]": "passed", "test_meets[1]": "passed"}, ran.text
    sandboxes = site.emulator.sandboxes
    assert len(sandboxes) == 2
    assert all(sandbox.result is not None for sandbox in sandboxes)
    latest = site.lane_dir / "runs" / (site.lane_dir / "latest").read_text().strip()
    joint = json.loads((latest / "run.json").read_text())
    assert set(joint["boxes"]) == {sandbox.name for sandbox in sandboxes}
    assert [test["outcome"] for test in joint["tests"]] == ["passed", "passed"]
    for path in Path("/tmp").glob(f"{site.gate.name}-*"):
        path.unlink()


def test_no_process_is_left() -> None:
    """Of any sandbox of this module."""
    children = [p.pid for p in process.descendants(os.getpid())]
    assert not [pid for pid in children if "MODAL_SANDBOX_ID" in process.environment_of(pid)]


READ = """
    import pytest
    import torch

    @pytest.mark.h200x8(ranks=2)
    @pytest.mark.parametrize("dtype", [torch.int8, torch.int16], ids=str)
    def test_read(modal_h200x8, dtype):
        assert torch.ones(2, dtype=dtype).sum() == 2
"""


def test_a_desk_without_torch_runs_a_lane_and_attaches_to_it(site: Site) -> None:
    """Its lane file cannot be imported there; the sandbox has torch and names the tests."""
    site.write("test_it.py", READ)
    with site.start(*LANE, env={**site.emulator.environment, **WITHOUT_TORCH}) as desk:
        code = desk.wait()
        ran = Ran(code, desk.text, desk._reports(), desk._run_json(), desk.directory, 0.0)
    wanted = {"test_read[torch.int8]": "passed", "test_read[torch.int16]": "passed"}
    assert ran.outcomes() == wanted, ran.text
    assert code == 0
    assert "megacpp: 1 test read from the source: 2 tests at the box" in ran.text
    assert ran.run is not None
    site.assert_given_back()
    attach = ("-m", "h200x8", "--attach", ran.run["run_id"])
    with site.start(*attach, env={**site.emulator.environment, **WITHOUT_TORCH}) as desk:
        code = desk.wait()
        again = Ran(code, desk.text, desk._reports(), desk._run_json(), desk.directory, 0.0)
    assert again.outcomes() == wanted, again.text
    assert code == 0
