"""What a real run says while it goes on."""

import re

import pytest

from tests.plugin.project import Project, Ran

LANE = ("-m", "h200x8", "--surface", "local", "--dry-run")
STRAGGLER = """
    import time

    import pytest
    import torch
    import torch.distributed as dist

    @pytest.mark.h200x8(ranks=3, stall=12, test=60)
    def test_it(modal_h200x8):
        if modal_h200x8.rank == 1:
            time.sleep(4.5)
        dist.all_reduce(torch.ones(3))
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    project = Project(tmp_path_factory.mktemp("project"))
    project.write("test_it.py", STRAGGLER)
    return project


@pytest.fixture(scope="module")
def ran(project: Project) -> Ran:
    return project.pytest(*LANE, "-q", "--lane-heartbeat", "1")


def test_a_quiet_session_has_a_heartbeat(ran: Ran) -> None:
    """One before the test, one in it, each on a line of its own."""
    beats = re.findall(r"^megacpp: 0/1 tests · \d:\d\d · (.*)$", ran.text, re.MULTILINE)
    assert any(re.match(r"(starting|world|preload|seed)", beat) for beat in beats), ran.text
    assert any(beat.startswith("test_it.py::test_it for 0:0") for beat in beats), ran.text
    assert ran.code == 0
    assert re.search(r"^1 passed in", ran.text, re.MULTILINE)


def test_one_line_says_who_is_waited_for(ran: Ran) -> None:
    lines = re.findall(r"^megacpp: test_it.py::test_it: (ranks 0,2 have waited .*)$", ran.text, re.MULTILINE)
    assert len(lines) == 1, ran.text
    told = r"ranks 0,2 have waited [3-9] s for rank 1, which is at \S+test_it.py:11 \(all_reduce #1, limit stall 12 s\)"
    assert re.fullmatch(told, lines[0])


def test_none_when_it_is_switched_off(project: Project) -> None:
    ran = project.pytest(*LANE, "--lane-heartbeat=0")
    assert "tests ·" not in ran.text
    assert "have waited" not in ran.text
    assert ran.code == 0
