"""Search index of a folder of videos. `alpro index` creates and updates it, encoding only new and changed videos.

    OUT/gallery/index.json       the model, how clips are read, the folder of the videos
    OUT/gallery/videos.parquet   a row per video: path below the folder, size, mtime_ns, sha256
    OUT/gallery/features.npy     VTC's unit vectors (V, E) float32, in the order of the rows
    OUT/tokens/                  VTM's input for each video (a FeatureStore; 0.6 MB per video at the paper's size)

It contains no executable code. OUT/gallery is replaced atomically; an interrupted indexing resumes from its tokens.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alpro.data.annotations.records import Record
from alpro.data.media.extensions import VIDEO_EXTENSIONS, is_video_name
from alpro.errors import CheckpointError, DataError
from alpro.evaluation.clips import ClipReader
from alpro.evaluation.features import FeatureStore, features_key, read_tokens, write_tokens
from alpro.evaluation.sharing import evaluating
from alpro.files import fingerprint
from alpro.files.atomic import sha256
from alpro.files.json_files import read_json_object, write_json
from alpro.files.listing import NOT_UTF8, list_files
from alpro.files.names import is_text, shown
from alpro.files.outputs import new_dir
from alpro.serving.service import Service

TOKEN_FILE = re.compile(r"(?P<key>[0-9a-f]{20})/(?P<folder>[0-9a-f]{2})/(?P<digest>[0-9a-f]{64})\.npy")
FORMAT = 1
Features = NDArray[np.float32]
Say = Callable[[str], None]
Progress = Callable[[int, int], None]  # videos encoded, videos to encode


@dataclass(frozen=True, slots=True)
class Video:
    """A row of the index: one video."""

    path: str  # below the folder
    size: int
    mtime_ns: int
    sha256: str


@dataclass(frozen=True)
class VideoIndex:
    """An open index; `features` is memory-mapped."""

    videos: list[Video]
    features: Features  # (V, E)
    metadata: dict[str, Any]  # index.json
    tokens: FeatureStore

    @classmethod
    def open(cls, folder: str | Path) -> VideoIndex:
        """Open the index in a folder. Raises DataError if it is missing or damaged."""
        import pyarrow.parquet

        gallery = Path(folder) / "gallery"
        try:
            metadata = read_json_object(
                gallery / "index.json", DataError, "index again", missing_hint="`alpro index` creates it"
            )
            rows = pyarrow.parquet.read_table(gallery / "videos.parquet").to_pydict()
            videos = [Video(*row) for row in zip(*(rows[name] for name in Video.__slots__), strict=True)]
            features = np.load(gallery / "features.npy", mmap_mode="r", allow_pickle=False)
        except FileNotFoundError as error:
            raise DataError(f"{error.filename}: not found; `alpro index` creates it") from None
        except (ValueError, KeyError, TypeError) as error:  # pyarrow's errors are ValueErrors
            raise DataError(f"{gallery}: damaged ({' '.join(str(error).split())}); index again") from None
        if metadata.get("format") != FORMAT or features.ndim != 2 or len(features) != len(videos):
            raise DataError(f"{gallery}: made by another version of the index; index again")
        return cls(videos, features, metadata, FeatureStore(Path(folder) / "tokens" / str(metadata["tokens"])))

    def path(self, position: int) -> Path:
        """Return the path of a video."""
        return Path(self.metadata["videos"]) / self.videos[position].path

    def nearest(self, query: Features, count: int) -> tuple[NDArray[np.int64], Features]:
        """Return the rows of VTC's `count` best videos for a text (E,), and their cosines; ties keep the order of the rows."""
        similarities = self.features @ query
        count = min(count, len(similarities))
        if count < len(similarities):  # include all ties with the last place, so that the order of the rows decides
            lowest = np.partition(similarities, len(similarities) - count)[len(similarities) - count]
            candidates = np.flatnonzero(similarities >= lowest)
        else:
            candidates = np.arange(len(similarities))
        order = candidates[np.argsort(-similarities[candidates], kind="stable")][:count]
        return order, similarities[order]


@dataclass(frozen=True, slots=True)
class IndexUpdate:
    """Result of an indexing."""

    videos: int
    encoded: int
    removed: int
    unreadable: list[str]  # a message for each video that was left out


