"""What a code review sees: GitHub's workflow commands by its own rules, and a summary that Markdown can't bend."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_megacpp.judge.verdicts import Code, Evidence, Outcome, Verdict, Witness
from pytest_megacpp.recording import events as ev
from pytest_megacpp.recording.numbers import Numbers
from pytest_megacpp.recording.vocabulary import StackMethod, Stage, Stream, TestEnd
from pytest_megacpp.report.annotations import Annotation, code_quality, summary, workflow_commands
from pytest_megacpp.report.brief import blamed_line, details
from tests.report.story import NODEID, Story, killed, result

DUMP = 'Thread 0x7f01 (most recent call first):\n  File "{}", line {} in work\n  File "{}", line 9 in test_step\n'


def test_a_command_names_file_line_and_title() -> None:
    lines = workflow_commands([Annotation("suite/test_step.py::test_step", "rank 3 died", "suite/train.py", 31)])
    assert lines == ["::error file=suite/train.py,line=31,title=suite/test_step.py%3A%3Atest_step::rank 3 died"]


def test_nothing_that_a_rank_wrote_is_read_as_a_command() -> None:
    evil = "100 %, done\r\n::warning::x"
    (line,) = workflow_commands([Annotation("t,itle: %\n", evil, "a,b:c.py", 1)])
    assert line == "::error file=a%2Cb%3Ac.py,line=1,title=t%2Citle%3A %25%0A::100 %25, done%0D%0A::warning::x"


@given(st.text(), st.text(), st.text(min_size=1))
def test_any_text_stays_in_its_own_command_and_can_be_read_back(title: str, message: str, file: str) -> None:
    (line,) = workflow_commands([Annotation(title, message, file, 7)])
    assert "\n" not in line
    assert "\r" not in line
    said, _, data = line.removeprefix("::error ").partition("::")
    fields = dict(part.split("=", 1) for part in said.split(","))
    assert (_read(fields["file"]), _read(fields.get("title", "")), _read(data)) == (file, title, message)


def _read(escaped: str) -> str:
    for code, char in (("%2C", ","), ("%3A", ":"), ("%0A", "\n"), ("%0D", "\r"), ("%25", "%")):
        escaped = escaped.replace(code, char)
    return escaped


def test_an_annotation_without_a_place_has_none() -> None:
    assert workflow_commands([Annotation("gate", "nothing ran")]) == ["::error title=gate::nothing ran"]


def test_more_than_github_shows_are_counted() -> None:
    lines = workflow_commands([Annotation(str(n), "x") for n in range(25)])
    assert len(lines) == 10
    assert lines[-1] == "::error title=lane tests::16 more failures: see the log"


def test_a_rank_that_raised_is_annotated_where_it_did() -> None:
    story = Story()
    story.raises(2, 11.0)
    verdict = Verdict(Code.TEST_FAILED, "rank 2 raised", (2,), "exception")
    assert blamed_line(result(verdict), story.timeline) == ("suite/test_step.py", 31)


@pytest.mark.parametrize(
    ("cwd", "files", "place"),
    [
        ("/repo", ("/repo/suite/load.py", "/repo/suite/test_step.py"), ("suite/load.py", 88)),
        ("/repo", ("/usr/lib/python3/site-packages/torch/x.py", "/repo/suite/test_step.py"), ("suite/test_step.py", 9)),
        ("/elsewhere", ("/repo/suite/load.py", "/repo/suite/test_step.py"), None),
        ("", ("/repo/suite/load.py", "/repo/suite/test_step.py"), None),
    ],
)
def test_a_straggler_is_annotated_where_it_stood(
    cwd: str, files: tuple[str, str], place: tuple[str, int] | None
) -> None:
    story = Story()
    assert story.timeline.started is not None
    story.timeline.started = replace(story.timeline.started, cwd=cwd)
    story.box(2.0, ev.RankReady(1, 7, "0x7f01"), source="rank 1")
    story.box(12.0, ev.StackTaken(1, 0, StackMethod.TRACEBACK, True, DUMP.format(files[0], 88, files[1])))
    verdict = Verdict(Code.STRAGGLER, "rank 1 was elsewhere", (1,))
    assert blamed_line(result(verdict), story.timeline) == place


def test_a_crash_is_annotated_where_its_dump_says() -> None:
    """Most recent call first, libraries left out; what looks like a dump in other words is none."""
    dump = '  File "/venv/lib/python3.11/site-packages/numpy/x.py", line 2 in f\n'
    dump += '  File "/repo/suite/load.py", line 5 in g\n'
    dump += '  File "/repo/suite/test_step.py", line 9 in test_step\n'
    for first, place in (("Fatal Python error: Segmentation fault", ("suite/load.py", 5)), ("words", None)):
        story, judged = killed()
        assert story.timeline.started is not None
        story.timeline.started = replace(story.timeline.started, cwd="/repo")
        story.prints(3, 22.0, f"{first}\n\n{dump}", Stream.STDERR)
        assert blamed_line(judged, story.timeline) == place


def test_a_test_that_never_began_has_no_line() -> None:
    story = Story(released=False)
    assert blamed_line(result(Verdict(Code.BLOCKED, "refused")), story.timeline) is None


IMPORT = """ImportError while importing test module '/repo/suite/test_step.py'.
Traceback:
/usr/lib/python3.11/importlib/__init__.py:126: in import_module
    return _bootstrap._gcd_import(name[level:], package, level)
