"""Owns what a box believes of the bytes that a rank sends: facts of known kinds, in the rank's own name, at a plausible
time, and no more of them than fits; must not know sockets, worlds or what facts mean.
"""

import re
from dataclasses import dataclass, field

from pytest_megacpp.recording import events as ev
from pytest_megacpp.recording.codec import CodecError
from pytest_megacpp.recording.events import Fact, Muted
from pytest_megacpp.recording.vocabulary import Lost
from pytest_megacpp.recording.wire import MAX_LINE_BYTES, RANK_KINDS, decode_fact, ended_lines, read_object, read_time

# What is recorded of one rank in one test, in bytes as it sent them: anything, then only what verdicts rest on
# (decision 0010).
ANYTHING_BYTES = 8 << 20
TESTIMONY_BYTES = 16 << 20
MAX_GARBAGE_LINES = 10_000
MAX_GARBAGE_BYTES = 1 << 20
"""In one test; each line takes some 5 µs to refuse, 1 MiB of many small values 50 ms, and honest ranks send none."""

_VITAL = rb'[^\n]{0,44}"kind":"(?:reported|finished|rank-broken)"'  # a real rank's line has the kind within 44 bytes
_IS_VITAL = re.compile(_VITAL)
_VITAL_LINES = re.compile(rb"\n" + _VITAL + rb"[^\n]*")

_ONCE_IN_A_LIFE = (ev.RankReady, ev.RankCollected, ev.RankBroken)
_ONCE_IN_A_TEST = (ev.Finished, ev.Compiled)
_ONCE = (*_ONCE_IN_A_LIFE, *_ONCE_IN_A_TEST)


@dataclass
class RankChannel:
    """The receiving end of the line on which one rank reports. `feed` takes the bytes in any portions."""

    rank: int
    _tail: bytearray = field(default_factory=bytearray)
    _last_s: float = 0.0
    _taken_bytes: int = 0
    _muted: Lost | None = None
    _garbage_lines: int = 0
    _garbage_bytes: int = 0
    _seen_kinds: set[type[Fact]] = field(default_factory=set)

    def begin(self) -> None:
        """Resets the bounds for a new test (decision 0010)."""
        self._taken_bytes, self._muted = 0, None
        self._garbage_lines = self._garbage_bytes = 0
        self._seen_kinds -= set(_ONCE_IN_A_TEST)

    @property
    def endless(self) -> bool:
        """Whether the rank sends a line that no reader would accept."""
        return len(self._tail) > MAX_LINE_BYTES

    @property
    def floods(self) -> bool:
        """Whether the rank sends more than is recorded, so that its reader should not hurry."""
        return self._muted is not None

    def feed(self, data: bytes, now_s: float) -> list[tuple[Fact, float]]:
        """Returns the facts in `data` that are believed, with their times, which never run backwards nor ahead of
        `now_s`.
        """
        if self._muted:
            data = _without_extras(data)
        return [fact for line in ended_lines(self._tail, data) for fact in self._read_fact(line, now_s)]

    def _read_fact(self, line: bytes, now_s: float) -> list[tuple[Fact, float]]:
        if self._muted and not _IS_VITAL.match(line):
            return []
        try:
            data = read_object(line)
            fact, claimed_s = decode_fact(data), read_time(data.get("t"))
        except CodecError:
            return self._refused(len(line))
        is_its_own = data["kind"] in RANK_KINDS and getattr(fact, "rank", None) == self.rank
        if not is_its_own or type(fact) in self._seen_kinds:
            return self._refused(len(line))
        self._last_s = min(max(claimed_s, self._last_s), now_s)
        if isinstance(fact, _ONCE):
            self._seen_kinds.add(type(fact))
            return [(fact, self._last_s)]
        return self._measured(fact, len(line))

    def _refused(self, size_bytes: int) -> list[tuple[Fact, float]]:
        """Counts a line that is not believed. Returns nothing or, once there are too many, that what follows is left
        out.
        """
        self._garbage_lines += 1
        self._garbage_bytes += size_bytes
        is_bearable = self._garbage_lines <= MAX_GARBAGE_LINES and self._garbage_bytes <= MAX_GARBAGE_BYTES
        if is_bearable or self._muted:
            return []
        self._muted = Lost.EXTRAS
        return [(Muted(self.rank, Lost.EXTRAS), self._last_s)]

    def _measured(self, fact: Fact, size_bytes: int) -> list[tuple[Fact, float]]:
        """Returns the fact if it fits; else, once, that it and what follows is left out."""
        is_testimony = isinstance(fact, ev.Reported)
        if self._taken_bytes + size_bytes <= (TESTIMONY_BYTES if is_testimony else ANYTHING_BYTES):
            self._taken_bytes += size_bytes
            return [(fact, self._last_s)]
        lost = Lost.REPORTS if is_testimony else Lost.EXTRAS
        if self._muted in (lost, Lost.REPORTS):
            return []
        self._muted = lost
        return [(Muted(self.rank, lost), self._last_s)]


def _without_extras(data: bytes) -> bytes:
    """Returns the part of a flood that has to be read line by line: the first and the last line, which may be torn, and
    what may be vital. Refusing the rest line by line would cost the box the time that others need.
    """
    first, last = data.find(b"\n"), data.rfind(b"\n")
    return data[:first] + b"".join(_VITAL_LINES.findall(data, first, last)) + data[last:] if first < last else data
