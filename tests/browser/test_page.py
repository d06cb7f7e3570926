"""`timeline.html` in a headless Chromium, as somebody opens it at night who has never seen one."""

import json
from dataclasses import replace
from functools import cache
from typing import Any

import pytest

from pytest_megacpp.judge.verdicts import Outcome
from pytest_megacpp.recording import events as ev
from pytest_megacpp.recording.vocabulary import ActReason, ProblemCode, Purpose, TestEnd
from pytest_megacpp.report.history.page import history_page
from pytest_megacpp.report.page.data import page_data
from pytest_megacpp.report.page.html import html
from pytest_megacpp.report.run_spans import run_spans
from tests.browser.conftest import Open
from tests.golden.build import CASES
from tests.golden.drills import cases
from tests.report.pages import HOSTILE, large, made_hostile, page_of, results
from tests.scenario import FakeBox

BEST = (
    "test_stalls.py::test_sleep_before_a_collective",
    "test_stalls.py::test_chain_of_waits",
    "test_deaths.py::test_rank_zero_is_killed_while_others_wait",
    "test_deaths.py::test_raise_in_a_late_step",
    "test_deaths.py::test_process_ends_itself_with_a_code",
    "test_mismatches.py::test_wrong_operation_among_eight",
    "test_compiling.py::test_first_forward_of_one_among_eight",
    "test_startup_import.py::test_not_importable_on_rank_1",
)
DRILLS = {name: drill for nodeid, drill in cases.load().items() for name in BEST if nodeid.endswith(name)}


@cache
def drill_page(name: str) -> bytes:
    return page_of(DRILLS[name].recording)


@cache
def golden_page(name: str) -> bytes:
    return page_of(CASES[name]().recording())


STRAGGLER = "test_stalls.py::test_sleep_before_a_collective"


def three_tests() -> bytes:
    """The second fails, after another attempt at it."""
    box = FakeBox(2, tests=("a.py::test_one", "b.py::test_two", "c.py::test_three")).begins().passes()
    box.box(ev.TestEnded(0, TestEnd.FINISHED)).begins(1).enters(0, seq=7).raises(1, message="no shards").after(1)
    box.box(ev.TestEnded(1, TestEnd.ABORTED)).begins(2).passes().box(ev.TestEnded(2, TestEnd.FINISHED))
    box.world_ready().tries(Purpose.DIAGNOSTIC, of=1).raises(1, message="no shards").after(1)
    return page_of(box.box(ev.TestEnded(3, TestEnd.ABORTED)).recording())


def text_of(page: Any, selector: str) -> str:
    text: str = page.locator(selector).inner_text()
    return " ".join(text.split())


def test_all_eight_drills_are_here() -> None:
    assert sorted(DRILLS) == sorted(BEST)


@pytest.mark.parametrize("name", BEST)
def test_a_stranger_reads_code_ranks_and_cause_first(open_page: Open, name: str) -> None:
    page, expected = open_page(drill_page(name)), DRILLS[name].expected
    assert text_of(page, "#code") == expected.code
    ranks = expected.ranks or ()
    assert text_of(page, "#blamed") == f"rank {ranks[0]}"
    assert text_of(page, "#verdict .lead").count(f"rank {ranks[0]}: rank {ranks[0]}") == 0
    assert expected.cause is None or expected.cause in text_of(page, "#verdict .facts >> nth=0")
    assert page.locator("#code").bounding_box()["y"] < 300
    blamed = [item.inner_text() for item in page.locator("#states .blamed").all()]
    assert [text.split()[:3] for text in blamed] == [["✗", "rank", str(ranks[0])]]
    assert text_of(page, "#next")
    assert page.title().startswith(f"{expected.code} · ")


