"""A run whose box does not do what it should, and what is kept of it."""

import json
import os
import pickle
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pytest_megacpp.desk.run import session, transport
from pytest_megacpp.desk.run.artefacts import Reporting
from pytest_megacpp.desk.run.directory import RunDirectory
from pytest_megacpp.desk.run.session import LaneRun
from pytest_megacpp.recording.commands import Word
from pytest_megacpp.recording.events import Compiled, Limits, SeedKept
from pytest_megacpp.recording.plan import Again, Enough, Plan, PlannedTest
from pytest_megacpp.recording.redact import Redactor
from pytest_megacpp.recording.timeline import Timeline
from pytest_megacpp.recording.vocabulary import ActReason, Preset, Purpose, RunEnd, SeedState
from pytest_megacpp.report.reporter import Artefact, Board, Line, Output, Reporter, RunResults, Span, document
from pytest_megacpp.report.reporters import FlightRecords, Receipts, RunJson, flight_records, receipt_path
from pytest_megacpp.report.run_json import RunMeta
from pytest_megacpp.surfaces.protocol import Address, Ended
from pytest_megacpp.surfaces.replay import ReplaySurface
from tests.scenario import NODEID, FakeBox

REPORTERS = (FlightRecords(), Receipts(), RunJson())
TESTS = (PlannedTest(NODEID, 2, Preset.FULL, Limits()),)


def lane_run(
    directory: RunDirectory,
    cwd: Path,
    *reporters: Reporter,
    tests: tuple[PlannedTest, ...] = TESTS,
    triage: bool = False,
    timeline: Timeline | None = None,
    show: Callable[[Sequence[Line | Board]], object] = lambda shown: None,
) -> LaneRun:
    plan = Plan(directory.run_id, "h200x8", "modal", "H200:8", 8, 2, True, False, tests, (), str(cwd), triage=triage)
    meta = RunMeta(plan, "2026-01-01T00:00:00.000Z")
    return LaneRun(directory, Redactor(os.environ), meta, Reporting((*REPORTERS, *reporters), show), timeline)


def receipt_of(run: LaneRun) -> Any:
    """The document of the first test."""
    path = receipt_path(run.results(), 0)
    assert path is not None
    return json.loads((run.directory.path / path).read_text())


def flight_of(run: LaneRun) -> str | None:
    """Where the flight records of the attempt that decided are, below the run's directory."""
    results = run.results()
    result = results.judged[0]
    return flight_records(results, result).get(result.number)


class Deaf:
    """A box that neither speaks nor says that it ended."""

    def start(self, plan: Plan, run: Path) -> "Deaf":
        return self

    def read(self) -> bytes:
        return b""

    def ended(self) -> Ended | None:
        return None

    def address(self) -> Address:
        return Address()

    def say(self, word: Word) -> None:
        pass

    def stop(self, reason: str, why: str = "") -> None:
        pass

    def end(self) -> None:
        pass


def test_a_box_that_never_says_that_it_ended_does_not_keep_the_desk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transport, "LAST_WORDS_S", 0.05)
    directory = RunDirectory.create(tmp_path)
    run = lane_run(directory, tmp_path)
    run.start(Deaf())
    run.finish()
    document = json.loads((directory.path / "run.json").read_text())
    assert document["status"] == "error"
    assert run.wait_for(0).verdict.code == "box-lost"


class Listening(Deaf):
    """A box that says one thing after another, and keeps what it hears."""

    def __init__(self, *said: bytes) -> None:
        self._said, self.heard = list(said), list[Word]()

    def read(self) -> bytes:
        return self._said.pop(0) if self._said else b""

    def say(self, word: Word) -> None:
        self.heard.append(word)

    def ended(self) -> Ended | None:
        return None if self._said else Ended()


class Packing(Listening):
    """Whoever ends it doesn't hear the rest."""

    def end(self) -> None:
        self._said.clear()


def test_a_box_that_has_run_everything_ends_by_itself(tmp_path: Path) -> None:
    """It may be packing what was compiled."""
    tested = FakeBox(ranks=2).begins().passes().ends()
    lines = len(tested.events)
    whole = tested.done().recording().splitlines(keepends=True)
    run = lane_run(RunDirectory.create(tmp_path), tmp_path)
    run.start(Packing(b"".join(whole[:lines]), *whole[lines:]))
    assert run.wait_for(0).verdict.code == "passed"
    run.finish()
    assert (run.timeline.finished is not None, run.timeline.problems) == (True, [])


