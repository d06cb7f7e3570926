"""What a gated session leaves out and what it complains about, as far as no box is started."""

import json
from pathlib import Path

import pytest

from pytest_megacpp.desk.gate.changes import Changes
from pytest_megacpp.desk.gate.decide import Gate
from pytest_megacpp.desk.gate.enforce import Gatekeeper
from pytest_megacpp.recording.events import RunStarted
from tests.plugin.gated import GATE, LANE_TEST, Gated
from tests.plugin.project import DRY, LANE, Ran


@pytest.fixture
def gated(tmp_path: Path) -> Gated:
    return Gated(tmp_path / "project")


def gate_of(ran: Ran) -> dict[str, object]:
    assert ran.run is not None
    found: dict[str, object] = ran.run["gate"]
    return found


def assert_refused(ran: Ran, said: str) -> None:
    """Red before anything was started, with these words on the terminal and in `run.json`."""
    assert said in ran.text
    assert ran.code == pytest.ExitCode.TESTS_FAILED
    assert "the gate is not complete, so nothing was started" in ran.text
    assert ran.run is not None
    assert (ran.run["status"], ran.run["tests"]) == ("failed", [])
    assert [said in complaint for complaint in ran.run["gate"]["complaints"]].count(True) == 1


def test_a_change_of_documentation_runs_nothing_and_says_so(gated: Gated) -> None:
    gated.write("README.md", "changed")
    ran = gated.pytest(*GATE)
    assert ran.code == 0
    assert "rule kernels: does not run, no file that it watches changed" in ran.text
    assert "megacpp: no rule wants a lane test to run" in ran.text
    assert "2 lane tests left out: no file that their rules watch changed" in ran.text
    assert ran.outcomes() == {}
    assert ran.run is not None
    assert (ran.run["status"], ran.run["tests"]) == ("passed", [])
    assert [rule["triggered"] for rule in ran.run["gate"]["rules"]] == [False, False]
    assert gate_of(ran)["left_out"] == 2


def test_ordinary_tests_are_none_of_the_gate_s_business(gated: Gated) -> None:
    ran = gated.pytest(*DRY, "--gate-since", "main")
    assert (ran.code, ran.outcomes()) == (0, {"test_ordinary": "passed"})


def test_collecting_shows_what_would_run(gated: Gated) -> None:
    gated.write("kernels/rms.py", "changed")
    ran = gated.pytest(*GATE, "--collect-only", "-q")
    assert ran.code == 0
    assert "suites/kernels/test_rms.py::test_one" in ran.text
    assert gated.runs() == []


@pytest.mark.parametrize("left_out", [("-k", "one"), ("--deselect", "suites/kernels/test_rms.py::test_two")])
def test_a_test_that_is_left_out_is_a_failure(gated: Gated, left_out: tuple[str, ...]) -> None:
    gated.write("kernels/rms.py", "changed")
    said = "suites/kernels/test_rms.py::test_two was guarded by a triggered rule, but left out of this session"
    assert_refused(gated.pytest(*GATE, *left_out), said)


DROPS = """
    def pytest_collection_modifyitems(items):
        items[:] = [item for item in items if item.name != "test_two"]
"""


def test_a_plugin_that_drops_tests_is_seen(gated: Gated) -> None:
    gated.write("kernels/rms.py", "changed")
    gated.write("suites/conftest.py", DROPS)
    assert_refused(gated.pytest(*GATE), "test_rms.py::test_two was guarded by a triggered rule")


def test_a_file_that_is_not_collected_is_a_failure(gated: Gated) -> None:
    gated.write("kernels/rms.py", "changed")
    gated.write("suites/kernels/test_scan.py", LANE_TEST)
    said = "kernels was triggered for suites/kernels/test_scan.py, which has tests of h200x8, but none was collected"
    assert_refused(gated.pytest(*GATE, "suites/kernels/test_rms.py"), said)
    assert_refused(gated.pytest(*GATE, "tests"), said)


SCAN = "\ndef test_it(modal_h200x8): pass\n"


def test_a_file_that_skips_itself_is_a_failure(gated: Gated) -> None:
    gated.write("suites/kernels/test_scan.py", "import pytest\npytest.skip('no', allow_module_level=True)\n" + SCAN)
    said = "test_scan.py, which has tests of h200x8, but the whole file was skipped (no"
    assert_refused(gated.pytest(*GATE), said)


def test_a_file_that_no_machine_can_import_is_a_failure(gated: Gated) -> None:
    """The desk reads its tests from the source; the box skips them."""
    gated.write("suites/kernels/test_scan.py", "import pytest\npytest.importorskip('absent')\n" + SCAN)
    ran = gated.pytest(*GATE)
    assert ran.code == pytest.ExitCode.TESTS_FAILED
    assert ran.outcome("test_it") == "error"
    assert "could not import 'absent'" in ran.failure("test_it")


def test_lane_tests_that_a_condition_hides_are_missed(gated: Gated) -> None:
    hidden = "import os\n\nif 'CUDA_VISIBLE_DEVICES' in os.environ:\n    def test_it(modal_h200x8): pass\n"
    gated.write("suites/kernels/test_scan.py", hidden)
    assert_refused(
        gated.pytest(*GATE), "suites/kernels/test_scan.py, which has tests of h200x8, but none was collected"
    )