def test_who_waits_for_whom_is_said_and_drawn(open_page: Open) -> None:
    page = open_page(drill_page(STRAGGLER))
    assert text_of(page, "#waits").startswith("ranks 0,2-7 waited 2.2 s in all_reduce #2 for rank 1")
    orange, of_rank_one = page.evaluate(
        """() => {
          const canvas = document.getElementById("lanes"), ratio = canvas.width / canvas.clientWidth;
          const context = canvas.getContext("2d"), lanes = canvas.lanes, wait = [240, 160, 32];
          const data = context.getImageData(0, 0, canvas.width, canvas.height).data;
          const share = (rank) => {
            const row = lanes.rowOf.get(rank), y = Math.round((row.y + row.h * 0.6) * ratio);
            let found = 0;
            for (let x = 0; x < canvas.width; x += 1) {
              const at = 4 * (y * canvas.width + x);
              found += wait.every((value, k) => Math.abs(data[at + k] - value) < 6);
            }
            return found / canvas.width;
          };
          return [share(0), share(1)];
        }"""
    )
    assert orange > 0.5
    assert of_rank_one == 0


def stall(name: str) -> bytes:
    drill = next(drill for nodeid, drill in cases.load().items() if nodeid.endswith(f"test_stalls.py::{name}"))
    return page_of(drill.recording)


def arrows(page: Any) -> dict[str, Any]:
    found: dict[str, Any] = page.evaluate("document.getElementById('lanes').lanes.arrowsShown()")
    return found


def test_an_arrow_begins_only_on_lanes_that_wait_where_it_is(open_page: Open) -> None:
    """Rank 0 gives up first, rank 2 soon afterwards, and rank 3 waits until the box acts."""
    page = open_page(stall("test_process_group_is_destroyed_on_one_rank"))
    (arrow,) = arrows(page)["arrows"]
    assert arrow["dots"] == [0, 2, 3]
    at, waits = page.evaluate(
        """(x) => {
          const lanes = document.getElementById("lanes").lanes;
          return [lanes.timeAt(x), [0, 2, 3].map((rank) => lanes.waits[0].spans.get(rank))];
        }""",
        arrow["x"],
    )
    assert all(start <= at <= end for start, end in waits)
    page.evaluate("document.getElementById('lanes').lanes.waits[0].wait.at_s += 0.05")
    assert arrows(page)["arrows"][0]["dots"] == [2, 3]


def test_only_ranks_that_are_blamed_are_pointed_at_as_that_and_each_has_one_note(open_page: Open) -> None:
    page = open_page(stall("test_two_of_four_pairs_lack_a_rank"))
    notes = {note["rank"]: (note["text"], note["isBlamed"]) for note in arrows(page)["notes"]}
    assert notes == {
        4: ("ranks 0-3,5 wait for this rank", True),
        5: ("ranks 0-3 wait for this rank", False),
        6: ("ranks 0-3,7 wait for this rank", True),
        7: ("ranks 0-3 wait for this rank", False),
    }
    red = page.evaluate(
        """() => [...document.querySelectorAll("#waits b")].map((b) => [b.textContent, getComputedStyle(b).color])"""
    )
    bad = page.evaluate("getComputedStyle(document.querySelector('#states .blamed')).color")
    assert [text for text, colour in red if colour == bad] == ["rank 6", "rank 4", "ranks 4,6"]
    assert [text for text, colour in red if colour != bad] == ["ranks 5,7"]


def test_of_many_ranks_that_did_not_come_those_that_are_blamed_are_pointed_at(open_page: Open) -> None:
    """Rank 0 waits for all others, and these in another group for rank 7."""
    box = FakeBox(8).begins().enters(range(8), done=True).announces("1", range(1, 8))
    box.enters(0, seq=2).enters(range(1, 7), group="1").after(31)
    box.box(ev.Acted(0, ActReason.STALL, "all_reduce #1", tuple(range(1, 7)), (7,), (), 31.0))
    page = open_page(page_of(box.box(ev.TestEnded(0, TestEnd.ABORTED, "stall")).recording()))
    assert text_of(page, "#blamed") == "rank 7"
    shown = arrows(page)
    assert sorted(arrow["heads"] for arrow in shown["arrows"]) == [[7], [7, 1, 2, 3]]
    assert {note["rank"]: note["text"] for note in shown["notes"]} == {
        7: "ranks 0-6 wait for this rank",
        1: "rank 0 waits for this rank",
        2: "rank 0 waits for this rank",
        3: "rank 0 waits for this rank and 3 more",
    }
    assert "for rank 7 and ranks 1-6" in text_of(page, "#waits")


