"""`timeline.html` as text: what it knows, how large it gets, and that nothing in it that a rank wrote is markup."""

import base64
import hashlib
import json
import re
from dataclasses import replace
from typing import Any

import pytest

from pytest_megacpp.judge.verdicts import Code, Outcome
from pytest_megacpp.recording import events as ev
from pytest_megacpp.recording.timeline import fold
from pytest_megacpp.recording.vocabulary import ActReason, Purpose, StackMethod, Stage, Stream, TestEnd, WorldReason
from pytest_megacpp.recording.wire import read_all
from pytest_megacpp.report.page.data import KEPT_KEYS, STACK_LINES, TEXT_CHARS, page_data
from pytest_megacpp.report.page.html import html, in_a_script
from pytest_megacpp.report.page.timelines import Timelines
from pytest_megacpp.report.run_spans import run_spans
from tests.golden.build import CASES
from tests.golden.drills import cases
from tests.report.pages import HOSTILE, Elements, data_in, large, made_hostile, page_of, results
from tests.scenario import FakeBox

DRILLS = cases.load()
GOLDEN = {name: case().recording() for name, case in CASES.items()}
ENDED = ev.TestEnded(0, TestEnd.FINISHED)


def elements(page: bytes) -> Elements:
    reader = Elements()
    reader.feed(page.decode())
    return reader


def whom(wait: dict[str, Any]) -> str:
    return " and ".join(ranks for ranks, _ in wait["whom"])


def spans_in(data: dict[str, Any], world: int = 0) -> int:
    return sum(len(lane) // 5 for lane in data["worlds"][world]["lanes"])


@pytest.mark.parametrize("name", DRILLS)
def test_the_verdict_of_a_drill_is_in_its_page(name: str) -> None:
    page, expected = page_of(DRILLS[name].recording), DRILLS[name].expected
    (test,) = data_in(page)["tests"]
    assert test["code"] == expected.code
    assert expected.ranks is None or tuple(test["blamed"]) == expected.ranks
    assert expected.cause is None or test["cause"] == expected.cause
    assert Code(test["code"]).is_green or test["next"]


@pytest.mark.parametrize("name", GOLDEN)
def test_texts_of_ranks_are_no_markup_whatever_they_say(name: str) -> None:
    """The page has the same elements and attributes as any other, and its policy is there before its first script."""
    page = page_of(made_hostile(GOLDEN[name]), added=HOSTILE)
    plain = page_of(GOLDEN[name])
    found, usual = elements(page), elements(plain)
    without_text = [entry for entry in found.found if entry[0] not in ("h2", "p", "b", "pre")]
    assert without_text == [entry for entry in usual.found if entry[0] not in ("h2", "p", "b", "pre")]
    assert page.count(b"<script") == 2
    assert page.count(b"</script") == 2
    assert b"<img" not in page
    assert data_in(page)["run"]["lane"].startswith("h200x8</script>")


def test_the_policy_lets_the_page_s_own_script_and_style_run_and_nothing_else() -> None:
    page = page_of(GOLDEN["passed"]).decode()
    policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]*)"', page)
    assert policy is not None
    rules = dict(rule.split(" ", 1) for rule in policy[1].replace("&#39;", "'").split("; "))
    style, script = re.search(r"<style>(.*?)</style>", page, re.S), re.search(r"<script>(.*?)</script>", page, re.S)
    assert style is not None
    assert script is not None
    assert rules["default-src"] == "'none'"
    assert rules["script-src"] == f"'sha256-{_digest(script[1])}'"
    assert rules["style-src"] == f"'sha256-{_digest(style[1])}'"
    assert page.index("Content-Security-Policy") < page.index("<style>") < page.index("<script")


def _digest(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def test_nothing_is_loaded_from_anywhere() -> None:
    reader = elements(page_of(GOLDEN["passed"]))
    assert not [a for a in reader.attributes if {"src", "href", "action", "data", "srcset"} & a.keys()]


def test_the_script_makes_no_markup_of_texts() -> None:
    """What turns a text into elements or code has no place in it."""
    script = page_of(GOLDEN["passed"]).decode().rpartition("<script>")[2]
    making = ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "new Function", "fetch(")
    assert not [name for name in making if name in script]


