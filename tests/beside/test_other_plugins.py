"""Lane tests beside plugins that repeat, shuffle, time and measure: each does its own work, and none does harm."""

import json
import sqlite3

import pytest

from tests.plugin.project import DRY, LANE, Project


def test_reruns_are_the_desk_s_tests_alone(project: Project) -> None:
    """A rank that repeated a test by itself would meet its peers' next collectives."""
    project.write(
        "test_flaky.py",
        """
        import os
        import pytest

        def attempt(name):
            with open(name, "a") as file:
                file.write("x")
            return os.path.getsize(name)

        def test_ordinary():
            assert attempt("ordinary") == 2

        @pytest.mark.flaky(reruns=2)
        @pytest.mark.h200x8(ranks=2, test=60)
        def test_lane(modal_h200x8):
            assert attempt(f"lane.{modal_h200x8.rank}") == 2
        """,
    )
    ran = project.pytest(*DRY, "--reruns", "2")
    assert ran.outcome("test_lane") == "failed"
    assert ran.verdict("test_lane")["code"] == "test-failed"
    assert [(project.root / name).read_text() for name in ("ordinary", "lane.0", "lane.1")] == ["xx", "x", "x"]
    assert "1 failed, 1 passed, 1 rerun" in ran.text


def test_a_shuffled_session_has_one_seed_on_all_ranks(project: Project) -> None:
    project.write(
        "test_shuffled.py",
        """
        import random
        import pytest

        pytestmark = pytest.mark.h200x8(ranks=2, test=60)

        @pytest.mark.parametrize("n", range(6))
        def test_it(n, modal_h200x8):
            modal_h200x8.record("drawn", random.random())
            with open("order", "a") as file:
                file.write(f"{n}")
        """,
    )
    ran = project.pytest(*LANE, "-p", "randomly", "-p", "no:cacheprovider")
    names = [f"test_it[{n}]" for n in range(6)]
    assert ran.outcomes() == dict.fromkeys(names, "passed")
    for name in names:
        drawn = {rank["records"]["drawn"] for rank in ran.receipt(name)["ranks"]}
        assert len(drawn) == 1
    reported = [r["nodeid"].partition("[")[2][0] for r in ran.reports if r["when"] == "call"]
    assert list(project.noted("order")[0][::2]) == reported


def test_coverage_is_measured_at_the_desk_alone(project: Project) -> None:
    project.write("measured.py", "def at_desk():\n    return 1\n\n\ndef in_rank():\n    return 2\n")
    project.write(
        "test_measured.py",
        """
        import pytest
        import measured

        def test_ordinary():
            assert measured.at_desk() == 1

        @pytest.mark.h200x8(ranks=2, test=60)
        def test_lane(modal_h200x8):
            assert measured.in_rank() == 2
        """,
    )
    ran = project.pytest(*DRY, "--cov=measured", "--cov-report=json")
    assert ran.outcomes() == {"test_ordinary": "passed", "test_lane": "passed"}
    found = json.loads((project.root / "coverage.json").read_text())["files"]["measured.py"]
    assert found["executed_lines"] == [1, 2, 5]
    assert [p.name for p in project.root.glob(".coverage*")] == [".coverage"]
    with sqlite3.connect(project.root / ".coverage") as data:
        assert data.execute("select count(*) from file").fetchone() == (1,)


TIMEOUTS = """
    import time
    import pytest

    @pytest.mark.h200x8(ranks=1)
    def test_of_the_session(): pass

    @pytest.mark.timeout(300, func_only=True)
    @pytest.mark.h200x8(ranks=1)
    def test_of_its_mark(): pass

    @pytest.mark.timeout(0)
    @pytest.mark.h200x8(ranks=1)
    def test_switched_off(): pass

    @pytest.mark.h200x8(ranks=1)
    def test_waits_for_its_turn_longer_than_the_timer():
        time.sleep(3.5)

    @pytest.mark.timeout(1)
    def test_ordinary():
        time.sleep(20)
"""


@pytest.mark.parametrize(
    ("arguments", "ini", "variables"),
    [
        (("--timeout", "5"), "", {}),
        ((), "timeout = 5", {}),
        ((), "", {"PYTEST_TIMEOUT": "5"}),
    ],
    ids=["option", "ini", "variable"],
)
def test_a_timeout_becomes_the_limit_by_the_plugin_s_own_word(
    project: Project, arguments: tuple[str, ...], ini: str, variables: dict[str, str]
) -> None:
    """The whole takes longer than five seconds, and no timer ends the desk."""
    project.write("pyproject.toml", f"[tool.pytest.ini_options]\n{ini}\n")
    project.write("test_timeouts.py", TIMEOUTS)
    ran = project.pytest(*DRY, *arguments, env=variables)
    names = ("test_of_the_session", "test_of_its_mark", "test_switched_off")
    assert [ran.receipt(name)["limits"]["test"] for name in names] == [5, 300, 900]
    assert {name: ran.outcome(name) for name in names} == dict.fromkeys(names, "passed")
    assert ran.outcome("test_waits_for_its_turn_longer_than_the_timer") == "passed"
    assert ran.outcome("test_ordinary") == "failed"
    assert "Timeout (>1.0s)" in ran.failure("test_ordinary")


def test_a_timeout_without_sense_is_a_usage_error(project: Project) -> None:
    project.write(
        "test_it.py",
        "import pytest\n\n@pytest.mark.timeout('soon')\n@pytest.mark.h200x8(ranks=1)\ndef test_it(): pass\n",
    )
    ran = project.pytest(*LANE)
    assert ran.code == pytest.ExitCode.USAGE_ERROR
    assert "test_it.py::test_it: invalid timeout for pytest-timeout" in ran.text
    assert project.runs() == []
