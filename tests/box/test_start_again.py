"""What later worlds need is there again, or the run says what is missing."""

import shutil
from pathlib import Path

import pytest

from pytest_megacpp.box import main
from pytest_megacpp.box import supervisor as sv
from pytest_megacpp.box.main import Box
from pytest_megacpp.box.recorder import Recorder
from pytest_megacpp.box.worlds.world import StartFailed
from pytest_megacpp.recording.plan import Plan
from pytest_megacpp.recording.redact import Redactor
from pytest_megacpp.recording.vocabulary import RunEnd, WorldReason

PLAN = Plan("run-1", "h200x8", "local", "H200", 2, 2, True, False, (), (), ".")


@pytest.fixture
def box(tmp_path: Path) -> Box:
    """One that has prepared itself for its first world."""
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    for name in main.NEEDED:
        (scratch / name).touch()
    redactor = Redactor({})
    return Box(PLAN, tmp_path, Recorder(str(tmp_path / "recording.jsonl"), "run-1", redactor), redactor, scratch, -1)


def problems(box: Box) -> list[tuple[str, str]]:
    return [(problem.code, problem.cause) for _, problem in box.recorder.timeline.problems]


@pytest.mark.parametrize("name", main.NEEDED)
def test_no_world_starts_without_what_its_ranks_need(box: Box, name: str) -> None:
    (box.scratch / name).unlink()
    with pytest.raises(StartFailed):
        box._perform(sv.StartWorld("w2", 2, WorldReason.NEXT))
    assert problems(box) == [("environment", "scratch")]
    assert "w2" not in box.recorder.timeline.worlds


def test_a_scratch_directory_that_goes_ends_the_run_and_is_told_once(box: Box) -> None:
    assert not box._is_scratch_lost()
    assert (box.supervisor.stop, problems(box)) == (None, [])
    shutil.rmtree(box.scratch)
    assert box._is_scratch_lost()
    assert box._is_scratch_lost()
    assert problems(box) == [("environment", "scratch")]
    ((_, problem),) = box.recorder.timeline.problems
    assert problem.detail == f"box and plan.json in {box.scratch} were removed while the run needs them"
    assert "set TMPDIR to a directory of your own" in problem.mend
    assert box.supervisor.stop == ("refused", problem.detail)


def test_a_run_that_ends_anyway_needs_it_no_more(box: Box) -> None:
    box.stop(RunEnd.STOPPED, "the desk asked for it")
    shutil.rmtree(box.scratch)
    box._is_scratch_lost()
    assert problems(box) == []
