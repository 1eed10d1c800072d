"""Number of GPUs that torch will find on this machine, and their memory. Does not import torch, which takes seconds."""

from __future__ import annotations

import os
import subprocess
from functools import cache
from importlib import metadata
from pathlib import Path

DRIVER = Path("/proc/driver/nvidia/gpus")
ANSWER_S = 30


def count() -> int:
    """Return how many GPUs a process started here may use; 0 if the installed torch is a CPU build."""
    try:
        version = metadata.version("torch")
    except metadata.PackageNotFoundError:
        return 0
    return 0 if version.endswith("+cpu") else _visible(_installed(), os.environ.get("CUDA_VISIBLE_DEVICES"))


def memory_bytes() -> float | None:
    """Return the memory of the smallest GPU; None if nvidia-smi cannot tell."""
    command = ["nvidia-smi", "--query-gpu=memory.total", "--format=csv,noheader,nounits"]
    try:
        sizes = subprocess.run(command, capture_output=True, text=True, timeout=ANSWER_S).stdout.split()
    except (OSError, subprocess.TimeoutExpired):
        return None
    return min((float(size) * 2**20 for size in sizes if size.isdigit()), default=None)


@cache
def _installed() -> int:
    """Count the GPUs with nvidia-smi, or in the kernel's list if that program is missing."""
    try:
        listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=ANSWER_S)
    except (OSError, subprocess.TimeoutExpired):
        return len(list(DRIVER.iterdir())) if DRIVER.is_dir() else 0
    return sum(line.startswith("GPU ") for line in listed.stdout.splitlines()) if listed.returncode == 0 else 0


def _visible(installed: int, chosen: str | None) -> int:
    """Count the GPUs that CUDA_VISIBLE_DEVICES selects. Like CUDA, stop at the first invalid entry."""
    if chosen is None:
        return installed
    visible = 0
    for entry in (part.strip() for part in chosen.split(",")):
        is_name = entry.startswith(("GPU-", "MIG-"))
        if visible == installed or not (is_name or (entry.isdigit() and int(entry) < installed)):
            break
        visible += 1
    return visible
