"""Slicing logs by test: what was written during it, its ends when it is long, never an error."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_megacpp.box.logs import output as output_module
from pytest_megacpp.box.logs import size as logs_module
from pytest_megacpp.box.logs.output import HEAD_BYTES, TAIL_BYTES, OutputMarks
from pytest_megacpp.recording.events import OutputRead
from pytest_megacpp.recording.vocabulary import Stream

MOST_BYTES = HEAD_BYTES + TAIL_BYTES


class Logs:
    """Two ranks' streams."""

    def __init__(self, directory: Path) -> None:
        self.paths = {r: (str(directory / f"{r}.out"), str(directory / f"{r}.err")) for r in range(2)}
        for pair in self.paths.values():
            for path in pair:
                Path(path).touch()
        self.marks = OutputMarks(self.paths)

    def write(self, data: bytes, rank: int = 0, stream: int = 0) -> None:
        with open(self.paths[rank][stream], "ab") as f:
            f.write(data)

    def read(self, test: int | None = 0) -> list[OutputRead]:
        return list(self.marks.read(test))


@pytest.fixture
def logs(tmp_path: Path) -> Logs:
    return Logs(tmp_path)


def test_a_test_has_what_was_written_during_it(logs: Logs) -> None:
    logs.write(b"import\n")
    logs.marks.begin()
    logs.write(b"step 1\n")
    logs.write("naïve\n".encode(), 1, 1)
    assert logs.read(4) == [OutputRead(0, 4, Stream.STDOUT, "step 1\n"), OutputRead(1, 4, Stream.STDERR, "naïve\n")]
    logs.marks.begin()
    assert logs.read() == []


def test_start_up_has_what_was_written_before_any_test(logs: Logs) -> None:
    logs.write(b"import\n")
    assert logs.read(None) == [OutputRead(0, None, Stream.STDOUT, "import\n")]


def test_bytes_that_are_no_text_are_replaced(logs: Logs) -> None:
    logs.write(b"\xff\x00ok")
    assert logs.read()[0].text == "\ufffd\x00ok"


def test_long_output_keeps_its_ends_in_whole_lines(logs: Logs) -> None:
    lines = [f"line {i:06d} of the log\n".encode() for i in range(4_000)]
    logs.write(b"".join(lines))
    (found,) = logs.read()
    first, rest = found.text.split("\n… ", 1)
    mark, last = rest.split(" …\n", 1)
    assert mark == f"{found.cut_bytes} bytes cut"
    assert len(first) + len(last) + found.cut_bytes == len(b"".join(lines))
    assert all(len(line) == len("line 000000 of the log") for line in (first + "\n" + last).splitlines())
    assert first.startswith("line 000000")
    assert last.endswith("line 003999 of the log\n")


def test_a_secret_is_not_cut_in_two(logs: Logs) -> None:
    secret = b"token=" + b"s3cret" * 10 + b"\n"
    logs.write(
        b"x" * (HEAD_BYTES - 20) + b"\n" + secret + b"y" * MOST_BYTES + b"\n" + secret + b"z" * (TAIL_BYTES - 30)
    )
    (found,) = logs.read()
    assert "s3cret" not in found.text.replace(secret.decode().strip(), "")


def test_one_endless_line_keeps_its_ends_too(logs: Logs) -> None:
    logs.write(b"a" * MOST_BYTES + b"b" * MOST_BYTES)
    (found,) = logs.read()
    assert found.text == f"{'a' * HEAD_BYTES}\n… {MOST_BYTES} bytes cut …\n{'b' * TAIL_BYTES}"


@given(st.integers(-3, 3), st.integers(0, 2))
def test_up_to_the_limit_nothing_is_cut(tmp_path_factory: pytest.TempPathFactory, over: int, before: int) -> None:
    logs = Logs(tmp_path_factory.mktemp("logs"))
    logs.write(b"p" * before)
    logs.marks.begin()
    logs.write(b"x" * (MOST_BYTES + over))
    assert logs.read()[0].cut_bytes == max(0, over)


def test_a_log_that_shrank_or_vanished_is_nothing(logs: Logs) -> None:
    logs.write(b"long enough")
    logs.marks.begin()
    Path(logs.paths[0][0]).write_bytes(b"x")
    Path(logs.paths[1][0]).unlink()
    assert logs.read() == []


