"""alpro/system/allocator.py: NEW MODULE."""

from __future__ import annotations

import ctypes


def _keep_freed_memory() -> None:
    """Let glibc keep what is freed for the next step, which needs as much again.

    By default it returns blocks of more than 32 MB to the system at once; to have each zeroed and mapped anew at its first
    touch costs a training on CPUs up to a tenth of its time.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # other C libraries have none
    if mallopt is not None:
        mallopt(-3, 2**30)  # M_MMAP_THRESHOLD: the heap serves blocks up to 1 GB
        mallopt(-1, -1)  # M_TRIM_THRESHOLD: and never shrinks
