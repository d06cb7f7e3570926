"""A running run, looked into and ended from a second terminal: `megacpp stacks`, `logs` and `stop`."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pytest_megacpp.box.host import process
from pytest_megacpp.desk.commands import cli, stop
from pytest_megacpp.desk.run.runs import read_timeline
from tests.plugin.project import LANE, PATIENCE, Desk, Project

TESTS = """
    import time
    import pytest
    import torch
    import torch.distributed as dist

    pytestmark = pytest.mark.h200x8(ranks=3)

    def test_quick(modal_h200x8):
        print("quick", modal_h200x8.rank, flush=True)

    def load_shard():
        time.sleep(300)

    def test_slow(modal_h200x8):
        print("\\x1b[31mslow\\x1b[0m", modal_h200x8.rank, flush=True)
        if modal_h200x8.rank == 1:
            load_shard()
        dist.all_reduce(torch.ones(2))

    def test_later(): pass
"""


ORDINARY = """
    import pathlib, time

    def test_ordinary():
        while not pathlib.Path("go").exists():
            time.sleep(0.02)
"""


@pytest.fixture
def slow(project: Project) -> Iterator[Desk]:
    """A desk whose second test waits for rank 1, which sleeps."""
    project.write("test_a.py", TESTS)
    with project.start(*LANE) as desk:
        desk.wait_until(lambda: _all_wrote(desk.directory))
        yield desk


def _all_wrote(run: Path | None) -> bool:
    logs = list(run.glob("ranks/w1/*/stdout.log")) if run else []
    return len(logs) == 3 and all("slow" in log.read_text() for log in logs)


def megacpp(desk: Desk, *arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "pytest_megacpp", *arguments]
    return subprocess.run(command, cwd=desk.project.root, capture_output=True, text=True, timeout=PATIENCE * 100)


def test_stacks_logs_and_an_end_in_order(slow: Desk) -> None:
    follower = subprocess.Popen(
        [sys.executable, "-m", "pytest_megacpp", "logs", "-f"],
        cwd=slow.project.root,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        stacks = megacpp(slow, "stacks")
        assert stacks.returncode == 0, stacks.stderr
        assert "test_a.py::test_slow for" in stacks.stdout
        assert stacks.stdout.splitlines()[0].endswith("3 ranks · now")
        assert "ranks 0,2: waiting in all_reduce" in stacks.stdout
        assert "    load_shard (test_a.py:13)\n    test_slow (test_a.py:18)" in stacks.stdout
        (reported,) = json.loads(megacpp(slow, "stacks", "--json").stdout)
        assert reported["is_now"]
        assert [entry["answered"] for entry in reported["ranks"]] == [True] * 3

        assert megacpp(slow, "logs", "--test", "test_slow").stdout == "".join(
            f"[rank {r}] slow {r}\n" for r in range(3)
        )
        assert megacpp(slow, "logs", "--rank", "2").stdout == "quick 2\nslow 2\n"

        ended = megacpp(slow, "stop")
        assert ended.returncode == 0, ended.stderr
        assert "its box ended in order" in ended.stdout
        assert "error, 1 passed, 2 error" in ended.stdout
        out, _ = follower.communicate(timeout=PATIENCE * 30)
    finally:
        follower.kill()
    assert follower.returncode == 0
    assert sorted(out.splitlines()) == sorted(f"[rank {r}] {word} {r}" for word in ("quick", "slow") for r in range(3))

    ran = slow.ran()
    assert ran.code == 1
    assert ran.verdict("test_slow")["code"] == ran.verdict("test_later")["code"] == "not-run"
    assert "megacpp stop asked for it" in ran.text
    unnamed = megacpp(slow, "stop")
    assert (unnamed.returncode, unnamed.stdout) == (2, "")
    assert "is running or detached: there is nothing to stop" in unnamed.stderr
    again = megacpp(slow, "stop", "last")
    assert (again.returncode, again.stderr) == (0, "")
    assert "is not running (error): there is nothing to stop" in again.stdout
    old = megacpp(slow, "stacks")
    assert "before the last event of its recording" in old.stdout
    assert "load_shard (test_a.py:13)" in old.stdout


def test_a_box_ends_long_before_its_pytest(
    project: Project, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Which goes on with an ordinary test: the run is over all the same."""
    project.write("test_a.py", TESTS)
    project.write("test_b.py", ORDINARY)
    monkeypatch.chdir(project.root)
    monkeypatch.setattr(stop, "REPORT_S", 0.5)
    with project.start(*LANE[2:], "test_a.py", "test_b.py") as desk:
        desk.wait_until(lambda: _all_wrote(desk.directory))
        assert cli.main(["stop"]) == 0
        assert "its box ended in order" in (out := capsys.readouterr().out)
        assert "its pytest goes on" in out
        assert cli.main(["show"]) == 1
        assert "its box has ended, its pytest goes on: 3 of 3 tests done (1 passed, 2 error)" in capsys.readouterr().out
        assert cli.main(["stop"]) == 2
        assert "has ended, and only its pytest goes on" in capsys.readouterr().err
        assert cli.main(["stop", "last"]) == 0
        assert "has ended: there is nothing to stop" in capsys.readouterr().out
        (project.root / "go").touch()
        ran = desk.ran()
    assert ran.outcome("test_ordinary") == "passed", ran.text
    assert ran.run is not None
    assert ran.run["status"] == "error"


def test_a_box_that_does_not_answer_is_killed(
    slow: Desk, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(slow.project.root)
    monkeypatch.setattr(stop, "IN_ORDER_S", 1.0)
    for pid, command in slow.project.processes().items():
        if "pytest_megacpp.box" in command and process.stat(pid) is not None:
            os.kill(pid, signal.SIGSTOP)
    assert cli.main(["stop"]) == 0
    said = capsys.readouterr()
    assert "did not end in order within 1 s" in said.out
    assert "processes were killed" in said.out
    slow.assert_nothing_left()
    slow.wait()
    run = slow.directory
    assert run is not None
    assert json.loads((run / "run.json").read_text())["status"] == "error"


def test_asking_for_stacks_changes_no_verdict(project: Project) -> None:
    project.write("test_a.py", TESTS.replace("sleep(300)", "sleep(4)"))
    with project.start(*LANE) as desk:
        desk.wait_until(lambda: _all_wrote(desk.directory))
        assert desk.directory is not None
        before = time.monotonic()
        while time.monotonic() - before < 2.0:
            assert megacpp(desk, "stacks").returncode == 0
        ran = desk.ran()
    assert ran.code == 0, ran.text
    stacks = read_timeline(desk.directory / "recording.jsonl").tests[1].ranks[1].stacks
    assert len(stacks) > 1
