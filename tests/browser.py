"""What tests that look at pages need: Chromium, node, and playwright-core where node finds it."""

from __future__ import annotations

import shutil
import subprocess

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


def missing() -> str | None:
    """What the browser lacks: `npm install playwright-core` somewhere, and NODE_PATH pointing at its node_modules."""
    if CHROMIUM is None:
        return "no Chromium on PATH"
    if shutil.which("node") is None:
        return "no node on PATH"
    known = subprocess.run(["node", "-e", "require('playwright-core')"], capture_output=True)
    return "node finds no playwright-core (NODE_PATH)" if known.returncode else None
