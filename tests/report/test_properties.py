"""What of a rank's report reaches pytest's own, for whoever writes JUnit files of it."""

from pytest_megacpp.judge.arbiter import judge_test
from pytest_megacpp.recording import events as ev
from pytest_megacpp.recording.plan import Plan
from pytest_megacpp.recording.vocabulary import ReportOutcome, TestPhase
from pytest_megacpp.report.reporter import RunResults
from pytest_megacpp.report.reporters import JUnitProperties
from pytest_megacpp.report.run_json import RunMeta, RunStatus
from tests.golden.build import in_step

PLAN = Plan("r1", "h200x8", "local", "H200:8", 0, 2, True, False, (), (), "")
META = RunMeta(PLAN, "2026-01-01T00:00:00.000Z")


def test_properties_keep_their_lines_and_their_kinds() -> None:
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
    judged = {0: judge_test(timeline, 0)}
    run = RunResults(META, RunStatus.RUNNING, ["t"], ["t.json"], judged, timeline, str)
    properties = JUnitProperties().properties(run, 0)
    found = {name: value for name, value in properties.items() if name in said}
    assert found == said | {"note": found["note"]}
    assert "\x1b" not in str(found["note"])
    assert (properties["megacpp_verdict"], properties["megacpp_run"]) == ("passed", "r1")
    assert properties["megacpp_dry_run"] == "true"