def test_a_failure_is_red_only_on_a_rank_that_is_blamed(open_page: Open) -> None:
    box = FakeBox(2).begins().enters(0).raises(1).after(1).loses_peer(0).after(1)
    page = open_page(page_of(box.box(ev.TestEnded(0, TestEnd.ABORTED)).recording()))
    filled = page.evaluate(
        """() => {
          const lanes = document.getElementById("lanes").lanes, context = lanes.context, fill = context.fill;
          const colours = [];
          context.fill = function () { colours.push(context.fillStyle); return fill.apply(this); };
          lanes.marks();
          delete context.fill;
          const named = ["failure", "warn"].map((name) => {
            context.fillStyle = lanes.colour[name];
            return context.fillStyle;
          });
          return [colours, named, lanes.marksHere.map(([, kind, rank]) => [kind, rank])];
        }"""
    )
    colours, named, marks = filled
    assert marks == [["failure", 1], ["failure", 0]]
    assert colours == named


COVERED = """() => {
  const lanes = document.getElementById("lanes").lanes, context = lanes.context, boxes = [];
  const fillText = context.fillText;
  context.fillText = function (text, x, y) {
    const wide = context.measureText(text).width, left = context.textAlign === "right" ? x - wide : x;
    boxes.push([text, left, left + wide, y]);
    return fillText.apply(this, arguments);
  };
  lanes.paint();
  delete context.fillText;
  for (const [at, kind, rank] of lanes.marksHere) {
    if (rank === null) continue;
    const row = lanes.rowOf.get(rank), x = lanes.x(at);
    boxes.push([kind, x - 6, x + 6, row.y + 9]);
  }
  const covered = [];
  boxes.forEach((a, n) => boxes.slice(n + 1).forEach((b) => {
    if (Math.abs(a[3] - b[3]) < 8 && a[1] < b[2] - 1 && b[1] < a[2] - 1) covered.push([a[0], b[0]]);
  }));
  return [covered, boxes.map(([text]) => text)];
}"""


@pytest.mark.parametrize(
    "name", ["test_mismatches.py::test_wrong_operation", "test_deaths.py::test_raise_in_a_late_step"]
)
def test_a_mark_and_its_label_cover_no_word(open_page: Open, name: str) -> None:
    drill = cases.load()[f"smoke_suites/drills/{name}"]
    page = open_page(page_of(drill.recording))
    page.set_viewport_size({"width": 1080, "height": 800})
    covered, texts = page.evaluate(COVERED)
    assert covered == []
    assert "call" in texts
    assert {"mismatch", "failure"} & {*texts}


def test_labels_of_moments_beside_each_other_do_not_cover_each_other(open_page: Open) -> None:
    box = FakeBox(2).begins().enters(0).raises(1, message="no shards in this very long message").after(0.05)
    page = open_page(page_of(box.exits(1, -9, "SIGKILL").after(1).box(ev.TestEnded(0, TestEnd.ABORTED)).recording()))
    covered, texts = page.evaluate(COVERED)
    assert covered == []
    assert {"death", "failure"} <= {*texts}


def test_each_kind_of_moment_has_a_sign_of_its_own_and_the_legend_says_which(open_page: Open) -> None:
    page = open_page(drill_page("test_mismatches.py::test_wrong_operation_among_eight"))
    signs = page.evaluate(
        """() => {
          const lanes = document.getElementById("lanes").lanes, context = lanes.context;
          return ["death", "failure", "mismatch"].map((kind) => {
            const drawn = [];
            for (const name of ["moveTo", "lineTo"]) context[name] = (x, y) => drawn.push([name, x, y]);
            lanes.glyph(kind, 0, 0, 7);
            for (const name of ["moveTo", "lineTo"]) delete context[name];
            return JSON.stringify(drawn);
          });
        }"""
    )
    assert len({*signs}) == 3
    assert "✕ died · ◆ failed · ≠ another collective than the others · ▼ the box" in text_of(page, ".legend")