class Slow(Listening):
    """It says the next thing some time after it was read."""

    def __init__(self, pause_s: float, *said: bytes) -> None:
        super().__init__(*said)
        self._pause_s, self._next_s = pause_s, 0.0

    def read(self) -> bytes:
        if time.monotonic() < self._next_s:
            return b""
        self._next_s = time.monotonic() + self._pause_s
        return super().read()


class Asked(Reporter):
    """Keeps whether the run was over each time it was asked."""

    name = "asked"

    def __init__(self) -> None:
        self.while_done = 0

    def running(self, run: RunResults) -> tuple[()]:
        self.while_done += run.timeline.finished is None and bool(run.judged)
        return ()


def test_what_a_box_does_at_its_end_can_be_watched(tmp_path: Path) -> None:
    """It may take minutes: a board, a heartbeat and output of ranks go on."""
    tested = FakeBox(ranks=2).begins().passes().ends()
    lines = len(tested.events)
    whole = tested.done().recording().splitlines(keepends=True)
    asked = Asked()
    run = lane_run(RunDirectory.create(tmp_path), tmp_path, asked)
    run.start(Slow(3 * session.RUNNING_S, b"".join(whole[:lines]), *whole[lines:]))
    run.wait_for(0)
    before = asked.while_done
    run.finish()
    assert asked.while_done > before
    assert run.timeline.finished is not None


def test_a_box_that_does_not_end_by_itself_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "DONE_S", 0.05)
    box = Packing(FakeBox(ranks=2).begins().passes().ends().recording())
    monkeypatch.setattr(Packing, "ended", lambda self: None)
    monkeypatch.setattr(transport, "LAST_WORDS_S", 0.05)
    run = lane_run(RunDirectory.create(tmp_path), tmp_path)
    run.start(box)
    run.wait_for(0)
    run.finish()
    assert [problem.code for _, problem in run.timeline.problems] == ["box-lost"]


def climbing(tmp_path: Path, box: Listening, **test: Any) -> LaneRun:
    run = lane_run(RunDirectory.create(tmp_path), tmp_path, tests=(replace(TESTS[0], **test),), triage=True)
    run.start(box)
    return run


def hangs(box: FakeBox) -> FakeBox:
    return box.enters((0, 1)).after(31.0).acts(ActReason.STALL, "everybody waits", (0, 1), (), (), 31.0).aborts("stall")


def test_a_test_is_through_when_its_ladder_is(tmp_path: Path) -> None:
    hanging = hangs(FakeBox(ranks=2).begins())
    first = hanging.recording()
    whole = hangs(hanging.tries(Purpose.DIAGNOSTIC)).done().recording()
    box = Listening(first, whole[len(first) :])
    run = climbing(tmp_path, box)
    result = run.wait_for(0)
    assert box.heard == [Again(0, Purpose.DIAGNOSTIC, 0), Enough(0)]
    assert (result.verdict.code, result.verdict.cause) == ("hang", "infrastructure")
    run.finish()
    document = receipt_of(run)
    assert [attempt["verdict"]["code"] for attempt in document["attempts"]] == ["hang", "hang"]


@pytest.mark.parametrize("test", [{"drill": True}, {"preset": Preset.DIAGNOSTIC}])
def test_what_needs_no_further_attempt_is_said_at_once(tmp_path: Path, test: dict[str, Any]) -> None:
    box = Listening(hangs(FakeBox(ranks=2).begins()).recording())
    assert climbing(tmp_path, box, **test).wait_for(0).verdict.code == "hang"
    assert box.heard == [Enough(0)]


def test_a_box_that_ends_before_it_hears_costs_the_ladder_and_not_the_verdict(tmp_path: Path) -> None:
    box = Listening(hangs(FakeBox(ranks=2).begins()).done(RunEnd.RUN_LIMIT).recording())
    run = climbing(tmp_path, box)
    assert run.wait_for(0).verdict.code == "hang"
    run.finish()
    assert json.loads((run.directory.path / "run.json").read_text())["status"] == "failed"


