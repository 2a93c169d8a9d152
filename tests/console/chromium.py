"""The browser that the page is tried in."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from playwright.sync_api import Page, sync_playwright

_CHROMIUM = Path("/usr/bin/chromium")
_ARGUMENTS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)

in_browser = pytest.mark.skipif(not _CHROMIUM.exists(), reason=f"no browser at {_CHROMIUM}: apt-get install chromium")


@contextmanager
def a_page() -> Iterator[tuple[Page, list[str]]]:
    """A page in Chromium, and everything its console complained about."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=str(_CHROMIUM), args=list(_ARGUMENTS))
        page = browser.new_page(viewport={"width": 1280, "height": 900}, timezone_id="UTC")
        complaints: list[str] = []
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda problem: complaints.append(str(problem)))
        yield page, complaints
        browser.close()
