"""The index of a collection of videos: each file looked at once, kept as Parquet.

The Parquet holds what the files are, and no times, so equal files give equal bytes. When a file was last looked at
stands in a cache beside the pipeline: what did not change in size and time is not looked at again, and a run that was
interrupted goes on where it stopped.
"""

from __future__ import annotations

import json
import logging
import multiprocessing
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import fields
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from alpro.data.media.probe import VideoInfo, probe
from alpro.data.media.shards import shard_of
from alpro.files.atomic import atomic_write

log = logging.getLogger(__name__)
_TYPES = {"bool": pa.bool_(), "int": pa.int64(), "float": pa.float64(), "str": pa.string()}
SCHEMA = pa.schema([("path", pa.string()), *((field.name, _TYPES[str(field.type)]) for field in fields(VideoInfo))])
_CHUNK = 16  # files handed to a worker at a time
_VERSION = 1  # of what a probe finds: an older cache is not believed
Report = Callable[[int, int], None]


def build_index(
    paths: Iterable[str | Path],
    out_parquet: str | Path,
    workers: int = 0,
    *,
    cache: str | Path | None = None,
    every_frame: bool = True,
    report: Report | None = None,
) -> dict[str, VideoInfo]:
    """Probe each file once and write the index, sorted by path as given.

    `workers` processes look in parallel, and a file that crashes its decoder is found out and recorded as unreadable; with 0
    this one looks, and ends with such a file. `cache` is a file that lives from run to run. `report(done, total)` is called
    as it goes on. Returns {path: VideoInfo}.
    """
    names = sorted({str(path) for path in paths})
    known = _Cache(Path(cache) if cache else None, every_frame)
    found: dict[str, VideoInfo] = {}
    todo: list[str] = []
    for name in names:
        info = known.get(name)
        if info is None:
            todo.append(name)
        else:
            found[name] = info
    log.info("index: %d files, %d of them unchanged", len(names), len(found))
    with known:
        for name, info in probe_all(todo, workers, every_frame):
            found[name] = info
            known.add(name, info)
            if report:
                report(len(found), len(names))
    _write(Path(out_parquet), [(name, found[name]) for name in names])
    return {name: found[name] for name in names}


def cache_of(folder: str | Path, state: str | Path = ".state") -> Path:
    """Where looks at the videos of a folder are remembered: one file, so that two sets on the same videos look once."""
    name = "".join(letter if letter.isalnum() or letter in "-_" else "_" for letter in str(folder))
    return Path(state) / "index" / f"{name}.jsonl"


def looked_at(paths: Iterable[str | Path], cache: str | Path) -> dict[str, VideoInfo]:
    """What earlier looks found of these files, every frame decoded; without those never looked at, or changed since."""
    known = _Cache(Path(cache), every_frame=True)
    found = {str(path): known.get(str(path)) for path in paths}
    return {path: info for path, info in found.items() if info is not None}


def _write(path: Path, rows: Sequence[tuple[str, VideoInfo]]) -> None:
    columns: dict[str, list[Any]] = {name: [] for name in SCHEMA.names}
    for name, info in rows:
        columns["path"].append(name)
        for key, value in info.as_dict().items():
            columns[key].append(value)
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table(columns, schema=SCHEMA), sink, compression="zstd")
    atomic_write(path, sink.getvalue().to_pybytes())


# --- looking, in parallel ---------------------------------------------------------------------------------


def probe_all(names: Sequence[str], workers: int, every_frame: bool) -> Iterator[tuple[str, VideoInfo]]:
    """(name, what a look found) as they come, in any order.

    A file that crashes its decoder is one that can't be read, unless this process itself looks (`workers` 0).
    """
    if workers < 1:
        yield from ((name, probe(name, every_frame)) for name in names)
        return
    waiting = [list(names[i : i + _CHUNK]) for i in range(0, len(names), _CHUNK)][::-1]
    while waiting:
        lost = yield from _probe_until_a_crash(waiting, workers, every_frame)
        for name in lost:  # one of them crashed the decoder: each in a process of its own
            yield name, _probe_alone(name, every_frame)


def _probe_until_a_crash(
    waiting: list[list[str]], workers: int, every_frame: bool
) -> Any:  # generator of (name, info), returning the names that were under way when a process died
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


def _probe_alone(name: str, every_frame: bool) -> VideoInfo:
    try:
        with _pool(1) as pool:
            return pool.submit(probe, name, every_frame).result()
    except BrokenProcessPool:
        return VideoInfo(False, 0, 0.0, 0.0, 0, 0, 0, "none", "", _stamp(name)["size"], "it crashes the decoder")


def _pool(workers: int) -> ProcessPoolExecutor:
    # fresh processes: a fork of one that already has threads (torch's, MLflow's) may hang
    return ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn"))


# --- what was seen before ---------------------------------------------------------------------------------


class _Cache:
    """JSON lines, one a look, appended as they come, so that a kill loses at most one."""

    def __init__(self, path: Path | None, every_frame: bool) -> None:
        self._path, self._mark = path, {"version": _VERSION, "every_frame": every_frame}
        self._lines: dict[str, dict[str, Any]] = {}
        self._file: IO[str] | None = None
        if path and path.exists():
            self._lines = {line["path"]: line for line in _json_lines(path)}

    def get(self, name: str) -> VideoInfo | None:
        """What is known of a file that has not changed since."""
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

    def __enter__(self) -> _Cache:
        if self._path:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            # first without what is outdated or half written
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
    for text in path.read_text(encoding="utf-8").splitlines():
        try:
            line = json.loads(text)
        except json.JSONDecodeError:  # the line that a kill cut
            continue
        if isinstance(line, dict) and "path" in line:
            yield line
