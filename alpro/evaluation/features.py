"""Cache of encoded videos: each video is decoded and encoded once, also across evaluations and after a resume.

A store is a folder of memory-mapped files, one per video, named by the SHA-256 of the video's bytes. The folder is named by
the fingerprint of everything else that affects the numbers: encoder weights, preprocessing, code. A video takes 0.6 MB at
the paper's size. N patches, D width.
"""

from __future__ import annotations

import functools
import io
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from alpro import distributed
from alpro.data.annotations.records import Record
from alpro.errors import DataError
from alpro.evaluation.clips import ClipReader
from alpro.files import fingerprint
from alpro.files.atomic import atomic_write, sha256
from alpro.models import Alpro

# Sources that affect the features; a change of any of them invalidates the cache.
CODE = (
    "data/batches/augment.py",
    "data/batches/clip_frames.py",
    "data/batches/frame_cache.py",
    "data/batches/ordered_clips.py",
    "data/batches/datasets.py",
    "data/batches/seeds.py",
    "data/media/containers.py",
    "data/media/decoders.py",
    "data/media/frames.py",
    "data/media/known.py",
    "data/media/orientation.py",
    "data/media/read.py",
    "data/media/streams.py",
    "data/media/strict.py",
    "data/media/with_torchcodec.py",
    "evaluation/clips.py",
    "models/encoders.py",
    "models/timesformer.py",
)


class FeatureStore:
    """Video tokens (1, 1+N, D), keyed by the content of the video file. Several processes may write at once."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)

    def path(self, record: Record) -> Path:
        """Return the path of a record's tokens, which need not exist. Raises OSError if its video can't be read."""
        stat = os.stat(record.path)
        return self.named(_digest(str(record.path), stat.st_size, stat.st_mtime_ns))

    def named(self, digest: str) -> Path:
        """Return the path of the tokens of the video with this SHA-256; it need not exist."""
        return self.folder / digest[:2] / f"{digest}.npy"

    def has(self, record: Record) -> bool:
        """Return True if the store has a record's tokens; an unreadable video has none."""
        try:
            return self.path(record).is_file()
        except OSError:
            return False

    def get(self, record: Record) -> Tensor:
        """Load a record's tokens, memory-mapped. Raises DataError if the file is damaged."""
        return read_tokens(self.path(record))

    def put(self, record: Record, tokens: Tensor) -> None:
        """Save a record's tokens atomically. Raises OSError if the disk fails."""
        write_tokens(self.path(record), tokens)


def read_tokens(path: Path) -> Tensor:
    """Load tokens from a file of a store, memory-mapped. Raises DataError if it is damaged, OSError if it is missing."""
    try:
        return torch.from_numpy(np.load(path, mmap_mode="c", allow_pickle=False))  # copy on write
    except ValueError as error:
        raise DataError(f"{path}: damaged ({' '.join(str(error).split())}); delete it, it will be made again") from None


def write_tokens(path: Path, tokens: Tensor) -> None:
    """Write tokens atomically. Raises OSError if the disk fails."""
    data = io.BytesIO()
    np.save(data, tokens.cpu().numpy(), allow_pickle=False)
    atomic_write(path, data.getvalue())


def features_key(model: Alpro, reader: ClipReader, precision: str, device: torch.device) -> str:
    """Return the name of the store for this model and preprocessing."""
    package = Path(fingerprint.__file__).parents[1]
    return fingerprint.fingerprint(
        weights=fingerprint.weights(model.visual_encoder),
        viewing=[reader.num_frames, reader.strategy, reader.image_size, reader.mode, reader.decode_size, reader.decoder],
        precision=precision,
        code=[sha256(package / name) for name in CODE],
        torch=torch.__version__,
        device=device.type,
    )


class VideoEncoder:
    """Encoder of records' clips that uses a store, if there is one."""

    def __init__(
        self,
        model: Alpro,
        reader: ClipReader,
        records: Sequence[Record],
        device: torch.device,
        store: FeatureStore | None = None,
    ) -> None:
        self.model, self.reader, self.records, self.device, self.store = model, reader, records, device, store

    def tokens(self, positions: Sequence[int]) -> Iterator[Tensor]:
        """Yield the tokens (1, 1+N, D) of records, in order. Clips are encoded one by one: batching would change the rounding.

        Raises DataError that lists all unreadable files.
        """
        if self.reader.is_blind:  # all clips are equal
            if positions:
                clip = next(self.reader.clips(self.records[:1]))
                yield from [self._encode(clip)] * len(positions)
            return
        store = self.store
        missing = [p for p in positions if store is None or not store.has(self.records[p])]
        clips = self.reader.clips([self.records[p] for p in missing])
        to_encode = set(missing)
        for p in positions:
            if p not in to_encode and store is not None:
                yield store.get(self.records[p]).to(self.device)
                continue
            tokens = self._encode(next(clips))
            if store is not None:
                store.put(self.records[p], tokens)
            yield tokens

    def _encode(self, clip: Tensor) -> Tensor:
        return self.model.encode_video(clip[None].to(self.device)).float()

    def units(self, units: Sequence[Sequence[int]]) -> Callable[[Sequence[int]], Iterator[Tensor]]:
        """Return the `read_inputs` of `compute_distributed`: it yields the tokens (videos, 1+N, D) of each unit's records."""

        def read(numbers: Sequence[int]) -> Iterator[Tensor]:
            stream = self.tokens([position for unit in numbers for position in units[unit]])
            for unit in numbers:
                yield torch.cat([next(stream) for _ in units[unit]])

        return read

    def fit_in_memory(self) -> bool:
        """Return True if this rank's share of all tokens takes at most half of the free memory."""
        config = self.model.config
        patches = (config.image_size // config.patch_size) ** 2
        each = (1 + patches) * config.width * 4
        if self.device.type == "cuda":
            free = torch.cuda.mem_get_info(self.device)[0]
        else:
            import psutil  # a GPU does not need it

            free = psutil.virtual_memory().available // distributed.local_size()
        return 2 * each * len(self.records) <= free * distributed.size()


@functools.cache
def _digest(path: str, size: int, mtime_ns: int) -> str:
    return sha256(path)
