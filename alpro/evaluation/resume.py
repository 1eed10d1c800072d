"""Resume state of an evaluation: each finished unit is saved under a fingerprint of model, data and settings.

The folder is deleted once the result is written. Only arrays are stored (.npz); loading them executes no code.
"""

from __future__ import annotations

import io
import shutil
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from alpro import distributed
from alpro.data.annotations.records import Record
from alpro.evaluation.clips import ClipReader
from alpro.evaluation.features import FeatureStore, features_key
from alpro.files import fingerprint
from alpro.files.atomic import atomic_write
from alpro.models import Alpro

Arrays = tuple[np.ndarray, ...]
UNFINISHED = 8  # folders of other, unfinished evaluations of the same name that are kept


class FinishedUnits:
    """Finished units of one phase of an evaluation, one .npz file each."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def numbers(self) -> set[int]:
        """Return the numbers of the finished units."""
        return {int(path.stem) for path in self.folder.glob("[0-9]*.npz")}

    def load(self, unit: int) -> Arrays | None:
        """Load a unit's arrays; None if its file is damaged or missing, so that it is computed again."""
        try:
            with np.load(self.folder / f"{unit}.npz", allow_pickle=False) as file:
                return tuple(file[name] for name in file.files)
        except (OSError, ValueError, zipfile.BadZipFile):
            return None

    def save(self, unit: int, arrays: Arrays) -> None:
        """Save a unit's arrays atomically."""
        data = io.BytesIO()
        np.savez(data, *arrays)
        atomic_write(self.folder / f"{unit}.npz", data.getvalue())


class ResumeState:
    """Finished work of the evaluations of one name while they run, and their videos' features."""

    def __init__(self, folder: str | Path, features: str | Path | None = None) -> None:
        """`features`: folder that keeps features for later evaluations; None: inside `folder`, until `done`."""
        self.folder = Path(folder)
        self.features = None if features is None else Path(features)
        self._opened: list[Path] = []

    def open(
        self, model: Alpro, reader: ClipReader, records: Sequence[Record], precision: str, device: torch.device, **settings: Any
    ) -> tuple[Path, FeatureStore]:
        """Return the folder of this evaluation's phases and its feature store; equal arguments give the same ones."""
        files = [(r.id, str(r.path), r.path.stat().st_size, r.path.stat().st_mtime_ns) for r in records if r.path.is_file()]
        texts = [(r.captions, [(q.id, q.text, q.answer) for q in r.questions]) for r in records]
        key = features_key(model, reader, precision, device)
        name = fingerprint.fingerprint(
            features=key,
            weights=fingerprint.weights(model),
            code=fingerprint.code_version(),
            files=files,
            texts=texts,
            **settings,
        )
        folder = self.folder / name
        if folder not in self._opened:
            self._opened.append(folder)
        if distributed.rank() == 0 and self.folder.is_dir():
            others = [path for path in self.folder.iterdir() if path.is_dir() and path not in self._opened]
            for old in sorted(others, key=lambda path: path.stat().st_mtime)[:-UNFINISHED]:
                shutil.rmtree(old, ignore_errors=True)
        return folder, FeatureStore((self.features or folder / "features") / key)

    def done(self) -> None:
        """Delete the resume state after the result is written. Rank 0 calls it once all ranks have finished computing."""
        for folder in self._opened:
            shutil.rmtree(folder, ignore_errors=True)
