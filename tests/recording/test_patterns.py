"""Every pattern that reads what a rank or a box wrote takes time in proportion to the text, whatever stands in it.

A box has one thread, and `re` holds the interpreter lock meanwhile: a quadratic pattern stops the whole run. Each is
tried on repetitions of the beginnings of what it matches. Growths are compared, no times.
"""

import importlib
import pkgutil
import re
import time
from collections.abc import Iterator
from re import _constants as sre  # type: ignore[attr-defined]
from re import _parser as parser  # type: ignore[attr-defined]
from typing import Any

import pytest

import pytest_megacpp
from pytest_megacpp.recording.errors import TEXT_CHARS, classify
from pytest_megacpp.recording.events import Cause, Error

READERS = ("recording", "judge", "report", "box", "rank")
AT_ONE_PLACE = {"_NOISE"}  # `match` asks these at the beginning only
SHORT_CHARS = 2_000
GROWTHS = {2: 3.0, 32: 10.0}
"""By what the text grows, and how many times as long as the same characters in short texts it must not take then.

A quadratic pattern takes 2 and 32 times as long, a cubic one 4 times as soon as the text is twice as long. Up to its
bound a bounded repetition grows faster than the text as well, by 1.9 for the longest (of 2,000 characters).
"""
TRIES = 3
WORTH_A_LOOK_S = 0.02  # for the long text; on a busy machine, what is less is noise


def patterns() -> list[re.Pattern[Any]]:
    found: dict[Any, re.Pattern[Any]] = {}
    for module in pkgutil.walk_packages(pytest_megacpp.__path__, "pytest_megacpp."):
        parts = module.name.split(".")
        if parts[1] in READERS and parts[-1] != "__main__":
            owned = vars(importlib.import_module(module.name))
            found |= {p.pattern: p for name, value in owned.items() if name not in AT_ONE_PLACE for p in inside(value)}
    return list(found.values())


def inside(value: object) -> Iterator[re.Pattern[Any]]:
    """The patterns that a module's name holds: one, a collection, or things that have one."""
    if isinstance(value, re.Pattern):
        yield value
    elif isinstance(value, tuple | list):
        for part in value:
            yield from inside(part)
    elif isinstance(getattr(value, "pattern", None), re.Pattern):
        yield value.pattern  # type: ignore[attr-defined]


SPACES = "\n "
OF_CATEGORY = {sre.CATEGORY_DIGIT: "1", sre.CATEGORY_WORD: "a", sre.CATEGORY_NOT_WORD: " "}
VARIANTS = 4


def parts_of(tree: Any, variant: int) -> list[str]:
    """What it matches, in parts: runs of literals and repetitions. Variants take other branches, spaces and options."""
    found: list[str] = []
    was_literal = False
    for op, arg in tree:
        if op is sre.LITERAL and found and was_literal:
            found[-1] += chr(arg)
        elif op in (sre.LITERAL, sre.IN, sre.ANY, sre.NOT_LITERAL):
            found.append(character(op, arg, variant))
        elif op is sre.BRANCH:
            found += parts_of(arg[1][variant % len(arg[1])], variant)
        elif op is sre.SUBPATTERN:
            found += parts_of(arg[-1], variant)
        elif op is sre.ATOMIC_GROUP:
            found += parts_of(arg, variant)
        elif op in (sre.MAX_REPEAT, sre.MIN_REPEAT, sre.POSSESSIVE_REPEAT):
            found.append("".join(parts_of(arg[2], variant)) * max(min(arg[0], 40), 1 - variant // 2 % 2))
        was_literal = op is sre.LITERAL
    return [part for part in found if part]


def character(op: Any, arg: Any, variant: int) -> str:
    if op is sre.LITERAL:
        return chr(arg)
    if op is sre.ANY or op is sre.NOT_LITERAL:
        return "x" if arg != ord("x") else "y"
    excluded = {chr(a) for o, a in arg if o is sre.LITERAL}
    kind, first = arg[0]
    if kind is sre.NEGATE:
        return next(c for c in "x1 .[" if c not in excluded)
    if kind is sre.CATEGORY:
        return SPACES[variant % 2] if first is sre.CATEGORY_SPACE else OF_CATEGORY.get(first, "x")
    return chr(first[0] if kind is sre.RANGE else first)


def hostile(pattern: re.Pattern[Any]) -> set[tuple[str, str]]:
    """Beginnings, and what is repeated behind them."""
    found = set()
    for variant in range(VARIANTS):
        parts = parts_of(parser.parse(pattern.pattern, pattern.flags), variant)
        for end in range(len(parts)):
            head = "".join(parts[:end])
            cut, whole = head + parts[end][: len(parts[end]) // 2], head + parts[end]
            found |= {("", cut), ("", whole), (whole, parts[end][-1])}
    return {(head, unit) for head, unit in found if unit}


def cost_s(pattern: re.Pattern[Any], text: str, times: int = 1) -> float:
    read: Any = text.encode("latin-1") if isinstance(pattern.pattern, bytes) else text
    begun_s = time.thread_time()
    for _ in range(times):
        pattern.search(read)
    return time.thread_time() - begun_s


def is_slow(pattern: re.Pattern[Any], head: str, unit: str) -> bool:
    """Whether it grows faster than the text. The longest texts come last: a cubic pattern would take minutes."""
    return any(grows(pattern, head, unit, *growth) for growth in GROWTHS.items())


def grows(pattern: re.Pattern[Any], head: str, unit: str, by: int, too_much: float) -> bool:
    """In every try, by CPU time, since a busy machine is slow at times. The short texts together take as long as the
    long one.
    """
    repeated = max(SHORT_CHARS // len(unit), 1)
    short, long = head + unit * repeated, head + unit * repeated * by
    for _ in range(TRIES):
        long_s = cost_s(pattern, long)
        if long_s < WORTH_A_LOOK_S or long_s <= cost_s(pattern, short, by) * too_much:
            return False
    return True


@pytest.mark.parametrize("pattern", patterns(), ids=lambda p: repr(p.pattern)[:60])
def test_no_text_takes_longer_than_its_length(pattern: re.Pattern[Any]) -> None:
    assert not [texts for texts in sorted(hostile(pattern)) if is_slow(pattern, *texts)]


@pytest.mark.parametrize(
    "text",
    [
        r"Timed out waiting for .*(?:store|key)",
        r"rank +: \d+\n *traceback +: ([\s\S]*?)\n\n",
    ],
)
def test_a_slow_pattern_is_found(text: str) -> None:
    pattern = re.compile(text, re.MULTILINE)
    assert any(is_slow(pattern, *texts) for texts in sorted(hostile(pattern)))


def test_only_so_much_of_an_error_is_read() -> None:
    """A line of a rank may be a megabyte; the secondary words stand behind what is read."""
    said = "Watchdog caught collective operation timeout"
    long = "x" * TEXT_CHARS
    assert classify(Error("RuntimeError", said, "", 0, "")).secondary
    assert not classify(Error("RuntimeError", long + said, "", 0, "")).secondary
    assert not classify(Error("E", "", "", 0, "", causes=(Cause("RuntimeError", long + said, "", True),))).secondary
