"""Owns the removal of secrets from texts; must not know what a text is for or where it is written.

A secret is a text of a known shape (`secret_shapes`), what a text assigns to a name like a credential's, or the value
of an environment variable that is named so (`credentials`). All of it takes time linear in the text. `text` applied to
its own result changes nothing, because

* placeholders are cut out first and never looked into;
* a shape that needs a left boundary can't get one from a later pass: tokens always end where letters and
  digits end.

Redact before anything cuts, escapes or encodes a text: half a secret has no shape.
"""

import base64
import itertools
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import lru_cache, partial
from urllib.parse import quote, quote_plus

from pytest_megacpp.recording.credentials import MIN_SECRET_CHARS, assignments, is_credential
from pytest_megacpp.recording.secret_shapes import BLOCKS, TOKENS, Shape

MIN_SECRET_DIGITS = 8
MIN_SECRET_LINE_CHARS = 16
MIN_ENCODED_CHARS = 8
MAX_WORD_CHARS = 12
_MARK = "[redacted:"

ASSIGNED = "assigned-secret"
SHAPES = tuple(dict.fromkeys((*(shape.kind for shape in BLOCKS + TOKENS), ASSIGNED)))

REMEMBERED = 8192
REMEMBERED_CHARS = 256


class Redactor:
    """Takes secrets out of texts; made once from the environment whose secrets it must know."""

    def __init__(self, env: Mapping[str, str]) -> None:
        credentials = {name: value for name, value in env.items() if is_credential(name, value)}
        self._placeholders = _either(_placeholder(label) for label in (*SHAPES, *credentials))
        self._words = {value: name for name, value in credentials.items() if is_word(value)}
        self._labels = _labels_of_values(credentials)
        self._values = _either(self._labels) if self._labels else None
        self._remembered = lru_cache(REMEMBERED)(self._redacted)  # records repeat the same few words

    def text(self, text: str) -> str:
        """`text` with every secret replaced by `[redacted:KIND]` or `[redacted:VARIABLE]`."""
        return self._remembered(text) if len(text) <= REMEMBERED_CHARS else self._redacted(text)

    def _redacted(self, text: str) -> str:
        for shape in BLOCKS:
            text = self._outside_placeholders(text, partial(_without, shape))
        text = self._outside_placeholders(text, self._without_values)
        for shape in TOKENS:
            text = self._outside_placeholders(text, partial(_without, shape))
        return self._outside_placeholders(text, self._without_assigned)

    def ids(self, ids: Iterable[str]) -> list[str]:
        """Returns ids without their secrets; ids that were different still are: `test[[redacted:KIND]] #2`. The numbers
        go by the order of the ids themselves, in whatever order they come.
        """
        ids = list(ids)
        alike: dict[str, list[str]] = {}
        for one in sorted(set(ids)):
            alike.setdefault(self.text(one), []).append(one)
        names = {one: numbered(text, n) for text, same in alike.items() for n, one in enumerate(same, 1)}
        return [names[one] for one in ids]

    def environment(self, env: Mapping[str, str]) -> dict[str, str]:
        """`env` with the values of credentials replaced, and secrets taken out of all other values."""
        return {
            name: _placeholder(name) if is_credential(name, value) else self.text(value) for name, value in env.items()
        }

    def _without_values(self, part: str) -> str:
        if self._values is None:
            return part
        return self._values.sub(lambda match: _placeholder(self._labels[match[0]]), part)

    def _without_assigned(self, part: str) -> str:
        done: list[str] = []
        end = 0
        for found in assignments(part):
            label = self._words.get(found.value, ASSIGNED if found.secret else None)
            if label is not None and found.start >= end:
                done += part[end : found.start], _placeholder(label)
                end = found.end
        return "".join((*done, part[end:]))

    def _outside_placeholders(self, text: str, change: Callable[[str], str]) -> str:
        if _MARK not in text:
            return change(text)
        done: list[str] = []
        end = 0
        for match in self._placeholders.finditer(text):
            done += change(text[end : match.start()]), match[0]
            end = match.end()
        return "".join((*done, change(text[end:])))


