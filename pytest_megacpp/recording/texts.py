"""Owns texts of unknown origin: what an object says of itself, and less of what is too long; must not know what a text
is for.

Secrets are taken out by the box (`redact`), which knows them by their shape and by their value. Half a secret has
neither, so whatever shortens a text that isn't clean yet does it here: between words, where it can between lines, and
never within a private key.
"""

import inspect
import re
import traceback
from collections.abc import Callable
from itertools import pairwise
from types import CodeType, FrameType
from typing import TypeVar

from pytest_megacpp.recording.secret_shapes import PRIVATE_KEY

MAX_SECRET_CHARS = 4_096  # a long text without any space is not lost as a whole
T = TypeVar("T")
_LAST_WORD = re.compile(r"(?<![^\s'\"`])[^\s'\"`]*\Z")
_FIRST_WORD = re.compile(r"[^\s'\"`]*")


def guarded(read: Callable[[], T], otherwise: T) -> T:
    """What the call returns; `otherwise` where it raises, which objects of a test may do whatever is asked of them.
    Raises what the handler of a signal raises meanwhile: a time-out, or Ctrl-C, is no object's answer.
    """
    try:
        return read()
    except BaseException as e:  # also what pytest.skip() and sys.exit() raise
        if is_of_a_signal(e):
            raise
        return otherwise


def is_of_a_signal(error: BaseException) -> bool:
    """Returns whether a signal's handler raised this: Python's own, which has no frame, or another one."""
    try:
        frames = traceback.walk_tb(error.__traceback__)
        return isinstance(error, KeyboardInterrupt) or any(_handles_a_signal(frame) for frame, _ in frames)
    except Exception:  # of an object that its frames hold
        return False


def _handles_a_signal(frame: FrameType) -> bool:
    """Returns whether a frame is that of a handler, by its arguments: a number, and the frame that it interrupted,
    which is the one below.
    """
    code = frame.f_code
    if not code.co_flags & inspect.CO_OPTIMIZED:  # a class body, say, whose names may be any mapping
        return False
    got = [frame.f_locals.get(name) for name in _positional(code)]
    got = [one for value in got for one in (value if type(value) is tuple else (value,))]
    return any(issubclass(type(number), int) and below is frame.f_back for number, below in pairwise(got))


def _positional(code: CodeType) -> tuple[str, ...]:
    """The names of arguments that are given by position; that of `*args` comes after those given by name only."""
    names, first = code.co_varnames, code.co_argcount + code.co_kwonlyargcount
    return names[: code.co_argcount] + (names[first : first + 1] if code.co_flags & inspect.CO_VARARGS else ())


def class_of(value: object) -> str:
    """The name of an object's class: a metaclass may have made that a property, too."""
    return guarded(lambda: "".join((type(value).__qualname__,)), "an object")


def text_of(value: object) -> str:
    """`str` of an object, or what is known of it where that fails. Never a subclass of `str`, which may raise later."""
    return guarded(lambda: "".join((str(value),)), f"<str() of a {class_of(value)} failed>")


def beginning(text: str, limit: int) -> str:
    """At most so many characters of a text; they end before the word that would be cut."""
    if len(text) <= limit:
        return text
    key = _key_across(text, limit)
    if key is not None:
        return text[: key.start()]
    sure = max(limit - MAX_SECRET_CHARS, 0)
    return text[:sure] + _LAST_WORD.sub("", text[sure:limit])


def ending(text: str, limit: int) -> str:
    """At most so many of the last characters of a text; they begin after the line that would be cut, which may hold the
    name that makes a word a secret, or after the word where that line is long.
    """
    cut = len(text) - limit
    if cut <= 0:
        return text
    key = _key_across(text, cut)
    if key is not None:
        return text[key.end() :]
    line = text.find("\n", cut, cut + MAX_SECRET_CHARS) + 1
    word = _FIRST_WORD.match(text, cut, cut + MAX_SECRET_CHARS)
    return text[line or (word.end() if word else cut) :]


def _key_across(text: str, cut: int) -> re.Match[str] | None:
    """The private key that the cut goes through: no line of it tells what it belongs to."""
    return next((key for key in PRIVATE_KEY.finditer(text) if key.start() < cut < key.end()), None)


def cut_middle(text: str, limit: int) -> str:
    """`text` no longer than about `limit` characters: its beginning, a mark, its end."""
    if len(text) <= limit:
        return text
    head, tail = beginning(text, limit // 2), ending(text, limit // 2)
    return f"{head}\n… {len(text) - len(head) - len(tail)} characters cut …\n{tail}"
