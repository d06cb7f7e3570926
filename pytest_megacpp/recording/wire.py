"""Owns events ↔ bytes, JSON Lines with a bounded line; must not know who writes, who reads or what events mean.

A line is `{"v":1,"run":…,"world":…,"src":…,"seq":…,"t":…,"kind":…, fields…}`. The reader never raises: a torn
tail waits for its end, a line that can't be read becomes `Damaged`, a hole in a source's numbers becomes
`Gap`, a fact of a newer version, by its kind or by a word in it, becomes `Unknown`.
"""

import dataclasses
import json
import math
import re
import types
import typing
from collections.abc import Mapping
from functools import cache
from typing import Any

from pytest_megacpp.recording import events
from pytest_megacpp.recording.codec import CodecError, UnknownWord, from_json, key_of, mutable_twin, to_json
from pytest_megacpp.recording.events import Damaged, Event, Fact, Gap, Unknown
from pytest_megacpp.recording.texts import cut_middle

VERSION = 1
MAX_LINE_BYTES = 1 << 20
PORTION_BYTES = 4 << 20  # of a recording that is decoded at once: a list of its lines takes many times as much
MAX_TEXT_CHARS = 64_000
_FEWER_CHARS = (16_000, 2_000, 200)  # of each text, when a line with longer ones would be too long


@cache
def _kind(cls: Any) -> str:
    return re.sub(r"(?<!^)(?=[A-Z])", "-", str(cls.__name__)).lower()


def _members(union: object) -> tuple[type, ...]:
    return tuple(t for t in typing.get_args(union) if isinstance(t, type))


_READER_MADE = (Gap, Damaged, Unknown)
KINDS: Mapping[str, type] = types.MappingProxyType(
    {_kind(cls): cls for cls in _members(events.Fact) if cls not in _READER_MADE}
)
RANK_KINDS = frozenset(_kind(cls) for cls in _members(events.RankFact))


def encode_fact(fact: Fact) -> dict[str, Any]:
    """A fact as a JSON object with its `kind`; defaults are left out, over-long texts cut in the middle."""
    cls: Any = type(fact)
    defaults = _defaults(cls)
    values = {key: getattr(fact, name) for name, key in _keys(cls)}
    kept = {k: _bounded(to_json(v), MAX_TEXT_CHARS) for k, v in values.items() if k not in defaults or defaults[k] != v}
    return {"kind": _kind(cls), **kept}


@cache
def _keys(cls: Any) -> tuple[tuple[str, str], ...]:
    """The name and the key of each field."""
    return tuple((f.name, key_of(f)) for f in dataclasses.fields(cls))


@cache
def _defaults(cls: Any) -> dict[str, object]:
    """Fields that need not be written when they hold their default."""
    return {key_of(f): f.default for f in dataclasses.fields(cls) if f.default is not dataclasses.MISSING}


def _bounded(value: typing.Any, chars: int) -> typing.Any:
    if isinstance(value, str):
        return cut_middle(value, chars)
    if isinstance(value, list):
        return [_bounded(v, chars) for v in value]
    if isinstance(value, dict):
        return {cut_middle(k, chars): _bounded(v, chars) for k, v in value.items()}
    if isinstance(value, float) and not math.isfinite(value):
        return repr(value)
    return value


def decode_fact(data: Mapping[str, Any]) -> Fact:
    """The fact in a JSON object, `Unknown` of a newer version; raises CodecError on data that don't fit."""
    kind = data.get("kind")
    if not isinstance(kind, str):
        raise CodecError("kind is missing")
    cls = KINDS.get(kind)
    if cls is None:
        return Unknown(kind[:80])
    try:
        fact: Fact = from_json(cls, data)
    except UnknownWord as e:
        return Unknown(kind, str(e))
    return fact


def dump_line(data: object) -> bytes:
    """One JSON line; its texts are cut when it would be longer than a reader accepts, CodecError when it still is."""
    line = _dump(data)
    for chars in _FEWER_CHARS:
        if len(line) <= MAX_LINE_BYTES:
            return line
        line = _dump(_bounded(data, chars))
    if len(line) > MAX_LINE_BYTES:
        raise CodecError(f"line of {len(line)} bytes is over {MAX_LINE_BYTES}")
    return line


def _dump(data: object) -> bytes:
    return _WRITER.encode(data).encode() + b"\n"


_WRITER = json.JSONEncoder(separators=(",", ":"), allow_nan=False, default=repr)


def encode(event: Event) -> bytes:
    """One event as one line, newline included."""
    head = {
        "v": VERSION,
        "run": event.run,
        "world": event.world,
        "src": event.source,
        "seq": event.seq,
        "t": round(event.time_s, 6),
    }
    return dump_line(head | encode_fact(event.fact))