def test_data_in_a_script_can_not_end_it() -> None:
    text = in_a_script({"a": HOSTILE, "b": "\ud800 <!--<script>"})
    assert not re.search("[<>&\u2028\u2029]", text)
    assert json.loads(text)["a"] == HOSTILE


def test_no_secret_gets_into_the_page() -> None:
    secret = "hf_" + "aBcDeFgHiJ" * 4
    box = (
        FakeBox(2, tests=(f"t.py::test[{secret}]",))
        .begins()
        .phase(secret)
        .enters((0, 1), f"gloo:{secret}", group=secret)
    )
    box.writes(1, f"token {secret}\n").writes(0, secret, Stream.STDOUT).rank(ev.Recorded(0, 0, secret, secret))
    box.raises(1, "ValueError", secret, traceback=f"E  {secret}").box(ev.TestEnded(0, TestEnd.ABORTED, secret))
    assert secret.encode() not in page_of(box.recording())


def test_a_click_finds_stack_error_and_ends_of_logs_of_a_rank() -> None:
    box = FakeBox(2).begins().raises(1, message="no shards").writes(1, "one\ntwo\nlast words\n").after(1)
    data = data_in(page_of(box.box(ev.TestEnded(0, TestEnd.ABORTED)).recording()))
    rank = data["tests"][0]["ranks"]["1"]
    assert "no shards" in rank["error"]
    assert rank["stderr"].endswith("last words")


def test_of_a_stack_that_is_too_long_the_calls_of_the_main_thread_stay() -> None:
    threads = [
        "\n".join([f"Thread 0x{number} (most recent call first):", *(f'  File "/a.py", line {n} in f' for n in frames)])
        for number, frames in ((1, range(1, 50)), (2, range(50, 150)))
    ]
    box = FakeBox(2).begins().after(1)
    box.box(ev.StackTaken(1, 0, StackMethod.TRACEBACK, True, "\n\n".join(threads))).raises(1).after(1)
    data = data_in(page_of(box.box(ev.TestEnded(0, TestEnd.ABORTED)).recording()))
    lines = data["tests"][0]["ranks"]["1"]["stack"].split("\n")
    assert lines[1] == '  File "/a.py", line 50 in f'
    assert lines[STACK_LINES - 1] == f'  File "/a.py", line {48 + STACK_LINES} in f'
    assert lines[STACK_LINES:] == [f"… {101 + 1 + 50 - STACK_LINES} lines cut …"]


def test_what_ranks_said_before_any_test_is_their_world_s() -> None:
    box = FakeBox(2, tests=("a.py::test_a", "b.py::test_b")).starts_world().readies(0)
    box.rank(ev.RankBroken(1, Stage.IMPORT, "ImportError", "no numpy", "E  ImportError: no numpy")).after(1)
    box.box(ev.OutputRead(1, None, Stream.STDERR, "last words\n")).exits(1, 1)
    data = data_in(page_of(box.recording()))
    assert data["worlds"][0]["ranks"]["1"] == {"error": "E  ImportError: no numpy", "stderr": "last words"}
    assert [test["ranks"] for test in data["tests"]] == [{}, {}]


def test_worlds_that_a_recording_only_claims_cost_nothing() -> None:
    box = FakeBox(2).begins().passes().box(ENDED)
    for number in range(2000):
        box.say(ev.WorldStarted(8192, WorldReason.NEXT), world=f"claimed{number}")
    assert len(page_of(box.recording())) < 1_000_000