class Interrupting(Deaf):
    """A box that is interrupted by Ctrl-C while the desk takes in what it said."""

    def __init__(self, recording: Path, said: bytes) -> None:
        self._recording, self._said = recording, said
        self._reads = 0

    def read(self) -> bytes:
        self._reads += 1
        if self._reads == 1:
            self._recording.write_bytes(self._said)
            raise KeyboardInterrupt
        return b""

    def ended(self) -> Ended | None:
        return Ended() if self._reads > 1 else None


def test_what_an_interrupt_tore_from_the_desk_is_read_again(tmp_path: Path) -> None:
    directory = RunDirectory.create(tmp_path)
    run = lane_run(directory, tmp_path)
    run.start(Interrupting(directory.recording, FakeBox(ranks=2).begins().passes().ends().recording()))
    with pytest.raises(KeyboardInterrupt):
        run.wait_for(0)
    run.finish(interrupted=True)
    document = json.loads((directory.path / "run.json").read_text())
    assert [test["outcome"] for test in document["tests"]] == ["passed"]


def recorded(tmp_path: Path, box: FakeBox) -> LaneRun:
    (tmp_path / "recording").write_bytes(box.recording())
    directory = RunDirectory.create(tmp_path / "lane")
    run = lane_run(directory, tmp_path, timeline=box.timeline())
    run.start(ReplaySurface(tmp_path / "recording"))
    return run


def dies() -> FakeBox:
    box = FakeBox(ranks=2).begins().enters((0, 1)).after(0.1).completes().enters(0, seq=2).after(0.2)
    return box.exits(1, signal="SIGKILL").acts(ActReason.EXIT, "", (0,), (1,)).aborts("exit").done()


def test_a_test_that_is_not_green_has_the_flight_record_of_every_rank(tmp_path: Path) -> None:
    run = recorded(tmp_path, dies())
    assert run.wait_for(0).verdict.code == "rank-death"
    run.finish()
    document = receipt_of(run)
    records = run.directory.path / document["flight_record"]
    dumps = [pickle.loads((records / f"rank_{rank}").read_bytes()) for rank in range(2)]
    assert [[entry["collective_seq_id"] for entry in dump["entries"]] for dump in dumps] == [[1, 2], [1]]
    assert len(list(records.iterdir())) == 2
    assert flight_of(run) == str(records.relative_to(run.directory.path))


def test_every_attempt_that_is_not_green_has_its_own(tmp_path: Path) -> None:
    box = FakeBox(ranks=2).begins().enters(0).after(5).at(1).acts(ActReason.STALL, "", (0,), (1,), (), 5)
    box.plans(Purpose.MEASURED).aborts("stall")
    box.begins(1).enters(0).after(0.1).exits(1, signal="SIGKILL").acts(ActReason.EXIT, "", (0,), (1,)).aborts(
        "exit"
    ).done()
    run = recorded(tmp_path, box)
    run.finish()
    document = receipt_of(run)
    records = [attempt["flight_record"] for attempt in document["attempts"]]
    assert records == [records[0], f"{records[0]}.2"]
    assert document["flight_record"] == records[1]
    assert all((run.directory.path / name / "rank_1").exists() for name in records)
    assert flight_of(run) == records[1]


def test_a_green_test_has_none(tmp_path: Path) -> None:
    run = recorded(tmp_path, FakeBox(ranks=2).begins().passes().ends().done())
    run.finish()
    assert receipt_of(run)["flight_record"] is None
    assert not (run.directory.path / "flight").exists()


def run_that_compiles(tmp_path: Path) -> tuple[LaneRun, list[Path]]:
    """Two tests, of which the second compiles; what the box keeps it says later. With their receipts."""
    ids = (NODEID, f"{NODEID}[2]")
    box = FakeBox(ranks=2, tests=ids).begins().passes().ends().begins(1).after(0.1)
    tests = box.rank(Compiled(1, 1, 2.0, 1, 0, 1)).passes().ends().recording()
    whole = box.box(SeedKept(SeedState.WARM, "new", True, 4, 4, 20)).done().recording()
    planned = tuple(replace(TESTS[0], nodeid=nodeid) for nodeid in ids)
    run = lane_run(RunDirectory.create(tmp_path), tmp_path, tests=planned)
    run.start(Listening(tests, b"", whole[len(tests) :]))
    for index in range(2):
        assert run.wait_for(index).verdict.code == "passed"
    return run, [run.directory.path / "receipts" / name for name in run.results().receipt_names]