def test_a_log_that_can_not_be_opened_says_how_much_it_hides(logs: Logs, monkeypatch: pytest.MonkeyPatch) -> None:
    logs.write(b"12345")

    def refuse(*args: object, **kwargs: object) -> None:
        raise PermissionError

    monkeypatch.setattr("builtins.open", refuse)
    assert logs.read() == [OutputRead(0, 0, Stream.STDOUT, "", 5)]


# -- how large a log may get -------------------------------------------------------------------------------------


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """64 KiB of a log are kept at either end."""
    for module in (logs_module, output_module):
        monkeypatch.setattr(module, "KEPT_HEAD_BYTES", 1 << 16)
        monkeypatch.setattr(module, "KEPT_TAIL_BYTES", 1 << 16)
        monkeypatch.setattr(module, "MAX_LOG_BYTES", 1 << 17)


def used_bytes(path: str) -> int:
    return os.stat(path).st_blocks * 512


def test_the_middle_of_a_flood_is_given_back_to_the_disk(logs: Logs, small: None) -> None:
    path = logs.paths[0][0]
    logs.write(b"import\n")
    logs.marks.begin()
    if not logs_module.give_back(path, 0, 1):
        pytest.skip("this file system can't punch holes")
    logs.write(b"first\n")
    for _ in range(8):
        logs.write(b"flood\n" * 100_000)
        logs.marks.trim()
    logs.write(b"last\n")
    assert used_bytes(path) < 1_500_000 < os.stat(path).st_size
    (read,) = logs.read()
    assert read.text.startswith("first\nflood\n")
    assert read.text.endswith("flood\nlast\n")
    assert read.cut_bytes == os.stat(path).st_size - len("import\n") - len(read.text.encode()) + len(mark(read))


def mark(read: OutputRead) -> bytes:
    return f"\n… {read.cut_bytes} bytes cut …\n".encode()


def test_an_ordinary_log_is_left_alone(logs: Logs, small: None) -> None:
    logs.write(b"x" * (1 << 17))
    logs.marks.trim()
    logs_module.shorten(logs.paths[0][0])
    assert Path(logs.paths[0][0]).read_bytes() == b"x" * (1 << 17)


def test_a_long_log_ends_as_its_two_ends(logs: Logs, small: None) -> None:
    path = Path(logs.paths[0][0])
    logs.write(b"first\n" + b"x" * 1_000_000 + b"\nlast\n")
    logs_module.shorten(str(path))
    text = path.read_bytes()
    assert text.startswith(b"first\n")
    assert text.endswith(b"\nlast\n")
    assert f"… {1_000_012 - (1 << 17)} bytes cut …".encode() in text
    assert len(text) < (1 << 17) + 40
    assert [p.name for p in path.parent.iterdir() if p.suffix == ".tmp"] == []
    logs_module.shorten(str(path.parent / "missing.log"))


@pytest.mark.parametrize("holes", [True, False])
def test_no_part_of_a_secret_outlives_a_cut(
    logs: Logs, small: None, monkeypatch: pytest.MonkeyPatch, holes: bool
) -> None:
    """Every line is a secret: what is left of the log has it whole or not at all, while ranks write and afterwards."""
    path = logs.paths[0][0]
    if not holes:
        monkeypatch.setattr(output_module, "give_back", lambda *_: False)
    elif not logs_module.give_back(path, 0, 1):
        pytest.skip("this file system can't punch holes")
    secret = b"token=hunter2-" + b"0123456789" * 10
    logs.write(b"x\n")
    logs.marks.begin()
    for _ in range(5):
        logs.write((secret + b"\n") * 8_191)
        logs.marks.trim()
        rest = Path(path).read_bytes().replace(secret + b"\n", b"")
        assert not re.search(rb"token|hunter|0123|789", rest)
    logs.marks.shorten()
    rest = Path(path).read_bytes().replace(secret + b"\n", b"")
    assert b"bytes cut" in rest
    assert not re.search(rb"token|hunter|0123|789", rest.partition(b"bytes cut")[2].partition(b"\n")[2])
    assert rest.startswith(b"x\n")


def test_cuts_lie_between_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "log"
    path.write_bytes(b"one\ntwo\nthree\nfour\n")  # lines begin at 0, 4, 8, 14
    assert logs_module.between_lines(str(path), 5, 10) == (4, 14)
    assert logs_module.between_lines(str(path), 4, 14) == (4, 14)
    assert logs_module.between_lines(str(path), 1, 18) == (1, 19)
    assert logs_module.between_lines(str(tmp_path / "missing"), 5, 10) == (5, 10)
    monkeypatch.setattr(logs_module, "LINE_BYTES", 1)
    assert logs_module.between_lines(str(path), 11, 11) == (11, 11)


