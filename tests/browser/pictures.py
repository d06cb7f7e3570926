"""Makes the pictures of documents, from kept drills: `python -m tests.browser.pictures`."""

import shutil
import tempfile
from pathlib import Path
from typing import Any

from tests.browser import perfetto
from tests.browser.conftest import ARGUMENTS, HOW_TO_INSTALL, NAMES
from tests.browser.terminals import board_of
from tests.golden.drills import cases
from tests.report.pages import page_of, trace_of

DIRECTORY = Path(__file__).parents[2] / "docs" / "pictures"
DRILL = "smoke_suites/drills/test_stalls.py::test_sleep_before_a_collective"
FAILED = "smoke_suites/drills/test_deaths.py::test_killed_for_memory"
SETTLE_MS = 3_000  # nothing says when Perfetto has drawn all tracks
TOOLBAR = 44  # pixels
# In Perfetto: a waiting rank, the blamed one and the box are unfolded, the test fills the window, and a wait is chosen.
UNFOLDED = """async () => {
    const trace = self.app.trace, engine = trace.engine;
    self.app.sidebar.toggleVisibility();
    for (const track of trace.workspace.flatTracks) if (/^(box|rank [12]) /.test(track.name)) track.expand();
    const test = (await engine.query("select ts, dur from slice where category = 'test'")).firstRow({ts: 0n, dur: 0n});
    const wait = "select id from slice where category = 'wait' order by id limit 1 offset 1";
    trace.selection.selectSqlEvent("slice", (await engine.query(wait)).firstRow({id: 0}).id);
    trace.timeline.setViewportTime(test.ts - test.dur / 12n, test.ts + test.dur * 13n / 12n);
}"""


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
        _trace(browser)
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


def _trace(browser: Any) -> None:
    ui = perfetto.directory()
    if ui is None:
        raise SystemExit(f"no Perfetto: {HOW_TO_INSTALL}")
    context = browser.new_context(viewport={"width": 1200, "height": 1130})
    with perfetto.opened(context, ui, trace_of(cases.load()[DRILL].recording)) as page:
        page.wait_for_timeout(SETTLE_MS)
        page.evaluate(UNFOLDED)
        page.wait_for_timeout(SETTLE_MS)
        below = page.get_by_text("Current Selection").bounding_box()["y"]
        clip = {"x": 0, "y": TOOLBAR, "width": 1200, "height": below - TOOLBAR - 8}
        page.screenshot(path=DIRECTORY / "trace.png", clip=clip)


if __name__ == "__main__":
    main()
