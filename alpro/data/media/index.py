"""The index of a collection of videos: every file is probed once, and the results are kept as Parquet.

The index stores file properties but no timestamps, so the same files give byte-identical Parquet. A cache outside the
pipeline's outputs records when each file was probed: files with unchanged size and time are not probed again, and an
interrupted run resumes where it stopped.
"""

from __future__ import annotations

import json
import multiprocessing
import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import fields
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from alpro.data.media.known import trust
from alpro.data.media.probe import VideoInfo, probe, unreadable_info
from alpro.data.media.shards import shard_of
from alpro.data.media.strict import Frames
from alpro.files.atomic import atomic_write
from alpro.files.state import state_folder
from alpro.terminal import logs
from alpro.terminal.progress import ProgressCallback

log = logs.get(__name__)
_TYPES = {"bool": pa.bool_(), "int": pa.int64(), "float": pa.float64(), "str": pa.string()}
SCHEMA = pa.schema([("path", pa.string()), *((field.name, _TYPES[str(field.type)]) for field in fields(VideoInfo))])
_CHUNK = 16  # files handed to a worker at a time
_VERSION = 2  # of the probe: entries of an older version are ignored


def build_index(
    paths: Iterable[str | Path],
    out_parquet: str | Path,
    workers: int = 0,
    *,
    cache: str | Path | None = None,
    every_frame: bool = True,
    report: ProgressCallback | None = None,
) -> dict[str, VideoInfo]:
    """Probe each file once, write the index sorted by path, and return {path: VideoInfo}.

    `workers` processes probe in parallel; a file that crashes its decoder is identified and recorded as unreadable.
    With 0 workers this process probes, and such a file ends it. `cache` is a file that persists between runs.
    `report(done, total)` is called after each file.
    """
    names = sorted({str(path) for path in paths})
    probed = _ProbeCache(Path(cache) if cache else None, every_frame)
    infos: dict[str, VideoInfo] = {}
    changed: list[str] = []
    for name in names:
        info = probed.get(name)
        if info is None:
            changed.append(name)
        else:
            infos[name] = info
    log.info("index: %d files, %d of them unchanged", len(names), len(infos))
    with probed:
        for name, info in probe_all(changed, workers, every_frame):
            infos[name] = info
            probed.add(name, info)
            if report:
                report(len(infos), len(names))
    _write(Path(out_parquet), [(name, infos[name]) for name in names])
    return {name: infos[name] for name in names}


def probe_cache_path(folder: str | Path, state: str | Path | None = None) -> Path:
    """Return the probe cache of a folder of videos. Sets that share the folder share the cache."""
    name = "".join(letter if letter.isalnum() or letter in "-_" else "_" for letter in str(folder))
    return Path(state or state_folder()) / "index" / f"{name}.jsonl"


def cached_probes(paths: Iterable[str | Path], cache: str | Path) -> dict[str, VideoInfo]:
    """Return the full probes (every frame) in the cache, without files that were never probed or have changed."""
    probed = _ProbeCache(Path(cache), every_frame=True)
    infos = {str(path): probed.get(str(path)) for path in paths}
    return {path: info for path, info in infos.items() if info is not None}


def trust_probes(cache: str | Path) -> None:
    """Let `read_frames` trust the probes in the cache: the readable files are not checked again until they change."""
    if Path(cache).exists():
        trust(_checked_files(_json_lines(Path(cache))))


def _checked_files(lines: Iterable[dict[str, Any]]) -> Iterator[tuple[str, int, int, Frames]]:
    for line in lines:
        try:
            if (line["version"], line["every_frame"], line["info"]["readable"]) == (_VERSION, True, True):
                yield line["path"], line["size"], line["mtime_ns"], VideoInfo(**line["info"]).checked
        except (TypeError, KeyError):  # of an older version
            continue


def _write(path: Path, rows: Sequence[tuple[str, VideoInfo]]) -> None:
    columns: dict[str, list[Any]] = {name: [] for name in SCHEMA.names}
    for name, info in rows:
        columns["path"].append(name)
        for key, value in info.as_dict().items():
            columns[key].append(value)
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table(columns, schema=SCHEMA), sink, compression="zstd")
    atomic_write(path, sink.getvalue().to_pybytes())


