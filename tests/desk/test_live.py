"""When a run that goes on is shown, by a clock of the test's own."""

import json
import re
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path

import pytest

from pytest_megacpp.box.alarms import Clocks
from pytest_megacpp.box.counting import counting
from pytest_megacpp.desk.hooks import live as live_lines
from pytest_megacpp.desk.hooks.announcer import Annotations, Repository
from pytest_megacpp.desk.hooks.live import LiveLines
from pytest_megacpp.desk.hooks.summary import failure_lines
from pytest_megacpp.desk.run.earlier import seconds_before
from pytest_megacpp.judge.arbiter import judge_run
from pytest_megacpp.judge.verdicts import Code, Outcome, TestResult, Verdict
from pytest_megacpp.recording import events as ev
from pytest_megacpp.recording.plan import Plan, PlannedTest
from pytest_megacpp.recording.timeline import Timeline
from pytest_megacpp.recording.views import TestView
from pytest_megacpp.recording.vocabulary import Preset, Purpose
from pytest_megacpp.recording.waits import Counted
from pytest_megacpp.report.money import Rate
from pytest_megacpp.report.reporter import Board, Line, RunResults, SessionResults
from pytest_megacpp.report.run_json import RunMeta, RunStatus
from tests.scenario import NODEID, FakeBox


@dataclass
class Desk:
    """A desk that is told what `box` says; `now_s` is its clock."""

    box: FakeBox
    heartbeat_s: float = 30.0
    draws: bool = False
    directory: Path = Path("/nowhere/runs/20260101-000000-0000")
    rate: Rate = field(default_factory=Rate)
    run_s: float = 0.0
    budget_s: float = 0.0
    now_s: float = 1000.0
    timeline: Timeline = field(default_factory=Timeline)
    judged: dict[int, TestResult] = field(default_factory=dict)
    reported: list[int] = field(default_factory=list)
    _passed_on: int = 0

    def __post_init__(self) -> None:
        self.lines = LiveLines(self.heartbeat_s, lambda: self.draws, lambda: self.now_s)
        assert list(self.lines.started(self.results())) == []

    def results(self) -> RunResults:
        tests = tuple(PlannedTest(p.nodeid, p.ranks, Preset.FULL, ev.Limits()) for p in self._planned())
        plan = Plan("run-1", "h200x8", "local", "H200:8", 8, 4, True, False, tests, (), "/")
        plan = replace(plan, run_s=self.run_s, budget_s=self.budget_s)
        ids = [test.nodeid for test in tests]
        meta = RunMeta(plan, "2026-01-01T00:00:00.000Z", rate=self.rate)
        judged, reported = self.judged, self.reported
        return RunResults(
            meta, RunStatus.RUNNING, ids, ids, judged, self.timeline, str, reported, directory=self.directory
        )

    def board(self) -> list[str]:
        """The texts of its rows."""
        self.hears()
        self.now_s += 5
        (board,) = self.lines.running(self.results())
        assert isinstance(board, Board)
        return ["".join(span.text for span in row) for row in board.rows]

    def fails(self, index: int, said: str, outcome: Outcome = Outcome.FAILED) -> None:
        """pytest has got this result."""
        verdict = Verdict(Code.RANK_DEATH, said, (1,))
        self.judged[index] = TestResult(index, self._planned()[index].nodeid, outcome, verdict)
        self.reported.append(index)

    def _planned(self) -> list[ev.TestPlanned]:
        planned = [event.fact for event in self.box.events if isinstance(event.fact, ev.TestPlanned)]
        return [fact for fact in planned if fact.of is None]

    def hears(self) -> None:
        for event in self.box.events[self._passed_on :]:
            self.timeline.add(event)
        self._passed_on = len(self.box.events)

    def looks(self, for_s: float, every_s: float = 0.25) -> list[str]:
        """What is said meanwhile, with the second at which it is."""
        self.hears()
        said, began_s = [], self.now_s
        while self.now_s < began_s + for_s:
            self.now_s += every_s
            for output in self.lines.running(self.results()):
                assert isinstance(output, Line)
                assert output.always
                said.append(f"{self.now_s - 1000:.0f}: {output.text}")
        return said


