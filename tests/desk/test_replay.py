"""A replayed run is judged from the whole recording, read once, and leaves the artefacts of any other run."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pytest_megacpp.desk import replay
from pytest_megacpp.desk.runs import read_timeline
from pytest_megacpp.judge.arbiter import judge_run
from tests.golden.build import CASES
from tests.scenario import NODEID


@pytest.mark.parametrize("name", ["passed", "straggler", "rank-death-oom-killed", "startup-failure-import", "box-lost"])
def test_a_replay_is_judged_as_the_recording_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    recording = tmp_path / "other.jsonl"
    recording.write_bytes(CASES[name]().recording())
    reads: list[Path] = []
    monkeypatch.setattr(replay, "read_timeline", lambda path: reads.append(path) or read_timeline(path))
    options: Any = SimpleNamespace(lane_dir=tmp_path / "lane", lanes={})
    recorded = replay.Recorded(options, str(recording))
    run, index_of = recorded.run([NODEID], lambda progress: None)
    result = run.wait_for(index_of[NODEID])
    run.finish()
    assert result == judge_run(read_timeline(recording)).tests[0]
    assert reads == [recording]
    assert (run.directory.path / "recording.jsonl").read_bytes() == recording.read_bytes()
    document = json.loads((run.directory.path / "run.json").read_text())
    assert document["tests"][0]["verdict"] == str(result.verdict.code)
    assert document["status"] == {"passed": "passed", "error": "error"}.get(result.outcome, "failed")
    assert (run.directory.path / document["tests"][0]["receipt"]).is_file()
