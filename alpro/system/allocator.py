"""Settings of the C library's memory allocator."""

from __future__ import annotations

import ctypes


def keep_freed_memory() -> None:
    """Make glibc keep freed memory for the next step, which needs as much again.

    By default glibc returns blocks over 32 MB to the system at once. Mapping and zeroing them again in every step costs
    a training on CPUs up to a tenth of its time.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # missing in other C libraries
    if mallopt is not None:
        mallopt(-3, 2**30)  # M_MMAP_THRESHOLD: the heap serves blocks up to 1 GB
        mallopt(-1, -1)  # M_TRIM_THRESHOLD: the heap never shrinks