def place(page: Any, rank: int, kind: str) -> tuple[float, float]:
    """The middle of the first span of that kind on a rank, in the window."""
    x, y = page.evaluate(
        """([rank, kind]) => {
          const canvas = document.getElementById("lanes"), lanes = canvas.lanes, lane = lanes.lanes[rank];
          canvas.scrollIntoView();
          const box = canvas.getBoundingClientRect(), row = lanes.rowOf.get(rank);
          for (let i = 0; i < lane.n; i++) {
            if (lanes.data.whats[lane.what[i]][0] !== kind) continue;
            const [top, high] = lanes.place(kind, row);
            return [box.left + lanes.x((lane.start[i] + lane.end[i]) / 2), box.top + top + high / 2];
          }
        }""",
        [rank, kind],
    )
    return x, y


def test_a_click_on_a_wait_shows_whom_and_who_came(open_page: Open) -> None:
    page = open_page(drill_page(STRAGGLER))
    page.mouse.click(*place(page, 3, "wait"))
    detail = text_of(page, "#detail")
    assert "rank 3: waits for rank 1 · all_reduce #2" in detail
    assert "#2 of group 0" in detail
    assert "who came to it, in order (7)" in detail
    page.mouse.move(*place(page, 4, "wait"))
    assert text_of(page, "#tip").startswith("rank 4: waits for rank 1 · all_reduce #2")


def test_a_click_on_a_rank_shows_its_stack(open_page: Open) -> None:
    page = open_page(drill_page(STRAGGLER))
    page.locator("#states .blamed").click()
    assert "rank 1, which is blamed" in text_of(page, "#detail h2")
    assert "test_stalls.py" in text_of(page, "#detail")


def test_a_click_on_evidence_shows_its_moment(open_page: Open) -> None:
    page = open_page(drill_page("test_deaths.py::test_rank_zero_is_killed_while_others_wait"))
    page.locator("#evidence tr", has_text="was killed by SIGKILL").click()
    assert page.evaluate("document.getElementById('lanes').lanes.at") > 0
    assert "rank 0, which is blamed" in text_of(page, "#detail h2")


def test_keys_go_through_tests_moments_and_spans(open_page: Open) -> None:
    page = open_page(three_tests())
    assert "test_two" in text_of(page, "#verdict .nodeid")
    page.keyboard.press("j")
    assert "test_one" in text_of(page, "#verdict .nodeid")
    page.keyboard.press("k")
    assert "test_two" in text_of(page, "#verdict .nodeid")
    page.keyboard.press("m")
    assert "ValueError" in text_of(page, "#detail h2 >> nth=0")
    page.keyboard.press("n")
    chosen = text_of(page, "#detail h2 >> nth=0")
    page.keyboard.press("n")
    assert text_of(page, "#detail h2 >> nth=0") != chosen
    page.keyboard.press("p")
    assert text_of(page, "#detail h2 >> nth=0") == chosen
    page.keyboard.press("Escape")
    assert text_of(page, "#detail") == ""


def test_what_another_attempt_showed_is_not_said_of_the_chosen_one(open_page: Open) -> None:
    page = open_page(three_tests())
    rank, row = 'document.getElementById("lanes").lanes', "x => x.choose({ rank: 1 })"
    page.evaluate(f"({row})({rank})")
    assert "no shards" in text_of(page, "#detail")
    assert page.locator("#of-attempt").count() == 0
    page.locator('[role="tab"][aria-selected="false"]').click()
    page.evaluate(f"({row})({rank})")
    assert "what it raised" not in text_of(page, "#detail")
    assert text_of(page, "#of-attempt") == "details of ranks are those of attempt 1, which decides, in world w1"


def test_a_problem_of_the_run_is_a_moment_of_the_world_that_it_ended(open_page: Open) -> None:
    box = FakeBox(2).begins().after(1)
    box.box(ev.ProblemFound(ProblemCode.BOX_LOST, "spot", "the machine was taken away"))
    page = open_page(page_of(box.after(1).box(ev.TestEnded(0, TestEnd.ABORTED)).recording()))
    page.keyboard.press("m")
    assert text_of(page, "#detail h2 >> nth=0") == "the box: the machine was taken away"


