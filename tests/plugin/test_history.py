"""What real runs leave: `history.html`, and documents as the shipped schemas describe them."""

import json

from tests.described import HEAD, of_kind, validator, wrong
from tests.plugin.project import LANE, Project

TESTS = """
    import pytest

    @pytest.mark.h200x8(ranks=2)
    def test_one(modal_h200x8):
        modal_h200x8.record("loss", 0.5)
"""


def test_a_page_is_there_as_soon_as_there_are_two_runs(project: Project) -> None:
    project.write("test_a.py", TESTS)
    page = project.lane_dir / "history.html"
    first = project.pytest(*LANE)
    assert first.code == 0, first.text
    assert not page.exists()
    assert first.run is not None
    assert first.directory is not None
    assert wrong(validator("run.json"), first.run) == []
    assert wrong(validator("receipt.json"), first.receipt("test_one")) == []
    for line in (first.directory / "recording.jsonl").read_text().splitlines():
        fact = {key: value for key, value in json.loads(line).items() if key not in HEAD}
        assert wrong(of_kind(fact["kind"]), fact) == []
    second = project.pytest(*LANE)
    assert second.code == 0, second.text
    text = page.read_text()
    assert "test_a.py::test_one" in text
    assert "loss" in text
    assert all(run.name in text for run in project.runs())
    plain = page.stat().st_mtime_ns
    assert project.pytest("--co", "-q").code == 0
    assert page.stat().st_mtime_ns == plain
