"""What `megacpp logs` reads: log files that grow, and what a recording has of each test."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from pytest_megacpp.desk.run.growing_log import HEAD_BYTES, KEY_CHARS, LINE_BYTES, open_log
from pytest_megacpp.desk.run.rank_logs import LogFiles, TestOutput, Wanted, Written, log_paths
from pytest_megacpp.recording import events as ev
from pytest_megacpp.recording.events import Fact, Limits
from pytest_megacpp.recording.redact import Redactor
from pytest_megacpp.recording.vocabulary import Stream, TestEnd
from pytest_megacpp.recording.wire import encode

KEY = b"\n".join(
    [b"-----BEGIN RSA PRIVATE KEY-----", *[b"MIIEowIB" * 8] * 5, b"AAECAw==", b"-----END RSA PRIVATE KEY-----"]
)


class Run:
    """A run that is written step by step."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._seq = 0

    def log(self, text: bytes, rank: int = 0, world: str = "w1", stream: str = "stdout") -> Path:
        file = self.path / "ranks" / world / str(rank) / f"{stream}.log"
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("ab") as log:
            log.write(text)
        return file

    def fact(self, fact: Fact, world: str = "w1") -> None:
        with (self.path / "recording.jsonl").open("ab") as recording:
            recording.write(encode(ev.Event("r1", world, "box", self._seq, float(self._seq), fact)))
        self._seq += 1

    def starts(self, number: int, name: str) -> None:
        self.fact(ev.TestStarted(number, f"test_a.py::{name}", 2, Limits()))

    def ends(self, number: int, *texts: str, cut_bytes: int = 0) -> None:
        for rank, text in enumerate(texts):
            self.fact(ev.OutputRead(rank, number, Stream.STDOUT, text, cut_bytes))
        self.fact(ev.TestEnded(number, TestEnd.FINISHED))


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(tmp_path)


def lines(written: Written) -> tuple[str, int, tuple[str, ...]]:
    return written.world, written.rank, written.lines


def test_logs_are_read_as_they_grow(run: Run) -> None:
    run.log(b"one\ntw")
    source = LogFiles(run.path, Wanted(), str)
    assert [lines(one) for one in source.read()] == [("w1", 0, ("one",))]
    assert list(source.read()) == []
    run.log(b"o\nthree\rfour\r\nfi")
    run.log(b"other\n", rank=1, world="w2")
    assert [lines(one) for one in source.read()] == [("w1", 0, ("two", "three", "four")), ("w2", 1, ("other",))]
    assert [lines(one) for one in source.rest()] == [("w1", 0, ("fi",))]


def test_a_log_that_is_replaced_is_not_read_again(run: Run) -> None:
    """At its end a box takes secrets out of logs, which moves what follows them."""
    log = run.log(b"key is s3cret\n")
    source = LogFiles(run.path, Wanted(), str)
    assert len(list(source.read())) == 1
    run.log(b"last\n")
    (run.path / "new").write_bytes(b"key is [redacted:KEY]\nlast\n")
    (run.path / "new").replace(log)
    assert [one.lines for one in source.read()] == [("last",)]
    assert list(source.read()) == []


def test_a_hole_is_a_line_and_what_it_cut_is_none(run: Run) -> None:
    """A box punches it between lines, but within a line that is very long; the first one behind it may be its end."""
    run.log(b"begin\nthe key is hunt" + b"\0" * 4096 + b"er2\nlast\n")
    (written,) = LogFiles(run.path, Wanted(), str).read()
    assert written.lines == ("begin", "[cut]", "last")


def test_a_hole_may_be_larger_than_what_is_read_at_a_time(run: Run) -> None:
    log = run.log(b"begin\n")
    os.truncate(log, 40 << 20)
    run.log(b"rest of a line\nlast\n")
    found = [line for one in LogFiles(run.path, Wanted(), str).read() for line in one.lines]
    assert found == ["begin", "[cut]", "last"]


def test_zeros_that_are_no_hole_are_text(run: Run) -> None:
    run.log(b"a\0\0b\n\0")
    source = LogFiles(run.path, Wanted(), str)
    assert [one.lines for one in source.read()] == [("a\0\0b",)]
    run.log(b"c\n")
    assert [one.lines for one in source.read()] == [("\0c",)]


def test_a_private_key_that_is_written_bit_by_bit(run: Run) -> None:
    """Its lines alone don't show that they are one: it is held back until it ends, and what follows isn't."""
    source, shown = LogFiles(run.path, Wanted(), Redactor({}).text), []
    for line in (b"before\n", *(part + b"\n" for part in KEY.split(b"\n")), b"after\n"):
        for half in (line[:9], line[9:]):
            run.log(half)
            shown += [text for one in source.read() for text in one.lines]
    assert shown == ["before", "[redacted:private-key]", "after"]


