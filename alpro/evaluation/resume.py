"""What a killed evaluation goes on from: every finished unit of its work, in a folder named by all that the numbers depend on.

The folder is deleted when the result is written. Arrays alone are stored (.npz), nothing in them is ever executed.
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
from alpro.evaluation.clips import Viewer
from alpro.evaluation.features import FeatureStore, features_key
from alpro.files import fingerprint
from alpro.files.atomic import atomic_write
from alpro.models import Alpro

Arrays = tuple[np.ndarray, ...]
OTHERS = 8  # folders of other, unfinished evaluations of the same name that are left


class Phase:
    """The finished units of one phase of an evaluation."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def known(self) -> set[int]:
        """Numbers of the units that are finished."""
        return {int(path.stem) for path in self.folder.glob("[0-9]*.npz")}

    def load(self, unit: int) -> Arrays | None:
        """A unit's arrays; None when its file is damaged or gone, so that it is computed again."""
        try:
            with np.load(self.folder / f"{unit}.npz", allow_pickle=False) as kept:
                return tuple(kept[name] for name in kept.files)
        except (OSError, ValueError, zipfile.BadZipFile):
            return None

    def save(self, unit: int, arrays: Arrays) -> None:
        """Keep a unit's arrays, as a whole or not at all."""
        data = io.BytesIO()
        np.savez(data, *arrays)
        atomic_write(self.folder / f"{unit}.npz", data.getvalue())


class Workplace:
    """Where evaluations of one name keep finished work while they run, and their videos' features."""

    def __init__(self, folder: str | Path, features: str | Path | None = None) -> None:
        """`features`: where features stay for later evaluations; None: in the folder, until the evaluation ended well."""
        self.folder = Path(folder)
        self.features = None if features is None else Path(features)
        self._opened: list[Path] = []

    def open(
        self, model: Alpro, viewer: Viewer, records: Sequence[Record], precision: str, device: torch.device, **given: Any
    ) -> tuple[Path, FeatureStore]:
        """The folder of this evaluation's phases and its store of features; the same again for the same arguments."""
        files = [(r.id, str(r.path), r.path.stat().st_size, r.path.stat().st_mtime_ns) for r in records if r.path.is_file()]
        texts = [(r.captions, [(q.id, q.text, q.answer) for q in r.questions]) for r in records]
        key = features_key(model, viewer, precision, device)
        name = fingerprint.fingerprint(
            features=key, weights=fingerprint.weights(model), code=fingerprint.code_version(), files=files, texts=texts, **given
        )
        place = self.folder / name
        if place not in self._opened:
            self._opened.append(place)
        if distributed.rank() == 0 and self.folder.is_dir():
            others = [path for path in self.folder.iterdir() if path.is_dir() and path not in self._opened]
            for old in sorted(others, key=lambda path: path.stat().st_mtime)[:-OTHERS]:
                shutil.rmtree(old, ignore_errors=True)
        return place, FeatureStore((self.features or place / "features") / key)

    def done(self) -> None:
        """Delete what was kept for a resumption: the result is written. The first rank calls it, when all have come so far."""
        for place in self._opened:
            shutil.rmtree(place, ignore_errors=True)
