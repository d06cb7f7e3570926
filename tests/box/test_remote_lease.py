"""What a box away from its desk hears and says: signs of life, followers from any offset, whole lines, bounded logs."""

import io
import os
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from pytest_megacpp.box.remote import follow
from pytest_megacpp.box.remote.control import Control, Desk
from pytest_megacpp.box.remote.lease import Echo, _keep
from pytest_megacpp.recording.commands import Word, word_line
from pytest_megacpp.recording.plan import Again, Enough, Stop
from pytest_megacpp.recording.vocabulary import Purpose, RunEnd

GONE_S = 0.5
LINES = b'{"seq":0,"kind":"a"}\n{"seq":1,"kind":"sampled","rank":0}\n{"seq":2,"kind":"c"}\n'


@pytest.fixture
def run(tmp_path: Path) -> Path:
    (tmp_path / "control").mkdir()
    return tmp_path


def say(run: Path, words: bytes) -> Control:
    """A desk that says this and nothing more; what became of it."""
    control = Control(run)
    Desk(control, io.BytesIO(words)).thread.join()
    return control


def test_any_word_is_a_sign_of_life(run: Path) -> None:
    assert Control(run).lease_age_s() == float("inf")
    control = say(run, b"{}\n")
    assert control.lease_age_s() < 60
    assert control.words(0) == b""
    assert not control.fetched()


def test_what_a_desk_can_ask_for(run: Path) -> None:
    words: list[Word] = [Again(3, Purpose.WARM_UP, 3), Enough(2), Stop(RunEnd.STOPPED)]
    said = b"".join(map(word_line, words))
    control = say(run, b'nonsense\n{"stop":7}\n' + said + b'{"fetched":true}\n')
    assert control.words(0) == said
    assert control.words(len(word_line(words[0]))) == said[len(word_line(words[0])) :]
    assert control.fetched()


def test_a_word_is_passed_on_when_it_is_whole(run: Path) -> None:
    control = Control(run)
    control.pass_on(Enough(1))
    with (control.directory / "words").open("ab") as words:
        words.write(b'{"enough"')
    assert control.words(0) == word_line(Enough(1))


def followed(run: Path, offset: int, control: Control) -> bytes:
    until_s = time.monotonic() + GONE_S
    said = follow._lines(run / "recording.jsonl", offset, control, lambda: time.monotonic() > until_s)
    return b"".join(piece for piece in said if not piece.startswith(b"#"))


@pytest.mark.parametrize("lines", [0, 1, 2, 3])
def test_a_follower_begins_anywhere(run: Path, lines: int) -> None:
    (run / "recording.jsonl").write_bytes(LINES)
    control = Control(run)
    control.say_ended(0)
    offset = len(b"".join(LINES.splitlines(keepends=True)[:lines]))
    assert followed(run, offset, control) == LINES[offset:]


@pytest.mark.parametrize("portion_bytes", [25, 1000])
@pytest.mark.parametrize("offset", [0, len(LINES)])
def test_a_follower_says_once_that_all_that_was_there_has_been_sent(
    run: Path, monkeypatch: pytest.MonkeyPatch, portion_bytes: int, offset: int
) -> None:
    """Also of a recording that grows all the time."""
    monkeypatch.setattr(follow, "PORTION_BYTES", portion_bytes)
    recording, control = run / "recording.jsonl", Control(run)
    recording.write_bytes(LINES)
    said = list[bytes]()
    for piece in follow._lines(recording, offset, control, lambda: False):
        said.append(piece)
        if b"#up-to-date\n" in said and control.ended() is None:
            with recording.open("ab") as file:
                file.write(LINES)
            control.say_ended(0)
    at = said.index(b"#up-to-date\n")
    assert b"".join(said[:at]) == LINES[offset:]
    assert b"".join(said[at + 1 :]) == LINES


def test_a_torn_line_is_the_last(run: Path) -> None:
    (run / "recording.jsonl").write_bytes(LINES + b'{"seq":3')
    control = Control(run)
    control.say_ended(137)
    assert followed(run, 0, control) == LINES + b'{"seq":3\n'


def test_a_desk_that_is_gone_ends_its_follower(run: Path) -> None:
    """The box works on; the follower has nobody to tell."""
    (run / "recording.jsonl").write_bytes(LINES)
    assert followed(run, 0, Control(run)) == LINES


def test_a_silent_desk_is_gone(run: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    (run / "recording.jsonl").write_bytes(LINES)
    monkeypatch.setattr(follow, "SILENT_S", 0.05)
    monkeypatch.setattr(follow, "Desk", lambda control: SimpleNamespace(heard_s=time.monotonic()))
    assert follow.main(str(run), "0") == 1
    assert LINES.decode() in capfd.readouterr().out


def test_logs_are_bounded(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(follow, "LOG_BYTES", 10)
    monkeypatch.setattr(follow, "LOGS_BYTES", 25)
    for rank in range(4):
        log = run / "ranks" / "w1" / str(rank) / "stdout.log"
        log.parent.mkdir(parents=True)
        log.write_bytes(b"x" * 90 + b"the end %d\n" % rank)
    assert [(p, d[-6:]) for p, d in follow._logs(run)] == [
        ("ranks/w1/0/stdout.log", b"end 0\n"),
        ("ranks/w1/1/stdout.log", b"end 1\n"),
    ]


def test_the_echo_repeats_whole_lines_without_their_bulk(run: Path, capfd: pytest.CaptureFixture[str]) -> None:
    recording = run / "recording.jsonl"
    echo = Echo(recording)
    echo.pass_on()
    recording.write_bytes(LINES + b'{"seq":3')
    echo.pass_on()
    echo.pass_on()
    with recording.open("ab") as file:
        file.write(b"}\n")
    echo.pass_on()
    assert [line[7] for line in capfd.readouterr().out.splitlines()] == ["0", "2", "3"]


def test_records_are_kept_recording_last(run: Path, tmp_path: Path) -> None:
    (run / "recording.jsonl").write_bytes(LINES)
    (run / "box.log").write_text("said")
    log = run / "ranks" / "w1" / "0" / "stdout.log"
    log.parent.mkdir(parents=True)
    log.write_text("out")
    keep = tmp_path / "volume" / "run"
    _keep(run, keep)
    kept = {str(path.relative_to(keep)) for path in keep.rglob("*") if path.is_file()}
    assert kept == {"recording.jsonl", "box.log", "ranks/w1/0/stdout.log"}
    assert (keep / "recording.jsonl").read_bytes() == LINES


def test_what_cannot_be_kept_is_said_and_costs_nothing(run: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (run / "recording.jsonl").write_bytes(LINES)
    _keep(run, Path(os.devnull))
    assert "could not be kept" in capfd.readouterr().err
