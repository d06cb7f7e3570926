"""What `megacpp logs` reads: log files that grow, and what a recording has of each test."""

from pathlib import Path

import pytest

from pytest_megacpp.desk.run.rank_logs import LINE_BYTES, LogFiles, TestOutput, Wanted, Written, log_paths
from pytest_megacpp.recording import events as ev
from pytest_megacpp.recording.events import Fact, Limits
from pytest_megacpp.recording.vocabulary import Stream, TestEnd
from pytest_megacpp.recording.wire import encode


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
    source = LogFiles(run.path, Wanted())
    assert [lines(one) for one in source.read()] == [("w1", 0, ("one",))]
    assert list(source.read()) == []
    run.log(b"o\nthree\rfour\r\nfi")
    run.log(b"other\n", rank=1, world="w2")
    assert [lines(one) for one in source.read()] == [("w1", 0, ("two", "three", "four")), ("w2", 1, ("other",))]
    assert [lines(one) for one in source.rest()] == [("w1", 0, ("fi",))]


def test_a_log_that_is_replaced_is_not_read_again(run: Run) -> None:
    """At its end a box takes secrets out of logs, which moves what follows them."""
    log = run.log(b"key is s3cret\n")
    source = LogFiles(run.path, Wanted())
    assert len(list(source.read())) == 1
    run.log(b"last\n")
    (run.path / "new").write_bytes(b"key is [redacted:KEY]\nlast\n")
    (run.path / "new").replace(log)
    assert [one.lines for one in source.read()] == [("last",)]
    assert list(source.read()) == []


def test_holes_and_endless_lines(run: Run) -> None:
    run.log(b"begin\n" + b"\0" * 4096 + b"end\n" + b"x" * (LINE_BYTES + 1))
    (written,) = LogFiles(run.path, Wanted()).read()
    assert written.lines[:3] == ("begin", "", "[cut]")
    assert written.lines[3] == "end"
    assert len(written.lines[4]) == LINE_BYTES + 1


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
    source = TestOutput(run.path, Wanted(), "second")
    assert [lines(one) for one in source.read()] == [("w1", 0, ("c",)), ("w1", 1, ("d", "e"))]
    assert source.found == {"test_a.py::test_second"}
    everything = TestOutput(run.path, Wanted(frozenset({0})))
    assert [one.lines for one in everything.read()] == [("a",), ("c",)]


def test_a_test_that_runs_is_read_from_the_logs(run: Run) -> None:
    """From where it began, and no line of the next test."""
    run.starts(0, "test_first")
    run.log(b"start-up\na\n")
    source = TestOutput(run.path, Wanted(), "second")
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
    source = TestOutput(run.path, Wanted(), "first")
    list(source.read())
    run.log(b"1\n2\n3\n4\n")
    assert [one.lines for one in source.read()] == [("1", "2", "3", "4")]
    run.ends(0, "1\n… 2 bytes cut …\n4\n", cut_bytes=2)
    assert [line for one in source.read() for line in one.lines] == []


def test_there_may_be_nothing_yet(run: Run) -> None:
    assert list(TestOutput(run.path, Wanted()).read()) == []
    assert list(LogFiles(run.path, Wanted()).read()) == []
