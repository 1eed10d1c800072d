"""Random sources that depend on nothing but (seed, epoch, sample, purpose).

So a sample looks the same whichever worker or process reads it, and after a resume. The generators are those whose
streams their libraries promise to keep: Python's and NumPy's Mersenne twisters.
"""

from __future__ import annotations

import hashlib
import random

import numpy as np
import torch


def derive(*parts: object) -> int:
    """63 bits out of any printable parts; equal parts give equal bits on every machine."""
    text = "\x1f".join(map(str, parts)).encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little") >> 1


def python_rng(*parts: object) -> random.Random:
    """Python's generator for these parts: it draws frames and captions."""
    return random.Random(derive(*parts))


def numpy_rng(*parts: object) -> np.random.RandomState:
    """NumPy's generator for these parts: it draws augmentations, crops and orders."""
    return np.random.RandomState(np.random.MT19937(derive(*parts)))


def torch_rng(*parts: object) -> torch.Generator:
    """Torch's CPU generator for these parts: it draws masked tokens."""
    return torch.Generator().manual_seed(derive(*parts))