def test_a_green_test_has_its_lanes_records_and_graph_keys() -> None:
    box = FakeBox(2).begins().rank(ev.Recorded(0, 0, "loss", 0.25))
    keys = {"inductor": tuple(f"key{n}" for n in range(2 * KEPT_KEYS))}
    box.rank(ev.Compiled(0, 0, 1.5, 2, 3, 4, keys)).passes().box(ENDED)
    data = data_in(page_of(box.recording()))
    (test,) = data["tests"]
    assert (test["code"], test["green"], test["attempts"][0]["world"]) == ("passed", True, 0)
    assert test["ranks"]["0"]["records"] == {"loss": "0.25"}
    assert test["ranks"]["0"]["compiled"] == "1.50 s, 2 graphs, cache: 3 hits, 4 misses"
    assert test["ranks"]["0"]["keys"]["inductor"] == [
        *(f"key{n}" for n in range(KEPT_KEYS)),
        f"… {KEPT_KEYS} more in the receipt",
    ]
    assert spans_in(data) > 0


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("hang-in-a-collective", [("ranks 0-3", "", True)]),
        ("straggler-frozen-inside", [("ranks 0,1,3", "rank 2", False)]),
        ("collective-mismatch-operation", [("ranks 0,1,3", "", False), ("rank 2", "", False)]),
    ],
)
def test_all_members_came_to_a_wait_only_where_all_of_them_are_in_it(
    name: str, said: list[tuple[str, str, bool]]
) -> None:
    (test,) = data_in(page_of(GOLDEN[name]))["tests"]
    assert [(wait["ranks"], whom(wait), wait["all_came"]) for wait in test["waits"]] == said


@pytest.mark.parametrize(
    "drill",
    [
        "test_others_give_up_waiting",
        "test_comes_when_the_others_have_given_up",
        "test_process_group_is_destroyed_on_one_rank",
    ],
)
def test_a_wait_has_the_number_that_the_verdict_has(drill: str) -> None:
    (test,) = data_in(page_of(DRILLS[f"smoke_suites/drills/test_stalls.py::{drill}"].recording))["tests"]
    assert [wait["waited"] for wait in test["waits"]] == re.findall(r"waited ([\d.]+ s)", test["summary"])


def test_a_group_whose_members_are_not_known_is_not_said_to_be_complete() -> None:
    box = FakeBox(4).begins().enters((0, 1), group="pair").after(31)
    box.box(ev.Acted(0, ActReason.STALL, "all_reduce #1", (0, 1), (), (), 31.0))
    (test,) = data_in(page_of(box.box(ev.TestEnded(0, TestEnd.ABORTED, "stall")).recording()))["tests"]
    assert [(wait["ranks"], wait["all_came"]) for wait in test["waits"]] == [("ranks 0,1", False)]


def test_what_the_recording_lacks_is_said_at_the_top() -> None:
    box = FakeBox(2).begins().passes().box(ENDED)
    whole = box.recording()
    lines = whole.splitlines(keepends=True)
    page = page_of(b"".join(lines[:-8] + lines[-5:]) + b"{broken\n")
    assert b'id="holes"' not in page_of(whole)
    assert data_in(page)["run"]["holes"] == "3 events of the recording lost; 1 line of the recording unreadable"
    assert b'<p id="holes">3 events of the recording lost; 1 line of the recording unreadable</p>' in page


def test_a_drill_that_went_as_expected_is_fine_though_its_verdict_is_not_green() -> None:
    run = results(fold(read_all(GOLDEN["straggler"])))
    passed = {index: replace(result, outcome=Outcome.PASSED) for index, result in run.judged.items()}
    run = replace(run, judged=passed)
    page = html(page_data(run, run_spans(run.timeline, run.judged)))
    (test,) = data_in(page)["tests"]
    assert (test["fine"], test["green"], test["code"]) == (True, False, "straggler")
    assert b"0 failed" in page
    assert f"<title>{run.status} · run-1</title>".encode() in page
    assert test["waits"]


MISSED = "expected verdict hang, got passed"


def test_a_drill_that_failed_says_what_it_missed_though_its_verdict_is_green() -> None:
    run = results(FakeBox(2).begins().passes().ends().done().timeline())
    missed = {index: replace(result, outcome=Outcome.FAILED, missed=MISSED) for index, result in run.judged.items()}
    run = replace(run, judged=missed)
    page = html(page_data(run, run_spans(run.timeline, run.judged)))
    (test,) = data_in(page)["tests"]
    assert (test["fine"], test["green"], test["code"], test["missed"]) == (False, True, "passed", MISSED)
    assert f"<title>{MISSED} · run-1</title>".encode() in page