def test_a_file_that_only_speaks_of_a_lane_is_not_missed(gated: Gated) -> None:
    gated.write(
        "suites/kernels/test_words.py", '"""Run these with -m h200x8."""\nLANE = "h200x8"\ndef test_it(): pass\n'
    )
    ran = gated.pytest(*GATE, "--collect-only", "-q")
    assert ran.code == 0
    assert "test_rms.py::test_one" in ran.text
    assert gated.pytest(*GATE, "-k", "one").text.count("but none was collected") == 0


def test_a_triggered_rule_without_tests_is_a_failure(gated: Gated) -> None:
    gated.write("blocks/moe.py", "changed")
    assert_refused(gated.pytest(*GATE), "rule blocks was triggered, but suites/blocks has no test of h200x8 to run")


def test_no_lane_tests_at_all_are_no_success(gated: Gated) -> None:
    assert gated.pytest(*GATE, "tests").code == pytest.ExitCode.NO_TESTS_COLLECTED


def test_a_gate_does_not_degrade_to_a_dry_run(gated: Gated) -> None:
    """Refused before anything is started; the tests say so."""
    gated.write("kernels/rms.py", "changed")
    ran = gated.pytest("-m", "h200x8", "--surface", "local", "--gate-since", "main")
    assert ran.code == pytest.ExitCode.TESTS_FAILED
    assert set(ran.outcomes().values()) == {"error"}
    verdict = ran.verdict("test_one")
    assert (verdict["code"], verdict["cause"]) == ("blocked", "dry-run")
    assert "ask for a dry run by name: --dry-run" in verdict["next_step"]
    assert ran.run is not None
    assert ran.run["status"] == "blocked"
    assert ran.directory is not None
    kinds = [json.loads(line)["kind"] for line in (ran.directory / "recording.jsonl").read_text().splitlines() if line]
    assert kinds == ["run-started", "test-planned", "test-planned", "problem-found", "run-finished"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((*LANE, "--gate-since", "origin/main"), "--gate-since origin/main: git finds no such revision here"),
        ((*LANE, "--gate-since", ""), "--gate-since: the revision must be a non-empty string"),
        (("--gate-since", "main"), "--gate-since gates lane tests, and none were asked for: add -m LANE or --surface"),
        ((*LANE, "--gate-since", "main", "--replay", "latest"), "--gate-since and --replay exclude each other"),
    ],
)
def test_a_request_without_sense_is_a_usage_error(gated: Gated, arguments: tuple[str, ...], said: str) -> None:
    ran = gated.pytest(*arguments)
    assert ran.code == pytest.ExitCode.USAGE_ERROR
    assert said in ran.text
    assert gated.runs() == []


def test_no_rules_are_a_usage_error(gated: Gated) -> None:
    gated.write("pyproject.toml", "[tool.pytest.ini_options]\n[tool.pytest_megacpp]\n")
    ran = gated.pytest(*GATE)
    assert ran.code == pytest.ExitCode.USAGE_ERROR
    assert "no gate rule is configured: add at least one [[tool.pytest_megacpp.gate]]" in ran.text


def test_a_variable_gates_lane_sessions_only(gated: Gated) -> None:
    environment = {"MEGACPP_GATE_SINCE": "main"}
    assert gated.pytest("tests", env=environment).outcomes() == {"test_ordinary": "passed"}
    assert "2 lane tests left out" in gated.pytest(*LANE, env=environment).text


def test_without_git_everything_is_selected_and_the_header_says_why(gated: Gated) -> None:
    (gated.root / ".git").rename(gated.root / "git")
    ran = gated.pytest(*GATE, "--collect-only", env={"GIT_CEILING_DIRECTORIES": str(gated.root.parent)})
    assert "gate since main: everything runs, because the changes cannot be determined" in ran.text
    assert "not a git repository" in ran.text
    assert "test_two" in ran.text


def test_a_distributed_session_is_gated_alike(gated: Gated) -> None:
    pytest.importorskip("xdist")
    gated.write("README.md", "changed")
    ran = gated.pytest(*GATE, "-n", "2")
    assert ran.code == 0
    assert "2 lane tests left out: no file that their rules watch changed" in ran.text
    gated.write("kernels/rms.py", "changed")
    said = "suites/kernels/test_rms.py::test_two was guarded by a triggered rule, but left out of this session"
    assert_refused(gated.pytest(*GATE, "-n", "2", "-k", "one"), said)


HERE = "3f9a" * 10


def started(revision: str, *, dry_run: bool = False) -> RunStarted:
    return RunStarted("r1", "", "h200x8", "modal", dry_run, 8, 1, revision=revision)


@pytest.mark.parametrize(
    ("recorded", "dry", "said"),
    [
        (started(HERE), False, None),
        (started(HERE, dry_run=True), True, None),
        (started(HERE, dry_run=True), False, "run r1 was a dry run, and --dry-run was not given"),
        (started("0" * 40), False, f"run r1 tested {'0' * 40}, but this gate checks {HERE}"),
        (started(f"{HERE}+"), False, f"run r1 tested {HERE}+, but this gate checks {HERE}"),
        (started(""), False, "run r1 tested an unknown revision"),
        (None, False, "run r1 tested an unknown revision"),
    ],
)
def test_a_run_that_was_made_before_has_to_be_of_this_very_change(
    recorded: RunStarted | None, dry: bool, said: str | None, tmp_path: Path
) -> None:
    keeper = Gatekeeper(Gate("main", tmp_path, Changes(tmp_path), ()), ("h200x8",), lambda item: None)
    keeper.check_run("r1", recorded, HERE, dry=dry)
    assert [said is not None and said in complaint for complaint in keeper.complaints] == [True] * (said is not None)
