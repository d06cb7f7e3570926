import re
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_megacpp.judge.next_steps import Commands, fill
from pytest_megacpp.judge.verdicts import Certainty, Code, Consequence, Evidence, Outcome, TestResult, Verdict, Witness
from pytest_megacpp.recording import events as ev
from pytest_megacpp.recording.events import Limits
from pytest_megacpp.recording.numbers import Numbers
from pytest_megacpp.recording.vocabulary import (
    ActReason,
    ReportOutcome,
    StackMethod,
    Stage,
    Stream,
    TestEnd,
    TestPhase,
    WarmUp,
)
from pytest_megacpp.report.text import Whereabouts, failure_text, headline, headlines
from tests.report.story import NODEID, Story, killed, result
from tests.steps import all_steps


def shown(story: Story, judged: TestResult, receipt: str | None = "r.json") -> str:
    return failure_text(judged, story.timeline, Whereabouts("h200x8", receipt=receipt))


def test_a_killed_rank_reads_from_cause_to_next_step() -> None:
    assert (
        shown(*killed())
        == """\
rank-death · rank 3 was killed by SIGKILL; 7 ranks then waited in all_reduce #7
  certain · cause signal:SIGKILL · lane h200x8, 8 ranks · dry run (CPU/gloo: says nothing about GPUs)

  0 wait   1 wait   2 wait   3 ✗SIGKILL   4 wait   5 wait   6 wait   7 wait
  ranks 0-2,4-7 waiting in all_reduce #7

rank 3 wrote last
│ Fatal Python error: Aborted

evidence (+ seconds since the test began)
   +1.00 s  ranks 0-2,4-7  flight-recorder  entered all_reduce #7
  +12.31 s  rank 3         exit             SIGKILL, not killed for memory
            box            plan             8 ranks were asked for

consequences
  ranks 0-2,4-7: waited 11.31 s in all_reduce #7 of group 0

last line of each rank's output
  ranks 0-2,4-7 │ step 7 loss 0.31

next     look at what rank 3 did last:
         pytest -m h200x8 'suite/test_step.py::test_step[a]'
receipt  r.json"""
    )


@pytest.mark.parametrize("ranks", [64, 1024])
def test_many_ranks_read_the_same(ranks: int) -> None:
    text = shown(*killed(ranks))
    assert f"  ranks 0-2,4-{ranks - 1} waiting in all_reduce #7 · ✗ rank 3 died (SIGKILL)\n" in text
    assert len(text.splitlines()) == 22
    assert max(map(len, text.splitlines())) <= 120


def test_the_blamed_are_named_once_and_first() -> None:
    verdict = Verdict(Code.STRAGGLER, "asleep in train.py:31 while 3 ranks waited", (1,))
    assert headline(verdict) == "straggler · rank 1: asleep in train.py:31 while 3 ranks waited"
    assert headline(replace(verdict, summary="rank 1 slept")) == "straggler · rank 1 slept"
    assert headline(replace(verdict, summary="no result of rank 1")) == "straggler · no result of rank 1"
    assert headline(replace(verdict, summary="rank 12 slept")) == "straggler · rank 1: rank 12 slept"
    assert headline(replace(verdict, summary="ranks disagree", blamed_ranks=())) == "straggler · ranks disagree"
    assert headline(replace(verdict, summary="")) == "straggler · rank 1"


@pytest.mark.parametrize(
    ("summary", "cause", "beginnings"),
    [
        (
            "rank 1 raised ValueError: no shards (a.py:3); rank 0 then waited in all_reduce #2",
            "exception",
            [
                "rank-death · rank 1 raised ValueError: no shards (a.py:3)",
                "rank-death · rank 1 raised ValueError: no shards",
                "rank-death · rank 1 raised ValueError",
                "rank-death · rank 1 · exception",
            ],
        ),
        (
            "ranks 0,2 gave up (a; b); rank 1 slept (in a.py",
            None,
            ["rank-death · ranks 0,2 gave up (a; b); rank 1 slept"],
        ),
        ("rank 1 died", "exit:3", []),
    ],
)
def test_a_headline_is_shortened_at_its_clauses(summary: str, cause: str | None, beginnings: list[str]) -> None:
    """Never before the blamed ranks, nor within parentheses; without a cause the ranks alone would say nothing."""
    verdict = Verdict(Code.RANK_DEATH, summary, (1,), cause)
    assert headlines(verdict) == [headline(verdict), *beginnings]