def window(page: Any) -> list[float]:
    seen: list[float] = page.evaluate("(({from, to}) => [from, to])(document.getElementById('lanes').lanes)")
    return seen


def test_keys_zoom_move_and_fit(open_page: Open) -> None:
    page = open_page(drill_page(STRAGGLER))
    fit = window(page)
    page.keyboard.press("+")
    near = window(page)
    assert near[1] - near[0] < fit[1] - fit[0]
    page.keyboard.press("ArrowRight")
    assert window(page)[0] > near[0]
    page.keyboard.press("w")
    assert window(page)[1] - window(page)[0] > fit[1] - fit[0]
    page.keyboard.press("0")
    assert window(page) == fit


def test_the_mouse_moves_and_zooms(open_page: Open) -> None:
    page = open_page(drill_page(STRAGGLER))
    x, y = place(page, 3, "wait")
    page.keyboard.press("+")
    before = window(page)
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x - 100, y)
    page.mouse.up()
    assert window(page)[0] > before[0]
    page.keyboard.down("Control")
    page.mouse.wheel(0, -200)
    page.keyboard.up("Control")
    page.wait_for_function(
        "(s) => (({from, to}) => to - from < s)(document.getElementById('lanes').lanes)", arg=before[1] - before[0]
    )


FOCUSED = "() => document.activeElement.closest('#tests li, #states button') ? document.activeElement.innerText : ''"


def test_the_test_list_is_reached_by_tab_and_gone_through_by_arrows(open_page: Open) -> None:
    page = open_page(three_tests())
    page.locator("#only-red").focus()
    page.keyboard.press("Tab")
    assert page.evaluate(FOCUSED).startswith("test_two")  # the chosen one
    page.keyboard.press("ArrowDown")
    assert page.evaluate(FOCUSED).startswith("test_one")
    assert "a.py::test_one" in text_of(page, "#verdict")
    page.keyboard.press("End")
    assert "c.py::test_three" in text_of(page, "#verdict")
    page.keyboard.press("Tab")
    assert page.evaluate("() => document.activeElement.closest('#tests') === null")
    assert page.locator("#tests li[tabindex='0']").count() == 1


def test_without_the_chosen_test_in_the_list_its_first_one_is_reached(open_page: Open) -> None:
    page = open_page(three_tests())
    page.locator("#tests input").fill("three")
    page.locator("#only-red").focus()
    page.keyboard.press("Tab")
    assert page.evaluate(FOCUSED).startswith("test_three")
    page.keyboard.press("Enter")
    assert "c.py::test_three" in text_of(page, "#verdict")


def test_ranks_of_the_verdict_are_reached_by_tab(open_page: Open) -> None:
    page = open_page(drill_page(STRAGGLER))
    reached = []
    page.locator("body").focus()
    for _ in range(20):
        page.keyboard.press("Tab")
        reached.append(page.evaluate(FOCUSED))
    blamed = next(n for n, text in enumerate(reached) if text.startswith("✗ rank 1"))
    for _ in range(len(reached) - blamed - 1):
        page.keyboard.press("Shift+Tab")
    page.keyboard.press("Enter")
    assert "rank 1, which is blamed" in text_of(page, "#detail h2")


def test_question_mark_shows_the_keys_and_escape_hides_them(open_page: Open) -> None:
    page = open_page(drill_page(STRAGGLER))
    page.keyboard.press("?")
    assert "next, previous moment" in text_of(page, "#help")
    page.keyboard.press("Escape")
    assert not page.locator("#help").is_visible()


def test_tests_are_filtered_by_words_and_by_failure(open_page: Open) -> None:
    page = open_page(three_tests())
    page.keyboard.press("/")
    page.keyboard.type("three passed")
    assert [item.inner_text().split()[0] for item in page.locator("#tests li").all()] == ["test_three"]
    page.locator("#search").fill("")
    page.keyboard.press("Escape")
    page.keyboard.press("e")
    assert [item.inner_text().split()[0] for item in page.locator("#tests li").all()] == ["test_two"]
    assert text_of(page, "#counted") == "1 of 3 tests"


