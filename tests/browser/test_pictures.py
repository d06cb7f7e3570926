"""What pictures of documents show, as far as that takes no browser."""

import re
from html import unescape

from tests.browser.pictures import DRILL, FAILED
from tests.browser.terminals import board_of


def test_the_board_in_colours() -> None:
    drawn = unescape(board_of(DRILL, FAILED)).replace("\xa0", " ")
    assert "have waited 2 s for rank 1, which is at drills/test_stalls.py:26" in drawn
    assert "rank-death · rank 1 was OOM-killed" in drawn
    assert len(set(re.findall(r"fill: (#\w+)", drawn))) > 2
    assert re.findall(r"https?://[^\s\"']+", drawn) == ["http://www.w3.org/2000/svg"]  # a name; nothing is loaded
