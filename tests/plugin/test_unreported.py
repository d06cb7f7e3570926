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
INTERRUPTED_TWICE = """
    def pytest_collection_finish(session):
        raise KeyboardInterrupt

    def pytest_keyboard_interrupt(excinfo):
        raise KeyboardInterrupt
"""
EMPTIES = """
    import pytest

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(session):
        session.items[:] = []
        return True
"""
EMPTIES_FIRST = """
    import pytest

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtestloop(session):
        session.items[:] = []
        return (yield)
"""
LOSES_ONE = """
    import pytest

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(session):
        session.items = [item for item in session.items if item.name != "test_bad"]
"""
UNMARKS = """
    import os
    import pytest

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(session):
        if "RANK" in os.environ:
            return None
        for item in session.items:
            item.get_closest_marker = lambda name, default=None: default
        return True
"""
COPIES = """
    import copy
    import os
    import pytest

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(session):
        if "RANK" not in os.environ:
            session.items = [copy.copy(item) for item in session.items]
"""
SHUFFLES = """
    import os
    import pytest

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(session):
        if "RANK" not in os.environ:
            session.items = session.items[::-1]
"""
SAYS_GREEN = """
    import pytest

    def pytest_sessionfinish(session):
        session.exitstatus = 0

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(session):
        return True
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


def leaves(hook: str) -> str:
    """A conftest that leaves the session in a hook, with a green exit code."""
    return f"import pytest\n\ndef {hook}(): pytest.exit('there is no GPU', returncode=0)\n"


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


@pytest.mark.parametrize(
    ("conftest", "unreported"),
    [
        (EMPTIES, ["test_good", "test_bad"]),
        (EMPTIES_FIRST, ["test_good", "test_bad"]),
        (LOSES_ONE, ["test_bad"]),
        (UNMARKS, ["test_good", "test_bad"]),
        (COPIES, ["test_good", "test_bad"]),
        (SAYS_GREEN, ["test_good", "test_bad"]),
    ],
    ids=["empties", "empties-first", "loses-one", "unmarks", "copies", "says-green"],
)
def test_whoever_takes_lane_tests_out_of_the_session(project: Project, conftest: str, unreported: list[str]) -> None:
    """What is in the session at its end is what others left in it."""
    project.write("conftest.py", conftest)
    project.write("test_a.py", TESTS)
    ran = project.pytest(*LANE)
    assert not any(name in ran.outcomes() for name in unreported)
    assert ran.code == pytest.ExitCode.TESTS_FAILED
    assert f"{len(unreported)} selected, but never reported, so the session fails" in ran.text
    assert all(f"::{name}" in ran.text for name in unreported)
    assert ran.run is None or [n.rpartition("::")[2] for n in ran.run["unreported"]] == unreported


def test_a_session_that_is_emptied_under_a_gate(gated: Gated) -> None:
    gated.write("suites/kernels/conftest.py", EMPTIES)
    ran = gated.pytest(*GATE)
    assert ran.code == pytest.ExitCode.TESTS_FAILED
    assert ran.run is not None
    assert any("test_two were selected, but never reported" in one for one in ran.run["gate"]["complaints"])


def test_a_session_that_is_shuffled_late(project: Project) -> None:
    project.write("conftest.py", SHUFFLES)
    project.write("test_a.py", TESTS)
    ran = project.pytest(*LANE)
    assert list(ran.outcomes().items()) == [("test_bad", "failed"), ("test_good", "passed")]
    assert "never reported" not in ran.text


def test_a_loop_of_the_project_s_own_gets_results(project: Project) -> None:
    project.write("conftest.py", OWN_LOOP)
    project.write("test_a.py", TESTS)
    ran = project.pytest(*LANE)
    assert ran.outcomes() == {"test_good": "passed", "test_bad": "failed"}
    assert ran.code == pytest.ExitCode.TESTS_FAILED
    assert "never reported" not in ran.text


@pytest.fixture
def gated(tmp_path: Path) -> Gated:
    """A change that wants two tests run."""
    made = Gated(tmp_path / "project")
    made.write("kernels/rms.py", "changed")
    return made


def test_under_a_gate(gated: Gated) -> None:
    gated.write("suites/kernels/conftest.py", PROTOCOL)
    ran = gated.pytest(*GATE)
    assert_red(ran, ["test_one", "test_two"], "suites/kernels/conftest.py implements pytest_runtest_protocol")
    assert ran.run is not None
    assert any("never reported" in complaint for complaint in ran.run["gate"]["complaints"])


def test_a_session_that_is_left_before_its_tests(project: Project) -> None:
    project.write("conftest.py", leaves("pytest_collection_modifyitems"))
    project.write("test_a.py", TESTS)
    ran = project.pytest(*LANE)
    assert ran.code == pytest.ExitCode.TESTS_FAILED
    assert "2 selected, but never reported, so the session fails" in ran.text


@pytest.mark.parametrize(
    "conftest",
    [
        leaves("pytest_configure"),
        leaves("pytest_sessionstart"),
        "def pytest_cmdline_main(): return 0\n",
    ],
    ids=["configure", "start", "answered"],
)
def test_a_session_that_never_begins_is_not_green_under_a_gate(gated: Gated, conftest: str) -> None:
    gated.write("conftest.py", conftest)
    ran = gated.pytest(*GATE)
    assert ran.code == pytest.ExitCode.USAGE_ERROR
    assert "the session was left before it began, so nothing was checked" in ran.text
    assert gated.pytest(*LANE).code == pytest.ExitCode.OK


@pytest.mark.parametrize(
    ("hook", "complaint"),
    [
        ("pytest_collection", "ended before its tests were collected"),
        ("pytest_collection_modifyitems", "test_two were selected, but never reported"),
    ],
)
def test_a_session_that_is_left_under_a_gate(gated: Gated, hook: str, complaint: str) -> None:
    gated.write("conftest.py", leaves(hook))
    ran = gated.pytest(*GATE)
    assert ran.code == pytest.ExitCode.TESTS_FAILED
    assert ran.run is not None
    complaints = ran.run["gate"]["complaints"]
    assert any(complaint in one for one in complaints)
    assert not any("none was collected" in one for one in complaints)


def test_under_a_gate_pytest_still_says_what_it_knows(gated: Gated) -> None:
    for only in ("--markers", "--cache-show"):
        assert gated.pytest(*GATE, only).code == pytest.ExitCode.OK


def test_an_impatient_interrupt_is_no_missing_result(project: Project) -> None:
    """The second one comes while plugins hear of the first, so pytest knows no exit code of an interrupt."""
    project.write("conftest.py", INTERRUPTED_TWICE)
    project.write("test_a.py", TESTS)
    ran = project.pytest(*LANE)
    assert ran.code != pytest.ExitCode.OK
    assert "KeyboardInterrupt" in ran.text
    assert "never reported" not in ran.text


def test_what_is_only_collected_needs_no_result(project: Project) -> None:
    project.write("conftest.py", PROTOCOL)
    project.write("test_a.py", TESTS)
    for only in ("--collect-only", "--fixtures", "--fixtures-per-test"):
        ran = project.pytest(*LANE, only)
        assert ran.code == pytest.ExitCode.OK
        assert "never reported" not in ran.text
    assert project.pytest(*DRY, "-m", "not h200x8").code == pytest.ExitCode.NO_TESTS_COLLECTED
