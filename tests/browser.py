"""Headless Chromium, driven by Playwright; tests of pages are skipped where one of them is missing."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

ARGUMENTS = ("--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--no-sandbox", "--hide-scrollbars")
"""WebGL 2 without a GPU; root has no sandbox."""
EMBEDDED = ("file:", "data:", "blob:", "about:")
PATIENCE_MS = 60_000


@contextmanager
def chromium() -> Iterator:
    """A browser."""
    playwright = pytest.importorskip("playwright.sync_api", reason="no Playwright (pip install playwright)")
    path = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if path is None:
        pytest.skip("no Chromium (apt-get install chromium)")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=path, args=list(ARGUMENTS))
        yield browser
        browser.close()


class Watched:
    """A page that keeps what it complains about and what it asks the network for."""

    def __init__(self, browser, path: Path, width: int = 1000, height: int = 700, **settings):
        self.page = browser.new_page(viewport={"width": width, "height": height}, **settings)
        self.page.set_default_timeout(PATIENCE_MS)
        self.complaints: list[str] = []
        self.requests: list[str] = []
        self.page.on("console", lambda message: self.complaints.append(f"{message.type}: {message.text}"))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.goto(path.as_uri())

    @property
    def asked(self) -> list[str]:
        """Addresses that are not part of the page."""
        return [url for url in self.requests if not url.startswith(EMBEDDED)]
