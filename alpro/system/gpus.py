"""How many GPUs torch will find on this machine, without importing it, which takes seconds: a launcher has to know."""

from __future__ import annotations

import os
import subprocess
from functools import cache
from importlib import metadata
from pathlib import Path

DRIVER = Path("/proc/driver/nvidia/gpus")
ANSWER_S = 30


def count() -> int:
    """GPUs that a process started here may use; 0 where torch is built for CPUs, whatever the machine has."""
    try:
        version = metadata.version("torch")
    except metadata.PackageNotFoundError:
        return 0
    return 0 if version.endswith("+cpu") else _visible(_installed(), os.environ.get("CUDA_VISIBLE_DEVICES"))


@cache
def _installed() -> int:
    """As the driver's own tool lists them; where that is missing, as the kernel does."""
    try:
        listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=ANSWER_S)
    except (OSError, subprocess.TimeoutExpired):
        return len(list(DRIVER.iterdir())) if DRIVER.is_dir() else 0
    return sum(line.startswith("GPU ") for line in listed.stdout.splitlines()) if listed.returncode == 0 else 0


def _visible(installed: int, chosen: str | None) -> int:
    """Those that CUDA_VISIBLE_DEVICES leaves, as CUDA reads it: up to the first entry that is none."""
    if chosen is None:
        return installed
    number = 0
    for entry in (part.strip() for part in chosen.split(",")):
        named = entry.startswith(("GPU-", "MIG-"))
        if number == installed or not (named or (entry.isdigit() and int(entry) < installed)):
            break
        number += 1
    return number
