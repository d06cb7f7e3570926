"""The recording's file: what is written can be read, secrets never are, and a full disk ends the run."""

import contextlib
import errno
import io
import os
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_megacpp.box.logs import redaction
from pytest_megacpp.box.logs.redaction import MAX_KEY_CHARS, redact_file
from pytest_megacpp.box.recorder import Recorder, RecordingFailed
from pytest_megacpp.recording import events as ev
from pytest_megacpp.recording.numbers import Numbers
from pytest_megacpp.recording.redact import Redactor
from pytest_megacpp.recording.timeline import fold
from pytest_megacpp.recording.vocabulary import (
    ActReason,
    ProblemCode,
    ReportOutcome,
    SettingOrigin,
    StackMethod,
    Stage,
    Stream,
    TestPhase,
    WorldReason,
)
from pytest_megacpp.recording.wire import MAX_LINE_BYTES, encode, read_all
from tests.recording.strategies import TIMES, facts

SECRET = "hunter2-hunter2-hunter2"
REDACTOR = Redactor({"MY_API_TOKEN": SECRET})


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "recording.jsonl"


def recorder(path: Path) -> Recorder:
    return Recorder(str(path), "r1", REDACTOR)


def test_events_are_stamped_and_numbered_per_world_and_source(path: Path) -> None:
    record = recorder(path)
    record.write(ev.Progress("preload"))
    record.write(ev.WorldStarted(2, WorldReason.FIRST), "w1")
    record.write(ev.RankReady(0, 7, "0x1"), "w1", "rank 0", 1.25)
    record.write(ev.RankCollected(0, Numbers((0,)), "d"), "w1", "rank 0", 1.5)
    read = read_all(path.read_bytes())
    assert [(e.run, e.world, e.source, e.seq) for e in read] == [
        ("r1", "", "box", 0),
        ("r1", "w1", "box", 0),
        ("r1", "w1", "rank 0", 0),
        ("r1", "w1", "rank 0", 1),
    ]
    assert [e.time_s for e in read[2:]] == [1.25, 1.5]
    assert 0 <= read[0].time_s <= read[1].time_s <= record.now_s()
    record.close()


