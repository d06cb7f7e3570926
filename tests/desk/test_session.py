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
    tests = (PlannedTest("test_a.py::test_a", 2, "full", Limits()),)
    plan = Plan(directory.run_id, "h200x8", "modal", "H200:8", 8, 2, True, False, tests, (), str(tmp_path), "/cache")
    meta = RunMeta(directory.run_id, "h200x8", "modal", True, 2, "H200:8", "2026-01-01T00:00:00.000Z")
    run = LaneRun(plan, directory, Redactor(os.environ), meta)
    run.start(Deaf())
    run.finish()
    document = json.loads((directory.path / "run.json").read_text())
    assert document["status"] == "error"
    assert run.wait_for(0).verdict.code == "box-lost"