def test_a_collective_is_found_by_its_number_and_ranks_are_shown_alone(open_page: Open) -> None:
    page = open_page(drill_page(STRAGGLER))
    page.keyboard.press("f")
    page.keyboard.type("#2")
    page.keyboard.press("Enter")
    assert "all_reduce #2" in text_of(page, "#detail h2 >> nth=0")
    page.locator("#only").fill("1,3-4")
    assert page.evaluate("document.getElementById('lanes').lanes.rows.map((row) => row.rank)") == [1, 3, 4]
    page.locator("#only").press("Escape")
    assert page.locator("#only").input_value() == ""
    assert page.evaluate("document.getElementById('lanes').lanes.rows.map((row) => row.rank)") == [*range(8)]


def test_enter_goes_through_the_hits_of_all_ranks_and_says_where_there_is_none(open_page: Open) -> None:
    """Rank 1 never came to #2."""
    page = open_page(drill_page(STRAGGLER))
    chosen = []
    page.locator("#find").fill("#2")
    for _ in range(9):
        page.keyboard.press("Enter")
        chosen.append(page.evaluate("document.getElementById('lanes').lanes.selected.rank"))
    assert chosen == [0, 2, 3, 4, 5, 6, 7, 0, 2]
    page.keyboard.press("Shift+Enter")
    page.keyboard.press("Shift+Enter")
    assert page.evaluate("document.getElementById('lanes').lanes.selected.rank") == 7
    assert text_of(page, "#hits") == ""
    page.locator("#only").fill("1")
    assert text_of(page, "#hits") == "no hit"
    page.locator("#only").fill("")
    assert text_of(page, "#hits") == ""
    page.locator("#find").fill("#413")
    assert text_of(page, "#hits") == "no hit"


def test_another_test_in_the_address_is_shown(open_page: Open) -> None:
    page = open_page(three_tests())
    page.evaluate("location.hash = '#test=2'")
    page.wait_for_function("document.querySelector('#verdict .nodeid').textContent.includes('test_three')")
    page.go_back()
    page.wait_for_function("document.querySelector('#verdict .nodeid').textContent.includes('test_two')")


def test_a_drill_that_went_as_expected_is_no_failure(open_page: Open) -> None:
    box = FakeBox(2, tests=("a.py::test_drill", "b.py::test_two"))
    for number in range(2):
        box.begins(number).enters(0, seq=number + 1).raises(1).after(1).box(ev.TestEnded(number, TestEnd.ABORTED))
    run = results(box.timeline())
    run = replace(run, judged={**run.judged, 0: replace(run.judged[0], outcome=Outcome.PASSED)})
    page = open_page(html(page_data(run, run_spans(run.timeline, run.judged))))
    page.keyboard.press("e")
    assert [item.inner_text().split()[0] for item in page.locator("#tests li").all()] == ["test_two"]


def test_attempts_are_tabs(open_page: Open) -> None:
    page = open_page(three_tests())
    tabs = page.locator("[role=tab]")
    assert tabs.count() == 2
    before = window(page)
    tabs.nth(0 if tabs.nth(1).get_attribute("aria-selected") == "true" else 1).click()
    assert window(page) != before


def two_worlds() -> bytes:
    """The second test fails in a world of its own."""
    box = FakeBox(2, tests=("a.py::test_one", "b.py::test_two")).begins().passes()
    box.box(ev.TestEnded(0, TestEnd.FINISHED)).world_ready().begins(1).raises(1, message="no shards").after(1)
    return page_of(box.box(ev.TestEnded(1, TestEnd.ABORTED)).recording())


