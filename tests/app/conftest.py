"""A headless Chromium for the pages: the system's, else playwright's own; tests skip where there is none."""

import shutil
from collections.abc import Iterator
from typing import Any

import pytest


@pytest.fixture
def browser() -> Iterator[Any]:
    """For one test: a process that forks while playwright's driver runs, as a DataLoader's workers do, keeps its pipe
    open, and the driver never ends."""
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed (pip install playwright)")
    with api.sync_playwright() as playwright:
        names = ("chromium", "chromium-browser", "google-chrome", playwright.chromium.executable_path)
        binary = next(filter(None, map(shutil.which, names)), None)
        if binary is None:
            pytest.skip("no Chromium (apt-get install chromium, or playwright install chromium)")
        chromium = playwright.chromium.launch(executable_path=binary, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture
def tab(browser: Any) -> Iterator[Any]:
    """A page whose errors fail the test, and whose requests to other machines are in `tab.foreign`."""
    page, errors = browser.new_page(viewport={"width": 1180, "height": 1000}), []
    page.foreign = []
    page.on("pageerror", lambda error: errors.append(error))
    page.on("request", lambda request: page.foreign.append(request.url) if is_foreign(request.url) else None)
    page.set_default_timeout(60_000)
    yield page
    page.close()
    assert errors == []


def is_foreign(url: str) -> bool:
    return not url.startswith(("file:", "data:", "blob:", "http://127.0.0.1:", "ws://127.0.0.1:"))


def draw_two(page: Any) -> None:
    """A digit two on the page's field, by the mouse."""
    box = page.locator(".sketch canvas").bounding_box()
    points = [(0.3, 0.25), (0.5, 0.18), (0.65, 0.3), (0.6, 0.45), (0.3, 0.8), (0.72, 0.78)]
    places = [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in points]
    page.mouse.move(*places[0])
    page.mouse.down()
    for place in places[1:]:
        page.mouse.move(*place, steps=4)
    page.mouse.up()