def test_only_receipts_of_what_compiled_are_changed_at_the_end(tmp_path: Path) -> None:
    run, receipts = run_that_compiles(tmp_path)
    before = [path.read_bytes() for path in receipts]
    files = [path.stat().st_ino for path in receipts]
    run.finish()
    assert [path.stat().st_ino == file for path, file in zip(receipts, files, strict=True)] == [True, False]
    changed = json.loads(receipts[1].read_bytes())
    assert changed["seed"]["published"] == "new"
    assert changed | {"seed": None} == json.loads(before[1]) | {"seed": None}
    assert json.loads(receipts[0].read_bytes())["seed"]["published"] is None
    assert run.unwritten == []


def test_a_receipt_that_somebody_else_has_changed_stays_as_it_is(tmp_path: Path) -> None:
    run, receipts = run_that_compiles(tmp_path)
    receipts[1].write_text("{}")
    run.finish()
    assert receipts[1].read_text() == "{}"
    assert [line for line in run.unwritten if "somebody else has changed it" in line]
    assert json.loads((run.directory.path / "run.json").read_text())["status"] == "passed"


def test_flight_records_that_can_not_be_written_cost_no_receipt(tmp_path: Path) -> None:
    run = recorded(tmp_path, dies())
    (run.directory.path / "flight").write_text("in the way")
    run.finish()
    assert [line for line in run.unwritten if "flight/" in line]
    assert receipt_of(run)["flight_record"] is None


def test_tests_whose_ids_differ_in_a_secret_have_each_their_own_receipt(tmp_path: Path) -> None:
    tests = tuple(replace(TESTS[0], nodeid=f"test_a.py::test[ghp_{letter * 36}]") for letter in "ab")
    run = lane_run(RunDirectory.create(tmp_path), tmp_path, tests=tests)
    run.start(Listening())
    for index in range(2):
        run.wait_for(index)
    run.finish()
    document = json.loads((run.directory.path / "run.json").read_text())
    assert len({test["nodeid"] for test in document["tests"]}) == 2
    for test in document["tests"]:
        assert json.loads((run.directory.path / test["receipt"]).read_text())["nodeid"] == test["nodeid"]
    assert not [p for p in tmp_path.rglob("*") if p.is_file() and b"ghp_" in p.read_bytes()]


@pytest.mark.parametrize("finished", [True, False])
def test_the_log_of_a_box_is_cleaned_however_it_ended(tmp_path: Path, finished: bool) -> None:
    """What its ranks wrote, a box cleans itself unless it is cut off; a plan with secrets stays only until it ends."""
    box = FakeBox(ranks=2).begins().passes().ends()
    run = lane_run(RunDirectory.create(tmp_path), tmp_path)
    secret = "ghp_" + "aB3" * 12
    logs = [run.directory.path / "box.log", run.directory.path / "ranks/w1/0/stdout.log"]
    for log in (*logs, run.directory.path / "plan.json"):
        log.parent.mkdir(parents=True, exist_ok=True)
        log.write_text(f"saw {secret}\n")
    run.start(Listening((box.done() if finished else box).recording()))
    run.finish()
    assert logs[0].read_text() == "saw [redacted:github-token]\n"
    assert logs[1].read_text() == (f"saw {secret}\n" if finished else "saw [redacted:github-token]\n")
    assert (run.directory.path / "plan.json").exists() == finished


class Broken(Reporter):
    """A report whose every moment fails, the second file of a directory included."""

    name = "broken report"

    def started(self, run: RunResults) -> Iterator[Output]:
        yield Artefact("half", [("half/whole", b"first"), ("half", b"in the way")])
        raise ValueError("a secret ghp_" + "a" * 36)

    def tested(self, run: RunResults, index: int) -> Iterator[Output]:
        raise LookupError(index)

    def properties(self, run: RunResults, index: int) -> dict[str, object]:
        raise LookupError(index)

    ended = started


