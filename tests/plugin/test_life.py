"""Whoever is killed, whenever: nothing of the run survives, `run.json` is finished, the rest is said as it is."""

import contextlib
import functools
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from pytest_megacpp.box.host import process
from tests.plugin.project import LANE, Desk, Json, Project, Ran, command

GONE_S = 30.0  # a box that imports torch, on a busy machine, hears of its end only afterwards
BUSY = """
    import os
    import pathlib
    import subprocess
    import time
    import pytest

    pytestmark = pytest.mark.h200x8(ranks=2, test=100, stall=60)
    RANK = os.environ.get("RANK")

    def test_busy(modal_h200x8):
        print("the secret is", os.environ["MY_API_TOKEN"])
        subprocess.Popen(["sleep", "300"])
        hidden = f"sleep 300; : {os.getcwd()}"
        subprocess.Popen(["sh", "-c", hidden], env={"PATH": os.environ["PATH"]}, start_new_session=True)
        pathlib.Path(f"inside.{RANK}").touch()
        time.sleep(90)

    def test_next(modal_h200x8): pass
"""
TOKEN = "tok-77aa01c2d9f3"
PASSWORD = "correct-horse-5150"


@dataclass
class Family:
    """The processes of a run in mid-test."""

    desk: int
    guard: int
    box: int
    interpreters: list[int]
    ranks: list[int]

    @classmethod
    def of(cls, desk: Desk) -> "Family":
        seen = {s.pid: s for s in process.all_processes()}
        parents = {pid: stat.parent for pid, stat in seen.items()}
        ours = desk.project.processes()
        guard = next(pid for pid in ours if parents[pid] == desk.child.pid)
        box = next(pid for pid in ours if parents[pid] == guard and "pytest_megacpp.box" in ours[pid])
        interpreters = [pid for pid in ours if parents[pid] == box and "forkserver" in ours[pid]]
        ranks = [pid for pid in ours if parents[pid] in interpreters and seen[pid].session == pid]
        return cls(desk.child.pid, guard, box, interpreters, ranks)


ADOPTED = "from pytest_megacpp.box.host import process as p; p.adopt_orphans(); print(p.adopts_orphans())"


@functools.cache
def orphans_are_adopted() -> bool:
    """Whether the kernel does what PR_SET_CHILD_SUBREAPER promises: gVisor of 2022-12 agrees and then doesn't."""
    ran = subprocess.run([sys.executable, "-c", ADOPTED], capture_output=True, text=True, timeout=60, check=True)
    return "True" in ran.stdout


def hidden(project: Project) -> list[int]:
    """Processes that the ranks started outside of their session and environment."""
    ending = f": {project.root}"
    return [s.pid for s in process.all_processes() if s.state not in "ZX" and command(s.pid).endswith(ending)]


@contextlib.contextmanager
def busy(project: Project, *options: str) -> Iterator[Desk]:
    """A desk whose ranks are both in the test."""
    project.write("test_busy.py", BUSY)
    try:
        with project.start(*LANE, *options, env={"MY_API_TOKEN": TOKEN}) as desk:
            desk.wait_until(lambda: all((project.root / f"inside.{rank}").exists() for rank in (0, 1)))
            yield desk
    finally:
        process.end_all(hidden(project))


def assert_all_gone(desk: Desk, limit_s: float = GONE_S) -> None:
    desk.assert_nothing_left(limit_s)
    deadline = time.monotonic() + 2
    while hidden(desk.project) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert hidden(desk.project) == [] or not orphans_are_adopted()


def run_json(directory: Path) -> Json:
    document: Json = json.loads((directory / "run.json").read_text())
    return document


def finished(desk: Desk) -> Ran:
    ran = desk.ran(limit_s=60)
    assert_all_gone(desk)
    assert ran.run is not None
    assert ran.run["finished_at"] is not None
    assert "INTERNALERROR" not in ran.text
    assert ran.directory is not None
    for log in (ran.directory / "ranks").rglob("*.log"):
        assert TOKEN not in log.read_text()
    return ran


