"""A selected lane test without a result makes the session red, whatever hooks of a project or a plugin did with it."""

from pathlib import Path

import pytest

from tests.plugin.gated import GATE, Gated
from tests.plugin.project import DRY, LANE, Project, Ran

TESTS = """
    import pytest

    pytestmark = pytest.mark.h200x8(ranks=1)

    def test_good(): pass

    def test_bad(): assert False
"""
PROTOCOL = """
    import pytest

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_protocol(item, nextitem):
        return True
"""
SOME = """
    import pytest

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_protocol(item, nextitem):
        return True if item.name == "test_bad" else None
"""
NO_LOOP = """
    import pytest

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(session):
        return True
"""
LEAVES = """
    import pytest

    def pytest_runtest_logfinish():
        pytest.exit("that is enough", returncode=0)
"""
OWN_LOOP = """
    import os
    import pytest

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(session):
        if "RANK" in os.environ:
            return None
        for number, item in enumerate(session.items):
            following = [*session.items[number + 1:], None][0]
            item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
        return True
"""


def assert_red(ran: Ran, unreported: list[str], culprit: str) -> None:
    assert ran.code == pytest.ExitCode.TESTS_FAILED
    assert f"{len(unreported)} selected, but never reported, so the session fails" in ran.text
    assert culprit in ran.text
    assert ran.run is not None
    assert ran.run["status"] in ("failed", "error")
    assert [nodeid.rpartition("::")[2] for nodeid in ran.run["unreported"]] == unreported


@pytest.mark.parametrize(
    ("conftest", "unreported", "culprit"),
    [
        (PROTOCOL, ["test_good", "test_bad"], "sub/conftest.py implements pytest_runtest_protocol"),
        (SOME, ["test_bad"], "sub/conftest.py implements pytest_runtest_protocol"),
        (LEAVES, ["test_bad"], "lane tests without a result"),
    ],
    ids=["all", "some", "leaves"],
)
def test_whoever_answers_for_a_lane_test(project: Project, conftest: str, unreported: list[str], culprit: str) -> None:
    project.write("sub/conftest.py", conftest)
    project.write("sub/test_a.py", TESTS)
    assert_red(project.pytest(*LANE), unreported, culprit)


def test_beside_a_test_that_fails(project: Project) -> None:
    project.write("sub/conftest.py", SOME.replace("test_bad", "test_good"))
    project.write("sub/test_a.py", TESTS)
    ran = project.pytest(*LANE)
    assert ran.outcomes() == {"test_bad": "failed"}
    assert_red(ran, ["test_good"], "sub/conftest.py implements pytest_runtest_protocol")


def test_a_loop_that_runs_nothing(project: Project) -> None:
    project.write("conftest.py", NO_LOOP)
    project.write("test_a.py", TESTS)
    assert_red(project.pytest(*LANE), ["test_good", "test_bad"], "conftest.py implements pytest_runtestloop")


def test_a_loop_of_the_project_s_own_gets_results(project: Project) -> None:
    project.write("conftest.py", OWN_LOOP)
    project.write("test_a.py", TESTS)
    ran = project.pytest(*LANE)
    assert ran.outcomes() == {"test_good": "passed", "test_bad": "failed"}
    assert ran.code == pytest.ExitCode.TESTS_FAILED
    assert "never reported" not in ran.text


def test_under_a_gate(tmp_path: Path) -> None:
    gated = Gated(tmp_path / "project")
    gated.write("suites/kernels/conftest.py", PROTOCOL)
    gated.write("kernels/rms.py", "changed")
    ran = gated.pytest(*GATE)
    assert_red(ran, ["test_one", "test_two"], "suites/kernels/conftest.py implements pytest_runtest_protocol")
    assert ran.run is not None
    assert any("never reported" in complaint for complaint in ran.run["gate"]["complaints"])


def test_what_is_only_collected_needs_no_result(project: Project) -> None:
    project.write("conftest.py", PROTOCOL)
    project.write("test_a.py", TESTS)
    for only in ("--collect-only", "--fixtures"):
        ran = project.pytest(*LANE, only)
        assert ran.code == pytest.ExitCode.OK
        assert "never reported" not in ran.text
    assert project.pytest(*DRY, "-m", "not h200x8").code == pytest.ExitCode.NO_TESTS_COLLECTED
