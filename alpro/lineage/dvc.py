"""alpro/lineage/dvc.py: NEW MODULE."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from alpro.errors import DataError


def dvc_cache(root: Path) -> Path | None:
    """DVC's cache of a checkout; None where DVC is missing, or `root` is none of its."""
    done = subprocess.run([sys.executable, "-P", "-m", "dvc", "cache", "dir"], cwd=root, capture_output=True, text=True)
    return (root / done.stdout.strip()).resolve() if done.returncode == 0 else None


def dvc_add(root: Path, paths: Sequence[str]) -> str:
    """Put files or folders under DVC; returns what it says. Raises DataError where DVC is missing or refuses."""
    done = subprocess.run([sys.executable, "-m", "dvc", "add", *paths], cwd=root, capture_output=True, text=True)
    if done.returncode:
        raise DataError(f"dvc add {' '.join(paths)}: {(done.stderr.strip().splitlines() or ['failed'])[-1]}")
    return done.stdout.strip()