_NUMBER = re.compile(r" #([0-9]{1,6})$")


def numbered(text: str, number: int) -> str:
    """The id of one of several whose texts are the same without their secrets."""
    return text if number == 1 else f"{text} #{number}"


def number_of(text: str) -> tuple[str, int]:
    """The text and number from which `numbered` made an id."""
    found = _NUMBER.search(text) if _MARK in text else None
    return (text[: found.start()], int(found[1])) if found else (text, 1)


def _placeholder(label: str) -> str:
    return f"{_MARK}{re.sub(r'[^A-Za-z0-9_-]', '_', label)}]"


def _either(texts: Iterable[str]) -> re.Pattern[str]:
    """A pattern of any of the texts, the longest first so that one inside another doesn't hide the rest of it. They are
    grouped by their first characters, which takes half the time to search for a hundred of them.
    """
    longest_first = sorted(set(texts), key=lambda text: (text[0], -len(text), text))
    grouped = itertools.groupby(longest_first, key=lambda text: text[0])
    return re.compile("|".join(f"{re.escape(c)}(?:{'|'.join(re.escape(t[1:]) for t in ts)})" for c, ts in grouped))


def _without(shape: Shape, part: str) -> str:
    return shape.pattern.sub(lambda match: _replaced(shape, match), part)


def _replaced(shape: Shape, match: re.Match[str]) -> str:
    if shape.keep is not None and shape.keep(match):
        return match[0]
    if "secret" not in shape.pattern.groupindex:
        return _placeholder(shape.kind)
    before, after = match.start("secret") - match.start(), match.end("secret") - match.start()
    return match[0][:before] + _placeholder(shape.kind) + match[0][after:]


def _labels_of_values(credentials: Mapping[str, str]) -> dict[str, str]:
    """Every text that gives a credential away → the variable's name."""
    public = "".join(map(_placeholder, (*SHAPES, *credentials)))
    return {text: name for name, value in credentials.items() for text in _forms(value) if text not in public}


def _is_telling(text: str) -> bool:
    """Whether a value is long enough, and not a word, so that blanking it everywhere blanks nothing else."""
    return len(text) >= (MIN_SECRET_DIGITS if text.isdecimal() else MIN_SECRET_CHARS) and not is_word(text)


def is_word(text: str) -> bool:
    """Whether a value is an ordinary word (`postgres`). It is taken out only where it is assigned to a credential's
    name.
    """
    return text.isalpha() and len(text) <= MAX_WORD_CHARS and (text.isupper() or text[1:].islower())


def _forms(value: str) -> Iterator[str]:
    """The forms of a value: as it is, as JSON, `repr`, URLs, base64 and hex show it; also line by line, as logs are
    read.
    """
    yield from filter(_is_telling, _as_text(value))
    yield from (code for code in _encoded(value) if len(code) >= MIN_ENCODED_CHARS and not code.isdecimal())
    lines = value.splitlines()
    if len(lines) > 1:
        yield from (line for line in lines if len(line) >= MIN_SECRET_LINE_CHARS and not line.startswith("-----"))


def _as_text(value: str) -> Iterator[str]:
    for form in (value, value.strip()):
        as_json = json.dumps(form)[1:-1], json.dumps(form, ensure_ascii=False)[1:-1]
        yield from (form, repr(form)[1:-1], *as_json, *(text.replace("/", "\\/") for text in as_json))
        yield from (quote(form, safe=safe, errors="surrogatepass") for safe in ("", "/"))
        yield quote_plus(form, errors="surrogatepass")


def _encoded(value: str) -> Iterator[str]:
    """The part of a value's base64 that is the same whatever surrounds the value, and its hex."""
    data = value.strip().encode("utf-8", "surrogatepass")
    if len(data) < MIN_SECRET_CHARS:
        return
    for before in range(3):
        code = base64.b64encode(bytes(before) + data)
        whole = len(code) if not (before + len(data)) % 3 else len(code) - 4 + (before + len(data)) % 3
        stable = code[(0, 2, 3)[before] : whole].decode()
        yield from (stable, stable.translate(str.maketrans("+/", "-_")))
    yield from (data.hex(), data.hex().upper())