def test_lanes_of_another_world_are_not_taken_for_those_of_the_verdict_above(open_page: Open) -> None:
    page = open_page(two_worlds())
    assert "test_two" in text_of(page, "#verdict .nodeid")
    assert not page.locator("#elsewhere").is_visible()
    page.locator("#states .blamed").click()
    page.locator("[role=tab][aria-selected=false]").click()
    assert text_of(page, "#elsewhere") == "The test above did not run in world w1, which ran test_one: passed"
    assert text_of(page, "#detail") == ""
    page.locator("#elsewhere button").click()
    assert "test_one" in text_of(page, "#verdict .nodeid")
    assert not page.locator("#elsewhere").is_visible()


@pytest.mark.parametrize("ranks", [8, 64])
def test_details_hide_neither_the_lane_that_they_are_of_nor_most_others(open_page: Open, ranks: int) -> None:
    page = open_page(golden_page("straggler") if ranks == 8 else page_of(FakeBox(64).begins().passes().recording()))
    page.locator("#lanes").focus()
    top, bottom, drawer, window_ = page.evaluate(
        """() => {
          const lanes = document.getElementById("lanes").lanes, last = lanes.rows[lanes.rows.length - 1];
          lanes.reveal({ rank: last.rank, i: 0 });
          const at = lanes.canvas.getBoundingClientRect().top + last.y;
          const box = document.getElementById("detail").getBoundingClientRect();
          return [at, at + last.h, box.top, innerHeight];
        }"""
    )
    assert 0 <= top < bottom <= drawer
    assert drawer >= 0.6 * window_
    page.locator("#detail .close").click()
    assert text_of(page, "#detail") == ""


def brightness(page: Any, selector: str) -> float:
    colour = page.evaluate("(s) => getComputedStyle(document.querySelector(s)).backgroundColor", selector)
    red, green, blue = (int(part) for part in colour.removeprefix("rgb(").removesuffix(")").split(","))
    return (red + green + blue) / 3


def corner(page: Any) -> int:
    found: int = page.evaluate("document.getElementById('lanes').getContext('2d').getImageData(2, 2, 1, 1).data[0]")
    return found


def test_it_is_dark_where_the_reader_wants_that(open_page: Open) -> None:
    light, dark = open_page(drill_page(STRAGGLER)), open_page(drill_page(STRAGGLER), color_scheme="dark")
    assert brightness(light, "body") > 200
    assert brightness(dark, "body") < 60
    assert corner(light) > 200
    assert corner(dark) < 60


def test_it_prints_in_light_with_everything_and_no_buttons(open_page: Open) -> None:
    page = open_page(drill_page(STRAGGLER), color_scheme="dark")
    page.emulate_media(media="print")
    assert brightness(page, "body") == 255
    assert not page.locator(".bar").is_visible()
    assert page.locator("#lanes").is_visible()
    assert "rank 1" in text_of(page, "#verdict")
    assert len(page.pdf(print_background=True)) > 20_000


def painted_colours(page: Any) -> dict[str, str]:
    found: dict[str, str] = page.evaluate(
        "(lanes => (lanes.colours(), lanes.colour))(document.getElementById('lanes').lanes)"
    )
    return found


def test_every_colour_is_that_of_paper_when_it_is_printed(open_page: Open) -> None:
    light, dark = open_page(drill_page(STRAGGLER)), open_page(drill_page(STRAGGLER), color_scheme="dark")
    on_screen = painted_colours(dark)
    assert {name for name, colour in painted_colours(light).items() if colour == on_screen[name]} == {"group"}
    dark.emulate_media(media="print")
    assert painted_colours(dark) == painted_colours(light)


def test_the_history_is_dark_on_a_dark_screen_and_light_on_paper(open_page: Open) -> None:
    page = open_page(history_page([], [], ""), scripts=False, color_scheme="dark")
    assert brightness(page, "body") < 60
    page.emulate_media(media="print")
    assert brightness(page, "body") == 255


def test_the_picture_is_painted_for_paper_before_it_is_printed(open_page: Open) -> None:
    page = open_page(drill_page(STRAGGLER), color_scheme="dark")
    on_screen = page.evaluate("document.getElementById('lanes').lanes.colour.bg")
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert corner(page) > 200
    page.evaluate("dispatchEvent(new Event('afterprint'))")
    page.wait_for_function("(bg) => document.getElementById('lanes').lanes.colour.bg === bg", arg=on_screen)