def test_a_killed_rank(project: Project) -> None:
    with busy(project) as desk:
        os.kill(Family.of(desk).ranks[0], signal.SIGKILL)
        ran = finished(desk)
    assert ran.outcomes() == {"test_busy": "failed", "test_next": "passed"}
    verdict = ran.verdict("test_busy")
    assert (verdict["code"], verdict["cause"], len(verdict["blamed_ranks"])) == ("rank-death", "signal:SIGKILL", 1)
    assert ran.run is not None
    assert ran.run["status"] == "failed"


def test_a_rank_that_is_killed_while_it_leaves(project: Project) -> None:
    """By whomever but the box: the test has passed, and the run says what became of the process."""
    project.write(
        "conftest.py",
        """
        import os
        import signal

        def pytest_unconfigure():
            if os.environ.get("RANK") == "1":
                os.kill(os.getpid(), signal.SIGKILL)
        """,
    )
    project.write("test_a.py", "import pytest\n\n@pytest.mark.h200x8(ranks=2)\ndef test_it(): pass\n")
    ran = project.pytest(*LANE)
    assert ran.outcomes() == {"test_it": "passed"}
    assert ran.run is not None
    (ending,) = ran.run["bad_endings"]
    assert ending.startswith("rank 1 of world w1 ended ")
    assert ending.endswith(" after its last test")
    assert ending in ran.text


