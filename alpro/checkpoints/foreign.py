"""Opens weights files of any origin without executing anything in them, and finds the state dict in them."""

from __future__ import annotations

import pickle
import shlex
import warnings
import zipfile
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from alpro.checkpoints.inert_tensors import AGAIN, ZIP_ERRORS, StoredTensor, damaged, read_inert, scan
from alpro.checkpoints.layout import CONFIG, WEIGHTS, is_zip
from alpro.checkpoints.unwrap import unwrap
from alpro.errors import CheckpointError
from alpro.files.names import brief, some

State = dict[str, Tensor]
NAMED = 20  # classes and functions that a report names
EXPANSION = 4  # a zip that claims to hold this many times its size is a bomb; torch compresses nothing


def open_weights(path: Path, sanitize: bool = False) -> tuple[State, list[str]]:
    """Load the tensors of a .safetensors file, or of a pickle (.pt, .pth, .pyth, .bin), without what trainers wrap around them.

    Returns the tensors, floating-point ones in float32, and sentences on what was unwrapped. Nothing in the file is executed:
    a pickle that names other classes or functions than tensors need is refused, or with `sanitize` read as data. Raises
    CheckpointError if the file is missing, empty, truncated, a zip that is no checkpoint, or if it has no tensors or values
    that are not finite.
    """
    if not path.is_file():
        layout = f"a checkpoint is a directory with {WEIGHTS} and {CONFIG}, or a .pt file"
        raise CheckpointError(f"{path}: no such file; {layout}")
    try:
        state, notes = _open(path, sanitize)
        for key, tensor in state.items():
            _check_tensor(key, tensor)
            if tensor.is_floating_point():
                if not tensor.isfinite().all():
                    raise CheckpointError(f"{brief(key)} holds NaN or infinite values; use an earlier checkpoint")
                state[key] = tensor.float()
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from None
    return state, notes


def _open(path: Path, sanitize: bool) -> tuple[State, list[str]]:
    with path.open("rb") as file:
        start = file.read(64)
    if start.startswith(b"version https://git-lfs"):
        raise CheckpointError("a pointer of Git LFS, not the file itself; fetch it with `git lfs pull`")
    if start.lstrip().lower().startswith((b"<!doctype", b"<html")):
        raise CheckpointError("a web page, not a checkpoint; download the file itself")
    if path.suffix == ".safetensors" or start[8:9] == b"{":
        return unwrap(_read_safetensors(path), Tensor)
    if not is_zip(path) and _has_zip_at_end(path):
        raise CheckpointError("other data with a zip at its end, which programs read differently; get it from a trusted source")
    if start[:2] == b"PK":
        _check_zip(path)
    if sanitize:
        file_content = read_inert(path)
        found, notes = unwrap(file_content.content, StoredTensor)
        ignored = f"; not executed: {some(file_content.foreign, NAMED)}" if file_content.foreign else ""
        return {key: file_content.load(tensor) for key, tensor in found.items()}, [f"read as data{ignored}", *notes]
    return unwrap(_load_pickle(path), Tensor)


def _load_pickle(path: Path) -> Any:
    """Return the content of a torch file that torch opens with `weights_only`."""
    try:
        names, nested_keys = scan(path)
    except CheckpointError as error:
        raise CheckpointError(f"no checkpoint, or a damaged one ({error})") from None
    if nested_keys:
        raise CheckpointError(
            "refused: it has nested mapping keys, which take forever to compare; get it from a trusted source"
        )
    try:
        with warnings.catch_warnings(action="ignore"):  # torch warns about pickle protocols before it refuses them
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # unpickling may raise anything
        if names and isinstance(error, pickle.UnpicklingError):
            reason = f"opening it would run {some(names)}; nothing was executed"
            advice = f"`alpro weights import {shlex.quote(str(path))} --output FOLDER --sanitize` reads only its tensors"
            raise CheckpointError(f"refused: {reason}; {advice}") from None
        reason = "no plain tensors" if isinstance(error, pickle.UnpicklingError) else brief(str(error).partition("\n")[0], 100)
        raise CheckpointError(f"no checkpoint, or a damaged one ({reason or type(error).__name__}); {AGAIN}") from None


def _read_safetensors(path: Path) -> State:
    try:
        return safetensors.torch.load_file(path)
    except (safetensors.SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
        raise damaged(error) from None


def _check_zip(path: Path) -> None:
    """Raise CheckpointError if a zip is cut short, is no checkpoint, or claims to hold far more than its size."""
    try:
        if not zipfile.is_zipfile(path):
            raise CheckpointError(f"cut short (a zip file without its end); {AGAIN}")
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except ZIP_ERRORS as error:
        raise damaged(error) from None
    names = {entry.filename.rpartition("/")[2] for entry in entries}
    if "data.pkl" not in names:
        raise CheckpointError("a zip, but no checkpoint; unpack it and give the .pt file inside")
    if "constants.pkl" in names:
        raise CheckpointError("a TorchScript archive; save the model's state_dict() with torch.save instead")
    if sum(entry.file_size for entry in entries) > EXPANSION * path.stat().st_size:
        raise CheckpointError("its zip expands to far more than its size, unlike torch's; get it from a trusted source")


def _has_zip_at_end(path: Path) -> bool:
    try:
        with zipfile.ZipFile(path) as archive:
            return bool(archive.infolist())
    except ZIP_ERRORS:
        return False


def _check_tensor(key: str, tensor: Tensor) -> None:
    """Raise CheckpointError for a tensor without plain values, and for one that repeats few values to fill the memory."""
    key = brief(key)
    if tensor.layout is not torch.strided or tensor.is_meta or tensor.is_quantized or tensor.is_complex():
        raise CheckpointError(f"{key}: a sparse, quantized, complex or meta tensor; save it as a plain one")
    if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
        raise CheckpointError(f"{key}: claims more values than the file stores; get it from a trusted source")
