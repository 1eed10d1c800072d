"""Memory of this machine, within the limit of a container."""

from __future__ import annotations

from pathlib import Path

import psutil

LIMIT = Path("/sys/fs/cgroup/memory.max")


def container_limit() -> int | None:
    """Return the memory limit of this control group in bytes; None if there is none."""
    try:
        text = LIMIT.read_text(encoding="ascii").strip()
    except OSError:
        return None
    return int(text) if text.isdigit() else None


def total_bytes() -> int:
    """Return the memory that all processes here can use together."""
    total: int = psutil.virtual_memory().total
    return min(total, container_limit() or total)


def available_bytes() -> int:
    """Return the memory that a process can take now without swapping."""
    available: int = psutil.virtual_memory().available
    return min(available, container_limit() or available)
