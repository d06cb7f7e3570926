import itertools
import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_megacpp.report.clean import bounded_lines, clean, one_line

ACTING = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\u200b-\u200f\ud800-\udfff]")


@pytest.mark.parametrize(
    ("written", "shown"),
    [
        ("\x1b[31mred\x1b[0m", "red"),
        ("\x1b]8;;http://x\x07link\x1b]8;;\x1b\\", "link"),
        ("\x1b]0;never ends\nnext", "\\x1b]0;never ends\nnext"),
        ("10%\r20%\r\ndone", "10%\n20%\ndone"),
        ("a\tb", "a    b"),
        ("\u202etxt.exe", "\\u202etxt.exe"),
        ("a\x00b\x9b31mc", "a\\x00bc"),
        ("\x1b\x1b[0m[31mhidden", "\\x1b[31mhidden"),
        ("grüße ✗ 世界", "grüße ✗ 世界"),
        ("tag\U000e0041", "tag\\U000e0041"),
        ("\x9d0;title\x9cnext \x90a\x1b\\b", "next b"),
        ("\x9d0;\x9dtitle\x07next", "\\x9d0;next"),
    ],
)
def test_what_acts_is_dropped_or_shown(written: str, shown: str) -> None:
    assert clean(written) == shown


@given(st.text(st.characters(), max_size=200))
def test_nothing_that_acts_is_left(text: str) -> None:
    assert not ACTING.search(clean(text))
    assert "\n" not in one_line(text)


@given(st.text(max_size=200))
def test_cleaning_twice_changes_nothing_more(text: str) -> None:
    assert clean(clean(text)) == clean(text)


def test_a_line_is_bounded() -> None:
    assert one_line("x" * 1000, 10) == "xxxxxxxxx…"
    assert one_line("two\n  lines") == "two lines"


def test_lines_are_cut_in_the_middle() -> None:
    shown = bounded_lines("\n".join(map(str, range(1000))), lines=9)
    assert shown == ["0", "1", "2", "… 991 lines cut …", "994", "995", "996", "997", "998", "999"]
    assert bounded_lines("y" * 600, lines=3, columns=5) == ["yyyyy…"]


PIECES = ("\x1b", "[", "]", "P", "\x90", "\x9b", "\x9d", "\x9c", "\x07", "\\", "0", " ", ":", "#", "a", "\n", "\r")
REPEATED = [*PIECES, *map("".join, itertools.product(PIECES, repeat=2)), "\x1b]a", "  ::", "##a", "##a[", "::a::"]


def cleaning_s(text: str) -> float:
    """CPU seconds of this thread, the least of some."""

    def once() -> float:
        began_s = time.thread_time()
        clean(text)
        return time.thread_time() - began_s

    return min(once() for _ in range(3))


def test_no_text_takes_longer_than_its_length_asks_for() -> None:
    """What is repeated is all that a pattern looks for. Eight times as long, a quadratic one takes 64 times as long."""
    short, long = 500, 4_000
    ratios = {text: cleaning_s(text * long) / max(cleaning_s(text * short), 1e-4) for text in REPEATED}
    assert {text: ratio for text, ratio in ratios.items() if ratio > 24} == {}


def test_what_begins_a_sequence_again_and_again() -> None:
    assert cleaning_s("\x9d" * 8_000) < 20 * cleaning_s("\x00" * 8_000)
