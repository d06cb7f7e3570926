"""What pytest calls for each test's reports, a conftest's and other plugins', for lane tests as for any other."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.plugin.project import DRY, Json, Project, Ran

SUITE = """
    import os
    import pytest
    import torch.distributed as dist

    pytestmark = pytest.mark.h200x8(ranks=2, test=60)

    def test_passes(modal_h200x8):
        print("said by the test")

    def test_fails(modal_h200x8):
        if modal_h200x8.rank == 1:
            raise ValueError("unlike the others")

    def test_dies(modal_h200x8):
        if modal_h200x8.rank == 0:
            os._exit(3)
        dist.barrier()

    @pytest.fixture
    def broken():
        raise RuntimeError("no such thing")

    def test_without_its_fixture(broken): pass

    def test_is_skipped():
        pytest.skip("not here")

    @pytest.mark.xfail(reason="known", strict=False)
    def test_is_expected_to_fail():
        assert False

    @pytest.mark.parametrize("n", [1, 2])
    def test_of_cases(n, modal_h200x8): pass
"""
NOTING = """
    import json
    import os
    import pytest

    def note(**fields):
        if "MEGACPP_BOX" not in os.environ:
            with open("hooks", "a") as file:
                file.write(json.dumps(fields) + "\\n")

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(item, call):
        report = yield
        raised = call.excinfo
        verdict = getattr(raised.value, "verdict", None) if raised else None
        note(
            hook="makereport", test=item.name, when=call.when, outcome=report.outcome, same=report.when == call.when,
            kind=raised.typename if raised else None, said=raised.exconly() if raised else None,
            code=str(verdict.code) if verdict else None, ranks=list(verdict.blamed_ranks) if verdict else None,
            line=str(raised.traceback[-1].statement) if raised else None,
            seconds=[call.duration, report.duration],
        )
        return report

    class Observer:
        def pytest_runtest_makereport(self, item, call):
            note(hook="observed", test=item.name, when=call.when)

    def pytest_configure(config):
        config.pluginmanager.register(Observer())

    def pytest_exception_interact(node, call, report):
        note(hook="interact", test=node.name, when=call.when, outcome=report.outcome)
"""
BOTH = ("test_fails", "test_dies", "test_without_its_fixture")


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> tuple[Ran, Project]:
    """One run with a conftest and with allure."""
    project = Project(tmp_path_factory.mktemp("hooks") / "project")
    project.write("conftest.py", NOTING)
    project.write("test_suite.py", SUITE)
    return project.pytest(*DRY, "--alluredir", "allure"), project


def noted(project: Project, hook: str) -> list[Json]:
    return [one for one in map(json.loads, project.noted("hooks")) if one["hook"] == hook]


def test_a_plugin_that_only_observes_is_called_as_often(ran: tuple[Ran, Project]) -> None:
    calls, observed = (noted(ran[1], hook) for hook in ("makereport", "observed"))
    assert [(c["test"], c["when"]) for c in observed] == [(c["test"], c["when"]) for c in calls]


def test_makereport_is_called_for_each_phase_with_what_was_raised(ran: tuple[Ran, Project]) -> None:
    result, project = ran
    calls = noted(project, "makereport")
    reported = [(r["nodeid"].partition("::")[2], r["when"], r["outcome"]) for r in result.reports]
    assert [(c["test"], c["when"], c["outcome"]) for c in calls] == reported
    assert all(c["same"] and c["seconds"][0] == c["seconds"][1] for c in calls)
    raised = {c["test"]: c for c in calls if c["kind"]}
    assert {name: (c["kind"], c["code"], c["ranks"]) for name, c in raised.items()} == {
        "test_fails": ("LaneTestFailed", "test-failed", [1]),
        "test_dies": ("LaneTestFailed", "rank-death", [0]),
        "test_without_its_fixture": ("LaneTestError", "test-failed", [0, 1]),
        "test_is_skipped": ("Skipped", None, None),
        "test_is_expected_to_fail": ("LaneTestFailed", "xfailed", []),
    }
    assert "rank 1 raised ValueError" in raised["test_fails"]["said"]
    assert "unlike the others" in raised["test_fails"]["line"]
    assert raised["test_is_skipped"]["said"] == "Skipped: not here"


def test_interaction_is_asked_for_as_pytest_does(ran: tuple[Ran, Project]) -> None:
    assert [one["test"] for one in noted(ran[1], "interact")] == [*BOTH]


def allure(project: Project) -> dict[str, Json]:
    """Results by name; fails where a test has two."""
    found = [json.loads(path.read_text()) for path in (project.root / "allure").glob("*-result.json")]
    assert not [name for name, count in Counter(one["name"] for one in found).items() if count > 1]
    return {one["name"]: one for one in found}


def test_allure_has_one_result_per_test_with_status_and_verdict(ran: tuple[Ran, Project]) -> None:
    found = allure(ran[1])
    assert {name: one["status"] for name, one in found.items()} == {
        "test_passes": "passed",
        "test_fails": "failed",
        "test_dies": "failed",
        "test_without_its_fixture": "broken",
        "test_is_skipped": "skipped",
        "test_is_expected_to_fail": "skipped",
        "test_of_cases[1]": "passed",
        "test_of_cases[2]": "passed",
    }
    details = {name: one.get("statusDetails", {}) for name, one in found.items()}
    assert "rank 1 raised ValueError: unlike the others" in details["test_fails"]["message"]
    assert "rank 0 exited with code 3" in details["test_dies"]["message"]
    assert "rank-death" in details["test_dies"]["trace"]
    assert details["test_is_expected_to_fail"]["message"].startswith("XFAIL known")


def test_allure_groups_lane_tests_and_knows_them_again(ran: tuple[Ran, Project]) -> None:
    for name, one in allure(ran[1]).items():
        labels = {(label["name"], label["value"]) for label in one["labels"]}
        assert ("suite", "test_suite") in labels, name
        assert one["historyId"], name
        assert one["fullName"] == f"test_suite#{name.partition('[')[0]}"


def test_allure_has_the_time_that_the_desk_waited(ran: tuple[Ran, Project]) -> None:
    found = allure(ran[1])
    assert all(one["start"] <= one["stop"] for one in found.values())
    assert found["test_passes"]["stop"] > found["test_passes"]["start"]


RULING = """
    import os
    import pytest

    @pytest.hookimpl(wrapper=True)
    def {hook}:
        {report}
        if "MEGACPP_BOX" not in os.environ and report.when == "call":
            {change}
        {end}
