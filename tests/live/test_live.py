"""What a real run says while it goes on."""

import os
import re
import signal
from pathlib import Path

import pytest

from tests.plugin.project import Project, Ran

LANE = ("-m", "h200x8", "--surface", "local", "--dry-run")
STRAGGLER = """
    import time

    import pytest
    import torch
    import torch.distributed as dist

    @pytest.mark.h200x8(ranks=3, stall=8, test=60)
    def test_it(modal_h200x8):
        dist.barrier()  # so that the others come at the same time
        if modal_h200x8.rank == 1:
            time.sleep(5)
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
    said = r"ranks 0,2 have waited [2-5] s for rank 1, which is at \S+test_it.py:12 \(all_reduce #2, limit stall 8 s\)"
    assert re.fullmatch(said, lines[0])


def test_none_when_it_is_switched_off(project: Project) -> None:
    ran = project.pytest(*LANE, "--lane-heartbeat=0")
    assert "tests ·" not in ran.text
    assert "have waited" not in ran.text
    assert ran.code == 0


RED_AND_SLOW = """
    import time

    import pytest

    @pytest.mark.h200x8(ranks=2, test=60)
    def test_red(modal_h200x8):
        assert modal_h200x8.rank != 1, "on purpose"

    @pytest.mark.h200x8(ranks=2, test=60)
    def test_slow(modal_h200x8):
        time.sleep(50)
"""


def test_a_cancelled_job_says_what_failed_and_where_the_evidence_is(tmp_path: Path) -> None:
    """pytest itself writes no summary then."""
    project = Project(tmp_path / "project")
    project.write("test_it.py", RED_AND_SLOW)
    with project.start(*LANE, "--lane-heartbeat", "1") as desk:
        desk.wait_until(lambda: "test_it.py::test_slow for " in desk.text)
        os.kill(desk.child.pid, signal.SIGTERM)
        ran = desk.ran()
    assert ran.code == 128 + signal.SIGTERM
    assert ran.directory is not None
    after = ran.text.partition("test_it.py F")[2]
    assert re.search(r"^FAILED test_it.py::test_red - test-failed · .*rank 1", after, re.MULTILINE)
    assert re.search(r"^ERROR test_it.py::test_slow - not-run · .*; ranks? ", after, re.MULTILINE)
    assert re.search(rf"^run {ran.directory.name}, .* \.megacpp/runs/{ran.directory.name}$", after, re.MULTILINE)
    assert re.search(r"^=+ lane h200x8, dry run on CPU/gloo =+$", after, re.MULTILINE)


TALKERS = """
    import sys
    import time

    import pytest

    @pytest.mark.h200x8(ranks=3, test=60)
    def test_it(modal_h200x8):
        print("step 0 of", modal_h200x8.rank)
        print("\\x1b[31mto stderr", file=sys.stderr)
        time.sleep(1.5)
        print("step 1")
        assert modal_h200x8.rank != 2, "on purpose"
"""


@pytest.fixture(scope="module")
def talkers(tmp_path_factory: pytest.TempPathFactory) -> Project:
    project = Project(tmp_path_factory.mktemp("talkers"))
    project.write("test_it.py", TALKERS)
    return project


def test_output_of_all_ranks(talkers: Project) -> None:
    """Whole lines, before the result of the test; the failure names the logs that have them."""
    ran = talkers.pytest(*LANE, "-s")
    before, failed, after = ran.text.partition("= FAILURES =")
    assert failed
    for rank in range(3):
        lines = re.findall(rf"^\[rank {rank}\] (.*)$", before, re.MULTILINE)
        assert [line for line in lines if line.startswith("step")] == [f"step 0 of {rank}", "step 1"]
        assert "to stderr" in lines
    assert "\x1b[31mto" not in ran.text
    assert ran.directory is not None
    logs = [ran.directory / "ranks" / "w1" / "2" / f"{stream}.log" for stream in ("stderr", "stdout")]
    assert all(str(log.relative_to(talkers.root)) in after for log in logs)
    assert "step 1" in logs[1].read_text()


def test_output_of_chosen_ranks(talkers: Project) -> None:
    ran = talkers.pytest(*LANE, "-s", "-q", "--lane-output", "0,2")
    assert set(re.findall(r"^\[rank (\d)\] step 1$", ran.text, re.MULTILINE)) == {"0", "2"}
    assert "[rank 1]" not in ran.text


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("--lane-output", "0"), "--lane-output 0: output of ranks is shown live only with -s: add -s"),
        (("-s", "--lane-output", "7"), "--lane-output: no selected test has rank 7: the largest has ranks 0-2"),
        (("-s", "--lane-output", "x"), "--lane-output: ranks are written as 0, 0,3, 0-3 or all, not 'x'"),
    ],
)
def test_ranks_that_nobody_can_show(talkers: Project, args: tuple[str, ...], said: str) -> None:
    ran = talkers.pytest(*LANE, *args)
    assert said in ran.text
    assert (ran.code, ran.run) == (4, None)