def test_a_heartbeat_every_so_many_seconds() -> None:
    desk = Desk(FakeBox(4).begins())
    said = desk.looks(100)
    assert [line.partition(":")[0] for line in said] == ["30", "60", "90"]
    assert said[0].startswith("30: 0/1 tests · 0:30 · ")
    assert f"{NODEID} for 0:" in said[0]


def test_no_heartbeat_and_no_line_at_all() -> None:
    desk = Desk(FakeBox(4).begins().enters((0, 1)).after(1), heartbeat_s=0)
    assert desk.looks(200) == []


def test_a_line_as_soon_as_somebody_waited_for_a_quarter_of_a_limit() -> None:
    box = FakeBox(4, limits=ev.Limits(stall=40)).begins().enters((0, 1, 3)).after(0.5).samples(range(4))
    desk = Desk(box, heartbeat_s=1000)
    said = desk.looks(30)
    assert len(said) == 1
    second, _, line = said[0].partition(": ")
    assert 10 <= int(second) <= 12
    assert (
        line == f"{NODEID}: ranks 0,1,3 have waited 10 s for rank 2, which is running (all_reduce #1, limit stall 40 s)"
    )


def test_the_next_wait_has_a_line_of_its_own() -> None:
    box = FakeBox(2, limits=ev.Limits(stall=8)).begins().enters(0).after(0.5).samples(range(2))
    desk = Desk(box, heartbeat_s=1000)
    assert len(desk.looks(5)) == 1
    box.after(5).enters(1).after(0.1).completes().enters(1, seq=2).after(0.5).samples(range(2))
    said = desk.looks(5)
    assert len(said) == 1
    assert "rank 1 has waited 2 s for rank 0" in said[0]


def test_a_wait_that_comes_under_another_limit_has_a_second_line() -> None:
    """The rank compiled, and now it hangs: the collective is the same."""
    box = FakeBox(2, limits=ev.Limits(skew=40, stall=20)).begins().enters(0).samples(1, compiling=("inductor",))
    desk = Desk(box, heartbeat_s=1000)
    assert [line.partition(" for ")[2][:6] for line in desk.looks(15)] == ["rank 1"]
    box.after(15).samples(range(2))
    (line,) = desk.looks(15)
    assert re.search(r"rank 0 has waited 2\d s for rank 1, which is running \(all_reduce #1, limit stall 20 s\)", line)


def test_who_comes_late_counts_waits_from_their_beginning() -> None:
    """As `--attach` does: the whole recording is there at once."""
    box = FakeBox(2, limits=ev.Limits(stall=100)).begins().enters(0).after(60).samples(range(2))
    said = Desk(box, heartbeat_s=1000).looks(2)
    assert len(said) == 1
    assert "rank 0 has waited 60 s for rank 1" in said[0]


def test_a_board_takes_the_place_of_lines() -> None:
    """Nothing scrolls results away where a board is drawn: at least every 2 s there is a new one."""
    desk = Desk(FakeBox(4, limits=ev.Limits(stall=4)).begins().enters((0, 1, 3)).after(1).samples(range(4)), draws=True)
    desk.hears()
    drawn: list[float] = []
    board = Board()
    for _ in range(240):
        desk.now_s += 0.25
        for output in desk.lines.running(desk.results()):
            assert isinstance(output, Board)
            drawn.append(desk.now_s)
            board = output
    assert max(b - a for a, b in pairwise(drawn)) <= 2
    texts = ["".join(span.text for span in row) for row in board.rows]
    assert texts == [
        "h200x8 0/1 tests · 1:00",
        f"1:00  {NODEID} · 0:00 of limit stall left",
        "  ranks 0,1,3 have waited 59 s for rank 2, which is running (all_reduce #1, limit stall 4 s)",
        ">     2  running",
        "  0,1,3  waiting in all_reduce #1 for rank 2",
    ]


