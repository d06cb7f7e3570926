"""Owns the lines that a desk says to a box at work; must not know who carries them, nor what the box makes of them.

Every word may be said again, so a connection that is made anew begins with all of them: an order for an attempt that
was planned meanwhile follows from one that isn't the newest any more, and is none.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, TypeAlias

from pytest_megacpp.recording.codec import UnknownWord, from_json, to_json
from pytest_megacpp.recording.plan import Again, Enough, Look, Stop
from pytest_megacpp.recording.vocabulary import RunEnd
from pytest_megacpp.recording.wire import dump_line, read_object

Word: TypeAlias = Again | Enough | Look | Stop

_NAMES: Mapping[str, Any] = MappingProxyType({"again": Again, "enough": Enough, "look": Look, "stop": Stop})


def word_line(word: Word) -> bytes:
    """`{"again": {"item": 3, …}}`, newline included."""
    name = next(name for name, cls in _NAMES.items() if isinstance(word, cls))
    return dump_line({name: to_json(word)})


def read_word(line: bytes) -> Word | None:
    """The word of a line; None for an object that is none, such as a sign of life. Raises CodecError. A newer desk that
    wants an end gets one, though its reason is not known here.
    """
    said = read_object(line)
    name = next((name for name in said if name in _NAMES), None)
    try:
        word: Word | None = None if name is None else from_json(_NAMES[name], said[name])
    except UnknownWord:
        if name == "stop":
            return Stop(RunEnd.STOPPED)
        raise
    return word
