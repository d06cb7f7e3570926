"""Owns what is said in place of a fact that is too long for a line: less of it, else that it is missing; must not know
how long a line may be.

Senders bound what they say, so this is for what nobody foresaw. Without it a test would wait for a fact that never
comes, or a verdict would take silence for a fact.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace

from pytest_megacpp.recording import events as ev
from pytest_megacpp.recording.codec import CodecError
from pytest_megacpp.recording.vocabulary import Lost, Stage

LEFT_OUT = "left out by megacpp"


def encoded(fact: ev.Fact, encode: Callable[[ev.Fact], bytes]) -> tuple[ev.Fact, bytes]:
    """The first of the fact and what can stand in for it that `encode` takes, and its line. Raises CodecError."""
    refused = CodecError()
    for candidate in (fact, *_in_place_of(fact)):
        try:
            return candidate, encode(candidate)
        except CodecError as e:
            refused = e
    raise refused


def _in_place_of(fact: ev.Fact) -> Iterator[ev.Fact]:
    rank, test = getattr(fact, "rank", None), getattr(fact, "test", None)
    match fact:
        case ev.RankCollected():
            text = f"what it collected ({len(fact.found)} tests) is too long for the recording: run fewer at a time"
            yield ev.RankBroken(fact.rank, Stage.COLLECTION, "", text, "")
        case ev.Reported():
            text = f"{len(fact.properties)} properties and {len(fact.sections)} sections: too long for the recording"
            yield replace(fact, properties={}, sections=((LEFT_OUT, text),))
            yield ev.Muted(fact.rank, Lost.REPORTS, test)
        case _ if rank is not None and hasattr(fact, "test"):
            lost = Lost.REPORTS if isinstance(fact, ev.Finished) else Lost.EXTRAS
            yield ev.Muted(rank, lost, test)
        case _:
            text = f"a {type(fact).__name__} is too long for a line, and left out"
            yield ev.Capability("recording", False, text, rank)