@pytest.mark.parametrize(
    ("run_s", "budget_s", "near"),
    [
        (25.0, 0.0, "limit run"),
        (90.0, 25.0, "the budget"),
        (90.0, 0.0, "limit test"),
        (0.0, 0.0, "limit test"),
    ],
)
def test_the_limit_that_passes_first_may_be_the_runs(run_s: float, budget_s: float, near: str) -> None:
    desk = Desk(FakeBox(2, limits=ev.Limits(test=45.0)).begins(), draws=True, run_s=run_s, budget_s=budget_s)
    first, row = desk.board()[1], desk.board()[1]
    assert re.search(rf" · 0:\d\d of {near} left$", first)
    assert re.search(rf" · 0:(19|20|39|40) of {near} left$", row)
    desk.draws = False
    assert any(f" of {near} left" in line for line in desk.looks(31))


def test_a_box_that_is_rented_for_less_has_its_own_limit() -> None:
    box = FakeBox(2)
    started = box.events[0].fact
    assert isinstance(started, ev.RunStarted)
    box.events[0] = replace(box.events[0], fact=replace(started, limit_s=25.0))
    assert " of limit run left" in Desk(box.begins(), draws=True, run_s=90.0).board()[1]


def test_a_limit_of_the_run_is_near_between_tests_too() -> None:
    desk = Desk(FakeBox(2).starts_world(), draws=True, run_s=25.0)
    desk.board()
    assert re.fullmatch(r"  world w1: 0 of 2 ranks are up for 0:05 · 0:(19|20) of limit run left", desk.board()[-1])


def test_what_it_cost_and_how_much_is_left(tmp_path: Path) -> None:
    box = FakeBox(2, ("a.py::test_a", "a.py::test_b", "a.py::test_c")).begins().after(10).passes().ends()
    box.begins(1)
    earlier = tmp_path / "runs" / "20260101-000000-0000"
    write_run(earlier, {"a.py::test_b": ("passed", 40.0), "a.py::test_c": ("failed", 500.0)})
    desk = Desk(box, directory=tmp_path / "runs" / "20260102-000000-0000", rate=Rate(36.0, 8, "list"))
    line = desk.looks(31)[0]
    assert "1/3 tests" in line
    # 40 s of b less the 30 s that it has run, and the mean of a (10 s) and b for c
    assert "about 0:3" in line
    assert "$0.4" in line


def test_what_is_left_includes_the_starts_of_worlds() -> None:
    """By what this run shows: each test was followed by a start."""
    box = FakeBox(2, [f"a.py::test_{n}" for n in range(6)])
    for index in range(4):
        box.begins(index).after(9.9).passes().ends().after(10)
    line = Desk(box.begins(4)).looks(31)[0]
    # 10 s of the last test, none of the running one, and a start as long as 40 s are for each of five
    assert "4/6 tests" in line
    assert "about 0:18 left" in line


def test_one_start_after_a_short_test_is_not_a_rate(tmp_path: Path) -> None:
    box = FakeBox(2, ("a.py::test_a", "a.py::test_b")).begins().after(0.8).passes().ends().after(3)
    write_run(tmp_path / "runs" / "20260101-000000-0000", {"a.py::test_b": ("passed", 40.0)})
    desk = Desk(box, directory=tmp_path / "runs" / "20260102-000000-0000")
    assert "about 0:40 left" in desk.looks(30.5)[0]


