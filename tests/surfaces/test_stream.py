"""What a follower says, in any portions; and that nothing it says can hurt the desk."""

import itertools
import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_megacpp.surfaces.stream import End, FollowerStream, Lines, Log, Piece, UpToDate
from pytest_megacpp.surfaces.unseen import Unseen
from tests.fuzzing import fuzzer

A, B = b'{"v":1,"a":1}\n', b'{"v":1,"b":2}\n'
RAW = b"#end {}\n{\nnot json\n\x00\xff"
FILE = f"#file {json.dumps({'path': 'ranks/w1/0/stdout.log', 'bytes': len(RAW)})}\n".encode() + RAW
WHOLE = b"#beat\n" + A + B + b"#beat\n#up-to-date\n" + A + FILE + b'#end {"status": 0}\n'


def joined(pieces: list[Piece]) -> tuple[bytes, list[Log], bool]:
    lines = b"".join(p.data for p in pieces if isinstance(p, Lines))
    return lines, [p for p in pieces if isinstance(p, Log)], any(isinstance(p, End) for p in pieces)


@fuzzer()
@given(cuts=st.lists(st.integers(0, len(WHOLE)), max_size=12))
def test_any_portions_say_the_same(cuts: list[int]) -> None:
    at = [0, *sorted(cuts), len(WHOLE)]
    stream, pieces = FollowerStream(), list[Piece]()
    for start, end in itertools.pairwise(at):
        pieces += stream.feed(WHOLE[start:end])
    assert joined(pieces) == (A + B + A, [Log("ranks/w1/0/stdout.log", RAW)], True)
    assert stream.offset == len(A + B + A)
    up_to_date = pieces.index(UpToDate())
    assert joined(pieces[:up_to_date])[0] == A + B
    assert UpToDate() not in pieces[up_to_date + 1 :]


@fuzzer()
@given(cut=st.integers(0, len(WHOLE)))
def test_a_later_follower_begins_after_the_last_whole_line(cut: int) -> None:
    recording, stream = A + B + A, FollowerStream()
    first = stream.feed(WHOLE[:cut])
    rest = stream.feed(recording[stream.resume() :] + b"#end {}\n")
    assert joined(first + rest)[0] == recording


@fuzzer()
@given(st.binary(max_size=400))
def test_nothing_hurts(data: bytes) -> None:
    for piece in FollowerStream().feed(data):
        assert isinstance(piece, Lines | Log | UpToDate | End)


@pytest.mark.parametrize(
    "path",
    [
        *(
            "../../.bashrc",
            "/etc/passwd",
            "ranks/../../x.log",
            "ranks/w1/0/stdout.log/x",
            "run.json",
            "recording.jsonl",
        ),
        *("ranks/w1/0/../stdout.log", "ranks/w1/x/stdout.log", "ranks/../0/stdout.log"),
    ],
)
def test_only_logs_are_files(path: str) -> None:
    said = f"#file {json.dumps({'path': path, 'bytes': 2})}\n".encode() + b"xx" + A
    assert joined(FollowerStream().feed(said)) == (A, [], False)


def test_a_log_without_end_is_not_waited_for() -> None:
    said = f"#file {json.dumps({'path': 'box.log', 'bytes': 1 << 40})}\n".encode() + A
    assert joined(FollowerStream().feed(said))[0] == A


def test_a_line_without_end_is_dropped() -> None:
    stream = FollowerStream()
    for _ in range(40):
        stream.feed(b"x" * (1 << 20))
    assert len(stream._tail) <= 3 << 20


def cpu_s(said: bytes, portion: int) -> float:
    """Of a stream that is read in portions of this size."""
    stream, began_s = FollowerStream(), time.process_time()
    for start in range(0, len(said), portion):
        stream.feed(said[start : start + portion])
    return time.process_time() - began_s


@pytest.mark.parametrize("size", [8 << 20, None], ids=["log", "line"])
def test_small_portions_take_no_longer_than_large_ones(size: int | None) -> None:
    """They did, in their number: each moved everything that had come before."""
    said = b"x" * (size or 2 << 20) + b"\n"
    head = b"" if size is None else f"#file {json.dumps({'path': 'box.log', 'bytes': len(said)})}\n".encode()
    few_s, many_s = (min(cpu_s(head + said, len(said) // portions) for _ in range(3)) for portions in (16, 2048))
    assert many_s < 16 * few_s + 0.05


def line(source: str, seq: int) -> bytes:
    return json.dumps({"world": "", "src": source, "seq": seq}).encode() + b"\n"


def test_unseen_lines_are_those_after_the_last_seen() -> None:
    unseen = Unseen()
    unseen.mark_seen(line("box", 0) + line("box", 1) + line("rank 0", 0) + b"torn")
    again = [line("box", 0), line("box", 1), line("rank 0", 0), line("box", 3), line("rank 1", 0), b"{}\n", b"\xff\n"]
    assert [one for one in again if unseen.is_new(one)] == [line("box", 3), line("rank 1", 0)]


def test_numbers_without_an_end_are_nonsense() -> None:
    stream = FollowerStream()
    assert stream.feed(b'#file {"path":"box.log","bytes":1e999}\n{"seq":0}\n') == [Lines(b'{"seq":0}\n')]
    assert not Unseen().is_new(b'{"world":"","src":"box","seq":1e999}')