def test_the_blamed_rank_s_traceback_is_shown_in_full() -> None:
    story = Story()
    story.raises(3, 12.0)
    story.raises(1, 12.5, "Connection closed by peer", "RuntimeError")
    verdict = Verdict(Code.RANK_DEATH, "rank 3 raised ValueError: no shards", (3,), "exception")
    text = shown(story, result(verdict))
    assert 'rank 3 raised\n│ suite/test_step.py:31: in test_step\n│     raise ValueError("no shards")\n│ E' in text
    assert "│ E   RuntimeError" not in text
    assert "1 RuntimeError" in text
    assert "3 ✗ValueError" in text


NATIVE = """Traceback (most recent call last):
  File "/venv/lib/python3.11/site-packages/_pytest/runner.py", line 361, in from_call
    result: TResult | None = func()
                             ^^^^^^
  File "/venv/lib/python3.11/site-packages/pytest_megacpp/rank/session.py", line 286, in pytest_runtest_call
    yield
  File "/repo/pluggy_model/test_step.py", line 21, in test_step
    check(
  File "/repo/helpers.py", line 8, in check
    raise ValueError("no shards")
ValueError: no shards

During handling of the above exception, another exception occurred:

Traceback (most recent call last):
  File "/venv/lib/python3.11/site-packages/pluggy/_callers.py", line 103, in _multicall
    res = hook_impl.function(*args)
  File "/repo/helpers.py", line 9, in check
    raise KeyError(1)
KeyError: 1
"""


def test_a_native_traceback_is_without_the_frames_of_the_runner() -> None:
    story = Story()
    error = ev.Error("KeyError", "1", "/repo/helpers.py", 9, NATIVE)
    story.rank(12.0, ev.Reported(3, 0, TestPhase.CALL, ReportOutcome.FAILED, 1.0, error))
    text = shown(story, result(Verdict(Code.RANK_DEATH, "rank 3 raised KeyError: 1", (3,), "exception")))
    quoted = [line.removeprefix("│").removeprefix(" ") for line in text.splitlines() if line.startswith("│")]
    lines = NATIVE.splitlines()
    assert quoted == [lines[0], *lines[6:15], *lines[17:]]


def test_a_traceback_that_is_no_frame_s_is_kept_as_it_is() -> None:
    """Also one that takes long to read if a pattern tries again and again."""
    story = Story()
    text = '  File "' + "/_pytest/pluggy" * 20_000
    story.rank(
        12.0,
        ev.Reported(3, 0, TestPhase.CALL, ReportOutcome.FAILED, 1.0, ev.Error("KeyError", "1", "a.py", 9, text)),
    )
    shown_text = shown(story, result(Verdict(Code.RANK_DEATH, "rank 3 raised KeyError: 1", (3,), "exception")))
    assert '│   File "/_pytest/pluggy' in shown_text


def test_a_failure_while_warming_up_says_so() -> None:
    story = Story(warmup=WarmUp.RUNS)
    story.raises(3, 12.0)
    text = shown(story, result(Verdict(Code.TEST_FAILED, "rank 3 raised ValueError: no shards", (3,), "exception")))
    assert "\n  certain · cause exception · while warming up · lane h200x8, 4 ranks" in text


def test_ranks_that_raised_the_same_are_shown_once() -> None:
    story = Story()
    for rank in range(4):
        story.raises(rank, 12.0 + rank, f"{rank} is not 4", "AssertionError")
    text = shown(story, result(Verdict(Code.TEST_FAILED, "all 4 ranks raised AssertionError", (0, 1, 2, 3))))
    assert text.count("in test_step\n") == 1
    assert "ranks 0-3 raised (the text is the first one's)" in text


