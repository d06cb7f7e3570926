"""Events ↔ bytes: nothing is lost on the way, and no bytes whatever make the reader raise."""

import itertools
import json
import random
import time
from collections.abc import Sequence
from enum import StrEnum
from typing import Any, get_args, get_type_hints

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_megacpp.recording import events as ev
from pytest_megacpp.recording.codec import CodecError
from pytest_megacpp.recording.events import Damaged, Event, Gap, Unknown
from pytest_megacpp.recording.numbers import Numbers
from pytest_megacpp.recording.vocabulary import ReportOutcome, Stream, TestPhase
from pytest_megacpp.recording.wire import (
    KINDS,
    MAX_LINE_BYTES,
    MAX_TEXT_CHARS,
    RANK_KINDS,
    Decoder,
    decode_fact,
    dump_line,
    encode,
    encode_fact,
    ended_lines,
    read_all,
    read_object,
)
from tests.fuzzing import fuzzer
from tests.recording.strategies import JSON, TIMES, facts_of, streams


def event(fact: ev.Fact, seq: int = 0, source: str = "box", world: str = "w1") -> Event:
    return Event("r1", world, source, seq, 1.5, fact)


def line(**fields: object) -> bytes:
    """One line with a stamp; `fields` replace and add."""
    stamp = {"v": 1, "run": "r1", "world": "w1", "src": "box", "seq": 0, "t": 1.5, "kind": "progress", "phase": "x"}
    return json.dumps(stamp | fields).encode() + b"\n"


def only_damage(data: bytes) -> str:
    (found,) = read_all(data)
    assert isinstance(found.fact, Damaged), found
    return found.fact.why


def fed(portions: Sequence[bytes]) -> list[Event]:
    decoder = Decoder()
    return [e for portion in portions for e in decoder.feed(portion)] + decoder.close()


def is_word(hint: Any) -> bool:
    """Whether a field of this type holds a member of a closed set."""
    return any(isinstance(one, type) and issubclass(one, StrEnum) for one in (hint, *get_args(hint)))


def cut_at(data: bytes, places: Sequence[int]) -> list[bytes]:
    edges = [0, *sorted(p % (len(data) + 1) for p in places), len(data)]
    return [data[a:b] for a, b in itertools.pairwise(edges)]


# -- there and back ----------------------------------------------------------------------------------------------


@given(st.data(), TIMES)
@settings(max_examples=40)
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_comes_back(kind: str, data: st.DataObject, time_s: float) -> None:
    written = Event("r1", "w1", "rank 3", 0, time_s, data.draw(facts_of(KINDS[kind])))
    assert json.loads(encode(written))["kind"] == kind
    assert read_all(encode(written)) == [written]
    assert decode_fact(json.loads(json.dumps(encode_fact(written.fact)))) == written.fact


@given(streams(), st.lists(st.integers(0, 10_000), max_size=6))
def test_any_split_of_a_stream_is_the_same_stream(written: list[Event], places: list[int]) -> None:
    data = b"".join(map(encode, written))
    assert read_all(data) == written
    assert fed(cut_at(data, places)) == written


@given(streams(max_size=5))
def test_byte_by_byte_is_the_same_stream(written: list[Event]) -> None:
    data = b"".join(map(encode, written))
    assert fed([bytes([b]) for b in data]) == written


@given(streams())
def test_a_line_is_ascii_and_one_line(written: list[Event]) -> None:
    for e in written:
        text = encode(e)
        assert text.isascii()
        assert text.count(b"\n") == 1
        assert text.endswith(b"\n")


def test_kinds_are_names_of_facts_that_are_written() -> None:
    assert KINDS["flight-recorded"] is ev.FlightRecorded
    assert not {"gap", "damaged", "unknown"} & KINDS.keys()
    assert KINDS.keys() > RANK_KINDS
    assert "rank-exited" not in RANK_KINDS


# -- what arrives is not what was sent ---------------------------------------------------------------------------


@given(streams(), st.integers(0, 10_000))
def test_a_cut_recording_tells_all_whole_lines_and_that_it_is_torn(written: list[Event], place: int) -> None:
    data = b"".join(map(encode, written))
    cut = data[: place % (len(data) + 1)]
    whole = cut.count(b"\n")
    read = read_all(cut)
    assert read[:whole] == written[:whole]
    torn = not cut.endswith(b"\n") and bool(cut)
    assert [e.fact for e in read[whole:]] == ([Damaged(whole + 1, "torn last line")] if torn else [])


