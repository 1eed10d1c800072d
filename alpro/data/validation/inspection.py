"""Inspection of each video or image of a set: reads it once, as training would, and writes an index (Parquet)."""

from __future__ import annotations

import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from alpro.data.media.index import SCHEMA, build_index, probe_cache_path
from alpro.data.media.probe import VideoInfo
from alpro.data.media.read import read_image
from alpro.data.media.shards import locate_clip, shard_of
from alpro.errors import DataError
from alpro.files.atomic import sha256

FILES_PER_WORKER = 256  # fewer are not worth the start of another process


def inspect_videos(videos: pd.DataFrame, media: str, root: str, index: Path) -> None:
    """Write the index of the files in column `path`, and fill in the columns content, frames and error."""
    paths = sorted(set(videos["path"].dropna()))
    workers = min(len(os.sched_getaffinity(0)), 1 + len(paths) // FILES_PER_WORKER)
    if media == "image":
        infos = _inspect_images(paths, workers, index)
    else:
        infos = build_index(paths, index, workers, cache=probe_cache_path(root))
    videos["frames"] = videos["path"].map({path: infos[path].frames for path in paths if infos[path].readable})
    videos["content"] = videos["path"].map({path: infos[path].sha256 for path in paths if infos[path].sha256})
    videos["error"] = videos["path"].map({path: infos[path].reason for path in paths})


def _inspect_images(paths: list[str], workers: int, index: Path) -> dict[str, VideoInfo]:
    if workers > 1:
        # spawned, because a forked child of a process with threads may hang
        with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
            infos = list(pool.map(_inspect_image, paths, chunksize=64))
    else:
        infos = [_inspect_image(path) for path in paths]
    columns = {name: [info.as_dict()[name] for info in infos] for name in SCHEMA.names if name != "path"}
    pq.write_table(pa.table({"path": paths, **columns}, schema=SCHEMA), index, compression="zstd")
    return dict(zip(paths, infos, strict=True))


def _inspect_image(path: str) -> VideoInfo:
    readable, reason, size, digest, length = False, "", (0, 0), "", 0
    try:
        size = read_image(path).size
        readable = True
    except DataError as error:
        reason = str(error).removeprefix(f"{path}: ")
    if readable and shard_of(path):
        clip = locate_clip(path)
        digest, length = clip.sha256, clip.bytes
    elif os.path.isfile(path):
        digest, length = sha256(path), os.path.getsize(path)
    decoder = "pillow" if readable else "none"
    return VideoInfo(readable, int(readable), 0.0, 0.0, *size, 0, False, decoder, digest, length, reason)