def test_attempts_at_a_test_are_no_starts_of_worlds(tmp_path: Path) -> None:
    nodeids = [f"a.py::test_{n}" for n in range(10)]
    box = FakeBox(2, nodeids).begins().after(100).raises(0).finishes(1).ends().tries(Purpose.DIAGNOSTIC)
    write_run(tmp_path / "runs" / "20260101-000000-0000", dict.fromkeys(nodeids, ("passed", 5.0)))
    desk = Desk(box, directory=tmp_path / "runs" / "20260102-000000-0000")
    assert " · about 0:45 left · " in desk.looks(31)[0]


DEFINED = {index: ("a.py", index + 1) for index in range(3)}


def test_a_cancelled_job_names_failures_that_pytest_has_not_got() -> None:
    """The box runs ahead of pytest: what passed there, and what a drill came to, is no failure."""
    box = FakeBox(2, [f"a.py::test_{name}" for name in ("ok", "red", "slow")]).begins().passes().ends()
    box.begins(1).raises(0, message="no shards").finishes(1).ends().begins(2).enters(0).after(3).samples(range(2))
    desk = Desk(box)
    desk.hears()
    run = replace(desk.results(), status=RunStatus.INTERRUPTED)
    judged = {test.index: test for test in judge_run(run.timeline).tests}
    cut_off = replace(judged[2], outcome=Outcome.ERROR, verdict=Verdict(Code.NOT_RUN, "interrupted"))
    lines = [line.text for line in failure_lines(replace(run, judged=judged | {2: cut_off}))]
    assert [line.partition(" - ")[0] for line in lines] == ["FAILED a.py::test_red", "ERROR a.py::test_slow"]
    assert "no shards" in lines[0]
    box_fault = {1: replace(judged[1], outcome=Outcome.ERROR)}
    (heard, *_) = failure_lines(replace(run, judged=judged | box_fault, reported=(1,)))
    assert heard.text.startswith("ERROR a.py::test_red - ")
    assert lines[1].startswith("ERROR a.py::test_slow - not-run · interrupted; rank")
    interrupted = replace(run, judged=judged | {2: cut_off}, defined_at=DEFINED)
    annotations = Annotations(Repository(Path("/"), Path("/"), {}))
    said = [line.text for line in annotations.closing(SessionResults([interrupted]))]
    assert [line.partition("title=")[2].partition("::")[0] for line in said] == [
        "a.py%3A%3Atest_red",
        "a.py%3A%3Atest_slow",
        "lane h200x8",
    ]
    assert "%0Aranks 0,1 " in said[1] or "%0Arank 0 " in said[1]
    failed = annotations.closing(SessionResults([replace(interrupted, status=RunStatus.FAILED)]))
    assert not [line for line in failed if "test_" in line.text]
    assert not list(failure_lines(replace(interrupted, status=RunStatus.FAILED)))


def test_a_test_that_runs_again_is_not_done() -> None:
    """Not to begin with, and not once it was counted as done."""
    box = FakeBox(2, ("a.py::test_a", "a.py::test_b")).begins().passes().ends()
    desk = Desk(box)
    assert "1/2 tests" in desk.looks(31)[0]
    box.tries(Purpose.DIAGNOSTIC)
    assert "0/2 tests" in desk.looks(31)[0]
    box.passes().ends()
    assert "1/2 tests" in desk.looks(31)[0]


def write_run(run: Path, tests: dict[str, tuple[str, float]], lane: str = "h200x8", *, dry_run: bool = True) -> None:
    run.mkdir(parents=True)
    listed = [{"nodeid": n, "outcome": o, "cost": {"seconds": s}} for n, (o, s) in tests.items()]
    (run / "run.json").write_text(json.dumps({"lane": lane, "dry_run": dry_run, "tests": listed}))


