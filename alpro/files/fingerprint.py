"""What names the state that a killed training or evaluation resumes from: parameters, inputs, code. No other is used."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import torch
from torch import nn

from alpro.files.atomic import sha256


def fingerprint(**parts: Any) -> str:
    """A name for all that a result depends on; the parts are what JSON can hold."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:20]


def code_version() -> str:
    """Digest of every Python file of the package."""
    package = Path(__file__).parents[1]
    digest = hashlib.sha256()
    for path in sorted(package.rglob("*.py")):
        digest.update(str(path.relative_to(package)).encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()


def content(path: str | Path) -> str:
    """Digest of a file, or of all files below a folder with their names: for checkpoints and annotations."""
    path = Path(path)
    if path.is_file():
        return sha256(path)
    return _digest([f"{file.relative_to(path)} {sha256(file)}" for file in sorted(path.rglob("*")) if file.is_file()])


def listing(path: str | Path) -> str:
    """Digest of the names and sizes of all files below a folder: for media, whose bytes would take long to read."""
    found = []
    for folder, _, names in os.walk(path):
        for name in names:
            file = os.path.join(folder, name)
            found.append(f"{os.path.relpath(file, path)} {os.stat(file).st_size}")
    return _digest(sorted(found))


def weights(module: nn.Module) -> str:
    """Digest of a module's parameters and buffers, with their names and types, wherever they lie."""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def _digest(lines: list[str]) -> str:
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()
