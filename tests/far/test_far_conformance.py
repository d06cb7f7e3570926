"""What every surface promises, asked of boxes behind ssh, in a Slurm job, and below the first
process of a namespace, as in a container: `tests/surfaces/test_conformance.py`."""

import time
from pathlib import Path

import pytest

from pytest_megacpp.box.host import process
from pytest_megacpp.desk.commands.configured import Configured
from pytest_megacpp.desk.config.pyproject import read_table
from pytest_megacpp.surfaces.registry import provider
from tests.far.machines import Machine, of_run
from tests.surfaces.test_conformance import (
    Ground,
    test_a_box_that_is_asked_to_stop,
    test_a_desk_that_ends,
    test_a_killed_box,
    test_a_whole_recording,
    test_ending_at_once,
    test_its_log_comes_home,
    test_reading_never_waits,
    test_the_plan_s_secrets_stay_out_of_the_recording,
    test_two_boxes_don_t_mix,
    test_what_a_desk_says_arrives,
)

__all__ = [
    "test_a_box_that_is_asked_to_stop",
    "test_a_desk_that_ends",
    "test_a_killed_box",
    "test_a_whole_recording",
    "test_ending_at_once",
    "test_its_log_comes_home",
    "test_reading_never_waits",
    "test_the_plan_s_secrets_stay_out_of_the_recording",
    "test_two_boxes_don_t_mix",
    "test_what_a_desk_says_arrives",
]


@pytest.fixture(params=["host", "cluster", "container"])
def machine(request: pytest.FixtureRequest) -> Machine:
    found: Machine = request.getfixturevalue(request.param)
    return found


@pytest.fixture
def ground(machine: Machine, tmp_path: Path) -> Ground:
    project = tmp_path / "project"
    project.mkdir()
    (project / "test_a.py").write_text("def test_a(): pass\n")
    (project / "pyproject.toml").write_text(machine.table("far"))
    tables = read_table(project / "pyproject.toml")
    surface = provider("far", tables).surface(Configured("far", tables, project, project / "lane"), {})

    def kill(run_id: str) -> None:
        while left := of_run(run_id):
            process.end_all(left)
            time.sleep(0.01)

    return Ground(surface, project, kill, lambda run_id: list(of_run(run_id)))