def test_a_living_rank_is_shown_where_it_stood() -> None:
    story = Story()
    story.rank(9.0, ev.RankReady(1, 100, "0x10"))
    dump = 'Thread 0x10 (most recent call first):\n  File "/repo/suite/train.py", line 31 in load\n'
    story.box(20.0, ev.StackTaken(1, 0, StackMethod.FAULTHANDLER, True, dump))
    story.box(20.0, ev.Sampled(1, 0, True, "S", (), 0.0, 1.0))
    text = shown(story, result(Verdict(Code.STRAGGLER, "rank 1 slept", (1,), certainty=Certainty.LIKELY)))
    assert "1 ✗busy" in text
    assert "✗ rank 1 at suite/train.py:31" in text
    assert "where rank 1 stood, most recent call first\n│ /repo/suite/train.py:31 in load" in text


def test_frames_of_the_plugin_s_wrappers_are_left_out() -> None:
    story = Story()
    story.rank(9.0, ev.RankReady(1, 100, "0x10"))
    site = "/venv/lib/python3.11/site-packages"
    frames = [
        f'File "{site}/pytest_megacpp/rank/native_calls.py", line 44 in wait',
        f'File "{site}/torch/distributed/distributed_c10d.py", line 3151 in broadcast',
        'File "/repo/suite/train.py", line 31 in load',
    ]
    dump = "\n  ".join(["Thread 0x10 (most recent call first):", *frames]) + "\n"
    story.box(20.0, ev.StackTaken(1, 0, StackMethod.TRACEBACK, True, dump))
    text = shown(story, result(Verdict(Code.STRAGGLER, "rank 1 slept", (1,), certainty=Certainty.LIKELY)))
    assert "call first\n│ /repo/suite/train.py:31 in load\n│ called from there:\n│   torch/distributed/" in text
    assert "native_calls" not in text


def test_a_rank_compiling_when_the_box_ended_it_is_shown_compiling() -> None:
    story = Story(2)
    story.box(12.0, ev.Sampled(1, 0, True, "R", ("dynamo_compile",), 1.0, 1.0))
    story.box(20.0, ev.Acted(0, ActReason.SKEW, "", (0,), (1,), (1,), 8.0))
    story.box(21.0, ev.RankExited(1, None, "SIGTERM", expected=True))
    assert "1 ✗compiling" in shown(story, result(Verdict(Code.COMPILE_SKEW, "rank 1 compiled", (1,))))


def test_ranks_that_failed_only_when_the_box_acted_are_shown_waiting() -> None:
    story = Story(2)
    story.waits(0, 11.0)
    story.box(20.0, ev.Acted(0, ActReason.STALL, "", (0,), (1,), (), 9.0))
    story.waits(0, 20.1, done=True)
    story.raises(0, 20.2, "aborted", "RuntimeError")
    assert "0 wait" in shown(story, result(Verdict(Code.STRAGGLER, "rank 1 slept", (1,))))


def test_ranks_that_only_lost_their_peer_are_shown_so() -> None:
    story, judged = killed(4)
    story = Story(4)
    story.box(12.0, ev.RankExited(3, 1))
    for rank in range(3):
        story.raises(rank, 12.1, f"Connection closed by peer [127.0.0.1]:{5000 + rank}", "RuntimeError")
    lost = tuple(Consequence(rank, f"RuntimeError: closed by peer :{5000 + rank}") for rank in range(3))
    text = shown(story, result(replace(judged.verdict, consequences=lost)))
    assert "0 lost peer   1 lost peer   2 lost peer   3 ✗exit 1" in text
    assert "ranks 0-2: RuntimeError: closed by peer :5000 (numbers differ)" in text
    story = Story(64)
    story.raises(5, 12.0, "closed", "RuntimeError")
    text = shown(story, result(replace(judged.verdict, consequences=(Consequence(5, "closed"),))))
    assert "rank 5 lost a peer (RuntimeError)" in text


def test_a_broken_start_shows_the_stage_and_the_error() -> None:
    story = Story(2, released=False)
    story.rank(5.0, ev.RankBroken(1, Stage.IMPORT, "ModuleNotFoundError", "No module named 'x'", "Traceback …"))
    verdict = Verdict(Code.STARTUP_FAILURE, "rank 1 could not import", (1,), "import", phase=TestPhase.SETUP)
    text = shown(story, result(verdict, Outcome.ERROR))
    assert "0 starting   1 ✗ModuleNotFoundError" in text
    assert "rank 1 raised in import\n│ Traceback …" in text
    assert "in setup" in text


