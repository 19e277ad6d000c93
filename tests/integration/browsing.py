"""Pages in a real browser. Who imports this is skipped where there is no Chromium or no driver for it."""

import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

import pytest

sync_api = pytest.importorskip("playwright.sync_api", reason="the driver playwright is not installed")
axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-playwright-python is not installed")

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium on the PATH")

WIDE = {"width": 1600, "height": 1000}

expect = sync_api.expect


@contextmanager
def launched() -> Iterator[Any]:
    """Run a browser."""
    expect.set_options(timeout=20_000)
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM)
        yield browser
        browser.close()


@contextmanager
def opening(browser: Any) -> Iterator[Callable[..., Any]]:
    """Open pages by their URL, each for itself; what goes wrong in one is gathered in ``page.problems``."""
    contexts = []

    def open_at(url: str, **options: Any) -> Any:
        context = browser.new_context(**{"viewport": WIDE, **options})
        contexts.append(context)
        page = context.new_page()
        page.problems, page.hosts = [], set()
        page.on("console", lambda message: page.problems.append(message.text))
        page.on("pageerror", lambda error: page.problems.append(str(error)))
        page.on("request", lambda request: page.hosts.add(urlsplit(request.url).netloc))
        page.goto(url)
        return page

    yield open_at
    for context in contexts:
        context.close()


def violations(page: Any) -> list[tuple[str, list[str]]]:
    """Find what hinders assistive technology: rules, and the elements that break them."""
    found = axe.Axe().run(page).response["violations"]
    return [(rule["id"], [node["html"] for node in rule["nodes"]]) for rule in found]


def contrast(first: str, second: str) -> float:
    """Contrast of two colours as in WCAG 2.2."""
    darker, lighter = sorted(map(luminance, (first, second)))
    return (lighter + 0.05) / (darker + 0.05)


def luminance(colour: str) -> float:
    channels = [int(value) / 255 for value in re.findall(r"\d+", colour)]
    red, green, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue
