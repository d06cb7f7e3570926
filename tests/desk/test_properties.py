"""What of a rank's report reaches pytest's own, for whoever writes JUnit files of it."""

import pytest

from pytest_megacpp.desk.hooks.reports import reports
from pytest_megacpp.judge.arbiter import judge_test
from pytest_megacpp.recording import events as ev
from pytest_megacpp.recording.vocabulary import ReportOutcome, TestPhase
from tests.golden.build import in_step


def test_properties_keep_their_lines_and_their_kinds(pytester: pytest.Pytester) -> None:
    said: dict[str, ev.Json] = {
        "table": "step  loss\n1     0.5\n",
        "loss": 0.5,
        "steps": 3,
        "converged": True,
        "note": "\x1b[31mred",
    }
    box = in_step()
    box.rank(ev.Reported(0, 0, TestPhase.SETUP, ReportOutcome.PASSED, 0.1, properties=said)).passes().ends().done()
    timeline = box.timeline()
    item = pytester.getitem("def test_step(): pass", "test_step")
    made = list(reports(item, judge_test(timeline, 0), timeline, receipt=None, flight=None, lane="h200x8"))
    found = {name: value for name, value in made[1].user_properties if name in said}
    assert found == said | {"note": found["note"]}
    assert "\x1b" not in str(found["note"])