@pytest.mark.parametrize(
    "name", ["straggler", "rank-death-exception", "collective-mismatch-operation", "startup-failure-import", "passed"]
)
def test_nothing_that_a_rank_wrote_runs_or_becomes_an_element(open_page: Open, name: str) -> None:
    page = open_page(page_of(made_hostile(CASES[name]().recording()), added=HOSTILE))
    for item in [*page.locator("#states li").all(), *page.locator("#evidence tr").all()]:
        item.click()
    for key in ("m", "n", "n", "ArrowDown", "w", "0"):
        page.keyboard.press(key)
    page.mouse.move(600, 700)
    assert page.evaluate("window.pwned === undefined")
    assert page.locator("img").count() == 0
    assert page.locator("script").count() == 2
    assert HOSTILE[:20] in page.locator("#verdict").inner_text()


def test_markup_that_got_in_all_the_same_would_not_run(open_page: Open) -> None:
    """Its policy is the page's second wall."""
    markup = (
        b"<script>window.pwned=1</script><b onclick='window.pwned=2' id='added'>x</b><style>body{display:none}</style>"
    )
    page = open_page(
        drill_page(STRAGGLER).replace(b"<header", markup + b"<header", 1), allowed="Content Security Policy"
    )
    page.locator("#added").click()
    assert page.evaluate("window.pwned === undefined")
    assert page.locator("#verdict").is_visible()


def painted(page: Any) -> int:
    """Rectangles that one picture of the lanes takes."""
    count: int = page.evaluate(
        """() => {
          const lanes = document.getElementById("lanes").lanes, context = lanes.context, draw = context.fillRect;
          let count = 0;
          context.fillRect = function (...box) { count += 1; return draw.apply(this, box); };
          lanes.paint();
          delete context.fillRect;
          return count;
        }"""
    )
    return count


def test_twenty_thousand_spans_a_rank_are_thinned_to_the_pixels_that_there_are(open_page: Open) -> None:
    content = page_of(large(40, 8, 500, absent=5).recording())
    page = open_page(content)
    page.keyboard.press("w")
    lanes = page.evaluate("document.getElementById('lanes').lanes.lanes.reduce((n, lane) => n + lane.n, 0)")
    assert lanes > 80_000
    assert painted(page) < 8 * 1280 * 2
    assert text_of(page, "#left-out").split()[0].isdigit()
    assert text_of(page, "#blamed") == "rank 5"


@pytest.mark.parametrize(("ranks", "absent"), [(64, 37), (1024, 513)])
def test_the_blamed_of_many_ranks_is_in_sight(open_page: Open, ranks: int, absent: int) -> None:
    page = open_page(page_of(large(1, ranks, 12, absent=absent).recording()))
    top, height, scrolled, room = page.evaluate(
        """(rank) => {
          const canvas = document.getElementById("lanes"), row = canvas.lanes.rowOf.get(rank);
          const box = canvas.parentElement;
          return [row.y, row.h, box.scrollTop, box.clientHeight];
        }""",
        absent,
    )
    assert scrolled <= top
    assert top + height <= scrolled + room
    assert height >= 9
    assert page.evaluate("document.getElementById('lanes').lanes.heat") == (ranks == 1024)
    assert page.locator("#states li").count() < 10


def test_a_run_without_a_result_says_why(open_page: Open) -> None:
    page = open_page(page_of(b""))
    assert "No test has a result." in text_of(page, "#verdict")


def test_without_scripts_the_verdict_is_there_as_text(open_page: Open) -> None:
    page = open_page(drill_page(STRAGGLER), scripts=False)
    text = text_of(page, "body")
    assert "straggler · rank 1 never entered all_reduce #2" in text


def test_data_is_read_as_it_was_written(open_page: Open) -> None:
    page = open_page(drill_page(STRAGGLER))
    data = json.loads(page.locator("#data").text_content())
    assert data["tests"][0]["code"] == "straggler"
