"""`history.html` in a headless Chromium: what tests and configurations wrote stays within the window."""

from pathlib import Path
from typing import Any

import pytest

from pytest_megacpp.desk.run.history_file import history_document
from pytest_megacpp.desk.run.receipts import newest_receipts
from tests.browser.conftest import Open
from tests.desk.receipts import receipt, write_run

LONG = "x" * 150  # without a place to break it


@pytest.mark.parametrize("width", [400, 1280])
def test_no_text_is_wider_than_the_window(open_page: Open, tmp_path: Path, width: int) -> None:
    """A failure, a slower test and a flaky one, with long texts wherever a receipt has one."""
    ranks = [{"rank": 0, "first_forward_s": 1.0, "records": {LONG: 0.5}}]
    for number in range(9):
        odd: dict[str, Any] = {"lane": LONG, "surface": LONG, "preset": LONG, "ranks": ranks}
        slow = receipt("", f"a.py::test_slow[{LONG}]", seconds=20.0 if number == 8 else 8.0, **odd)
        red = receipt("", "a.py::test_red", "failed" if number % 2 == 0 else "passed", verdict={"summary": LONG}, **odd)
        other = receipt("", "a.py::test_other", "failed", LONG, verdict={"summary": LONG}, **odd)
        write_run(tmp_path, number, slow, red, other)
    made = history_document(newest_receipts(tmp_path))
    assert made is not None
    page = open_page(made[1], scripts=False)
    page.set_viewport_size({"width": width, "height": 900})
    assert {mark.inner_text() for mark in page.locator(".mark").all()} >= {"red", "slower", "flaky"}
    assert page.evaluate("() => document.documentElement.scrollWidth - document.documentElement.clientWidth") == 0