def test_a_killed_interpreter(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its ranks die with it, and the host of the stores; the remaining tests get a new one."""
    monkeypatch.delenv("PYTHONHASHSEED")
    with busy(project) as desk:
        family = Family.of(desk)
        assert (len(family.interpreters), len(family.ranks)) == (2, 2)
        os.kill(min(family.interpreters), signal.SIGKILL)
        ran = finished(desk)
    assert ran.outcomes() == {"test_busy": "failed", "test_next": "passed"}
    assert ran.verdict("test_busy")["code"] == "rank-death"
    assert ran.run is not None
    assert ran.run["status"] == "failed"


def test_a_killed_box(project: Project) -> None:
    with busy(project) as desk:
        os.kill(Family.of(desk).box, signal.SIGKILL)
        ran = finished(desk)
    assert ran.outcomes() == {"test_busy": "error", "test_next": "error"}
    assert {ran.verdict(name)["code"] for name in ran.outcomes()} == {"box-lost"}
    assert "SIGKILL" in ran.failure("test_busy")
    assert ran.code == pytest.ExitCode.TESTS_FAILED
    assert ran.run is not None
    assert ran.run["status"] == "error"


def test_a_killed_guard(project: Project) -> None:
    with busy(project) as desk:
        os.kill(Family.of(desk).guard, signal.SIGKILL)
        ran = finished(desk)
    assert set(ran.outcomes().values()) == {"error"}
    assert ran.code == pytest.ExitCode.TESTS_FAILED
    assert ran.run is not None
    assert ran.run["status"] == "error"


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 2), (signal.SIGTERM, 143)], ids=["ctrl-c", "cancelled"])
def test_an_interrupted_desk(project: Project, number: signal.Signals, code: int) -> None:
    with busy(project, "--lane-annotations", "on") as desk:
        os.kill(desk.child.pid, number)
        ran = finished(desk)
    assert ran.code == code
    assert ran.run is not None
    assert ran.run["status"] == "interrupted"
    assert [t["outcome"] for t in ran.run["tests"]] in ([None, None], ["error", None])
    assert len(re.findall(rf"^run {ran.run['run_id']}, .*: .megacpp/runs/{ran.run['run_id']}$", ran.text, re.M)) == 1
    running = [test["nodeid"] for test in ran.run["tests"] if test["outcome"] == "error"]
    why = {signal.SIGINT: "Ctrl-C", signal.SIGTERM: "its pytest got SIGTERM"}[number]
    said = rf"^ERROR (\S+) - not-run · the run was interrupted while this test ran: {why}; rank"
    named = re.findall(said, ran.text, re.M)
    assert named == running
    section = {signal.SIGINT: "interrupted lane tests", signal.SIGTERM: "failing lane tests"}[number]
    assert len(re.findall(rf"^=+ {section} =+\nERROR ", ran.text, re.M)) == len(running)
    left = ran.run["tests"][len(running) :]
    said = f"interrupted, {len(left)} of 2 tests {'has' if len(left) == 1 else 'have'} no result"
    assert f"\n{said}\n" in ran.text
    assert f"::error title=lane h200x8::{said} (run {ran.run['run_id']})" in ran.text
    assert ran.directory is not None
    summary = (ran.directory / "summary.md").read_text().partition("\n")[0]
    assert summary.startswith("### ✗ ")
    assert summary.endswith(said)


def test_an_impatient_user(project: Project) -> None:
    """Ctrl-C again and again: what the desk can't finish any more, the box does, and the next desk marks it."""
    with busy(project) as desk:
        for _ in range(3):
            os.kill(desk.child.pid, signal.SIGINT)
            time.sleep(0.1)
        desk.wait(60)
        assert_all_gone(desk)
        assert desk.directory is not None
        project.pytest(*LANE, "--co", "-q")
        assert run_json(desk.directory)["status"] == "interrupted"


def test_a_killed_desk(project: Project) -> None:
    with busy(project) as desk:
        os.kill(desk.child.pid, signal.SIGKILL)
        assert desk.wait() == -signal.SIGKILL
        assert_all_gone(desk)
        assert desk.directory is not None
        assert run_json(desk.directory)["status"] == "running"
        events = (desk.directory / "recording.jsonl").read_text().splitlines()
        assert json.loads(events[-1])["kind"] == "run-finished"
        project.pytest(*LANE, "--co", "-q")
        found = run_json(desk.directory)
    assert found["status"] == "interrupted"
    assert found["finished_at"] is not None


def test_killed_desk_and_box_together(project: Project) -> None:
    """The kernel ends the forkserver and its ranks; the rest of what carries the run's id, the next desk. It also takes
    the secrets out of what ranks wrote, and says what the tests that were through came to.
    """
    project.write("pyproject.toml", f'[tool.pytest_megacpp.environment]\nDEPLOY_PASSWORD = "{PASSWORD}"\n')
    project.write(
        "test_a.py",
        """
        import os
        import pytest

        @pytest.mark.h200x8(ranks=2)
        def test_before(modal_h200x8):
            print(os.environ["DEPLOY_PASSWORD"])
        """,
    )
    with busy(project) as desk:
        assert desk.directory is not None
        desk.wait_until(lambda: any((desk.directory or Path()).glob("receipts/*.json")))
        assert (desk.directory / "plan.json").stat().st_mode & 0o077 == 0
        family = Family.of(desk)
        for pid in (family.desk, family.guard, family.box):
            os.kill(pid, signal.SIGKILL)
        desk.wait()
        project.pytest(*LANE, "--co", "-q", env={"MY_API_TOKEN": TOKEN})
        document = run_json(desk.directory)
        assert document["status"] == "interrupted"
        assert [test["outcome"] for test in document["tests"]] == ["passed", None, None]
        assert document["counts"]["passed"] == 1
        desk.assert_nothing_left()
        files = [path for path in desk.directory.rglob("*") if path.is_file()]
        assert any(b"[redacted:DEPLOY_PASSWORD]" in path.read_bytes() for path in files)
        assert [p for p in files for secret in (TOKEN, PASSWORD) if secret.encode() in p.read_bytes()] == []


CLEANED = """
    import os
    import shutil
    import time
    import pytest

    pytestmark = pytest.mark.h200x8(ranks=2, test=60, stall=50)

    def test_in_which_it_is_removed(modal_h200x8):
        if modal_h200x8.rank == 0:
            shutil.rmtree(os.path.dirname(os.environ["MEGACPP_TMP"]))
        time.sleep(30)

    def test_next(modal_h200x8): pass
"""


def test_a_scratch_directory_that_a_cleaner_removes(project: Project) -> None:
    """No rank is blamed for what it can't reach any more, and later worlds don't end without a word."""
    project.write("test_cleaned.py", CLEANED)
    ran = project.pytest(*LANE)
    for name in ("test_in_which_it_is_removed", "test_next"):
        verdict = ran.verdict(name)
        assert (verdict["code"], verdict["cause"], verdict["blamed_ranks"]) == ("environment", "scratch", [])
        assert "were removed while the run needs them" in verdict["summary"]
    assert ran.run is not None
    assert ran.run["status"] == "error"


PATIENT = """
    import os
    import pathlib
    import time
    import pytest
    import torch.distributed as dist

    pytestmark = pytest.mark.h200x8(ranks=2, test=60, stall=2)
    RANK = os.environ.get("RANK")

    def test_waits_for_a_peer(modal_h200x8):
        pathlib.Path(f"inside.{RANK}").touch()
        if RANK == "1":
            time.sleep(1)
        dist.barrier()
        time.sleep(1)
        dist.barrier()

    def test_next(modal_h200x8):
        dist.barrier()
"""


def test_a_desk_and_a_box_that_are_stopped_for_a_while(project: Project) -> None:
    """Longer than any limit: nobody is to blame for what they didn't see."""
    project.write("test_patient.py", PATIENT)
    with project.start(*LANE) as desk:
        desk.wait_until(lambda: all((project.root / f"inside.{rank}").exists() for rank in (0, 1)))
        family = Family.of(desk)
        stopped = (family.desk, family.guard, family.box)
        for pid in stopped:
            os.kill(pid, signal.SIGSTOP)
        time.sleep(5)
        for pid in stopped:
            os.kill(pid, signal.SIGCONT)
        ran = finished(desk)
    assert ran.outcomes() == {"test_waits_for_a_peer": "passed", "test_next": "passed"}
    assert ran.code == pytest.ExitCode.OK
    assert ran.run is not None
    assert ran.run["status"] == "passed"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL], ids=["ctrl-c", "killed"])
