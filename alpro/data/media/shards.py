"""Millions of clips as a few thousand files: tars of about 1,000 clips, and an index that says where each clip lies.

DVC, file systems and object stores handle 2,500 large files well, and 2.5 million small ones badly. The tars are plain
ones (`tar xf` gives the clips back) with the same bytes for the same clips. Nothing is unpacked to be read: a clip is a
range of its tar, which the decoders see as a file in memory.

A clip in a shard has a path too: `FOLDER/shard-00012.tar/page/clip.mp4`.
"""

from __future__ import annotations

import bisect
import hashlib
import io
import os
import tarfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache, wraps
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from alpro.errors import DataError
from alpro.files.atomic import atomic_write
from alpro.terminal.progress import reporting

INDEX = "index.parquet"
CLIPS = 1000
_COLUMNS = ("name", "shard", "offset", "bytes", "sha256")
_IN_SHARD = ".tar/"
P = ParamSpec("P")
R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class Clip:
    """Where the bytes of one clip lie."""

    shard: Path
    offset: int
    bytes: int
    sha256: str


# --- writing ------------------------------------------------------------------------------------------------


def write_shards(source: str | Path, output: str | Path, clips: int = CLIPS) -> int:
    """Pack all files below a folder, in order of their names, into shards of so many; returns how many shards.

    A shard that holds the same files, none of them newer than it, is kept, so a run that was stopped goes on. Raises
    DataError for a source that is no folder or is empty, and for an output inside of it.
    """
    source, output = Path(source), Path(output)
    names = _names(source, output)
    groups = [names[i : i + clips] for i in range(0, len(names), clips)]
    output.mkdir(parents=True, exist_ok=True)
    known = _known(output)
    tables = []
    with reporting(f"{source} -> {output}", "shards") as report:
        for number, group in enumerate(groups):
            shard = output / f"shard-{number:05d}.tar"
            rows = known.get(shard.name)
            if rows is None or not _current(shard, rows, source, group):
                rows = _write(shard, source, group)
            tables.append(rows)
            report(number + 1, len(groups))
    _write_index(output, tables)
    for path in output.glob("*.tar"):
        if path.name not in {f"shard-{number:05d}.tar" for number in range(len(groups))}:
            path.unlink()
    for path in output.glob(".shard-*"):
        path.unlink()
    return len(groups)


def _names(source: Path, output: Path) -> list[str]:
    if not source.is_dir():
        raise DataError(f"{source}: no such folder; put the clips there")
    real, beside = source.resolve(), output.resolve()
    if real == beside or real in beside.parents:
        raise DataError(f"{output}: the shards need a folder outside of {source}")
    names = []
    for here, folders, files in os.walk(source):
        folders[:] = sorted(folder for folder in folders if not folder.startswith("."))
        names += [os.path.relpath(os.path.join(here, file), source) for file in files if not file.startswith(".")]
    if not names:
        raise DataError(f"{source}: is empty; there is nothing to put into shards")
    return sorted(names)


def _write(shard: Path, source: Path, names: Sequence[str]) -> list[dict[str, Any]]:
    """One tar with neither times nor owners, so that the same clips give the same bytes; and its rows of the index."""
    aside = shard.with_name(f".{shard.name}")
    rows = []
    with aside.open("wb") as file:
        for name in names:
            content = (source / name).read_bytes()
            info = tarfile.TarInfo(name)
            info.size, info.mode = len(content), 0o644
            file.write(info.tobuf(tarfile.PAX_FORMAT))
            digest = hashlib.sha256(content).hexdigest()
            rows.append({"name": name, "shard": shard.name, "offset": file.tell(), "bytes": len(content), "sha256": digest})
            file.write(content + bytes(-len(content) % tarfile.BLOCKSIZE))
        file.write(bytes(-file.tell() % tarfile.RECORDSIZE or tarfile.RECORDSIZE))
        file.flush()
        os.fsync(file.fileno())
    os.replace(aside, shard)
    atomic_write(_rows_file(shard), _parquet([rows]))  # until the index holds them
    return rows


def _current(shard: Path, rows: list[dict[str, Any]], source: Path, names: Sequence[str]) -> bool:
    """Whether a shard holds these files as they are now."""
    if not shard.exists() or [row["name"] for row in rows] != list(names):
        return False
    if shard.stat().st_size < rows[-1]["offset"] + rows[-1]["bytes"]:
        return False
    written = shard.stat().st_mtime_ns
    stats = [(source / name).stat() for name in names]
    return all(stat.st_size == row["bytes"] and stat.st_mtime_ns <= written for stat, row in zip(stats, rows, strict=True))


def _known(output: Path) -> dict[str, list[dict[str, Any]]]:
    """The rows of each shard that an earlier run wrote."""
    import pyarrow.parquet as pq

    known: dict[str, list[dict[str, Any]]] = {}
    for path in [*output.glob(INDEX), *output.glob(".shard-*.parquet")]:
        shards: dict[str, list[dict[str, Any]]] = {}
        for row in pq.read_table(path).to_pylist():
            shards.setdefault(row["shard"], []).append(row)
        known |= shards
    return known