def test_a_torn_tail_waits_for_its_end() -> None:
    data = encode(event(ev.Progress("upload")))
    decoder = Decoder()
    assert decoder.feed(data[:-1]) == []
    assert decoder.feed(data[-1:]) == [event(ev.Progress("upload"))]
    assert decoder.close() == []


@given(streams(), st.sets(st.integers(0, 11)))
def test_missing_lines_are_gaps_that_name_what_is_missing(written: list[Event], missing: set[int]) -> None:
    kept = [e for i, e in enumerate(written) if i not in missing]
    read = read_all(b"".join(map(encode, kept)))
    assert [e for e in read if not isinstance(e.fact, Gap)] == kept
    known: dict[tuple[str, str], list[int]] = {}
    for e in read:
        if isinstance(e.fact, Gap):
            known.setdefault((e.world, e.fact.source), []).extend(range(e.fact.first, e.fact.last + 1))
        else:
            known.setdefault((e.world, e.source), []).append(e.seq)
    assert all(numbers == list(range(len(numbers))) for numbers in known.values())


@given(streams(), st.integers(0, 12), st.integers(0, 12))
def test_a_resumed_stream_repeats_lines_without_harm(written: list[Event], stop: int, back: int) -> None:
    lines = list(map(encode, written))
    resumed = lines[:stop] + lines[max(0, stop - back) :]
    assert read_all(b"".join(resumed)) == written


@fuzzer()
@given(streams(), st.randoms(use_true_random=False))
def test_damaged_bytes_never_raise(written: list[Event], chance: random.Random) -> None:
    data = bytearray(b"".join(map(encode, written)) or b"{}")
    for _ in range(chance.randint(1, 8)):
        place = chance.randrange(len(data) + 1)
        data[place : place + chance.randint(0, 3)] = bytes(chance.randrange(256) for _ in range(chance.randint(0, 3)))
    assert all(isinstance(e, Event) for e in read_all(bytes(data)))


@fuzzer()
@given(st.binary(max_size=400), st.lists(st.integers(0, 400), max_size=4))
def test_any_bytes_read_the_same_in_any_portions(data: bytes, places: list[int]) -> None:
    assert fed(cut_at(data, places)) == read_all(data)


def test_empty_lines_are_nothing() -> None:
    assert read_all(b"\n\r\n  \n") == []


def test_a_kind_of_a_newer_version_is_unknown_and_counts_in_its_source() -> None:
    newer = line(kind="rank-teleported", where="elsewhere")
    next_one = encode(event(ev.Progress("x"), seq=1))
    assert [e.fact for e in read_all(newer + next_one)] == [Unknown("rank-teleported"), ev.Progress("x")]
    assert read_all(line(kind="k" * 500))[0].fact == Unknown("k" * 80)


WORDS = [(kind, name) for kind, cls in KINDS.items() for name, hint in get_type_hints(cls).items() if is_word(hint)]


@pytest.mark.parametrize(("kind", "name"), WORDS, ids="-".join)
@given(st.data())
@settings(max_examples=5)
def test_a_word_of_a_newer_version_is_unknown_and_counts_in_its_source(
    kind: str, name: str, data: st.DataObject
) -> None:
    """Whatever else the fact says: it is neither another word's nor damage."""
    fact = encode_fact(data.draw(facts_of(KINDS[kind])))
    newer, next_one = line(**fact | {name: "of-tomorrow"}), encode(event(ev.Progress("x"), seq=1))
    unknown, then = (found.fact for found in read_all(newer + next_one))
    assert isinstance(unknown, Unknown)
    assert (unknown.kind, then) == (kind, ev.Progress("x"))
    assert unknown.why.startswith(f"{name}: 'of-tomorrow' is not a ")
    assert only_damage(line(**fact | {name: 7})) == f"{name}: expected str, got int"


