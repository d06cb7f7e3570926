"""What a second process asks of a run, left in a file of its directory."""

import itertools
import os
from pathlib import Path

import pytest

from pytest_megacpp.box.asked import EVERY_S, FILE, MAX_BYTES, MAX_LINES, Asked, ask
from pytest_megacpp.recording.commands import Word, word_line
from pytest_megacpp.recording.plan import Again, Enough, Look, Stop
from pytest_megacpp.recording.vocabulary import Purpose, RunEnd

STOP = Stop(RunEnd.INTERRUPTED, by_command=True)


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


@pytest.mark.parametrize(
    "word", [Again(3, Purpose.WARM_UP, 7), Enough(0), Stop(RunEnd.STOPPED), Stop(RunEnd.COMPLETED), Stop(RunEnd.BUDGET)]
)
def test_only_a_command_is_heard(tmp_path: Path, word: Word) -> None:
    """Whoever can write the file can't order attempts, nor give another reason for the end than that they asked."""
    reader = reader_of(tmp_path)
    ask(tmp_path, word)
    ask(tmp_path, Stop(RunEnd.INTERRUPTED))
    assert reader.words() == [STOP]


def test_a_stray_byte_costs_no_word(tmp_path: Path) -> None:
    reader = reader_of(tmp_path)
    ask(tmp_path, Look())
    with (tmp_path / FILE).open("ab") as file:
        file.write(b"x")
    ask(tmp_path, STOP)
    assert reader.words() == [Look(), STOP]


def test_an_emptied_file_is_read_from_its_beginning(tmp_path: Path) -> None:
    reader = reader_of(tmp_path)
    ask(tmp_path, STOP)
    assert reader.words() == [STOP]
    (tmp_path / FILE).write_bytes(b"")
    ask(tmp_path, Look())
    assert reader.words() == [Look()]


def test_one_look_takes_some_words_and_leaves_the_others_to_the_next(tmp_path: Path) -> None:
    reader = reader_of(tmp_path)
    for _ in range(MAX_LINES + 3):
        ask(tmp_path, Look())
    assert [len(reader.words()) for _ in range(3)] == [MAX_LINES, 3, 0]


def test_a_look_at_empty_lines_reads_little(tmp_path: Path) -> None:
    reader = reader_of(tmp_path)
    ask(tmp_path, Look())
    with (tmp_path / FILE).open("ab") as file:
        file.write(b"\n" * (2 * MAX_BYTES))
    ask(tmp_path, STOP)
    assert [reader.words() for _ in range(3)] == [[Look()], [], [STOP]]


def test_a_fifo_in_its_place_blocks_nobody(tmp_path: Path) -> None:
    reader = reader_of(tmp_path)
    (tmp_path / FILE).parent.mkdir()
    os.mkfifo(tmp_path / FILE)
    with pytest.raises(OSError, match="No such device"):
        ask(tmp_path, STOP)
    assert reader.words() == []
    other = os.open(tmp_path / FILE, os.O_RDWR)
    with pytest.raises(OSError, match="it is no regular file"):
        ask(tmp_path, STOP)
    assert reader.words() == []
    os.close(other)


def test_a_link_in_its_place_is_not_followed(tmp_path: Path) -> None:
    reader = reader_of(tmp_path)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_bytes(word_line(STOP))
    (tmp_path / FILE).parent.mkdir()
    (tmp_path / FILE).symlink_to(elsewhere)
    with pytest.raises(OSError, match="symbolic links"):
        ask(tmp_path, Look())
    assert reader.words() == []
    assert elsewhere.read_bytes() == word_line(STOP)