def test_facts_held_together_are_written_once_and_in_order(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record = recorder(path)
    writes: list[bytes] = []
    append = os.write

    def write(fd: int, data: bytes) -> int:
        writes.append(data)
        return append(fd, data)

    monkeypatch.setattr(os, "write", write)
    with record.together():
        for stage in ("one", "two", "three"):
            record.write(ev.Progress(stage))
        assert path.read_bytes() == b""
    assert len(writes) == 1
    assert [e.fact for e in read_all(path.read_bytes())] == [ev.Progress(s) for s in ("one", "two", "three")]


def test_facts_held_together_are_written_when_something_fails(path: Path) -> None:
    record = recorder(path)
    with contextlib.suppress(LookupError), record.together():
        record.write(ev.Progress("one"))
        raise LookupError
    record.write(ev.Progress("two"))
    assert [e.seq for e in read_all(path.read_bytes())] == [0, 1]


def test_a_recording_is_appended_to(path: Path) -> None:
    path.write_bytes(encode(ev.Event("r1", "", "desk", 0, 0.0, ev.Progress("upload"))))
    recorder(path).write(ev.Progress("preload"))
    assert [e.source for e in read_all(path.read_bytes())] == ["desk", "box"]


@given(st.lists(st.tuples(facts(rank=st.integers(0, 3)), st.sampled_from(["", "w1"]), TIMES), max_size=8))
def test_a_reader_sees_the_timeline_of_the_box(
    tmp_path_factory: pytest.TempPathFactory, listed: list[tuple[ev.Fact, str, float]]
) -> None:
    path = tmp_path_factory.mktemp("run") / "recording.jsonl"
    record = recorder(path)
    for fact, world, time_s in listed:
        record.write(fact, world, at_s=time_s)
    record.close()
    read = read_all(path.read_bytes())
    assert len(read) == len(listed)
    assert fold(read) == record.timeline


@pytest.mark.parametrize(
    "fact",
    [
        ev.OutputRead(0, 0, Stream.STDOUT, f"key: {SECRET}\n"),
        ev.Reported(
            0,
            0,
            TestPhase.CALL,
            ReportOutcome.FAILED,
            1.0,
            ev.Error("E", f"bad {SECRET}", "f", 1, f"assert '{SECRET}'"),
        ),
        ev.Reported(
            0,
            0,
            TestPhase.CALL,
            ReportOutcome.PASSED,
            1.0,
            sections=(("log", f"x {SECRET}"),),
            properties={SECRET: [SECRET]},
        ),
        ev.Reported(0, 0, TestPhase.CALL, ReportOutcome.SKIPPED, 1.0, skip=ev.Skip("f", 1, SECRET), xfail=SECRET),
        ev.Recorded(0, 0, SECRET, {"a": [{"b": SECRET}]}),
        ev.RankCollected(0, Numbers((0,)), "d", (ev.CollectError("f", f"E {SECRET}"),)),
        ev.RankBroken(0, Stage.CONFTEST, "E", SECRET, SECRET),
        ev.BoxReady({"v": SECRET}, {"facts": [SECRET]}, (SECRET,)),
        ev.EnvironmentSet("X", SECRET, SettingOrigin.USER, SECRET),
        ev.StackTaken(0, 0, StackMethod.TRACEBACK, True, f'File "{SECRET}"'),
        ev.TestPlanned(0, f"test_x.py::test[{SECRET}]", 2),
        ev.ProblemFound(ProblemCode.BLOCKED, "x", SECRET, SECRET),
    ],
    ids=lambda f: type(f).__name__,
)
def test_secrets_reach_neither_file_nor_timeline(path: Path, fact: ev.Fact) -> None:
    record = recorder(path)
    record.write(ev.WorldStarted(2, WorldReason.FIRST), "w1")
    record.write(ev.TestStarted(0, "t", 2, ev.Limits()), "w1")
    record.write(fact, "w1")
    text = path.read_text()
    assert SECRET not in text
    assert "[redacted:" in text
    assert SECRET not in repr(record.timeline)


def test_a_fact_that_no_reader_would_accept_is_said_to_be_missing_by_box_and_recording(path: Path) -> None:
    record = recorder(path)
    record.write(ev.WorldStarted(2, WorldReason.FIRST), "w1")
    record.write(ev.RankCollected(0, Numbers(range(0, MAX_LINE_BYTES, 2)), "d"), "w1", "rank 0")
    record.write(ev.BoxReady({}, {}, ("H200",) * (MAX_LINE_BYTES // 4)))
    read = fold(read_all(path.read_bytes()))
    assert read.capabilities == record.timeline.capabilities
    assert read.worlds["w1"].broken.keys() == {0}
    assert record.timeline.worlds["w1"].broken.keys() == {0}
    lacks = record.timeline.capabilities["recording", None]
    assert (lacks.available, lacks.detail) == (False, "a BoxReady is too long for a line, and left out")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_full_disk_is_said_so() -> None:
    with pytest.raises(RecordingFailed, match="the recording can't be written: No space left on device") as failed:
        recorder(Path("/dev/full")).write(ev.Progress("x"))
    assert failed.value.errno == errno.ENOSPC


def test_short_writes_are_continued(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record, write = recorder(path), os.write
    monkeypatch.setattr(os, "write", lambda fd, data: write(fd, data[:7]))
    record.write(ev.Progress("a longer phase", "with its detail"))
    assert read_all(path.read_bytes())[0].fact == ev.Progress("a longer phase", "with its detail")


def test_logs_are_cleaned_in_place_and_clean_ones_left_alone(tmp_path: Path) -> None:
    dirty, clean = tmp_path / "dirty.log", tmp_path / "clean.log"
    dirty.write_bytes(b"\xff one\r\n" + SECRET.encode() + b"\n")
    clean.write_bytes(b"\xff one\r\n")
    before = clean.stat()
    for log in (dirty, clean, tmp_path / "missing.log"):
        redact_file(str(log), REDACTOR)
    assert dirty.read_bytes() == b"\xff one\r\n[redacted:MY_API_TOKEN]\n"
    assert (clean.stat().st_ino, clean.read_bytes()) == (before.st_ino, b"\xff one\r\n")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["clean.log", "dirty.log"]


def test_a_word_of_ours_is_no_secret(path: Path) -> None:
    record = Recorder(str(path), "r1", Redactor({"DEPLOY_KEY": "failure-stuck"}))
    record.write(ev.Acted(0, ActReason.FAILURE_STUCK, "failure-stuck"))
    (read,) = read_all(path.read_bytes())
    assert read.fact == ev.Acted(0, ActReason.FAILURE_STUCK, "[redacted:DEPLOY_KEY]")


def test_a_private_key_across_two_portions_of_a_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whichever of its lines the first portion ends with; what follows is left as it was."""
    head, tail, log = "before\n" * 8, "after\n" * 40, tmp_path / "a.log"
    lines = ["-----BEGIN RSA PRIVATE KEY-----", "Proc-Type: 4,ENCRYPTED", "Mj9 x0", *["k3Ys"] * 20]
    key = "\n".join([*lines, "-----END RSA PRIVATE KEY-----"])
    for portion in range(len(head), len(head + key) + 10):
        monkeypatch.setattr(redaction, "PORTION_CHARS", portion)
        log.write_text(f"{head}{key}\n{tail}")
        assert redact_file(str(log), REDACTOR)
        assert log.read_text() == f"{head}[redacted:private-key]\n{tail}"


def test_a_key_without_an_end_takes_a_part_of_a_log_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redaction, "PORTION_CHARS", 100)
    read: list[int] = []

    def as_it_is(text: str) -> str:
        read.append(len(text))
        return text

    monkeypatch.setattr(REDACTOR, "text", as_it_is)
    log = tmp_path / "a.log"
    log.write_text("-----BEGIN PRIVATE KEY-----\n" + "not one\n" * 20_000)
    assert redact_file(str(log), REDACTOR)
    assert read[0] < MAX_KEY_CHARS + 300
    assert max(read[1:]) <= 200


def test_the_rest_of_a_key_takes_time_linear_in_its_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redaction, "MAX_KEY_CHARS", 1 << 20)

    def cpu_s(lines: int) -> float:
        log, began_s = io.StringIO("\n" * lines), time.process_time()
        assert len(redaction._rest_of_key(log, "-----BEGIN PRIVATE KEY-----\n")) == lines
        return time.process_time() - began_s

    assert min(cpu_s(80_000) for _ in range(3)) < 8 * min(cpu_s(20_000) for _ in range(3))  # quadratic: 16 times


def test_where_the_wall_clock_s_zero_is_follows_the_wall_clock(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is set while a run goes on."""
    made, then_s, really = recorder(path), time.time(), time.time
    before_s = made.epoch_s()
    monkeypatch.setattr(time, "time", lambda: really() + 3600)
    assert then_s - 60 < before_s < then_s + 60
    assert 3540 < made.epoch_s() - before_s < 3660
