"""The browser for tests of pages: Chromium, driven by Node.js with playwright-core."""

from __future__ import annotations

import shutil
import subprocess

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


def missing() -> str | None:
    """Return what is missing, or None. (`npm install playwright-core`, and set NODE_PATH to its node_modules.)"""
    if CHROMIUM is None:
        return "no Chromium on PATH"
    if shutil.which("node") is None:
        return "no node on PATH"
    known = subprocess.run(["node", "-e", "require('playwright-core')"], capture_output=True)
    return "node finds no playwright-core (NODE_PATH)" if known.returncode else None