def _rows_file(shard: Path) -> Path:
    return shard.with_name(f".{shard.stem}.parquet")


def _write_index(output: Path, tables: list[list[dict[str, Any]]]) -> None:
    atomic_write(output / INDEX, _parquet(tables))


def _parquet(tables: list[list[dict[str, Any]]]) -> bytes:
    """One row group a shard: whoever reads a clip reads its shard's rows only."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    kinds = (pa.string(), pa.string(), pa.int64(), pa.int64(), pa.string())
    schema = pa.schema(list(zip(_COLUMNS, kinds, strict=True)))
    sink = io.BytesIO()
    with pq.ParquetWriter(sink, schema, compression="zstd") as writer:
        for rows in tables:
            writer.write_table(pa.Table.from_pylist(rows, schema=schema))
    return sink.getvalue()


# --- finding ------------------------------------------------------------------------------------------------


def is_sharded(folder: str | Path) -> bool:
    """Whether a folder holds shards."""
    return (Path(folder) / INDEX).is_file() and any(Path(folder).glob("shard-*.tar"))


def listing(folder: str | Path) -> Iterator[tuple[str, str]]:
    """(shard's file name, clip's name) of every clip. Raises DataError when the index is none."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = Path(folder) / INDEX
    try:
        table = pq.read_table(path, columns=["shard", "name"])
    except (pa.ArrowException, OSError, KeyError) as error:
        raise DataError(f"{path}: no index of shards ({str(error).splitlines()[0]}); `alpro data shard` writes it") from None
    yield from zip(table.column("shard").to_pylist(), table.column("name").to_pylist(), strict=True)


def shard_of(path: str | Path) -> Path | None:
    """The tar that a clip's path leads into; None for an ordinary path."""
    text = str(path)
    at = text.find(_IN_SHARD)
    return Path(text[: at + len(_IN_SHARD) - 1]) if at >= 0 else None


def clip_of(path: str | Path) -> Clip:
    """Where a clip's bytes lie. Raises DataError when its shard or the clip does not exist."""
    shard = shard_of(path)
    if shard is None:
        raise ValueError(f"{path}: is no clip of a shard")
    name = str(path)[len(str(shard)) + 1 :]
    names, rows = _rows_of(str(shard), os.getpid())
    at = bisect.bisect_left(names, name)
    if at == len(names) or names[at] != name:
        raise DataError(f"{path}: not found: the index says nothing of it")
    return Clip(shard, *rows[at])


@lru_cache(maxsize=256)
def _rows_of(shard: str, pid: int) -> tuple[list[str], list[tuple[int, int, str]]]:
    """Names, and (offset, bytes, sha256), of a shard's clips, by name."""
    index = _open_index(str(Path(shard).parent / INDEX), pid)
    try:
        group = int(Path(shard).stem.rpartition("-")[2])
        rows = index.read_row_group(group).to_pylist()
    except (ValueError, OSError) as error:
        raise DataError(f"{shard}: the index has no such shard ({' '.join(str(error).split())})") from None
    if not rows or rows[0]["shard"] != Path(shard).name:
        raise DataError(f"{shard}: the index is of other shards; `alpro data shard` writes it anew")
    rows.sort(key=lambda row: row["name"])
    return [row["name"] for row in rows], [(row["offset"], row["bytes"], row["sha256"]) for row in rows]


@lru_cache(maxsize=8)
def _open_index(path: str, pid: int) -> Any:
    """Opened once in each process (`pid`): a forked one must not share the file's state."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return pq.ParquetFile(path)
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path}: no index of shards ({str(error).splitlines()[0]}); `alpro data shard` writes it") from None


# --- reading ------------------------------------------------------------------------------------------------


def from_shards(read: Callable[P, R]) -> Callable[P, R]:
    """Let a function whose first argument is the path of a file read clips of shards too.

    It is handed a file in memory, so the decoders need to know nothing of tars; its errors name the clip.
    """

    @wraps(read)
    def reading(*args: P.args, **kwargs: P.kwargs) -> R:
        path = args[0]
        if shard_of(str(path)) is None:
            return read(*args, **kwargs)
        with as_file(str(path)) as file:
            try:
                return read(*(file, *args[1:]), **kwargs)  # type: ignore[arg-type]
            except DataError as error:
                raise DataError(str(error).replace(str(file), str(path))) from None

    return reading


@contextmanager
def as_file(path: str) -> Iterator[Path]:
    """A clip as a file in memory, for as long as the block runs. Raises DataError when it, or its shard, is not whole."""
    clip = clip_of(path)
    try:
        with clip.shard.open("rb") as file:
            content = os.pread(file.fileno(), clip.bytes, clip.offset)
    except OSError as error:
        raise DataError(f"{path}: its shard can't be read ({error.strerror})") from None
    if len(content) < clip.bytes:
        raise DataError(f"{path}: its shard was cut")
    memory = os.memfd_create("clip")
    try:
        with open(memory, "wb", closefd=False) as file:
            file.write(content)
        yield Path(f"/proc/self/fd/{memory}")
    finally:
        os.close(memory)