class Talkative(Reporter):
    """A report that has a line for every moment."""

    name = "talkative report"

    def started(self, run: RunResults) -> list[Output]:
        return [Line(f"started {run.status}")]

    def running(self, run: RunResults) -> list[Output]:
        return [Line(f"running, {len(run.judged)} tests done")]

    def tested(self, run: RunResults, index: int) -> list[Output]:
        return [Line(f"{index} {run.judged[index].verdict.code}"), document("last", {"index": index})]

    def properties(self, run: RunResults, index: int) -> dict[str, object]:
        return {"talkative": index}

    def ended(self, run: RunResults) -> list[Output]:
        return [Line(f"ended {run.status}, last written: {'last' in run.written}")]


def texts(shown: Sequence[Line | Board]) -> list[str]:
    return [one.text for one in shown if isinstance(one, Line)]


def test_the_board_goes_when_the_wait_is_over(tmp_path: Path) -> None:
    """However it ends: before a result is shown, and before Ctrl-C is."""

    class Drawing(Reporter):
        name = "drawing"

        def running(self, run: RunResults) -> list[Output]:
            return [Board(((Span("rank 1 compiles"),),))]

        def tested(self, run: RunResults, index: int) -> list[Output]:
            return [Line("a result")]

    shown: list[Line | Board] = []
    run = lane_run(RunDirectory.create(tmp_path), tmp_path, Drawing(), show=shown.extend)
    run.start(Listening(FakeBox(ranks=2).begins().passes().ends().done().recording()))
    run.wait_for(0)
    *_, drawn, gone, result = shown
    assert isinstance(drawn, Board)
    assert drawn.rows
    assert (gone, result) == (Board(), Line("a result"))

    def interrupt(some: Sequence[Line | Board]) -> None:
        shown.extend(some)
        if Board(((Span("rank 1 compiles"),),)) in some:
            raise KeyboardInterrupt

    run = lane_run(RunDirectory.create(tmp_path), tmp_path, Drawing(), show=interrupt)
    run.start(Listening(FakeBox(ranks=2).begins().recording()))
    with pytest.raises(KeyboardInterrupt):
        run.wait_for(0)
    assert shown[-1] == Board()


def test_a_reporter_that_fails_costs_a_line_and_no_other_report(tmp_path: Path) -> None:
    lines: list[str] = []
    directory = RunDirectory.create(tmp_path)
    run = lane_run(directory, tmp_path, Broken(), Talkative(), show=lambda shown: lines.extend(texts(shown)))
    whole = FakeBox(ranks=2).begins().passes().ends().done().recording()
    run.start(Listening(whole[:100], b"", whole[100:]))
    assert run.wait_for(0).verdict.code == "passed"
    assert run.properties(0) == {"talkative": 0}
    run.finish()
    assert lines == ["started running", "running, 0 tests done", "0 passed", "ended passed, last written: True"]
    assert run.unwritten[:1] == ["half could not be written: Is a directory"]
    assert run.unwritten[-1].startswith("report 'broken report' failed 4 times, first: ValueError: a secret [redacted")
    assert receipt_of(run)["outcome"] == "passed"
    assert json.loads((run.directory.path / "last").read_text()) == {"index": 0}
    assert json.loads((run.directory.path / "run.json").read_text())["status"] == "passed"


class Interrupted(Reporter):
    name = "interrupted report"

    def ended(self, run: RunResults) -> Iterator[Output]:
        raise KeyboardInterrupt


def test_an_interrupt_during_a_report_costs_no_other_one(tmp_path: Path) -> None:
    class Last(Talkative):
        def ended(self, run: RunResults) -> list[Output]:
            return [document("end", b"")]

    run = lane_run(RunDirectory.create(tmp_path), tmp_path, Interrupted(), Last())
    run.start(Listening(FakeBox(ranks=2).begins().passes().ends().done().recording()))
    run.wait_for(0)
    with pytest.raises(KeyboardInterrupt):
        run.finish()
    assert json.loads((run.directory.path / "run.json").read_text())["status"] == "passed"
    assert (run.directory.path / "end").exists()
