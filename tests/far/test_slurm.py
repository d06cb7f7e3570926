"""Lanes in jobs of a real Slurm: its queue, its refusals, and its end of a job."""

import subprocess
import time
from collections.abc import Iterator
from dataclasses import replace

import pytest

from tests.far.machines import Machine, kill, of_run, wait_for_none
from tests.far.test_ssh import ENDS_S, run_id_of, waiting
from tests.plugin.project import Project

LANE = ("-m", "h200x8", "--surface", "gpu01", "--dry-run", "--ranks", "1")
QUICK = """
    import pytest

    @pytest.mark.h200x8
    def test_quick():
        pass
"""


def asking(machine: Machine, *options: str) -> Machine:
    """Jobs with further options of srun."""
    return replace(machine, words=(*machine.words, *options))


def ask(machine: Machine, *words: str) -> str:
    """What a command of Slurm answers."""
    at = machine.words.index("srun")
    return subprocess.run([*machine.words[:at], *words], capture_output=True, text=True, check=True, timeout=60).stdout


def jobs(machine: Machine) -> list[str]:
    return ask(machine, "squeue", "--noheader", "--format=%j").split()


@pytest.fixture
def busy(cluster: Machine) -> Iterator[Machine]:
    """The cluster's node, taken by somebody else for the time of a test."""
    at = cluster.words.index("srun")
    other = subprocess.Popen([*cluster.words[:at], "srun", "--partition=alone", "--job-name=other", "sleep", "1000"])
    deadline = time.monotonic() + ENDS_S
    while "other R" not in ask(cluster, "squeue", "--noheader", "--format=%j %t"):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    yield asking(cluster, "--partition=alone")
    ask(cluster, "scancel", "--name", "other")
    other.wait(ENDS_S)


def test_a_session(project: Project, cluster: Machine) -> None:
    project.write("pyproject.toml", cluster.table())
    project.write("test_a.py", QUICK)
    ran = project.pytest(*LANE)
    assert ran.outcomes() == {"test_quick": "passed"}, ran.text
    assert cluster.boxes == []
    assert jobs(cluster) == []


def test_a_job_that_is_refused(project: Project, cluster: Machine) -> None:
    project.write("pyproject.toml", asking(cluster, "--partition=none-such").table())
    project.write("test_a.py", QUICK)
    ran = project.pytest(*LANE)
    verdict = ran.verdict("test_quick")
    assert verdict["code"] == "blocked"
    assert "invalid partition specified" in verdict["summary"]


def test_a_queue_that_is_too_long(project: Project, busy: Machine) -> None:
    """It is seen while one waits in it, and left."""
    project.write("pyproject.toml", busy.table(capacity_s="3"))
    project.write("test_a.py", QUICK)
    ran = project.pytest(*LANE)
    assert "megacpp: queue srun: job" in ran.text
    verdict = ran.verdict("test_quick")
    assert (verdict["code"], verdict["cause"]) == ("blocked", "capacity")
    assert "queued and waiting for resources" in verdict["summary"]
    assert jobs(busy) == ["other"]


def test_a_desk_that_is_killed_in_the_queue(project: Project, busy: Machine) -> None:
    project.write("pyproject.toml", busy.table())
    project.write("test_a.py", QUICK)
    with project.start(*LANE) as desk:
        desk.wait_until(lambda: "megacpp: queue srun: job" in desk.text)
        kill(desk.child.pid)
        assert wait_for_none(run_id_of(desk), ENDS_S) == {}
    assert jobs(busy) == ["other"]


def test_a_job_that_is_ended(project: Project, cluster: Machine) -> None:
    """As at its time limit: by SIGTERM to all of it, and SIGKILL soon after."""
    with waiting(project, cluster, attach=False) as desk:
        ask(cluster, "scancel", "--name", run_id_of(desk))
        ran = desk.ran()
        assert of_run(run_id_of(desk)) == {}
    assert ran.outcome("test_quick") == "passed", ran.text
    verdict = ran.verdict("test_waits")
    assert (verdict["code"], verdict["cause"]) == ("box-lost", "terminated")
    assert "CANCELLED" in verdict["summary"]


def test_a_desk_that_is_killed(project: Project, cluster: Machine) -> None:
    with waiting(project, cluster, attach=False) as desk:
        kill(desk.child.pid)
        assert wait_for_none(run_id_of(desk), ENDS_S) == {}
    assert jobs(cluster) == []
    assert cluster.boxes == []
