"""Random number generators: seeding per rank, saving and restoring their states, isolation; deterministic sums."""

from __future__ import annotations

import base64
import hashlib
import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import numpy as np
import torch


def seed_everything(*key: int | str) -> None:
    """Seed the generators of Python, NumPy and torch from a key, such as the seed and the rank."""
    digest = hashlib.sha256("/".join(map(str, key)).encode()).digest()
    seed = int.from_bytes(digest[:8], "little") % 2**63
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)  # CUDA's generators included


def sum_in_one_order() -> None:
    """Make torch add in an order that does not depend on the timing of its threads, in this process.

    Otherwise the gradient of `x[rows]` with repeated rows (VTM's pairs) differs in its last bits from run to run.
    """
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]


def capture() -> dict[str, Any]:
    """Return all random states of this process as JSON values."""
    version, numbers, gauss = random.getstate()
    name, keys, position, has_gauss, cached = cast("tuple[str, Any, int, int, float]", np.random.get_state(legacy=True))
    return {
        "python": [version, list(numbers), gauss],
        "numpy": [name, keys.tolist(), position, has_gauss, cached],
        "torch": _text(torch.get_rng_state()),
        "cuda": _text(torch.cuda.get_rng_state()) if torch.cuda.is_initialized() else None,
    }


def restore(state: dict[str, Any]) -> None:
    """Restore what `capture` returned."""
    version, numbers, gauss = state["python"]
    random.setstate((version, tuple(numbers), gauss))
    name, keys, position, has_gauss, cached = state["numpy"]
    np.random.set_state((name, np.array(keys, dtype=np.uint32), position, has_gauss, cached))
    torch.set_rng_state(_tensor(state["torch"]))
    if state["cuda"] is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(_tensor(state["cuda"]))


@contextmanager
def isolated(*key: int | str) -> Iterator[None]:
    """Seed the generators for the block inside, and restore their states afterwards."""
    before = capture()
    seed_everything(*key)
    try:
        yield
    finally:
        restore(before)


def _text(state: torch.Tensor) -> str:
    return base64.b64encode(state.numpy().tobytes()).decode()


def _tensor(text: str) -> torch.Tensor:
    return torch.frombuffer(bytearray(base64.b64decode(text)), dtype=torch.uint8)
