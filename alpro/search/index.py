"""The index of a folder of videos, which `alpro index` makes and keeps up to date: only new and changed videos are encoded.

    OUT/gallery/index.json       which model, how clips are read, where the videos lie
    OUT/gallery/videos.parquet   a row a video: path below the folder, size, mtime_ns, sha256
    OUT/gallery/features.npy     VTC's unit vectors (V, E) float32, in the rows' order
    OUT/tokens/                  what VTM reads of each video (a FeatureStore; 0.6 MB a video at the paper's size)

Nothing in it is ever executed. The gallery is replaced as a whole; a killed indexing goes on from the tokens that it left.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alpro.data.annotations.records import Record
from alpro.data.media.extensions import VIDEO_EXTENSIONS
from alpro.errors import CheckpointError, DataError
from alpro.evaluation.clips import ClipReader
from alpro.evaluation.features import FeatureStore, features_key, read_tokens, write_tokens
from alpro.evaluation.sharing import evaluating
from alpro.files import fingerprint
from alpro.files.atomic import new_dir, sha256
from alpro.files.json_files import read_json_object, write_json
from alpro.serving.service import Service

FORMAT = 1
Features = NDArray[np.float32]
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Video:
    """A row of the index."""

    path: str  # below the folder
    size: int
    mtime_ns: int
    sha256: str


@dataclass(frozen=True)
class Gallery:
    """An index, opened; `features` stay on disk until they are read."""

    videos: list[Video]
    features: Features  # (V, E)
    facts: dict[str, Any]
    tokens: FeatureStore

    @classmethod
    def open(cls, folder: str | Path) -> Gallery:
        """Raises DataError when there is no index, or a damaged one."""
        import pyarrow.parquet

        place = Path(folder) / "gallery"
        try:
            facts = read_json_object(place / "index.json", DataError, "index again", missing_hint="`alpro index` makes it")
            rows = pyarrow.parquet.read_table(place / "videos.parquet").to_pydict()
            videos = [Video(*row) for row in zip(*(rows[name] for name in Video.__slots__), strict=True)]
            features = np.load(place / "features.npy", mmap_mode="r", allow_pickle=False)
        except FileNotFoundError as error:
            raise DataError(f"{error.filename}: not found; `alpro index` makes it") from None
        except (ValueError, KeyError, TypeError) as error:  # pyarrow's own faults are ValueErrors
            raise DataError(f"{place}: damaged ({' '.join(str(error).split())}); index again") from None
        if facts.get("format") != FORMAT or features.ndim != 2 or len(features) != len(videos):
            raise DataError(f"{place}: is no index of this version; index again")
        return cls(videos, features, facts, FeatureStore(Path(folder) / "tokens" / str(facts["tokens"])))

    def path(self, position: int) -> Path:
        """Where a video lies."""
        return Path(self.facts["videos"]) / self.videos[position].path

    def nearest(self, query: Features, count: int) -> tuple[NDArray[np.int64], Features]:
        """VTC's `count` best videos for a text (E,), and their cosines; equal ones in the rows' order."""
        similarities = self.features @ query
        count = min(count, len(similarities))
        if count < len(similarities):  # all that reach the last place, so that ties at the edge are cut by the rows' order
            edge = np.partition(similarities, len(similarities) - count)[len(similarities) - count]
            near = np.flatnonzero(similarities >= edge)
        else:
            near = np.arange(len(similarities))
        order = near[np.argsort(-similarities[near], kind="stable")][:count]
        return order, similarities[order]


@dataclass(frozen=True, slots=True)
class Changes:
    """What an indexing did."""

    videos: int
    encoded: int
    removed: int
    unreadable: list[str]  # a line each: left out of the index


def build(service: Service, videos: str | Path, folder: str | Path, workers: int = 2, say: Say = lambda line: None) -> Changes:
    """Bring the index in `folder` up to date with all videos below a folder; `workers` threads read ahead.

    Videos that can't be read are left out and named. Raises DataError when the folder is missing or has no readable video,
    CheckpointError for a question-answering model, whose space VTC no longer shares.
    """
    if service.task == "qa":
        raise CheckpointError("a question-answering model can't search: name a retrieval or pre-training checkpoint")
    root, out = Path(videos).resolve(), Path(folder)
    if not root.is_dir():
        raise DataError(f"{videos}: no such folder")
    reader = ClipReader(service.model.num_frames, service.frames, service.model.config.image_size, workers=workers)
    old = _opened(out)
    listed = list(_listed(root, {v.path: v for v in old.videos} if old else {}))
    if not listed:
        raise DataError(f"{videos}: has no videos ({', '.join(VIDEO_EXTENSIONS)})")
    weights = fingerprint.weights(service.model)
    with evaluating(service.model) as device:
        key = features_key(service.model, reader, "fp32", device)
        store = FeatureStore(out / "tokens" / key)
        same_model = old is not None and old.facts["weights"] == weights and old.facts["tokens"] == key
        features = {v.sha256: f for v, f in zip(old.videos, old.features, strict=True)} if old and same_model else {}
        unreadable, encoded = _encode(service, reader, root, listed, store, features, device, say)
    kept = [video for video in listed if video.sha256 in features]
    if not kept:
        raise DataError(f"{videos}: none of its {len(listed)} videos can be read: {unreadable[0]}")
    facts = {
        "format": FORMAT, "videos": str(root), "weights": weights, "tokens": key, "task": service.task,
        "num_frames": reader.num_frames, "frames": reader.strategy, "image_size": reader.image_size,
        "max_text_tokens": service.max_text_tokens,
    }  # fmt: skip
    write(out, kept, np.stack([features[video.sha256] for video in kept]), facts)
    _drop_tokens(out / "tokens", key, {video.sha256 for video in kept})
    now = {video.path for video in listed}
    removed = sum(video.path not in now for video in old.videos) if old else 0
    return Changes(len(kept), encoded, removed, unreadable)


def write(folder: Path, videos: Sequence[Video], features: Features, facts: dict[str, Any]) -> None:
    """Write a gallery, replacing the one that stands there as a whole."""
    import pyarrow
    import pyarrow.parquet

    with new_dir(folder / "gallery") as made:
        columns = {name: [getattr(video, name) for video in videos] for name in Video.__slots__}
        pyarrow.parquet.write_table(pyarrow.table(columns), made / "videos.parquet")
        np.save(made / "features.npy", features.astype(np.float32), allow_pickle=False)
        write_json(made / "index.json", facts)


def _opened(folder: Path) -> Gallery | None:
    return Gallery.open(folder) if (folder / "gallery").is_dir() else None


def _listed(root: Path, known: dict[str, Video]) -> Iterator[Video]:
    """All videos below a folder, by path; a file whose size and time did not change is not read again."""
    found = []
    for folder, _, names in os.walk(root):
        found += [os.path.join(folder, name) for name in names if os.path.splitext(name)[1].lower() in VIDEO_EXTENSIONS]
    for file in sorted(found):
        path = os.path.relpath(file, root)
        try:
            stat = os.stat(file)
            before = known.get(path)
            if before is not None and (before.size, before.mtime_ns) == (stat.st_size, stat.st_mtime_ns):
                yield before
            else:
                yield Video(path, stat.st_size, stat.st_mtime_ns, sha256(file))
        except FileNotFoundError:  # a link that leads nowhere, or removed a moment ago
            continue


def _encode(
    service: Service, reader: ClipReader, root: Path, videos: Sequence[Video], store: FeatureStore,
    features: dict[str, Features], device: Any, say: Say,
) -> tuple[list[str], int]:  # fmt: skip
    """Add what is missing to the store and to `features`; the lines of unreadable videos, and how many were encoded."""
    model = service.model
    by_content = {video.sha256: video for video in videos}
    missing = [video for digest, video in by_content.items() if not (digest in features and store.named(digest).is_file())]
    new = []
    for video in missing:
        if store.named(video.sha256).is_file():  # a killed indexing left it
            features[video.sha256] = model.video_feature(read_tokens(store.named(video.sha256)).to(device))[0].cpu().numpy()
        else:
            new.append(video)
    unreadable: list[str] = []
    records = [Record(video.path, root / video.path) for video in new]
    for done, (video, clip) in enumerate(zip(new, reader.try_clips(records), strict=True), 1):
        if isinstance(clip, DataError):
            unreadable.append(str(clip))
            features.pop(video.sha256, None)
            continue
        tokens = model.encode_video(clip[None].to(device)).float()
        write_tokens(store.named(video.sha256), tokens)
        features[video.sha256] = model.video_feature(tokens)[0].cpu().numpy()
        if done % 100 == 0 or done == len(new):
            say(f"{done} of {len(new)} videos encoded")
    return unreadable, len(new) - len(unreadable)


def _drop_tokens(folder: Path, key: str, wanted: set[str]) -> None:
    """Remove tokens that no row of the index needs."""
    for file in folder.rglob("*.npy"):
        if file.stem not in wanted or file.parent.parent.name != key:
            file.unlink(missing_ok=True)