def test_seconds_of_earlier_runs(tmp_path: Path) -> None:
    """The newest run of the same lane counts, of tests that passed; what a stranger wrote there does no harm."""
    runs = [tmp_path / "runs" / f"20260101-00000{number}-0000" for number in range(8)]
    write_run(runs[1], {"t": ("passed", 1.0), "old": ("passed", 5.0)})
    write_run(runs[2], {"t": ("passed", 2.0), "red": ("failed", 99.0)})
    write_run(runs[3], {"t": ("passed", 3.0)}, lane="other")
    write_run(runs[4], {"t": ("passed", 4.0)}, dry_run=False)
    runs[5].mkdir()
    (runs[5] / "run.json").write_text('{"lane": "h200x8", "dry_run": true, "tests": [1, {"cost": []}, null]}')
    write_run(runs[7], {"t": ("passed", 7.0)})
    assert seconds_before(runs[6], "h200x8", dry_run=True) == {"t": 2.0, "old": 5.0}
    assert seconds_before(tmp_path / "no" / "runs" / "6", "h200x8", dry_run=True) == {}


def test_what_breaks_says_so_once_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    box = FakeBox(2).begins()
    desk = Desk(box, heartbeat_s=1)
    monkeypatch.setattr(live_lines, "counting", lambda *_: 1 / 0)
    said = desk.looks(30)
    assert [line.partition(": ")[2] for line in said] == [
        "the run can't be shown while it goes on (ZeroDivisionError: division by zero); its results come as ever"
    ]
    assert desk.looks(30) == []


@pytest.mark.parametrize(("took_s", "every_s"), [(0.001, 1.0), (0.015, 1.5), (1.0, 2.0)])
def test_a_look_that_takes_long_is_followed_by_a_pause(
    monkeypatch: pytest.MonkeyPatch, took_s: float, every_s: float
) -> None:
    desk = Desk(FakeBox(2).begins(), heartbeat_s=0.25)
    desk.hears()
    looks: list[float] = []
    original = counting

    def slow(view: TestView, clocks: Clocks, now_s: float) -> tuple[Counted, ...]:
        looks.append(desk.now_s)
        desk.now_s += took_s
        return original(view, clocks, now_s)

    monkeypatch.setattr(live_lines, "counting", slow)
    while desk.now_s < 1040:
        list(desk.lines.running(desk.results()))
        desk.now_s += 0.01
    between = [b - a for a, b in pairwise(looks)]
    assert every_s - 0.001 <= min(between)
    assert max(between) <= every_s + 0.02


def of_many(count: int) -> Desk:
    return Desk(FakeBox(4, tests=tuple(f"d/t.py::test_{n}" for n in range(count))))


def test_a_failure_has_a_line_once_pytest_has_its_result() -> None:
    desk = of_many(4)
    desk.fails(0, "rank 1 died (SIGKILL)")
    desk.fails(1, "as it should", Outcome.PASSED)  # a drill
    assert desk.looks(3) == ["0: d/t.py::test_0: rank-death · rank 1 died (SIGKILL)"]
    desk.fails(2, "rank 1 died (SIGBUS)", Outcome.ERROR)
    assert desk.looks(3) == ["3: d/t.py::test_2: rank-death · rank 1 died (SIGBUS)"]


def test_of_very_many_failures_only_the_first_have_lines() -> None:
    desk = of_many(50)
    for index in range(45):
        desk.fails(index, "rank 1 died")
    said = desk.looks(35)
    assert [line for line in said if "rank 1 died" in line] == said[: live_lines.FAILURE_LINES]
    assert "/50 tests · 45 failed · " in said[-1]


def test_the_board_keeps_the_last_failures() -> None:
    desk = of_many(6)
    desk.draws = True
    for index, signal in enumerate(("SIGBUS", "SIGSEGV", "SIGKILL", "SIGABRT")):
        desk.fails(index, f"rank 1 died ({signal})")
    head, *failures, _ = desk.board()
    assert "/6 tests · 4 failed · " in head
    assert failures == [
        "✗ test_1  rank-death · rank 1 died (SIGSEGV)",
        "✗ test_2  rank-death · rank 1 died (SIGKILL)",
        "✗ test_3  rank-death · rank 1 died (SIGABRT)",
    ]