"""
MADE = {"hook": "pytest_runtest_makereport(item, call)", "report": "report = yield", "end": "return report"}
LOGGED = {"hook": "pytest_runtest_logreport(report)", "report": "", "end": "return (yield)"}
FAILING = """
    import pytest

    @pytest.mark.h200x8(ranks=1, test=60)
    def test_it():
        {body}
"""


def ruled(project: Project, change: str, body: str = "assert False", made: dict[str, str] = MADE, *more: str) -> Ran:
    project.write("conftest.py", RULING.format(**made, change=change))
    project.write("test_it.py", FAILING.format(body=body))
    return project.pytest(*DRY, *more)


@pytest.mark.parametrize("made", [MADE, LOGGED], ids=["makereport", "logreport"])
def test_what_was_red_does_not_pass_in_silence(project: Project, made: dict[str, Any]) -> None:
    result = ruled(project, "report.outcome = 'passed'", made=made)
    assert result.code == pytest.ExitCode.TESTS_FAILED
    assert "1 passed" in result.text
    assert "test_it.py::test_it: call passed" in result.text
    assert f"conftest.py implements {made['hook'].partition('(')[0]} and may have changed them" in result.text
    assert result.verdict("test_it")["code"] == "test-failed"


def test_an_expected_failure_by_a_hook_counts_and_is_named(project: Project) -> None:
    result = ruled(project, "report.outcome, report.wasxfail = 'skipped', 'flaky on Mondays'")
    assert result.code == pytest.ExitCode.OK
    assert "1 xfailed" in result.text
    assert "test_it.py::test_it: call xfailed" in result.text


def test_a_hook_may_turn_green_into_red(project: Project) -> None:
    result = ruled(project, "report.outcome, report.longrepr = 'failed', 'too much was logged'", "pass")
    assert result.code == pytest.ExitCode.TESTS_FAILED
    assert "1 failed" in result.text
    assert "too much was logged" in result.text


def test_a_hook_that_misses_a_fixture_costs_a_warning(project: Project) -> None:
    """The example of pytest's own documentation reads item.funcargs."""
    result = ruled(project, "item.funcargs['tmp_path']")
    assert result.code == pytest.ExitCode.TESTS_FAILED
    assert "1 failed" in result.text
    assert "INTERNALERROR" not in result.text
    assert "conftest.py:9: PytestWarning: a hook raised KeyError: 'tmp_path' at the desk" in result.text


def test_what_wraps_a_phase_without_reporting_stays_away(project: Project) -> None:
    """A conftest's would act on this machine, which may have no GPU."""
    project.write(
        "conftest.py",
        """
        import os
        import pytest

        @pytest.hookimpl(wrapper=True)
        def pytest_runtest_makereport(item, call):
            return (yield)

        @pytest.hookimpl(wrapper=True)
        def pytest_runtest_call(item):
            assert "MEGACPP_BOX" in os.environ
            return (yield)

        def pytest_runtest_setup(item):
            assert "MEGACPP_BOX" in os.environ
        """,
    )
    project.write("test_it.py", FAILING.format(body="pass"))
    assert project.pytest(*DRY).outcomes() == {"test_it": "passed"}


def test_a_rank_writes_no_report_of_its_own(ran: tuple[Ran, Project]) -> None:
    assert not list(Path(ran[1].root).rglob("rank*/**/allure*"))
