"""A run whose box does not do what it should."""

import json
import os
from pathlib import Path

import pytest

from pytest_megacpp.desk import session
from pytest_megacpp.desk.rundir import RunDirectory
from pytest_megacpp.desk.session import LaneRun
from pytest_megacpp.recording.events import Limits
from pytest_megacpp.recording.plan import Plan, PlannedTest
from pytest_megacpp.recording.redact import Redactor
from pytest_megacpp.report.run_json import RunMeta
from pytest_megacpp.surfaces.protocol import Address, Ended
from tests.scenario import NODEID, FakeBox


def lane_run(directory: RunDirectory, cwd: Path) -> LaneRun:
    tests = (PlannedTest(NODEID, 2, "full", Limits()),)
    plan = Plan(directory.run_id, "h200x8", "modal", "H200:8", 8, 2, True, False, tests, (), str(cwd), "/cache")
    meta = RunMeta(directory.run_id, "h200x8", "modal", True, 2, "H200:8", "2026-01-01T00:00:00.000Z")
    return LaneRun(plan, directory, Redactor(os.environ), meta)


class Deaf:
    """A box that neither speaks nor says that it ended."""

    def start(self, plan: Plan, run: Path) -> "Deaf":
        return self

    def read(self) -> bytes:
        return b""

    def ended(self) -> Ended | None:
        return None

    def address(self) -> Address:
        return Address()

    def stop(self, reason: str) -> None:
        pass

    def end(self) -> None:
        pass


def test_a_box_that_never_says_that_it_ended_does_not_keep_the_desk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session, "LAST_WORDS_S", 0.05)
    directory = RunDirectory.create(tmp_path)
    run = lane_run(directory, tmp_path)
    run.start(Deaf())
    run.finish()
    document = json.loads((directory.path / "run.json").read_text())
    assert document["status"] == "error"
    assert run.wait_for(0).verdict.code == "box-lost"


class Interrupting(Deaf):
    """A box that is interrupted by Ctrl-C while the desk takes in what it said."""

    def __init__(self, recording: Path, said: bytes) -> None:
        self._recording, self._said = recording, said
        self._reads = 0

    def read(self) -> bytes:
        self._reads += 1
        if self._reads == 1:
            self._recording.write_bytes(self._said)
            raise KeyboardInterrupt
        return b""

    def ended(self) -> Ended | None:
        return Ended() if self._reads > 1 else None


def test_what_an_interrupt_tore_from_the_desk_is_read_again(tmp_path: Path) -> None:
    directory = RunDirectory.create(tmp_path)
    run = lane_run(directory, tmp_path)
    run.start(Interrupting(directory.recording, FakeBox(ranks=2).begins().passes().ends().recording()))
    with pytest.raises(KeyboardInterrupt):
        run.wait_for(0)
    run.finish(interrupted=True)
    document = json.loads((directory.path / "run.json").read_text())
    assert [test["outcome"] for test in document["tests"]] == ["passed"]
