"""The line that says what to type where a session ran no lane test."""

import pytest

from tests.plugin.project import DRY, LANE, Project

MARKED = "import pytest\n\n@pytest.mark.h200x8(ranks=2)\ndef test_{}():\n    pass\n"
ORDINARY = "def test_ordinary():\n    pass\n"


@pytest.fixture
def suite(project: Project) -> Project:
    project.write("tests/test_ordinary.py", ORDINARY)
    project.write("suites/deep/test_lane.py", MARKED.format("it"))
    return project


def hints(text: str) -> list[str]:
    return [line.removeprefix("megacpp: ") for line in text.splitlines() if "pytest -m" in line or "no lane" in line]


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["suites/deep/test_lane.py::test_it"], "suites/deep/test_lane.py::test_it"),
        (["suites/deep/test_lane.py"], "suites/deep/test_lane.py"),
        (["suites"], "suites"),
        (["tests/test_ordinary.py", "suites/deep/test_lane.py"], "suites/deep/test_lane.py"),
    ],
)
def test_a_lane_test_that_was_named_and_not_asked_for(suite: Project, arguments: list[str], named: str) -> None:
    ran = suite.pytest(*arguments, "-p", "no:randomly")
    assert ran.code == pytest.ExitCode.OK
    (line,) = [line for line in hints(ran.text) if "only when asked for" in line]
    words = "tests/test_ordinary.py " if arguments[0].startswith("tests") else ""
    assert line == (
        "suites/deep/test_lane.py::test_it: a lane test runs on every rank of a box, and only when asked for: "
        f"pytest -m h200x8 {words}{named}; here on the CPU: "
        f"pytest -m h200x8 --surface local --dry-run {words}{named}"
    )


def test_ordinary_sessions_hear_nothing(suite: Project) -> None:
    """Lane tests among others are skipped as ever, without a word more."""
    for arguments in ((), ("-q",), ("tests",), ("-m", "not h200x8")):
        ran = suite.pytest(*arguments)
        assert ran.code == pytest.ExitCode.OK
        assert hints(ran.text) == []


def test_what_is_typed_can_be_pasted(suite: Project) -> None:
    suite.write("odd dir/test_odd.py", MARKED.format("odd"))
    ran = suite.pytest("odd dir/test_odd.py::test_odd")
    assert "pytest -m h200x8 'odd dir/test_odd.py::test_odd'; here" in ran.text


def test_a_suite_beside_testpaths(suite: Project) -> None:
    suite.write("pyproject.toml", '[tool.pytest.ini_options]\ntestpaths = ["tests"]\n')
    ran = suite.pytest(*LANE)
    assert ran.code == pytest.ExitCode.NO_TESTS_COLLECTED
    assert hints(ran.text) == [
        "no test of h200x8 was collected; suites has some and isn't in testpaths: "
        "pytest -m h200x8 --surface local --dry-run suites"
    ]
    said = suite.pytest("-m", "h200x8", "--co", "tests").text
    assert "no test of h200x8 was collected; suites has some: pytest -m h200x8 suites" in said


def test_all_deselected(suite: Project) -> None:
    ran = suite.pytest(*LANE, "-k", "nothing")
    assert hints(ran.text) == [
        "no lane test is left to run: the only test of h200x8 that pytest collected, "
        "suites/deep/test_lane.py::test_it, is deselected (-k, -m, --deselect or a plugin)"
    ]


def test_no_lane_test_anywhere(project: Project) -> None:
    project.write("test_ordinary.py", ORDINARY)
    ran = project.pytest("-m", "h200x8", *DRY)
    assert (
        f"no test file below {project.root} has one: mark one with @pytest.mark.h200x8, or have megacpp init"
        in ran.text
    )
    assert "no test file below" not in project.pytest(*DRY, "-k", "ordinary", "--gate-since", "HEAD").text


def test_what_runs_needs_no_hint(project: Project) -> None:
    project.write("test_lane.py", MARKED.format("it"))
    ran = project.pytest(*LANE, "test_lane.py")
    assert ran.outcomes() == {"test_it": "passed"}
    assert hints(ran.text) == []
