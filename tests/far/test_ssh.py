"""Lanes behind a real sshd: what comes back, what is left there, and what happens when something on the way dies."""

import re
import signal
import time
from contextlib import ExitStack

import pytest

from pytest_megacpp.recording.timeline import Timeline
from pytest_megacpp.recording.wire import Decoder
from tests.far.machines import Machine, kill, of_run, one_of, wait_for_none
from tests.plugin.project import Desk, Project

LANE = ("-m", "h200x8", "--surface", "gpu01", "--dry-run", "--ranks", "2")
SECRET = "tok-0123456789abcdef-far"
TESTS = """
    import os, pytest, torch, torch.distributed as dist

    @pytest.mark.h200x8
    def test_adds(modal_h200x8):
        assert modal_h200x8.surface == "gpu01"
        one = torch.ones(1)
        dist.all_reduce(one)
        assert one.item() == 2

    @pytest.mark.h200x8
    def test_fails():
        print("the token is", os.environ["FAR_API_TOKEN"])
        assert os.environ["FAR_API_TOKEN"] == "", "no"
"""
WAITS = """
    import pathlib, time, pytest

    @pytest.mark.h200x8
    def test_quick():
        pass

    @pytest.mark.h200x8
    def test_waits():
        pathlib.Path(r"{began}").touch()
        until = time.monotonic() + {limit_s}
        while not pathlib.Path(r"{go}").exists() and time.monotonic() < until:
            time.sleep(0.05)
"""
ENDS_S = 60.0
"""For a box to end in order on a busy machine, and what it holds with it."""


def waiting(project: Project, machine: Machine, *, attach: bool, limit_s: float = 90.0, **keys: str) -> Desk:
    """A desk whose second test runs, until the file `go` is there."""
    project.write("pyproject.toml", machine.table(attach=attach, **keys))
    project.write("test_a.py", WAITS.format(began=project.root / "began", go=project.root / "go", limit_s=limit_s))
    desk = project.start(*LANE)
    desk.wait_until(lambda: (project.root / "began").exists() and "test_quick" in recorded(desk))
    return desk


def recorded(desk: Desk) -> str:
    path = desk.directory / "recording.jsonl" if desk.directory else None
    return path.read_text() if path and path.exists() else ""


def run_id_of(desk: Desk) -> str:
    assert desk.directory is not None
    return desk.directory.name


def timeline_of(desk: Desk) -> Timeline:
    timeline = Timeline()
    for event in Decoder().feed(recorded(desk).encode()):
        timeline.add(event)
    return timeline


def test_a_session(project: Project, host: Machine) -> None:
    """Results and logs come back, phases have times, and nothing is left there: no process, no file, no secret."""
    project.write("pyproject.toml", host.table(environment=f'{{ FAR_API_TOKEN = "{SECRET}" }}'))
    project.write("test_a.py", TESTS)
    with project.start(*LANE) as desk:
        seen = list[str]()
        while desk.child.poll() is None:
            seen += of_run(run_id_of(desk)).values() if desk.directory else []
            time.sleep(0.2)
        ran = desk.ran()
    assert ran.outcomes() == {"test_adds": "passed", "test_fails": "failed"}, ran.text
    for phase in ("source", "connect", "upload", "start"):
        assert re.search(rf"megacpp: {phase} \d+\.\d s", ran.text), phase
    assert "megacpp: collection done" in ran.text
    assert ran.directory is not None
    logs = [path.read_text() for path in ran.directory.glob("ranks/*/*/stdout.log")]
    assert any("the token is" in log for log in logs)
    assert any("arrive" not in line and "print(" in line for line in seen), "the far program was seen"
    assert not any(SECRET in line for line in seen)
    for file in ran.directory.rglob("*"):
        assert not file.is_file() or SECRET.encode() not in file.read_bytes(), file
    assert SECRET not in ran.text
    assert host.boxes == []
    assert wait_for_none(ran.directory.name, ENDS_S) == {}


def test_a_desk_that_is_killed(project: Project, host: Machine) -> None:
    with waiting(project, host, attach=False) as desk:
        kill(desk.child.pid)
        assert wait_for_none(run_id_of(desk), ENDS_S) == {}
        assert host.boxes == []
        assert "test_quick" in recorded(desk)
        assert "interrupted" in project.megacpp("runs").text


PARTS = {
    "the connection": "ssh -F none",
    "the far program": "print(",
    "its lease": "remote.lease",
    "the guard": "start.py __main__",
}


