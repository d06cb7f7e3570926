"""What a code review sees: GitHub's workflow commands by its own rules, and a summary that Markdown can't bend."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_megacpp.judge.verdicts import Code, Outcome, Verdict
from pytest_megacpp.recording import events as ev
from pytest_megacpp.recording.vocabulary import StackMethod
from pytest_megacpp.report.annotations import Annotation, blamed_line, summary, workflow_commands
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
    told, _, data = line.removeprefix("::error ").partition("::")
    fields = dict(part.split("=", 1) for part in told.split(","))
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


def test_a_test_that_never_began_has_no_line() -> None:
    story = Story(released=False)
    assert blamed_line(result(Verdict(Code.BLOCKED, "refused")), story.timeline) is None


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
rank-death · rank 3 was killed by SIGKILL; 7 ranks then waited in all\\_reduce #7

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
    told = summary("h200x8", [green], story.timeline, complaints=["a_b was selected, but never reported"])
    assert told == "### ✗ h200x8: 1 passed\n\n- ✗ a\\_b was selected, but never reported\n"


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
