"""The browser for tests of pages: an installed Chromium, driven by Playwright (Python) or playwright-core (Node.js)."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")

FLAGS = (
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
)  # fmt: skip
PATIENCE_S = 60.0


@contextmanager
def opened(width: int = 1280, height: int = 900) -> Iterator[Any]:
    """Open a page of Playwright in a new browser. Its attribute `requested` lists the addresses that it asked for."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        page = browser.new_page(viewport={"width": width, "height": height})
        page.set_default_timeout(1000 * PATIENCE_S)
        page.requested = []
        page.on("request", lambda request: page.requested.append(request.url))
        yield page
        browser.close()


def missing() -> str | None:
    """Return what is missing, or None. (`npm install playwright-core`, and set NODE_PATH to its node_modules.)"""
    if CHROMIUM is None:
        return "no Chromium on PATH"
    if shutil.which("node") is None:
        return "no node on PATH"
    known = subprocess.run(["node", "-e", "require('playwright-core')"], capture_output=True)
    return "node finds no playwright-core (NODE_PATH)" if known.returncode else None