def build(
    service: Service,
    videos: str | Path,
    folder: str | Path,
    workers: int = 2,
    say: Say = lambda line: None,
    progress: Progress = lambda done, total: None,
) -> IndexUpdate:
    """Update the index in `folder` with all videos below `videos`; `workers` threads read ahead.

    `say` is called with a line every 100 videos, `progress` for every video.

    Unreadable videos are left out and listed in the result. Videos of the index in a folder that cannot be read now are kept.
    Raises DataError if the folder of videos is missing or has no
    readable video, CheckpointError for a question-answering model, whose features VTC does not align.
    """
    if service.task == "qa":
        raise CheckpointError("a question-answering model cannot search; use a retrieval or pre-training checkpoint")
    root, out = Path(videos).resolve(), Path(folder)
    if not root.is_dir():
        raise DataError(f"{videos}: no such folder")
    if not is_text(str(root)):
        raise DataError(f"{shown(root)}: {NOT_UTF8}")
    reader = ClipReader(service.model.num_frames, service.frames, service.model.config.image_size, workers=workers)
    old = _open_existing(out)
    indexed = {v.path: v for v in old.videos} if old and old.metadata["videos"] == str(root) else {}
    listed, kept, left_out = _list_videos(root, indexed)
    if not listed:
        raise DataError("\n".join([f"{videos}: contains no videos ({', '.join(VIDEO_EXTENSIONS)})", *left_out]))
    weights = fingerprint.weights(service.model)
    with evaluating(service.model) as device:
        key = features_key(service.model, reader, "fp32", device)
        store = FeatureStore(out / "tokens" / key)
        same_model = old is not None and old.metadata["weights"] == weights and old.metadata["tokens"] == key
        features = {v.sha256: f for v, f in zip(old.videos, old.features, strict=True)} if old and same_model else {}
        unreadable, encoded = _encode(service, reader, root, listed, store, features, device, say, progress)
    readable = [video for video in listed if video.sha256 in features]
    kept = [video for video in kept if video.sha256 in features and store.named(video.sha256).is_file()]
    if not readable:
        raise DataError(f"{videos}: none of its {len(listed)} videos can be read: {unreadable[0]}")
    readable = sorted([*readable, *kept], key=lambda video: video.path)
    metadata = {
        "format": FORMAT, "videos": str(root), "weights": weights, "tokens": key, "task": service.task,
        "num_frames": reader.num_frames, "frames": reader.strategy, "image_size": reader.image_size,
        "max_text_tokens": service.max_text_tokens,
    }  # fmt: skip
    write(out, readable, np.stack([features[video.sha256] for video in readable]), metadata)
    _drop_tokens(out / "tokens", key, {video.sha256 for video in readable})
    paths = {video.path for video in [*listed, *kept]}
    removed = sum(video.path not in paths for video in old.videos) if old else 0
    return IndexUpdate(len(readable), encoded, removed, left_out + unreadable)


def write(folder: Path, videos: Sequence[Video], features: Features, metadata: dict[str, Any]) -> None:
    """Write an index, replacing the old one atomically."""
    import pyarrow
    import pyarrow.parquet

    with new_dir(folder / "gallery") as temporary:
        columns = {name: [getattr(video, name) for video in videos] for name in Video.__slots__}
        pyarrow.parquet.write_table(pyarrow.table(columns), temporary / "videos.parquet")
        np.save(temporary / "features.npy", features.astype(np.float32), allow_pickle=False)
        write_json(temporary / "index.json", metadata)


def _open_existing(folder: Path) -> VideoIndex | None:
    return VideoIndex.open(folder) if (folder / "gallery").is_dir() else None


def _list_videos(root: Path, indexed: dict[str, Video]) -> tuple[list[Video], list[Video], list[str]]:
    """Return all videos below a folder by path, those of the index that are left out now, and messages on what is left out.

    The second list is for a folder that cannot be read at the moment, such as a link to a disk that is not mounted.
    A file with the same size and time as in the index is not hashed again.
    """
    listing, videos = list_files(root, is_video_name), []
    for path in listing.names:
        try:
            stat = os.stat(root / path)
            before = indexed.get(path)
            if before is not None and (before.size, before.mtime_ns) == (stat.st_size, stat.st_mtime_ns):
                videos.append(before)
            else:
                videos.append(Video(path, stat.st_size, stat.st_mtime_ns, sha256(root / path)))
        except OSError as error:  # no permission, or removed meanwhile
            listing.leave_out(path, (error.strerror or str(error)).lower())
    names = {name for name, _ in listing.left_out}
    below = tuple(f"{name}/" for name in names)
    kept = [video for video in indexed.values() if video.path in names or video.path.startswith(below)]
    return videos, kept, listing.messages(root)


def _encode(
    service: Service, reader: ClipReader, root: Path, videos: Sequence[Video], store: FeatureStore,
    features: dict[str, Features], device: Any, say: Say, progress: Progress,
) -> tuple[list[str], int]:  # fmt: skip
    """Add missing videos to the store and to `features`; return messages on unreadable ones, and the number encoded."""
    model = service.model
    by_content = {video.sha256: video for video in videos}
    missing = [video for digest, video in by_content.items() if not (digest in features and store.named(digest).is_file())]
    new = []
    for video in missing:
        if store.named(video.sha256).is_file():  # left by an interrupted indexing
            features[video.sha256] = model.video_feature(read_tokens(store.named(video.sha256)).to(device))[0].cpu().numpy()
        else:
            new.append(video)
    unreadable: list[str] = []
    records = [Record(video.path, root / video.path) for video in new]
    for done, (video, clip) in enumerate(zip(new, reader.try_full_clips(records), strict=True), 1):
        progress(done, len(new))
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


def _drop_tokens(folder: Path, key: str, needed: set[str]) -> None:
    """Remove the tokens of videos that are not in the index. Only files named as a FeatureStore names them are touched."""
    for file in folder.glob("*/*/*.npy"):
        stored = TOKEN_FILE.fullmatch(file.relative_to(folder).as_posix())
        if stored and stored["folder"] == stored["digest"][:2] and (stored["digest"] not in needed or stored["key"] != key):
            file.unlink(missing_ok=True)
