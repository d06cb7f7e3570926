"""What a second process asks of a run, left in a file of its directory."""

import itertools
from pathlib import Path

from pytest_megacpp.box.asked import EVERY_S, FILE, MAX_BYTES, Asked, ask
from pytest_megacpp.recording.commands import word_line
from pytest_megacpp.recording.plan import Look, Stop
from pytest_megacpp.recording.vocabulary import RunEnd

STOP = Stop(RunEnd.INTERRUPTED)


def reader_of(run: Path) -> Asked:
    """It looks at each call."""
    return Asked(run, itertools.count(10.0).__next__)


def test_each_word_is_read_once(tmp_path: Path) -> None:
    reader = reader_of(tmp_path)
    assert reader.words() == []
    ask(tmp_path, Look())
    ask(tmp_path, STOP)
    assert reader.words() == [Look(), STOP]
    assert reader.words() == []
    ask(tmp_path, Look())
    assert reader.words() == [Look()]


def test_a_torn_word_waits_for_its_end(tmp_path: Path) -> None:
    reader, line = reader_of(tmp_path), word_line(STOP)
    ask(tmp_path, Look())
    with (tmp_path / FILE).open("ab") as file:
        file.write(line[:5])
    assert reader.words() == [Look()]
    assert reader.words() == []
    with (tmp_path / FILE).open("ab") as file:
        file.write(line[5:])
    assert reader.words() == [STOP]


def test_what_is_no_word_is_passed_over(tmp_path: Path) -> None:
    reader = reader_of(tmp_path)
    ask(tmp_path, Look())
    with (tmp_path / FILE).open("ab") as file:
        file.write(b'{"again": 5}\nnot json\n\n{"other": {}}\n' + b"x" * (3 * MAX_BYTES) + b"\n" + word_line(STOP))
    found = [word for _ in range(8) for word in reader.words()]
    assert found == [Look(), STOP]


def test_it_looks_now_and_then_only(tmp_path: Path) -> None:
    now_s = [10.0]
    reader = Asked(tmp_path, lambda: now_s[0])
    assert reader.words() == []
    ask(tmp_path, Look())
    assert reader.words() == []
    now_s[0] += 2 * EVERY_S
    assert reader.words() == [Look()]
