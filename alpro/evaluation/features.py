"""Encoded videos: each decoded and encoded once, and kept on disk where a second evaluation or a resumed one can use them.

A store is a folder of memory-mapped files, one a video, named by the digest of the video's bytes. The folder's name is the
digest of what else the numbers come from: the video encoder's weights, how clips are read, the code. 0.6 MB a video at the
paper's size. N patches, D width.
"""

from __future__ import annotations

import functools
import io
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import psutil
import torch
from torch import Tensor

from alpro import distributed
from alpro.data.annotations.records import Record
from alpro.errors import DataError
from alpro.evaluation.clips import Viewer
from alpro.files import fingerprint
from alpro.files.atomic import atomic_write, sha256
from alpro.models import Alpro

# What turns a file into tokens: another version's features are not used.
CODE = (
    "data/batches/augment.py",
    "data/batches/datasets.py",
    "data/batches/loader.py",
    "data/media/decoders.py",
    "data/media/frames.py",
    "data/media/read.py",
    "models/encoders.py",
    "models/timesformer.py",
)


class FeatureStore:
    """Video tokens (1, 1+N, D) by the bytes of the video's file. Several processes may write at once."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)

    def path(self, record: Record) -> Path:
        """Where a record's tokens lie, or would. Raises OSError when its video can't be read."""
        stat = os.stat(record.path)
        return self.named(_digest(str(record.path), stat.st_size, stat.st_mtime_ns))

    def named(self, digest: str) -> Path:
        """Where the tokens of the video with this SHA-256 lie, or would."""
        return self.folder / digest[:2] / f"{digest}.npy"

    def has(self, record: Record) -> bool:
        """Whether it holds a record's tokens; a video that can't be read has none."""
        try:
            return self.path(record).is_file()
        except OSError:
            return False

    def get(self, record: Record) -> Tensor:
        """A record's tokens, mapped into memory. Raises DataError when the file is damaged."""
        return read_tokens(self.path(record))

    def put(self, record: Record, tokens: Tensor) -> None:
        """Keep a record's tokens, as a whole or not at all. Raises OSError when the disk refuses."""
        write_tokens(self.path(record), tokens)


def read_tokens(path: Path) -> Tensor:
    """Tokens from a file of a store, mapped into memory. Raises DataError when it is damaged, OSError when it is missing."""
    try:
        return torch.from_numpy(np.load(path, mmap_mode="c", allow_pickle=False))  # copy on write: the file stays as it is
    except ValueError as error:
        raise DataError(f"{path}: damaged ({' '.join(str(error).split())}); remove it") from None


def write_tokens(path: Path, tokens: Tensor) -> None:
    """Write tokens as a whole or not at all. Raises OSError when the disk refuses."""
    data = io.BytesIO()
    np.save(data, tokens.cpu().numpy(), allow_pickle=False)
    atomic_write(path, data.getvalue())


def features_key(model: Alpro, viewer: Viewer, precision: str, device: torch.device) -> str:
    """The name of the store in which videos as this model sees them belong."""
    package = Path(fingerprint.__file__).parents[1]
    return fingerprint.fingerprint(
        weights=fingerprint.weights(model.visual_encoder),
        viewing=[viewer.num_frames, viewer.strategy, viewer.image_size, viewer.look, viewer.decode_size],
        precision=precision,
        code=[sha256(package / name) for name in CODE],
        torch=torch.__version__,
        device=device.type,
    )


class VideoEncoder:
    """Encodes records' clips for a model, and looks into a store first."""

    def __init__(
        self, model: Alpro, viewer: Viewer, records: Sequence[Record], device: torch.device, store: FeatureStore | None = None
    ) -> None:
        self.model, self.viewer, self.records, self.device, self.store = model, viewer, records, device, store

    def tokens(self, positions: Sequence[int]) -> Iterator[Tensor]:
        """Tokens (1, 1+N, D) of records, in order. Each clip is encoded alone, so that its numbers depend on nothing else.

        Raises DataError that lists all files that can't be read.
        """
        store = self.store
        missing = [p for p in positions if store is None or not store.has(self.records[p])]
        clips = self.viewer.clips([self.records[p] for p in missing])
        to_encode = set(missing)
        for p in positions:
            if p not in to_encode and store is not None:
                yield store.get(self.records[p]).to(self.device)
                continue
            tokens = self.model.encode_video(next(clips)[None].to(self.device)).float()
            if store is not None:
                store.put(self.records[p], tokens)
            yield tokens

    def units(self, units: Sequence[Sequence[int]]) -> Callable[[Sequence[int]], Iterator[Tensor]]:
        """For `shared`: given units' numbers, the tokens (videos, 1+N, D) of each unit's records."""

        def feed(wanted: Sequence[int]) -> Iterator[Tensor]:
            stream = self.tokens([position for unit in wanted for position in units[unit]])
            for unit in wanted:
                yield torch.cat([next(stream) for _ in units[unit]])

        return feed

    def fit_in_memory(self) -> bool:
        """Whether this rank's share of all tokens takes at most half of the memory that is free."""
        config = self.model.config
        patches = (config.image_size // config.patch_size) ** 2
        each = (1 + patches) * config.width * 4
        if self.device.type == "cuda":
            free = torch.cuda.mem_get_info(self.device)[0]
        else:
            free = psutil.virtual_memory().available // distributed.local_size()
        return 2 * each * len(self.records) <= free * distributed.size()


@functools.cache
def _digest(path: str, size: int, mtime_ns: int) -> str:
    return sha256(path)
