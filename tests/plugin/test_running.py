"""`megacpp show` of a run that goes on, asked from a second terminal."""

import subprocess
import sys

from pytest_megacpp.desk.run.runs import read_timeline
from tests.plugin.project import LANE, Project

TESTS = """
    import time
    import pytest

    pytestmark = pytest.mark.h200x8(ranks=2)

    @pytest.mark.expect_verdict("test-failed")
    def test_quick():
        assert False

    def test_slow():
        time.sleep(300)

    def test_later(): pass
"""


def test_a_running_run_is_shown_as_running(project: Project) -> None:
    project.write("test_a.py", TESTS)
    with project.start(*LANE) as desk:

        def in_slow() -> bool:
            recording = desk.directory / "recording.jsonl" if desk.directory else None
            return recording is not None and recording.exists() and 1 in read_timeline(recording).tests

        desk.wait_until(in_slow)
        command = [sys.executable, "-m", "pytest_megacpp.desk.commands.cli", "show"]
        shown = subprocess.run(command, cwd=project.root, capture_output=True, text=True)
        assert shown.returncode == 0, shown.stderr
        assert "running: 1 of 3 tests done (1 passed)" in shown.stdout
        assert "now: test_a.py::test_slow for" in shown.stdout
        assert "box-lost" not in shown.stdout
        assert "not-run" not in shown.stdout
