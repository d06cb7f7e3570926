import re

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