@pytest.mark.parametrize("part", list(PARTS))
def test_what_is_killed_on_the_way_costs_the_box(project: Project, host: Machine, part: str) -> None:
    """What had ended is kept; the rest is `box-lost`, and nothing goes on anywhere."""
    with waiting(project, host, attach=False) as desk:
        kill(one_of(run_id_of(desk), PARTS[part], without="holder.py" if part == "the connection" else "ssh -F none"))
        ran = desk.ran()
        assert wait_for_none(run_id_of(desk), ENDS_S) == {}
    assert ran.outcome("test_quick") == "passed"
    assert ran.verdict("test_waits")["code"] == "box-lost", ran.text
    assert host.boxes == []


@pytest.mark.parametrize("part", ["the connection", "the far program"])
def test_a_connection_is_made_again(project: Project, host: Machine, part: str) -> None:
    with waiting(project, host, attach=True) as desk:
        kill(one_of(run_id_of(desk), PARTS[part], without="holder.py" if part == "the connection" else "ssh -F none"))
        desk.wait_until(lambda: "megacpp: reconnect" in desk.text)
        (project.root / "go").touch()
        ran = desk.ran()
        assert wait_for_none(run_id_of(desk), ENDS_S) == {}
        found = timeline_of(desk)
    assert ran.outcomes() == {"test_quick": "passed", "test_waits": "passed"}, ran.text
    assert (found.gaps, found.damaged) == ([], [])


def test_a_box_outlives_its_killed_desk_where_it_can_be_found(project: Project, host: Machine) -> None:
    """Another desk, which has never heard of it, takes over."""
    with waiting(project, host, attach=True) as desk:
        kill(desk.child.pid)
        (project.root / "go").touch()
        other = project.pytest(*LANE[:2], "--surface", "gpu01", "--attach", run_id_of(desk), "--lane-dir", "other")
        assert other.outcomes() == {"test_quick": "passed", "test_waits": "passed"}, other.text
        assert wait_for_none(run_id_of(desk), ENDS_S) == {}


def test_a_box_nobody_comes_back_to_ends_with_its_lease(project: Project, host: Machine) -> None:
    with waiting(project, host, attach=True, lease_s="5") as desk:
        kill(desk.child.pid)
        assert wait_for_none(run_id_of(desk), ENDS_S) == {}


def submitted(project: Project, machine: Machine, desks: ExitStack) -> str:
    """The id of a detached run, whose second test waits for the file `go`. A desk that is left ends all processes of
    its project, so all of them stay until the end.
    """
    project.write("pyproject.toml", machine.table(attach=True))
    project.write("test_a.py", WAITS.format(began=project.root / "began", go=project.root / "go", limit_s=90))
    desk = desks.enter_context(project.start(*LANE, "--detach"))
    assert desk.wait() == 0, desk.text
    return run_id_of(desk)


def megacpp(project: Project, desks: ExitStack, *words: str) -> str:
    """What a command says that ends well."""
    desk = desks.enter_context(project.start(*words, module="pytest_megacpp.desk.commands.cli"))
    assert desk.wait() == 0, desk.text
    return desk.text


def test_a_detached_run(project: Project, host: Machine) -> None:
    """It goes on without a desk, can be looked at and attached to, more than once."""
    with ExitStack() as desks:
        run_id = submitted(project, host, desks)
        deadline = time.monotonic() + ENDS_S
        while not (project.root / "began").exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        assert "test_waits" in megacpp(project, desks, "stacks", run_id)
        (project.root / "go").touch()
        for _ in range(2):
            attached = desks.enter_context(project.start(*LANE, "--attach", run_id))
            assert attached.wait() == 0, attached.text
            assert "2 passed" in attached.text
        assert wait_for_none(run_id, ENDS_S) == {}
    assert [path for path in host.boxes[-1].glob("**/*") if path.name in ("plan.json", "test_a.py")] == []


def test_a_detached_run_is_stopped(project: Project, host: Machine) -> None:
    with ExitStack() as desks:
        run_id = submitted(project, host, desks)
        assert "its box on gpu01 ended in order" in megacpp(project, desks, "stop", run_id)
        assert wait_for_none(run_id, ENDS_S) == {}


def test_ctrl_c_ends_the_box_in_order(project: Project, host: Machine) -> None:
    with waiting(project, host, attach=False) as desk:
        desk.child.send_signal(signal.SIGINT)
        desk.wait()
        assert wait_for_none(run_id_of(desk), ENDS_S) == {}
        found = timeline_of(desk)
    assert found.finished is not None
    assert found.finished.reason == "interrupted"
    assert found.problems == []
