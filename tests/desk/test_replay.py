"""A replayed run is judged from the whole recording, read once, and leaves the artefacts of any other run."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pytest_megacpp.desk.run import replay
from pytest_megacpp.desk.run.artefacts import Reporting
from pytest_megacpp.desk.run.runs import read_timeline
from pytest_megacpp.judge.arbiter import judge_run
from pytest_megacpp.recording.redact import Redactor
from pytest_megacpp.recording.timeline import Timeline
from pytest_megacpp.report.reporters import Receipts, RunJson
from tests.golden.build import CASES
from tests.scenario import NODEID


@pytest.mark.parametrize("name", ["passed", "straggler", "rank-death-oom-killed", "startup-failure-import", "box-lost"])
def test_a_replay_is_judged_as_the_recording_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    recording = tmp_path / "other.jsonl"
    recording.write_bytes(CASES[name]().recording())
    reads: list[Path] = []

    def read(path: Path) -> Timeline:
        reads.append(path)
        return read_timeline(path)

    monkeypatch.setattr(replay, "read_timeline", read)
    options: Any = SimpleNamespace(lane_dir=tmp_path / "lane", lanes={})
    recorded = replay.Recorded(options, str(recording), Reporting((Receipts(), RunJson())))
    run, index_of = recorded.run([NODEID], (), lambda progress: None)
    result = run.wait_for(index_of[NODEID][0])
    run.finish()
    assert result == judge_run(read_timeline(recording)).tests[0]
    assert reads == [recording]
    assert (run.directory.path / "recording.jsonl").read_bytes() == recording.read_bytes()
    document = json.loads((run.directory.path / "run.json").read_text())
    assert document["tests"][0]["verdict"] == str(result.verdict.code)
    assert document["status"] == {"passed": "passed", "error": "error"}.get(result.outcome, "failed")
    assert (run.directory.path / document["tests"][0]["receipt"]).is_file()


TOKENS = {name: f"t.py::test[ghp_{name * 36}]" for name in "abc"}
PLAIN = "t.py::test[plain]"


@pytest.mark.parametrize(
    ("asked", "recorded", "found"),
    [
        ([PLAIN, *TOKENS.values()], [PLAIN, *TOKENS.values()], [0, 1, 2, 3]),
        ([*TOKENS.values()], [PLAIN, *reversed(TOKENS.values())], [3, 2, 1]),
        ([TOKENS["c"]], [TOKENS["c"], PLAIN], [0]),
        ([TOKENS["a"]], [TOKENS["b"], PLAIN, "t.py::test[other]"], [0]),
        ([TOKENS["b"], PLAIN], [*TOKENS.values(), PLAIN], [None, 3]),
        ([*TOKENS.values()], [TOKENS["b"]], [None, None, None]),
        ([PLAIN, "t.py::other"], [PLAIN], [0, None]),
    ],
    ids=["all", "in another order", "alone", "another secret", "one of three", "more than were recorded", "plain"],
)
def test_ids_with_secrets_are_found_where_they_can_be_told_apart(
    asked: list[str], recorded: list[str], found: list[int | None]
) -> None:
    redactor = Redactor({})
    places = replay.recorded_as(asked, redactor.ids(recorded), redactor.text)
    assert [places.get(nodeid) for nodeid in asked] == found


def test_a_box_that_knew_no_secret_recorded_the_ids_themselves() -> None:
    redactor = Redactor({"MY_TOKEN": "correct horse"})
    asked = [f"t.py::test[{n} correct horse]" for n in range(2)]
    assert replay.recorded_as(asked, asked[::-1], redactor.text) == {asked[0]: 1, asked[1]: 0}


def test_an_old_recording_whose_ids_are_equal_is_not_guessed_at() -> None:
    redactor = Redactor({})
    same = [redactor.text(TOKENS["a"])] * 2
    assert replay.recorded_as([TOKENS["a"], TOKENS["b"]], same, redactor.text) == {}