def test_a_newer_versions_fields_are_ignored() -> None:
    assert read_all(line(colour="blue"))[0].fact == ev.Progress("x")


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"nonsense\n", "not JSON"),
        (b"\xff\xfe\xfd\n", "not JSON"),
        (b'{"v":1,"run":"\xff"}\n', "not JSON"),
        ('{"v":1}'.encode("utf-16") + b"\n", "not JSON"),
        (b"[1,2]\n", "not a JSON object"),
        (b"17\n", "not a JSON object"),
        (b"{}\n", "recording version NoneType, this reader knows 1"),
        (line(v=2), "recording version 2, this reader knows 1; a newer pytest-megacpp reads it"),
        (line(v="x" * 99), "recording version 'xxxxxxxxxxxxxxxxxxx, this reader knows 1"),
        (line(world=None), "stamp is incomplete"),
        (line(src=7), "stamp is incomplete"),
        (line(seq=-1), "stamp is not a number"),
        (line(seq=True), "stamp is not a number"),
        (line(seq=1.0), "stamp is not a number"),
        (line(t="now"), "stamp is not a number"),
        (line(t=True), "stamp is not a number"),
        (line(t=10**400), "stamp is not a number"),
        (line(t=0).replace(b'"t": 0', b'"t": 1e999'), "stamp is not a number"),
        (line(t=float("nan")), "not JSON"),
        (line(t=float("inf")), "not JSON"),
        (line(kind=None), "kind is missing"),
        (line(kind={}), "kind is missing"),
        (line(phase=None), "phase: expected str, got NoneType"),
        (line(kind="rank-ready", rank=0, pid=1), "main_thread is missing"),
        (b"[" * 100_000 + b"]" * 100_000 + b"\n", "not JSON"),
        (b'{"v":' + b"[" * 900 + b"]" * 900 + b"}\n", "recording version list"),
        (b'{"v":1,"seq":' + b"9" * 5_000 + b"}\n", "not JSON"),
    ],
)
def test_a_line_that_can_not_be_read_is_damage_with_its_reason(data: bytes, why: str) -> None:
    assert only_damage(data).startswith(why)


def test_damage_bears_the_time_and_world_of_what_came_before() -> None:
    before, damage = read_all(encode(event(ev.Progress("x"))) + b"?\n")
    assert (damage.world, damage.time_s) == (before.world, before.time_s)
    assert isinstance(damage.fact, Damaged)
    assert damage.fact.line == 2


@given(st.dictionaries(st.sampled_from(["v", "run", "world", "src", "seq", "t", "kind"]), JSON), st.data())
@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=30)
def test_what_is_accepted_can_be_written_again(kind: str, stamp: dict[str, Any], data: st.DataObject) -> None:
    hostile: st.SearchStrategy[Any] = JSON | st.floats() | st.just(10**400) | st.just([[]] * 3)
    raw = json.loads(line()) | encode_fact(data.draw(facts_of(KINDS[kind])))
    raw |= data.draw(st.dictionaries(st.sampled_from(sorted(raw)), hostile, max_size=2))
    for found in read_all(json.dumps(raw | stamp).encode() + b"\n") + read_all(json.dumps(raw).encode() + b"\n"):
        if isinstance(found.fact, Gap | Damaged | Unknown):
            continue
        assert read_all(encode(found))[-1].fact == found.fact


# -- sizes -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("portion", [100_000, MAX_LINE_BYTES, 2 * MAX_LINE_BYTES, 1 << 30])
def test_a_line_without_end_is_damage_and_the_next_one_is_read(portion: int) -> None:
    data = encode(event(ev.Progress("a"))) + b'"' * (3 * MAX_LINE_BYTES) + b"\n" + encode(event(ev.Progress("b"), 1))
    read = fed([data[i : i + portion] for i in range(0, len(data), portion)])
    assert [e.fact for e in read] == [ev.Progress("a"), Damaged(2, "line too long"), ev.Progress("b")]


@pytest.mark.parametrize("extra", [-1, 0, 1, 2])
def test_the_longest_line_is_read_and_no_longer_one_in_any_portions(extra: int) -> None:
    short = line(phase="")
    data = line(phase="x" * (MAX_LINE_BYTES - len(short) + extra))
    whole = read_all(data)
    assert isinstance(whole[0].fact, ev.Progress) == (len(data) - 1 <= MAX_LINE_BYTES)
    assert fed([data[:-1], data[-1:]]) == fed([data[:10], data[10:]]) == whole


