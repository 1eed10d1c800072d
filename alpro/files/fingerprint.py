"""Fingerprints of parameters, inputs and code.

Resume state is stored under its fingerprint and used only if all three match.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import torch
from torch import nn

from alpro.files.atomic import sha256


def fingerprint(**inputs: Any) -> str:
    """Return one name for everything that a result depends on; the values are JSON or convertible to strings."""
    return hashlib.sha256(json.dumps(inputs, sort_keys=True, default=str).encode()).hexdigest()[:20]


def code_version() -> str:
    """Return a digest of every Python file of the package."""
    package = Path(__file__).parents[1]
    digest = hashlib.sha256()
    for path in sorted(package.rglob("*.py")):
        digest.update(str(path.relative_to(package)).encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()


def content(path: str | Path) -> str:
    """Return a digest of a file, or of all files in a folder with their names; for checkpoints and annotations."""
    path = Path(path)
    if path.is_file():
        return sha256(path)
    return _digest([f"{file.relative_to(path)} {sha256(file)}" for file in sorted(path.rglob("*")) if file.is_file()])


def listing(path: str | Path) -> str:
    """Return a digest of the names and sizes of all files in a folder; for media, which take long to read."""
    lines = []
    for folder, _, names in os.walk(path):
        for name in names:
            file = os.path.join(folder, name)
            lines.append(f"{os.path.relpath(file, path)} {os.stat(file).st_size}")
    return _digest(sorted(lines))


def weights(module: nn.Module) -> str:
    """Return a digest of a module's parameters and buffers with their names and types. It does not depend on the device."""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def _digest(lines: list[str]) -> str:
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()