def test_at_the_start(project: Project, number: signal.Signals) -> None:
    """The box is there, the ranks aren't yet."""
    project.write("test_busy.py", BUSY)
    with project.start(*LANE, env={"MY_API_TOKEN": TOKEN}) as desk:
        desk.wait_until(lambda: desk.directory is not None and (desk.directory / "recording.jsonl").exists())
        os.kill(desk.child.pid, number)
        desk.wait(60)
        assert_all_gone(desk)
        assert desk.directory is not None
        if number == signal.SIGKILL:
            project.pytest(*LANE, "--co", "-q")
        assert run_json(desk.directory)["status"] == "interrupted"
        assert not (project.root / "inside.0").exists()


HANGS = """
    import pathlib
    import time

    pathlib.Path("importing").touch()
    time.sleep(300)
"""


def test_a_killed_desk_while_a_module_is_imported_for_all_ranks(project: Project) -> None:
    project.write("pyproject.toml", '[tool.pytest_megacpp]\npreload = ["hangs"]\n')
    project.write("hangs.py", HANGS)
    project.write("test_busy.py", BUSY)
    with project.start(*LANE) as desk:
        desk.wait_until((project.root / "importing").exists)
        os.kill(desk.child.pid, signal.SIGKILL)
        desk.wait()
        assert_all_gone(desk)
        assert desk.directory is not None
        events = [json.loads(line) for line in (desk.directory / "recording.jsonl").read_text().splitlines()]
    assert events[-1]["kind"] == "run-finished"
    assert events[-1]["reason"] == "interrupted"
    assert "world-started" not in {event["kind"] for event in events}
