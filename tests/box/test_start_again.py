"""What later worlds need is there again, or the run says what is missing."""

import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pytest_megacpp.box.actions import StartWorld
from pytest_megacpp.box.context import NEEDED, RunContext
from pytest_megacpp.box.ranks import Ranks
from pytest_megacpp.box.recorder import Recorder
from pytest_megacpp.box.watches import Watches
from pytest_megacpp.box.worlds.world import StartFailed
from pytest_megacpp.recording.plan import Plan
from pytest_megacpp.recording.redact import Redactor
from pytest_megacpp.recording.vocabulary import RunEnd, WorldReason

PLAN = Plan("run-1", "h200x8", "local", "H200", 2, 2, True, False, (), (), ".")


@pytest.fixture
def context(tmp_path: Path) -> RunContext:
    """Of a run that is prepared for its first world."""
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    for name in NEEDED:
        (scratch / name).touch()
    redactor = Redactor({})
    recorder = Recorder(str(tmp_path / "recording.jsonl"), "run-1", redactor)
    return RunContext(PLAN, tmp_path, scratch, recorder, redactor)


def problems(context: RunContext) -> list[tuple[str, str]]:
    return [(problem.code, problem.cause) for _, problem in context.recorder.timeline.problems]


@pytest.mark.parametrize("name", NEEDED)
def test_no_world_starts_without_what_its_ranks_need(context: RunContext, name: str) -> None:
    (context.scratch / name).unlink()
    prepared: Any = SimpleNamespace(admission=None, interpreters=None)
    with pytest.raises(StartFailed):
        Ranks(context, prepared, Watches(context)).start(StartWorld("w2", 2, WorldReason.NEXT))
    assert problems(context) == [("environment", "scratch")]
    assert "w2" not in context.recorder.timeline.worlds


def test_a_scratch_directory_that_goes_ends_the_run_and_is_said_once(context: RunContext) -> None:
    assert not context.is_scratch_lost()
    assert (context.supervisor.stop, problems(context)) == (None, [])
    shutil.rmtree(context.scratch)
    assert context.is_scratch_lost()
    assert context.is_scratch_lost()
    assert problems(context) == [("environment", "scratch")]
    ((_, problem),) = context.recorder.timeline.problems
    assert problem.detail == f"box and plan.json in {context.scratch} were removed while the run needs them"
    assert "set TMPDIR to a directory of your own" in problem.remedy
    assert context.supervisor.stop == ("refused", problem.detail)


def test_a_run_that_ends_anyway_needs_it_no_more(context: RunContext) -> None:
    context.stop(RunEnd.STOPPED, "the desk asked for it")
    shutil.rmtree(context.scratch)
    context.is_scratch_lost()
    assert problems(context) == []