def test_a_collection_error_is_shown() -> None:
    story = Story(1, released=False)
    errors = (ev.CollectError("suite/test_step.py", "E   SyntaxError"), ev.CollectError("other.py", "E   Other"))
    story.rank(5.0, ev.RankCollected(0, Numbers(), "d", errors))
    story.box(6.0, ev.TestEnded(0, TestEnd.NOT_RUN, ""))
    text = shown(story, result(Verdict(Code.STARTUP_FAILURE, "rank 0 could not collect", (0,), "collection")))
    assert "rank 0 could not collect suite/test_step.py\n│ E   SyntaxError" in text
    assert "Other" not in text


def test_failures_of_their_own_stand_apart() -> None:
    story, judged = killed(4)
    own = Consequence(2, "raised KeyError: 'x'", "exception")
    verdict = replace(judged.verdict, consequences=(*judged.verdict.consequences, own))
    assert "failures of their own\n  rank 2: raised KeyError: 'x' (cause exception)" in shown(story, result(verdict))


def test_texts_that_differ_in_numbers_only_are_grouped_when_there_are_many() -> None:
    story, judged = killed(64)
    texts = tuple(Consequence(rank, f"Connection closed by peer [127.0.0.1]:{5000 + rank}") for rank in range(64))
    text = shown(story, result(replace(judged.verdict, consequences=texts)))
    assert "  ranks 0-63: Connection closed by peer [127.0.0.1]:5000 (numbers differ)\n" in text


def test_incomplete_evidence_is_said() -> None:
    story, judged = killed(4)
    story.box(1.0, ev.Capability("py-spy", False, "not installed"))
    story.timeline.gaps.append(ev.Gap("rank 1", 3, 5))
    story.timeline.damaged.append(ev.Damaged(9, "torn last line"))
    verdict = replace(judged.verdict, certainty=Certainty.GUESS)
    said = (
        "incomplete evidence: no py-spy (not installed); 3 events of the recording lost; 1 line of the recording unread"
    )
    assert said in shown(story, result(verdict))


def test_many_lines_of_evidence_are_bounded() -> None:
    story, judged = killed(4)
    evidence = tuple(Evidence(1, 11.0 + n, Witness.COUNTERS, f"look {n}") for n in range(100))
    text = shown(story, result(replace(judged.verdict, evidence=evidence)))
    assert "look 13" in text
    assert "look 14" not in text
    assert "… 86 more lines in the receipt" in text


def test_what_ranks_share_at_different_times_shows_the_first_and_the_last() -> None:
    story, judged = killed(4)
    progress = tuple(Evidence(r, 11.0 + r * 3.0, Witness.COUNTERS, "last progress") for r in (0, 1))
    ended = tuple(Evidence(r, 20.0 + r / 2, Witness.BOX, "ended") for r in (0, 1))
    text = shown(story, result(replace(judged.verdict, evidence=progress + ended)))
    assert "+1.00 to +4.00 s  ranks 0,1  counters  last progress" in text
    assert "+10.00 s  ranks 0,1  box       ended" in text


def test_commands_are_never_broken() -> None:
    story, judged = killed(4)
    command = "pytest -m h200x8 " + "x" * 200
    assert f"next     {command}\n" in shown(story, result(replace(judged.verdict, next_step=command)))


@pytest.mark.parametrize("variables", ["A=1", "A=", "A_1='x y' b=2", "A=x'y z'"])
def test_a_command_with_variables_is_not_broken_either(variables: str) -> None:
    story, judged = killed(4)
    command = f"{variables} pytest -m h200x8 " + "x" * 100 + " y"
    assert f"next     {command}\n" in shown(story, result(replace(judged.verdict, next_step=command)))


def test_what_begins_as_a_command_with_many_variables_is_soon_seen_to_be_none() -> None:
    story, judged = killed(4)
    assert "A=1" in shown(story, result(replace(judged.verdict, next_step="A=1 " * 20_000 + "A='")))


@pytest.mark.parametrize("step", all_steps())
def test_the_commands_of_every_next_step_are_one_line_each(step: str) -> None:
    story, judged = killed(4)
    nodeid = f"test_model.py::test_step[{'long' * 20}]"
    assert len(nodeid) > 100
    command = Commands("run-1", "h200x8", nodeid, "local", True, 4, Limits(), hash_seed="7")
    said, *lines = fill(step, command, (1,), command.rerun("--cache-seed", "auto")).split("\n")
    text = shown(story, result(replace(judged.verdict, next_step="\n".join((said, *lines)))))
    assert all(f"\n         {line}\n" in f"{text}\n" for line in lines)


