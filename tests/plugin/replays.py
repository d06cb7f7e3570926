"""Recorded drills as failures of a project's lane tests: real desks, and no rank."""

import json
from pathlib import Path

from tests.plugin.project import Project, Ran

DRILLS = Path(__file__).parents[1] / "golden" / "drills"


class Replays:
    """A project with the tests of recorded drills as ordinary lane tests."""

    def __init__(self, project: Project) -> None:
        self.project = project

    def pytest(self, drill: str, *arguments: str, **variables: str) -> Ran:
        recording = (DRILLS / f"{drill}.jsonl").read_text()
        facts = map(json.loads, recording.splitlines())
        file, _, name = next(f["nodeid"] for f in facts if f["kind"] == "test-planned").partition("::")
        words = "import pytest\n\n@pytest.mark.h200x8(ranks=8)\ndef {}(modal_h200x8): pass\n"
        self.project.write(file, words.format(name.partition("[")[0]))
        self.project.write("test_ordinary.py", "def test_ordinary():\n    assert 1 == 2\n")
        self.project.write("drill.jsonl", recording)
        return self.project.pytest(
            "-m", "h200x8 or not h200x8", "--replay", "drill.jsonl", *arguments, file, env=variables
        )
