"""What a person sees of failures on terminals of several widths and with pytest's own options, by replays of drills."""

import re
import textwrap
from itertools import takewhile

import pytest

from tests.plugin.project import Project, Ran
from tests.plugin.replays import Replays


@pytest.fixture(scope="module")
def replays(tmp_path_factory: pytest.TempPathFactory) -> Replays:
    return Replays(Project(tmp_path_factory.mktemp("terminal") / "project"))


def section(ran: Ran, title: str) -> list[str]:
    """The lines below its title and above the next section's."""
    _, _, rest = ran.text.partition(f"= {title} =")
    return list(takewhile(lambda line: not line.startswith(("=", "-")), rest.splitlines()[1:]))


def summary(ran: Ran) -> list[str]:
    """pytest's short summary."""
    return [line for line in section(ran, "short test summary info") if line.startswith(("FAILED", "ERROR"))]


RAISES = "smoke_suites/drills/test_deaths.py::test_raise_before_a_collective"


def test_the_summary_line_keeps_code_rank_and_cause_at_80_columns(replays: Replays) -> None:
    """The node id alone nearly fills the line. Other tests' lines are pytest's own."""
    ran = replays.pytest("deaths-raise-before-a-collective", "test_ordinary.py", COLUMNS="80")
    own, ours = summary(ran)
    assert own == "FAILED test_ordinary.py::test_ordinary - assert 1 == 2"
    assert ours.startswith(f"FAILED {RAISES} - rank-death · rank 1 raised ValueError")
    assert len(ours) <= 160
    assert ran.text.count("short test summary info") == 1
    assert "2 failed in" in ran.text.splitlines()[-1]


def test_a_summary_of_lane_failures_alone_has_its_title(replays: Replays) -> None:
    ran = replays.pytest("deaths-raise-before-a-collective", COLUMNS="80")
    assert [line.partition(" · ")[0] for line in summary(ran)] == [f"FAILED {RAISES} - rank-death"]


def test_each_failure_has_its_line_where_the_terminal_lacks_characters(replays: Replays) -> None:
    """Of what can't be encoded pytest escapes ends of lines and colours, too."""
    options = {"COLUMNS": "80", "PYTHONIOENCODING": "ascii"}
    ran = replays.pytest("deaths-raise-before-a-collective", "--color=yes", **options)
    assert "\\n" not in ran.text
    assert "\\x1b" not in ran.text
    lines = re.sub(r"\x1b\[[0-9;]*m", "", ran.text).splitlines()
    assert [line.partition(" \\xb7 ")[0] for line in lines if line.startswith("FAILED")] == [
        f"FAILED {RAISES} - rank-death"
    ]


def test_a_summary_line_is_measured_as_it_is_written(replays: Replays) -> None:
    """What an ASCII terminal escapes takes more room."""
    drill = "deaths-raise-before-a-collective"
    (whole,) = summary(replays.pytest(drill, COLUMNS="400"))
    (line,) = summary(replays.pytest(drill, COLUMNS=str(len(whole)), PYTHONIOENCODING="ascii"))
    assert "\\xb7" in line
    assert len(line) <= len(whole)


@pytest.mark.parametrize(("options", "lines"), [(("-r", "E"), 0), (("--no-summary",), 0), (("-r", "f"), 1)])
def test_the_summary_has_what_was_asked_for(replays: Replays, options: tuple[str, ...], lines: int) -> None:
    ran = replays.pytest("deaths-raise-before-a-collective", *options, COLUMNS="80")
    assert len(summary(ran)) == lines


def test_a_summary_line_that_pytest_would_not_cut_is_pytest_s(replays: Replays) -> None:
    for variables, options in (({"COLUMNS": "400"}, ()), ({"COLUMNS": "80", "CI": "1"}, ()), ({}, ("-vv",))):
        (line,) = summary(replays.pytest("deaths-raise-before-a-collective", *options, **variables))
        assert line.endswith("; ranks 0,2-7 then waited in all_reduce #1"), line


def test_a_failure_is_one_line_with_tb_line(replays: Replays) -> None:
    """An error too, for which pytest itself writes none; files keep the whole text."""
    ran = replays.pytest("deaths-raise-before-a-collective", "--tb=line", "--junitxml=junit.xml")
    (line,) = section(ran, "FAILURES")
    assert line.startswith("smoke_suites/drills/test_deaths.py:31: rank-death · rank 1 raised ValueError")
    assert "evidence (+ seconds" in (replays.project.root / "junit.xml").read_text()
    _, line = section(replays.pytest("deaths-set-up-fails-while-others-wait", "--tb=line"), "ERRORS")
    assert line.startswith("smoke_suites/drills/test_deaths.py:")


@pytest.mark.parametrize("columns", [60, 80, 120, 200])
def test_a_text_is_as_wide_as_the_terminal_and_a_file_as_a_page(replays: Replays, columns: int) -> None:
    ran = replays.pytest("mismatches-wrong-operation", "--junitxml=junit.xml", COLUMNS=str(columns))
    shown = next(line for line in section(ran, "FAILURES") if line.startswith("next "))
    first = "make every rank issue the same collectives in the same order: look for branches on the rank and for loops"
    whole = f"{first} over sets, whose order differs between processes (--triage lets torch compare the collectives)"
    assert shown == "next     " + textwrap.wrap(whole, columns - 9)[0]
    assert f"next     {first} over\n         sets," in project_file(replays, "junit.xml")


def project_file(replays: Replays, name: str) -> str:
    return (replays.project.root / name).read_text()


def test_a_log_is_as_wide_as_a_page(replays: Replays) -> None:
    ran = replays.pytest("mismatches-wrong-operation")
    assert "and for loops over\n         sets, whose order" in ran.text


RED, BOLD, CYAN, RESET = "\x1b[31m", "\x1b[1m", "\x1b[36m", "\x1b[0m"


def test_the_blamed_rank_and_its_evidence_are_red(replays: Replays) -> None:
    ran = replays.pytest("deaths-raise-before-a-collective", "--color=yes")
    assert f"  0 wait   {RED}{BOLD}1 ✗ValueError{RESET}   2 wait   3 wait" in ran.text
    assert re.search(r"\n\x1b\[31m│ E +ValueError: rank 1 breaks on purpose\x1b\[0m\n", ran.text)
    assert re.search(r"\n\x1b\[31m  \+\d.\d\d s  rank 1 +report +raised ValueError", ran.text)
    assert f"\n         {CYAN}pytest -m h200x8" in ran.text


@pytest.mark.parametrize(("options", "variables"), [(("--color=no",), {}), ((), {"NO_COLOR": "1"}), ((), {})])
def test_nothing_is_coloured_against_the_user_s_word(
    replays: Replays, options: tuple[str, ...], variables: dict[str, str]
) -> None:
    """A file is not coloured either, whatever the terminal is."""
    ran = replays.pytest("deaths-raise-before-a-collective", *options, **variables)
    assert "\x1b" not in ran.text
    replays.pytest("deaths-raise-before-a-collective", "--color=yes", "--junitxml=junit.xml")
    assert "\x1b" not in project_file(replays, "junit.xml")
    assert "#x1B" not in project_file(replays, "junit.xml")


def test_a_short_text_has_cause_evidence_and_next_step_alone(replays: Replays) -> None:
    text = "\n".join(section(replays.pytest("deaths-raise-before-a-collective", "--tb=short"), "FAILURES"))
    assert [part in text for part in ("✗ValueError", "rank 1 raised", "evidence (", "next  ")] == [True] * 4
    assert "\nconsequences\n" not in text
