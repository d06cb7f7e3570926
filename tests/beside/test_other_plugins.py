"""Lane tests beside plugins that repeat, shuffle, time and measure: each does its own work, and none does harm."""

import json
import re
import sqlite3

import pytest

from tests.plugin.project import DRY, LANE, Project, Ran


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


MEASURED = """
    import pytest
    import measured

    def test_ordinary():
        assert measured.at_desk() == 1

    @pytest.mark.h200x8(ranks=2, test=60)
    def test_lane(modal_h200x8):
        assert measured.in_rank(modal_h200x8.rank) in (2, 3)

    @pytest.mark.h200x8(ranks=2, test=60)
    def test_dies(modal_h200x8):
        if modal_h200x8.rank == 1:
            measured.before_death()
"""
FUNCTIONS = """
    import os

    def at_desk():
        return 1

    def in_rank(rank):
        if rank == 1:
            return 3
        return 2

    def before_death():
        os._exit(3)
"""
AT_DESK, IN_RANKS, BEFORE_DEATH = [1, 3, 4, 6, 11], [7, 8, 9], [12]
COVERED = (*DRY, "--cov=measured", "--cov-report=json")
OF_OTHER_PROCESSES = "[run]\npatch = subprocess\n"


def measured(project: Project, rc: str, *arguments: str) -> tuple[Ran, list[int]]:
    """The lines that ran, of a project with such a configuration."""
    project.write("measured.py", FUNCTIONS.lstrip("\n"))
    project.write("test_measured.py", MEASURED)
    project.write(".coveragerc", rc)
    ran = project.pytest(*COVERED, *arguments)
    assert ran.outcomes() == {"test_ordinary": "passed", "test_lane": "passed", "test_dies": "failed"}, ran.text
    found = json.loads((project.root / "coverage.json").read_text())["files"]["measured.py"]
    assert sorted(path.name for path in project.root.glob(".coverage*")) == [".coverage", ".coveragerc"]
    return ran, found["executed_lines"]


def test_coverage_is_measured_at_the_desk_alone(project: Project) -> None:
    ran, lines = measured(project, "")
    assert lines == AT_DESK
    assert 'pytest-cov: ranks are not measured; patch = ["subprocess"] in [tool.coverage.run] measures them' in ran.text
    with sqlite3.connect(project.root / ".coverage") as data:
        assert data.execute("select count(*) from file").fetchone() == (1,)


@pytest.mark.parametrize("arguments", [(), ("-n", "1"), ("--cov-branch",)], ids=["alone", "xdist", "branches"])
def test_coverage_of_ranks_is_combined_when_other_processes_are_asked_for(
    project: Project, arguments: tuple[str, ...]
) -> None:
    """What a rank ran until it died is lost with it, as of any process."""
    ran, lines = measured(project, OF_OTHER_PROCESSES, *arguments)
    assert lines == sorted([*AT_DESK, *IN_RANKS])
    assert "pytest-cov: coverage of ranks is combined with the desk's" in ran.text


def test_what_is_measured_on_ranks_is_said_to_stay_there(project: Project) -> None:
    project.write(
        "test_it.py",
        """
        import pytest

        @pytest.mark.h200x8(ranks=2, test=60)
        def test_lane(modal_h200x8, benchmark):
            assert benchmark.pedantic(lambda: 1, rounds=2) == 1

        def test_ordinary(benchmark):
            benchmark.pedantic(lambda: 1, rounds=2)
        """,
    )
    ran = project.pytest(*DRY, "-p", "benchmark", "--benchmark-json=bench.json", "--benchmark-autosave")
    assert ran.outcomes() == {"test_lane": "passed", "test_ordinary": "passed"}
    assert "pytest-benchmark: what 1 lane test measured stays on ranks" in ran.text
    assert [one["name"] for one in json.loads((project.root / "bench.json").read_text())["benchmarks"]] == [
        "test_ordinary"
    ]
    assert len([*project.root.glob(".benchmarks/*/*.json")]) == 1
    profiled = project.pytest(*DRY, "-k", "test_lane", "-p", "benchmark", "--profile")
    assert "pytest-profiling: of lane tests it has the time that the desk waited" in profiled.text


FAILING = """
    import pytest

    @pytest.mark.h200x8(ranks=2, test=60)
    def test_lane(modal_h200x8):
        assert modal_h200x8.rank == 0, "not the first"

    def test_ordinary():
        assert False, "not at all"
"""


def test_other_terminals_show_verdicts_as_pytest_s_own(project: Project) -> None:
    project.write("test_it.py", FAILING)
    for arguments in (("-p", "sugar", "--force-sugar"), ("--rich",), ("--instafail",)):
        ran = project.pytest(*DRY, *arguments)
        assert ran.outcomes() == {"test_lane": "failed", "test_ordinary": "failed"}, ran.text
        assert "test-failed · rank 1 raised AssertionError: not the first" in ran.text, arguments
        assert "INTERNALERROR" not in ran.text, arguments


@pytest.mark.parametrize("choice", ["auto", "off"])
def test_a_failure_is_annotated_once(project: Project, choice: str) -> None:
    """By this plugin, which knows the line in the rank; by the other one where this one is told not to."""
    project.write("test_it.py", FAILING)
    ran = project.pytest(*DRY, "--lane-annotations", choice, env={"GITHUB_ACTIONS": "true", "CI": "1"})
    annotations = re.findall("::error .*", ran.text)
    assert sum("test_ordinary" in line for line in annotations) == 1, annotations
    of_lane = [line for line in annotations if "test_ordinary" not in line]
    assert len(of_lane) == 1, annotations
    assert ("test-failed" in of_lane[0]) == (choice == "auto")


def test_a_plugin_that_takes_the_reporter_s_place_last_ends_no_rank(project: Project) -> None:
    """As pytest-pretty does."""
    project.write(
        "conftest.py",
        """
        import sys
        import pytest
        from _pytest.terminal import TerminalReporter

        class Mine(TerminalReporter):
            pass

        @pytest.hookimpl(trylast=True)
        def pytest_configure(config):
            config.pluginmanager.unregister(config.pluginmanager.getplugin("terminalreporter"))
            config.pluginmanager.register(Mine(config, sys.stdout), "terminalreporter")
        """,
    )
    project.write("test_it.py", FAILING)
    assert project.pytest(*DRY).verdict("test_lane")["blamed_ranks"] == [1]


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
