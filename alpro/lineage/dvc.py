"""Runs DVC commands: its cache folder, and adding data."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from alpro.errors import DataError


def dvc_cache(root: Path) -> Path | None:
    """Return DVC's cache folder of a checkout, or None without DVC or outside a DVC project."""
    process = subprocess.run([sys.executable, "-P", "-m", "dvc", "cache", "dir"], cwd=root, capture_output=True, text=True)
    return (root / process.stdout.strip()).resolve() if process.returncode == 0 else None


def dvc_add(root: Path, paths: Sequence[str]) -> str:
    """Track files or folders with DVC and return its output. Raises DataError if DVC is missing or fails."""
    process = subprocess.run([sys.executable, "-m", "dvc", "add", *paths], cwd=root, capture_output=True, text=True)
    if process.returncode:
        raise DataError(f"dvc add {' '.join(paths)}: {(process.stderr.strip().splitlines() or ['failed'])[-1]}")
    return process.stdout.strip()