def test_without_scripts_a_failure_is_there_though_many_drills_went_as_expected() -> None:
    box = FakeBox(2, tests=[f"t.py::test_{number}" for number in range(30)])
    for number in range(30):
        box.begins(number).raises(1).after(1).box(ev.TestEnded(number, TestEnd.ABORTED))
    run = results(box.timeline())
    passed = {n: replace(r, outcome=r.outcome if n == 29 else Outcome.PASSED) for n, r in run.judged.items()}
    run = replace(run, judged=passed)
    page = html(page_data(run, run_spans(run.timeline, run.judged)))
    assert b"<h2>t.py::test_29</h2>" in page


def test_each_attempt_has_its_own_place_in_a_world() -> None:
    box = FakeBox(2).begins().raises(1).box(ev.TestEnded(0, TestEnd.ABORTED)).tries(Purpose.DIAGNOSTIC)
    data = data_in(page_of(box.passes().box(ev.TestEnded(1, TestEnd.FINISHED)).recording()))
    attempts = data["tests"][0]["attempts"]
    assert [attempt["purpose"] for attempt in attempts] == ["measured", "diagnostic"]
    assert sum(attempt["decides"] for attempt in attempts) == 1
    assert all(attempt["world"] == 0 and attempt["start_s"] is not None for attempt in attempts)


def test_eight_ranks_of_twenty_thousand_spans_fit_five_megabytes_and_say_what_is_missing() -> None:
    recording = large(40, 8, 500, absent=5).recording()
    page = page_of(recording)
    data = data_in(page)
    assert len(page) < 5_000_000
    shown = spans_in(data)
    assert shown + data["run"]["spans_left_out"] > 8 * 20_000
    assert shown > 80_000
    red = [test for test in data["tests"] if not test["green"]]
    assert [test["blamed"] for test in red] == [[5]]
    assert red[0]["waits"][0]["ranks"] == "ranks 0-4,6,7"


def test_a_thousand_ranks_are_grouped_and_fit_as_well() -> None:
    page = page_of(large(1, 1024, 40, absent=513).recording())
    (test,) = data_in(page)["tests"]
    assert len(page) < 5_000_000
    assert len(test["states"]) < 10
    assert test["blamed"] == [513]


def test_blamed_ranks_are_not_grouped_with_others_in_the_same_state() -> None:
    box = FakeBox(32).begins()
    for rank in range(32):
        box.raises(rank, message="no shards")
    run = results(box.after(1).box(ev.TestEnded(0, TestEnd.ABORTED)).timeline())
    blamed = replace(run.judged[0], verdict=replace(run.judged[0].verdict, blamed_ranks=(20,)))
    run = replace(run, judged={0: blamed})
    (test,) = data_in(html(page_data(run, run_spans(run.timeline, run.judged))))["tests"]
    assert [who for who, _, _ in test["states"]] == ["rank 20", "ranks 0-19,21-31"]


def test_texts_of_all_ranks_share_one_budget_and_the_blamed_come_first() -> None:
    box = FakeBox(64).begins()
    for rank in range(64):
        box.writes(rank, "\n".join("x" * 390 for _ in range(200)))
    box.raises(63, traceback="\n".join("y" * 390 for _ in range(60))).after(1)
    page = page_of(box.box(ev.TestEnded(0, TestEnd.ABORTED)).recording())
    ranks = data_in(page)["tests"][0]["ranks"]
    assert len(page) < 2 * TEXT_CHARS
    assert ranks["63"]["error"].startswith("y")


def test_trace_and_page_are_written_when_a_run_ends() -> None:
    run = results(fold(read_all(GOLDEN["straggler"])))
    written = {path: content for artefact in Timelines().ended(run) for path, content in artefact.files}
    assert list(written) == ["trace.json", "timeline.html"]
    page = written["timeline.html"]
    assert isinstance(page, bytes)
    assert page.startswith(b"<!doctype html>")