def test_a_private_key_without_an_end(run: Run) -> None:
    """It is shown at the end of the log, or once it is too long for one, as the box leaves it."""
    source = LogFiles(run.path, Wanted(), Redactor({}).text)
    run.log(b"\n".join(KEY.split(b"\n")[:3]))
    assert list(source.read()) == []
    assert [one.lines for one in source.rest()] == [("[redacted:private-key]",)]
    run.log(KEY.split(b"\n")[0] + b"\n" + b"no key\n" * (KEY_CHARS // 7), rank=1)
    source = LogFiles(run.path, Wanted(frozenset({1})), Redactor({}).text)
    assert [one.lines[-1] for one in source.read()] == ["no key"]


@pytest.mark.parametrize("before", range(0, 40, 3))
def test_no_cut_of_a_long_line_goes_through_a_secret(run: Run, before: int) -> None:
    """Neither where its beginning ends, nor between two looks, nor where a look ends."""
    secret = b"correct-horse-battery-staple-97531"
    redact = Redactor({"API_TOKEN": secret.decode()}).text
    spaces = b"." * (HEAD_BYTES - before)
    line = spaces + secret + spaces + secret + b"." * LINE_BYTES
    source = LogFiles(run.path, Wanted(), redact)
    run.log(line[: LINE_BYTES + before])
    assert list(source.read()) == []
    run.log(line[LINE_BYTES + before :] + b"\nnext\n")
    ((long_line, following),) = (one.lines for one in source.read())
    assert following == "next"
    assert long_line.endswith(f" … {len(line) - HEAD_BYTES} bytes of a long line …")
    assert long_line.startswith("." * (HEAD_BYTES - before))
    assert not any(secret[i : i + 5].decode() in long_line for i in range(len(secret) - 5))
    run.log(line + b"\n", rank=1)
    (whole,) = LogFiles(run.path, Wanted(frozenset({1})), redact).read()
    assert whole.lines == (long_line,)


def test_reading_that_begins_in_the_middle(run: Run) -> None:
    """Of a line, or of a private key, whose rest nobody would know for one."""
    text = b"first\n" + KEY + b"\nafter\nlast\n"
    log = run.log(text)
    whole = ["first", "[redacted:private-key]", "after", "last"]
    for start in range(len(text)):
        source = LogFiles(run.path, Wanted(), Redactor({}).text, {log: start})
        found = [line for one in source.read() for line in one.lines]
        assert found == whole[len(whole) - len(found) :]
        assert found or start > text.index(b"last")


def test_progress_bars(run: Run) -> None:
    source = LogFiles(run.path, Wanted(), str)
    run.log(b"10%\r20%\r")
    assert [one.lines for one in source.read()] == [("10%",)]
    run.log(b"\n30%\r")
    assert [one.lines for one in source.read()] == [("20%",)]
    assert [one.lines for one in source.rest()] == [("30%",)]


@pytest.mark.parametrize("make", [os.mkfifo, lambda path: path.symlink_to("/etc/passwd"), Path.mkdir])
def test_what_a_rank_puts_in_place_of_its_log_is_not_read(run: Run, make: Callable[[Path], object]) -> None:
    """Opening a pipe waits for its writer."""
    log = run.log(b"")
    log.unlink()
    make(log)
    assert list(LogFiles(run.path, Wanted(), str).read()) == []
    run.starts(0, "test_first")
    run.ends(0, "a\n")
    run.starts(1, "test_second")
    assert list(TestOutput(run.path, Wanted(), str, "second").read()) == []


def test_worlds_and_ranks_come_in_their_order(run: Run) -> None:
    for world, rank in (("w10", 0), ("w2", 10), ("w2", 9), ("w1", 0)):
        run.log(b"x\n", rank, world)
    run.log(b"x\n", 9, "w2", "stderr")
    (run.path / "ranks" / "w1" / "0" / "notes.log").write_text("x\n")
    found = [path.relative_to(run.path / "ranks").with_suffix("").as_posix() for path in log_paths(run.path)]
    assert found == ["w1/0/stdout", "w2/9/stdout", "w2/9/stderr", "w2/10/stdout", "w10/0/stdout"]
    chosen = log_paths(run.path, Wanted(frozenset({9}), "stderr"))
    assert [path.parts[-2:] for path in chosen] == [("9", "stderr.log")]


def test_the_output_of_one_test(run: Run) -> None:
    run.starts(0, "test_first")
    run.ends(0, "a\n", "b\n")
    run.starts(1, "test_second")
    run.ends(1, "c\n", "d\ne")
    source = TestOutput(run.path, Wanted(), str, "second")
    assert [lines(one) for one in source.read()] == [("w1", 0, ("c",)), ("w1", 1, ("d", "e"))]
    assert source.found == {"test_a.py::test_second"}
    everything = TestOutput(run.path, Wanted(frozenset({0})), str)
    assert [one.lines for one in everything.read()] == [("a",), ("c",)]


def test_a_test_that_runs_is_read_from_the_logs(run: Run) -> None:
    """From where it began, and no line of the next test."""
    run.starts(0, "test_first")
    run.log(b"start-up\na\n")
    source = TestOutput(run.path, Wanted(), str, "second")
    assert list(source.read()) == []
    run.ends(0, "start-up\na\n")
    run.starts(1, "test_second")
    run.log(b"b\n")
    assert list(source.read()) == []
    assert [one.lines for one in source.read()] == [("b",)]
    run.log(b"c\n")
    assert [one.lines for one in source.read()] == [("c",)]
    run.log(b"d\n")
    run.ends(1, "b\nc\nd\n")
    run.starts(2, "test_third")
    run.log(b"e\n")
    assert [one.lines for one in source.read()] == [("d",)]
    assert list(source.read()) == []


def test_what_a_test_wrote_too_much_of_is_not_shown_twice(run: Run) -> None:
    run.starts(0, "test_first")
    source = TestOutput(run.path, Wanted(), str, "first")
    list(source.read())
    run.log(b"1\n2\n3\n4\n")
    assert [one.lines for one in source.read()] == [("1", "2", "3", "4")]
    run.ends(0, "1\n… 2 bytes cut …\n4\n", cut_bytes=2)
    assert [line for one in source.read() for line in one.lines] == []


def test_there_may_be_nothing_yet(run: Run) -> None:
    assert list(TestOutput(run.path, Wanted(), str).read()) == []
    assert list(LogFiles(run.path, Wanted(), str).read()) == []


@pytest.mark.parametrize("world", ["\ud800", "w\0"])
def test_a_world_whose_name_no_file_can_have_has_no_log(tmp_path: Path, world: str) -> None:
    assert open_log(tmp_path / world / "0" / "stdout.log") is None
