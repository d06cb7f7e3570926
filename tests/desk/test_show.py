"""What is printed of a `run.json` that anybody may have written, or of one whose run goes on."""

import json
from collections.abc import Mapping
from pathlib import Path

import pytest

from pytest_megacpp.desk.commands.show import gate_alone, judged, judgement_shown, run_json, run_shown
from pytest_megacpp.recording.vocabulary import ActReason, RunEnd
from tests.golden.build import in_step
from tests.scenario import NODEID, FakeBox

RUN = "20261130-120000-0a0b"


@pytest.mark.parametrize("odd", [5, "all", {"a": 1}, [[1], 2], None])
def test_a_gate_of_any_shape_is_shown(tmp_path: Path, odd: object) -> None:
    run = tmp_path / "runs" / RUN
    run.mkdir(parents=True)
    gate = {"since": "main", "rules": odd, "complaints": odd, "why": odd}
    for said in (gate, gate | {"rules": [{"name": "kernels", "triggered": True, "why": odd}]}):
        (run / "run.json").write_text(json.dumps({"status": "failed", "gate": said}))
        shown = gate_alone(tmp_path, RUN)
        assert shown is not None
        assert any("nothing was started" in line for line in shown.lines)


def test_tests_that_never_began_for_the_same_reason_are_one_text(tmp_path: Path) -> None:
    nodeids = [f"a.py::test_{number}" for number in range(21)]
    box = FakeBox(2, nodeids).begins().passes().ends().done(RunEnd.INTERRUPTED)
    (tmp_path / "recording.jsonl").write_bytes(box.recording())
    (tmp_path / "run.json").write_text(json.dumps({"status": "interrupted", "tests": []}))
    seen = judged(tmp_path / "recording.jsonl")
    for shown in ([*run_shown(seen)], [*judgement_shown(seen)]):
        titles = [line.strip("─ ") for line in shown if line.startswith("──")]
        assert titles == ["ERROR 20 tests never began: interrupted"]
        assert "  a.py::test_10" in shown
        assert "  a.py::test_11" not in shown
        assert "  … and 10 more" in shown
        assert any("interrupted before this test began" in line for line in shown)


def test_a_test_that_never_began_alone_has_its_name_in_the_title(tmp_path: Path) -> None:
    box = FakeBox(2, ["a.py::test_0", "a.py::test_1"]).begins().passes().ends().done(RunEnd.INTERRUPTED)
    (tmp_path / "recording.jsonl").write_bytes(box.recording())
    titles = [line.strip("─ ") for line in run_shown(judged(tmp_path / "recording.jsonl")) if line.startswith("──")]
    assert titles == ["ERROR a.py::test_1"]


@pytest.mark.parametrize("status", ["running", "interrupted"])
@pytest.mark.parametrize(
    ("expects", "outcome"),
    [
        ({"code": "rank-death", "ranks": [2], "cause": None}, "passed"),
        ({"code": "rank-death", "ranks": [1], "cause": None}, "failed"),
        (None, "failed"),
        ({"code": 5}, "failed"),
        ([], "failed"),
    ],
)
def test_a_drill_that_its_run_did_not_report(tmp_path: Path, status: str, expects: object, outcome: str) -> None:
    """It fails on purpose, and passes by its verdict before its run says so, or where its run never did."""
    box = in_step().exits(2, -9, "SIGKILL").acts(ActReason.EXIT, "", (0, 1, 3), (2,)).aborts("exit")
    (tmp_path / "recording.jsonl").write_bytes(box.recording())
    entry: Mapping[str, object] = {"nodeid": NODEID, "outcome": None, "receipt": None, "expects": expects}
    (tmp_path / "run.json").write_text(json.dumps({"status": status, "tests": [entry]}))
    seen = judged(tmp_path / "recording.jsonl")
    assert any(f"1 of 1 test done (1 {outcome})" in line for line in run_shown(seen)) is (status == "running")
    (found,) = json.loads(json.dumps(run_json(seen)["tests"]))
    assert found["outcome"] == outcome
    assert [test.nodeid for test in seen.bad] == ([] if outcome == "passed" else [NODEID])