# --- probing in parallel ----------------------------------------------------------------------------------


def probe_all(names: Sequence[str], workers: int, every_frame: bool) -> Iterator[tuple[str, VideoInfo]]:
    """Yield (name, info) as the probes finish, in any order.

    A file that crashes its decoder is reported as unreadable, unless this process itself probes (`workers` 0).
    """
    if workers < 1:
        yield from ((name, probe(name, every_frame)) for name in names)
        return
    waiting = [list(names[i : i + _CHUNK]) for i in range(0, len(names), _CHUNK)][::-1]
    while waiting:
        suspects = yield from _probe_until_crash(waiting, workers, every_frame)
        for name in suspects:  # one of them crashed the decoder: probe each in a process of its own
            yield name, _probe_isolated(name, every_frame)


def _probe_until_crash(
    waiting: list[list[str]], workers: int, every_frame: bool
) -> Any:  # generator of (name, info), returning the names that were being probed when a process died
    running: dict[Future[list[VideoInfo]], list[str]] = {}
    with _pool(workers) as pool:
        while waiting or running:
            try:
                while waiting and len(running) < 2 * workers:
                    running[pool.submit(_probe_chunk, waiting[-1], every_frame)] = waiting[-1]
                    waiting.pop()
                done, _ = wait(running, return_when=FIRST_COMPLETED)
                for future in done:
                    infos = future.result()
                    yield from zip(running.pop(future), infos, strict=True)
            except BrokenProcessPool:
                return [name for chunk in running.values() for name in chunk]
    return []


def _probe_chunk(names: list[str], every_frame: bool) -> list[VideoInfo]:
    return [probe(name, every_frame) for name in names]


def _probe_isolated(name: str, every_frame: bool) -> VideoInfo:
    try:
        with _pool(1) as pool:
            return pool.submit(probe, name, every_frame).result()
    except BrokenProcessPool:
        return unreadable_info(_stamp(name)["size"], "it crashes the decoder")


def _pool(workers: int) -> ProcessPoolExecutor:
    # spawn: a fork of a process that already has threads (torch's, MLflow's) may hang
    return ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn"))


# --- the cache --------------------------------------------------------------------------------------------


class _ProbeCache:
    """Earlier probes as JSON lines, appended one by one, so that a kill loses at most one."""

    def __init__(self, path: Path | None, every_frame: bool) -> None:
        self._path, self._mark = path, {"version": _VERSION, "every_frame": every_frame}
        self._lines: dict[str, dict[str, Any]] = {}
        self._file: IO[str] | None = None
        if path and path.exists():
            self._lines = {line["path"]: line for line in _json_lines(path)}

    def get(self, name: str) -> VideoInfo | None:
        """Return the probe of a file that has not changed since, or None."""
        line = self._lines.get(name)
        if not line or any(line.get(key) != value for key, value in {**self._mark, **_stamp(name)}.items()):
            return None
        try:
            return VideoInfo(**line["info"])
        except (TypeError, KeyError):
            return None

    def add(self, name: str, info: VideoInfo) -> None:
        line = {"path": name, **self._mark, **_stamp(name), "info": info.as_dict()}
        self._lines[name] = line
        if self._file:
            self._file.write(json.dumps(line) + "\n")
            self._file.flush()

    def __enter__(self) -> _ProbeCache:
        if self._path:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            # rewrite the file first, without replaced or half-written lines
            atomic_write(self._path, "".join(json.dumps(line) + "\n" for line in self._lines.values()))
            self._file = self._path.open("a", encoding="utf-8")
        return self

    def __exit__(self, *_: object) -> None:
        if self._file:
            self._file.close()


def _stamp(name: str) -> dict[str, int]:
    try:
        stat = os.stat(shard_of(name) or name)
    except OSError:
        return {"size": -1, "mtime_ns": -1}
    return {"size": stat.st_size, "mtime_ns": stat.st_mtime_ns}


def _json_lines(path: Path) -> Iterator[dict[str, Any]]:
    with path.open(encoding="utf-8") as file:
        for text in file:
            try:
                line = json.loads(text)
            except json.JSONDecodeError:  # a kill cut this line
                continue
            if isinstance(line, dict) and "path" in line:
                yield line
