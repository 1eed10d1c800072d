"""Random generators seeded by keys such as (seed, epoch, sample, purpose).

A sample is therefore the same in every worker and process, and after a resume. Python and NumPy guarantee that the
streams of their Mersenne Twister generators do not change between versions.
"""

from __future__ import annotations

import hashlib
import random

import numpy as np
import torch


def derive_seed(*keys: object) -> int:
    """Return a 63-bit seed from printable keys; equal keys give equal seeds on every machine."""
    text = "\x1f".join(map(str, keys)).encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little") >> 1


def python_rng(*keys: object) -> random.Random:
    """Return Python's generator for these keys; it draws frames and captions."""
    return random.Random(derive_seed(*keys))


def numpy_rng(*keys: object) -> np.random.RandomState:
    """Return NumPy's generator for these keys; it draws augmentations, crops and orders."""
    return np.random.RandomState(np.random.MT19937(derive_seed(*keys)))


def torch_rng(*keys: object) -> torch.Generator:
    """Return PyTorch's CPU generator for these keys; it draws masked tokens."""
    return torch.Generator().manual_seed(derive_seed(*keys))