def read_object(line: bytes) -> dict[str, typing.Any]:
    """The JSON object in one line; raises CodecError."""
    try:
        text = line.strip(_BLANKS).decode()
        data, end = _STRICT.raw_decode(text)
    except (ValueError, RecursionError) as e:
        raise CodecError(f"not JSON: {str(e)[:120]}") from None
    if end != len(text):
        raise CodecError(f"not JSON: extra data at character {end}")
    if not isinstance(data, dict):
        raise CodecError("not a JSON object")
    return data


def _refuse(name: str) -> typing.NoReturn:
    raise ValueError(f"{name} is no JSON number")


_STRICT = json.JSONDecoder(parse_constant=_refuse)
_BLANKS = b" \t\r\n"


_EVENT = mutable_twin(Event)


def _decode_line(line: bytes) -> Event:
    data = read_object(line)
    version = data.get("v")
    if version != VERSION:
        found = repr(version)[:20] if isinstance(version, int | str) else type(version).__name__
        newer = type(version) is int and version > VERSION
        advice = "; a newer pytest-megacpp reads it" if newer else ""
        raise CodecError(f"recording version {found}, this reader knows {VERSION}{advice}")
    get = data.get
    run, world, source, seq, time_s = get("run"), get("world"), get("src"), get("seq"), get("t")
    if not (type(run) is type(world) is type(source) is str):
        raise CodecError("stamp is incomplete")
    if type(seq) is not int or seq < 0:
        raise CodecError("stamp is not a number")
    event = _EVENT(run, world, source, seq, read_time(time_s), decode_fact(data))
    event.__class__ = Event
    return typing.cast(Event, event)


def read_time(value: object) -> float:
    """A stamp's time in seconds; raises CodecError."""
    if type(value) is float and math.isfinite(value):
        return value
    try:
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
            return float(value)
    except OverflowError:  # a whole number of hundreds of digits
        pass
    raise CodecError("stamp is not a number")


def ended_lines(tail: bytearray, data: bytes) -> list[bytes]:
    """The lines that end in `data`, without their newlines; `tail` keeps what has no end yet. Takes the same time for a
    long line however small the portions are that it comes in.
    """
    end = data.rfind(b"\n")
    if end < 0:
        tail += data
        return []
    tail += data[:end]
    lines = bytes(tail).split(b"\n")
    tail[:] = data[end + 1 :]
    return lines


class Decoder:
    """Bytes in, events out, in any portions. `feed` may be called with any split of the stream."""

    def __init__(self) -> None:
        self._tail = bytearray()
        self._line = 0
        self._next_seq: dict[tuple[str, str], int] = {}
        self._last = Event("", "", "reader", 0, 0.0, Unknown("start"))
        self._skipping = False

    def feed(self, data: bytes) -> list[Event]:
        """The events whose lines ended in `data`."""
        decoded: list[Event] = []
        for line in ended_lines(self._tail, data):
            if line or self._skipping:
                self._complete(line, decoded)
            else:
                self._line += 1
        if len(self._tail) > MAX_LINE_BYTES:
            self._tail.clear()
            self._skipping = True
        return decoded

    def close(self) -> list[Event]:
        """What is left at the end of the stream: a torn last line is damage."""
        torn = bool(self._tail) or self._skipping
        self._tail.clear()
        return [self._note(Damaged(self._line + 1, "torn last line"))] if torn else []

    def _complete(self, line: bytes, decoded: list[Event]) -> None:
        self._line += 1
        if self._skipping or len(line) > MAX_LINE_BYTES:
            self._skipping = False
            decoded.append(self._note(Damaged(self._line, "line too long")))
            return
        try:
            event = _decode_line(line)
        except CodecError as e:
            if line.strip():
                decoded.append(self._note(Damaged(self._line, str(e))))
            return
        self._in_order(event, decoded)

    def _in_order(self, event: Event, decoded: list[Event]) -> None:
        key = (event.world, event.source)
        expected = self._next_seq.get(key, 0)
        if event.seq < expected:
            return  # seen before: a resumed stream repeats lines
        self._last = event
        if event.seq > expected:
            decoded.append(self._note(Gap(event.source, expected, event.seq - 1)))
        self._next_seq[key] = event.seq + 1
        decoded.append(event)

    def _note(self, fact: Gap | Damaged) -> Event:
        return Event(self._last.run, self._last.world, "reader", 0, self._last.time_s, fact)


def read_all(data: bytes) -> list[Event]:
    """All events of a whole recording."""
    decoder, events_ = Decoder(), list[Event]()
    for start in range(0, len(data), PORTION_BYTES):
        events_ += decoder.feed(data[start : start + PORTION_BYTES])
    return events_ + decoder.close()