# -- where no hole can be punched ----------------------------------------------------------------------------------


@pytest.fixture
def no_holes(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on gVisor, where fallocate(2) answers ENOTSUP."""
    monkeypatch.setattr(output_module, "give_back", lambda *_: False)


def test_without_holes_the_middle_of_a_flood_is_cut_out(logs: Logs, small: None, no_holes: None) -> None:
    path = logs.paths[0][0]
    logs.write(b"import\n")
    logs.marks.begin()
    logs.write(b"first\n")
    for _ in range(8):
        logs.write(b"flood\n" * 100_000)
        logs.marks.trim()
        assert os.stat(path).st_size < 1_000_000
    logs.write(b"last\n")
    written = len(b"first\nlast\n") + 8 * 600_000
    (read,) = logs.read()
    assert read.text.startswith("first\nflood\n")
    assert read.text.endswith("flood\nlast\n")
    kept = len(read.text.encode()) - len(mark(read))
    in_the_log = Path(path).read_text()
    assert "bytes cut while the rank wrote on, some lines may be missing …" in in_the_log
    assert 0 <= read.cut_bytes + kept - written < 200, "what was cut is counted, and at most a mark with it"


def test_what_an_earlier_test_lost_is_not_this_tests(logs: Logs, small: None, no_holes: None) -> None:
    logs.marks.begin()
    logs.write(b"flood\n" * 200_000)
    logs.marks.trim()
    logs.marks.begin()
    logs.write(b"step 1\n")
    assert logs.read() == [OutputRead(0, 0, Stream.STDOUT, "step 1\n")]


@pytest.mark.parametrize("holes", [True, False])
def test_floods_of_many_tests_do_not_add_up(
    logs: Logs, small: None, monkeypatch: pytest.MonkeyPatch, holes: bool
) -> None:
    if not holes:
        monkeypatch.setattr(output_module, "give_back", lambda *_: False)
    elif not logs_module.give_back(logs.paths[0][0], 0, 1):
        pytest.skip("this file system can't punch holes")
    for _ in range(20):
        logs.marks.begin()
        logs.write(b"flood\n" * 40_000)
        logs.marks.trim()
        (read,) = logs.read()
        assert read.cut_bytes == 240_000 - len(read.text.encode()) + len(mark(read))
    assert used_bytes(logs.paths[0][0]) < 800_000
    logs.marks.shorten()
    text = Path(logs.paths[0][0]).read_text()
    cut_bytes = int(text.partition("\n… ")[2].partition(" bytes cut …")[0])
    assert abs(cut_bytes + (1 << 17) - 20 * 240_000) < 2_000


def test_a_writer_that_goes_on_meanwhile_keeps_its_newest_lines(logs: Logs, small: None, no_holes: None) -> None:
    path = logs.paths[0][0]
    logs.marks.begin()
    code = f"""
import time
log = open({path!r}, 'ab', buffering=0)
for i in range(200_000):
    log.write(b'line %06d\\n' % i)
time.sleep(0.5)  # the last line isn't written into a cut
log.write(b'last\\n')
"""
    with subprocess.Popen([sys.executable, "-c", code]) as writer:
        while writer.poll() is None:
            logs.marks.trim()
    logs.marks.trim()
    (read,) = logs.read()
    assert read.text.startswith("line 000000\nline 000001\n")
    assert read.text.endswith("last\n")
    assert os.stat(path).st_size < 1_000_000


def test_what_is_written_on_while_a_log_is_cut_makes_the_cut_no_smaller(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Offsets into what was written since would be off by as much."""
    log, append = tmp_path / "log", logs_module._append
    log.write_bytes(b"x" * 1000)
    monkeypatch.setattr(logs_module, "_append", lambda fd, data: (append(fd, data), append(fd, b"y" * 100)))
    shorter = logs_module.cut_out(str(log), 100, 900)
    assert 1100 - shorter == log.stat().st_size
    assert log.read_bytes().endswith(b"x" * 100 + b"y" * 100)


def test_what_is_kept_of_a_log_that_is_written_on_begins_with_a_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logs_module, "MAX_LOG_BYTES", 25)
    log = tmp_path / "a.log"
    log.write_text("first\n" * 20 + "the token is abc\nand more\n")
    logs_module.cut_out(str(log), 6, 60)
    assert log.read_text().splitlines()[3:] == ["and more"]