def test_without_a_world_there_is_still_a_text() -> None:
    story = Story(2, released=False)
    text = shown(story, result(Verdict(Code.NOT_RUN, "no rank came back", next_step="look at the log")), None)
    assert text == (
        "not-run · no rank came back\n"
        "  certain · lane h200x8 · dry run (CPU/gloo: says nothing about GPUs)\n\n"
        "next     look at the log"
    )


def test_what_ranks_wrote_can_t_act() -> None:
    evil = "\x1b[2J\x1b]0;owned\x07\u202e::error::x\r\x00"
    story = Story(2)
    story.raises(1, 12.0, evil, evil)
    story.prints(0, 12.0, evil)
    verdict = Verdict(
        Code.RANK_DEATH, evil, (1,), evil, evidence=(Evidence(1, 1.0, Witness.OUTPUT, evil),), next_step=evil
    )
    text = shown(story, result(replace(verdict, consequences=(Consequence(0, evil),))), evil)
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e]", text)
    assert not re.search("^ *::", text, re.MULTILINE)


TEXTS = st.text(max_size=30)
RANKS = st.integers(0, 5)
VERDICTS = st.builds(
    Verdict,
    code=st.sampled_from(Code),
    summary=TEXTS,
    blamed_ranks=st.lists(RANKS, max_size=4).map(tuple),
    cause=st.none() | TEXTS,
    certainty=st.sampled_from(Certainty),
    evidence=st.lists(
        st.builds(Evidence, st.none() | RANKS, st.none() | st.floats(0, 99), st.sampled_from(Witness), TEXTS)
    ).map(tuple),
    consequences=st.lists(st.builds(Consequence, RANKS, TEXTS, st.none() | TEXTS)).map(tuple),
    next_step=TEXTS,
)
FACTS = st.one_of(
    st.builds(ev.RankExited, RANKS, st.none() | st.integers(0, 3), st.none() | TEXTS, expected=st.booleans()),
    st.builds(
        ev.Sampled, RANKS, st.just(0), st.booleans(), st.sampled_from("RSDTZ"), st.just(()), st.just(0.0), st.just(0.0)
    ),
    st.builds(ev.StackTaken, RANKS, st.just(0), st.sampled_from(StackMethod), st.booleans(), TEXTS),
    st.builds(ev.OutputRead, RANKS, st.just(0), st.sampled_from(Stream), TEXTS),
    st.builds(ev.RankBroken, RANKS, st.sampled_from(Stage), TEXTS, TEXTS, TEXTS),
    st.builds(ev.Acted, st.just(0), st.sampled_from(ActReason), waiting=st.lists(RANKS).map(tuple)),
    st.builds(ev.PhaseStarted, RANKS, st.just(0), TEXTS),
    st.builds(ev.Finished, RANKS, st.just(0), st.booleans()),
)


@settings(max_examples=150, deadline=None)
@given(VERDICTS, st.lists(FACTS, max_size=12), st.booleans())
def test_any_verdict_over_any_recording_has_a_text(verdict: Verdict, facts: list[ev.Fact], released: bool) -> None:
    story = Story(4, released=released)
    for number, fact in enumerate(facts):
        story.box(11.0 + number, fact)
    text = shown(story, TestResult(0, NODEID, Outcome.FAILED, verdict))
    assert text.startswith(str(verdict.code))
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f]", text)


@pytest.mark.parametrize(
    ("code", "line"),
    [(Code.STRAGGLER, "flight   torchfrtrace 'my runs/flight/a' -p rank_"), (Code.RANK_DEATH, None)],
)
def test_a_verdict_on_collectives_names_torch_s_own_analyser(code: Code, line: str | None) -> None:
    story, judged = killed()
    judged = replace(judged, verdict=replace(judged.verdict, code=code))
    text = failure_text(judged, story.timeline, Whereabouts("h200x8", "r.json", "my runs/flight/a"))
    assert [reported for reported in text.split("\n") if "torchfrtrace" in reported] == ([line] if line else [])