suite/test_step.py:6: in <module>
    import kernels
E   ModuleNotFoundError: No module named 'kernels'"""
NATIVE = """Traceback (most recent call last):
  File "/repo/suite/conftest.py", line 12, in <module>
    import kernels
  File "/usr/lib/python3.11/site-packages/kernels.py", line 1, in <module>
ModuleNotFoundError: No module named 'compiled'"""
SYNTAX = """/venv/lib/python3.11/site-packages/_pytest/python.py:507: in importtestmodule
    mod = import_path(
E     File "/repo/suite/test_step.py", line 41
E       def f(:
E   SyntaxError: invalid syntax"""


@pytest.mark.parametrize(
    ("traceback", "place"),
    [
        (IMPORT, ("suite/test_step.py", 6)),
        (NATIVE, ("suite/conftest.py", 12)),
        (SYNTAX, ("suite/test_step.py", 41)),
        ("suite/test_step.py:99999999999999999999: in x\nE   no", None),
        ("words: 7: more", None),
        ("Experiments/a.py:3: in x", ("Experiments/a.py", 3)),
        ("E" * 200_000, None),
        (" .py" * 50_000, None),
    ],
)
@pytest.mark.parametrize("is_broken", [False, True])
def test_a_file_that_cannot_be_imported_is_annotated_where_it_fails(
    traceback: str, place: tuple[str, int] | None, is_broken: bool
) -> None:
    """Whether pytest collected an error, or a conftest kept it from collecting at all."""
    story = Story(released=False)
    assert story.timeline.started is not None
    story.timeline.started = replace(story.timeline.started, cwd="/repo")
    error = ev.CollectError("suite/test_step.py", traceback)
    collected = ev.RankCollected(1, Numbers(()), "", (error,))
    broken = ev.RankBroken(1, Stage.CONFTEST, "ImportError", "no", traceback)
    story.rank(3.0, broken if is_broken else collected)
    story.box(4.0, ev.TestEnded(0, TestEnd.NOT_RUN, "collection"))
    verdict = Verdict(Code.STARTUP_FAILURE, "suite/test_step.py does not import on rank 1", (1,), "import")
    assert blamed_line(result(verdict), story.timeline) == place
    assert details(result(verdict), story.timeline) == ([f"at {place[0]}:{place[1]}"] if place else [])


def test_last_words_complete_the_headline() -> None:
    """Of many lines the first and the last ones."""
    story, judged = killed()
    words = "terminate called\n" + "\n".join(f"line {n}" for n in range(9))
    story.prints(3, 22.0, words, Stream.STDERR)
    assert details(judged, story.timeline) == [f"rank 3 wrote: {w}" for w in ("terminate called", "line 7", "line 8")]


def test_both_lines_of_a_mismatch_complete_the_headline() -> None:
    called = (
        Evidence(0, 11.0, Witness.STACK, "all_reduce #1 is called at a.py:45 (f)"),
        Evidence(3, 11.0, Witness.STACK, "all_reduce #1 is called at a.py:45 (f)"),
        Evidence(2, 11.0, Witness.REPORT, "broadcast #1 is called at a.py:43 (f)"),
        Evidence(2, 11.0, Witness.FLIGHT_RECORDER, "issued broadcast"),
    )
    verdict = Verdict(Code.COLLECTIVE_MISMATCH, "rank 2 differs", (2,), "operation", evidence=called)
    assert details(result(verdict), Story().timeline) == [
        "ranks 0,3: all_reduce #1 is called at a.py:45 (f)",
        "rank 2: broadcast #1 is called at a.py:43 (f)",
    ]


def test_what_the_headline_says_is_not_said_again() -> None:
    evidence = (Evidence(1, 11.0, Witness.STACK, "is in a.py:4 (load)"),)
    verdict = Verdict(Code.STRAGGLER, "rank 1 was in a.py:4 (load)", (1,), evidence=evidence)
    assert details(result(verdict), Story().timeline) == []


def test_gitlab_s_issues_have_a_place_and_a_lasting_fingerprint() -> None:
    first = Annotation("a.py::test", "rank 1 died\nrank 1 wrote: no\x1b[31m space", "a.py", 0)
    (issue,) = code_quality([first, Annotation("gate", "nothing ran")])
    assert issue == {
        "description": "a.py::test: rank 1 died; rank 1 wrote: no space",
        "check_name": "megacpp",
        "fingerprint": issue["fingerprint"],
        "severity": "major",
        "location": {"path": "a.py", "lines": {"begin": 1}},
    }
    (later,) = code_quality([replace(first, message="rank 1 died after 3 s", line=9)])
    assert later["fingerprint"] == issue["fingerprint"]


def test_the_summary_has_a_small_table_of_ranks() -> None:
    story, judged = killed()
    passed = replace(judged, outcome=Outcome.PASSED)
    text = summary("h200x8 on H200:8", [judged, passed], story.timeline, notes=["run r1, 23 s"])
    assert (
        text
        == """\
### ✗ h200x8 on H200:8: 1 passed, 1 failed

- run r1, 23 s

**suite/test\\_step.py::test\\_step\\[a\\]**<br>
rank-death · rank 3 was killed by SIGKILL; 7 ranks then waited in all\\_reduce #7<br>
certain · cause signal:SIGKILL · lane h200x8, 8 ranks · dry run (CPU/gloo: says nothing about GPUs)

- rank 3 wrote: Fatal Python error: Aborted

| ranks | |
|---|---|
| ✗ rank 3 | died (SIGKILL) |
| ranks 0-2,4-7 | waiting in all\\_reduce #7 |
"""
    )


def test_a_green_summary_is_short() -> None:
    story = Story(2)
    for rank in (0, 1):
        story.passes(rank, 11.0)
    green = result(Verdict(Code.PASSED, "2 ranks passed"), Outcome.PASSED)
    assert summary("h200x8", [green], story.timeline) == "### ✓ h200x8: 1 passed\n"
    assert summary("h200x8", [], story.timeline) == "### – h200x8: nothing ran\n"


def test_a_summary_is_not_green_without_having_run_or_against_a_gate() -> None:
    story = Story(2)
    skipped = result(Verdict(Code.SKIPPED, "2 ranks skipped"), Outcome.SKIPPED)
    assert summary("h200x8", [skipped], story.timeline) == "### – h200x8: 1 skipped\n"
    green = result(Verdict(Code.PASSED, "2 ranks passed"), Outcome.PASSED)
    said = summary("h200x8", [green], story.timeline, complaints=["a_b was selected, but never reported"])
    assert said == "### ✗ h200x8: 1 passed\n\n- ✗ a\\_b was selected, but never reported\n"


def test_many_failures_and_many_ranks_stay_readable() -> None:
    story, judged = killed(1024)
    text = summary("h200x8", [judged] * 60, story.timeline)
    assert "40 more failures: see the log" in text
    assert len(text) < 60_000


def test_markdown_of_a_rank_is_shown_not_obeyed() -> None:
    story = Story(1)
    evil = result(Verdict(Code.TEST_FAILED, "<img src=x> | `x` [a](http://b) **c**", (0,)))
    text = summary("lane", [replace(evil, nodeid=f"{NODEID}|<b>")], story.timeline)
    assert r"\<img src=x\> \| \`x\` \[a\](http://b) \*\*c\*\*" in text
    assert r"\|\<b\>" in text