@given(st.lists(st.binary(max_size=6) | st.just(b"\n"), max_size=20))
def test_lines_are_the_same_in_any_portions(portions: list[bytes]) -> None:
    tail, lines = bytearray(), list[bytes]()
    for portion in portions:
        lines += ended_lines(tail, portion)
    assert [*lines, bytes(tail)] == b"".join(portions).split(b"\n")


def test_a_long_line_takes_no_longer_in_small_portions() -> None:
    """Each of them moved everything that had come before."""

    def cpu_s(portions: int) -> float:
        line, tail, began_s = b"x" * MAX_LINE_BYTES, bytearray(), time.process_time()
        for start in range(0, len(line), len(line) // portions):
            ended_lines(tail, line[start : start + len(line) // portions])
        return time.process_time() - began_s

    few_s, many_s = (min(cpu_s(portions) for _ in range(3)) for portions in (16, 4096))
    assert many_s < 16 * few_s + 0.05


def test_a_reader_keeps_no_more_than_a_line() -> None:
    decoder = Decoder()
    for _ in range(50):
        decoder.feed(b"x" * (MAX_LINE_BYTES // 10))
        assert len(decoder._tail) <= MAX_LINE_BYTES
    assert [e.fact for e in decoder.close()] == [Damaged(1, "torn last line")]


def test_long_texts_keep_their_ends() -> None:
    text = "begin" + "x" * (3 * MAX_TEXT_CHARS) + "end"
    read = read_all(encode(event(ev.OutputRead(0, None, Stream.STDOUT, text))))[0].fact
    assert isinstance(read, ev.OutputRead)
    assert len(read.text) < MAX_TEXT_CHARS + 100
    assert read.text.startswith("begin")
    assert read.text.endswith("end")
    assert "characters cut" in read.text


def test_a_failure_with_many_long_texts_is_said_in_fewer_words() -> None:
    error = ev.Error("ValueError", "é" * 99_000, "test_x.py", 3, "é" * 99_000)
    written = ev.Reported(
        0,
        0,
        TestPhase.CALL,
        ReportOutcome.FAILED,
        1.0,
        error,
        sections=tuple(("log call", "é" * 99_000) for _ in range(9)),
    )
    (read,) = read_all(encode(event(written)))
    assert isinstance(read.fact, ev.Reported)
    assert read.fact.error is not None
    assert (read.fact.outcome, read.fact.error.type, len(read.fact.sections)) == ("failed", "ValueError", 9)


def test_a_rank_with_a_thousand_collect_errors_still_says_what_it_collected() -> None:
    errors = tuple(ev.CollectError(f"test_{i}.py", "E   ImportError: " + "no " * 2000) for i in range(1000))
    (read,) = read_all(encode(event(ev.RankCollected(0, Numbers((1, 2)), "d", errors))))
    assert isinstance(read.fact, ev.RankCollected)
    assert (read.fact.found, len(read.fact.errors)) == (Numbers((1, 2)), 1000)
    assert read.fact.errors[0].text.startswith("E   ImportError")


def test_a_key_is_a_text_as_well() -> None:
    (read,) = read_all(encode(event(ev.Recorded(0, 0, "k" * 2 * MAX_LINE_BYTES, {"key" * MAX_LINE_BYTES: 1}))))
    assert isinstance(read.fact, ev.Recorded)
    assert "characters cut" in read.fact.key
    assert isinstance(read.fact.value, dict)
    assert "characters cut" in next(iter(read.fact.value))


def test_what_no_cutting_makes_small_enough_is_refused() -> None:
    with pytest.raises(CodecError, match="is over"):
        dump_line({"numbers": list(range(MAX_LINE_BYTES))})


def test_numbers_that_json_has_not_are_texts() -> None:
    written = encode(event(ev.Recorded(0, 0, "loss", [float("nan"), {"x": float("-inf")}])))
    (read,) = read_all(written)
    assert read.fact == ev.Recorded(0, 0, "loss", ["nan", {"x": "-inf"}])


def test_read_object_is_strict() -> None:
    assert read_object(b' {"a": 1} ') == {"a": 1}
    for bad in (b"", b"{", b"{}{}", b"null", b'{"a": Infinity}', b'{"a": -Infinity}', b'{"a": NaN}', b"\xef\xbb\xbf{}"):
        with pytest.raises(CodecError):
            read_object(bad)
