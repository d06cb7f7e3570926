"""Options that show what pytest knows of fixtures start no box; what they show is pytest's own."""

import pytest

from tests.plugin.project import LANE, Project

SUITE = """
    import pytest

    @pytest.fixture
    def model():
        raise RuntimeError("set up at the desk")

    @pytest.mark.h200x8(ranks=2)
    def test_lane(modal_h200x8, model): pass

    def test_ordinary(tmp_path): pass
"""


@pytest.mark.parametrize(
    ("option", "shown"),
    [
        (
            "--setup-plan",
            (
                "SETUP    F model",
                "SETUP    F modal_h200x8",
                "test_suite.py::test_lane (fixtures used: ",
            ),
        ),
        (
            "--setup-only",
            ("SKIPPED [1] test_suite.py:8: its fixtures are set up by ranks, and --setup-only starts no box",),
        ),
        ("--fixtures-per-test", ("fixtures used by test_lane", "modal_h200x8 -- ")),
        ("--fixtures", ("modal_h200x8 -- ",)),
        ("--collect-only", ("<Function test_lane>",)),
    ],
)
def test_no_box_is_started(project: Project, option: str, shown: tuple[str, ...]) -> None:
    project.write("test_suite.py", SUITE)
    ran = project.pytest(*LANE, option, "-rs")
    assert ran.code == pytest.ExitCode.OK, ran.text
    assert [text for text in shown if text not in ran.text] == [], ran.text
    assert project.runs() == []


def test_an_ordinary_test_beside_is_set_up_as_ever(project: Project) -> None:
    project.write("test_suite.py", SUITE)
    ran = project.pytest("--surface", "local", "--dry-run", "--setup-only")
    assert "SETUP    F tmp_path" in ran.text
    assert project.runs() == []


def test_shown_setups_are_of_ranks(project: Project) -> None:
    """`--setup-show` runs the tests: each rank writes into its own output what it sets up."""
    project.write("test_suite.py", SUITE.replace('raise RuntimeError("set up at the desk")', "return 1"))
    ran = project.pytest(*LANE, "--setup-show")
    assert ran.outcomes() == {"test_lane": "passed"}
    [log] = {path.read_text() for path in project.runs()[0].glob("ranks/w1/*/stdout.log")}
    assert "SETUP    F model" in log
