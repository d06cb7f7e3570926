"""Makes the pictures of documents, from kept drills: `python -m tests.browser.pictures`."""

import shutil
import tempfile
from pathlib import Path
from typing import Any

from tests.browser.conftest import ARGUMENTS, HOW_TO_INSTALL, NAMES
from tests.browser.terminals import board_of
from tests.golden.drills import cases
from tests.report.pages import page_of

DIRECTORY = Path(__file__).parents[2] / "docs" / "pictures"
DRILL = "smoke_suites/drills/test_stalls.py::test_sleep_before_a_collective"
FAILED = "smoke_suites/drills/test_deaths.py::test_killed_for_memory"


def main() -> None:
    """Raises SystemExit where there is no browser."""
    from playwright.sync_api import sync_playwright

    program = next((path for name in NAMES if (path := shutil.which(name))), None)
    if program is None:
        raise SystemExit(f"no browser: {HOW_TO_INSTALL}")
    DIRECTORY.mkdir(exist_ok=True)
    with sync_playwright() as playwright, tempfile.TemporaryDirectory() as scratch:
        browser = playwright.chromium.launch(executable_path=program, args=ARGUMENTS)
        _page(browser, Path(scratch) / "timeline.html")
        _board(browser)
        browser.close()


def _page(browser: Any, file: Path) -> None:
    file.write_bytes(page_of(cases.load()[DRILL].recording))
    page = browser.new_page(viewport={"width": 1080, "height": 800}, color_scheme="light")
    page.goto(file.as_uri())
    page.wait_for_selector("html[data-ready]")
    page.screenshot(path=DIRECTORY / "page.png", full_page=True)


def _board(browser: Any) -> None:
    page = browser.new_page(device_scale_factor=2)
    page.set_content(board_of(DRILL, FAILED))
    page.locator("svg").screenshot(path=DIRECTORY / "board.png", omit_background=True)


if __name__ == "__main__":
    main()
