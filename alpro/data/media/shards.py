"""Shards: tars of about 1,000 clips each, with an index of the position of every clip.

DVC, file systems and object stores handle 2,500 large files well, and 2.5 million small ones badly. The shards are
plain tars (`tar xf` extracts the clips) and the same clips give the same bytes. Reading unpacks nothing: a clip is a
byte range of its tar, and the decoders see it as a file in memory.

A clip in a shard has a path of this form: `FOLDER/shard-00012.tar/page/clip.mp4`.
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
from alpro.files.listing import list_files
from alpro.files.outputs import OwnFiles
from alpro.terminal.progress import reporting

INDEX = "index.parquet"
CLIPS = 1000
_COLUMNS = ("name", "shard", "offset", "bytes", "sha256")
_IN_SHARD = ".tar/"
P = ParamSpec("P")
R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class ClipLocation:
    """Position of one clip's bytes in its shard."""

    shard: Path
    offset: int
    bytes: int
    sha256: str


# --- writing ----------------------------------------------------------------------------------------------


def write_shards(
    source: str | Path, output: str | Path, clips: int = CLIPS, left_out: Callable[[str], object] = lambda line: None
) -> int:
    """Pack all files below a folder, in order of their names, into shards of `clips` files; return the number of shards.

    A shard that contains the same files, none of them newer, is kept, so an interrupted run resumes. `left_out` is called
    with a line for each file that cannot be packed. Raises DataError if the source is not a folder or is empty, or if the
    output is inside it.
    """
    source, output = Path(source), Path(output)
    names = _file_names(source, left_out)
    groups = [names[i : i + clips] for i in range(0, len(names), clips)]
    shards = [f"shard-{number:05d}.tar" for number in range(len(groups))]
    temporary = [name for shard in shards for name in (f".{shard}", f".{Path(shard).stem}.parquet")]
    own = OwnFiles(output, source, [INDEX, *shards], temporary, record_source=False)  # the same clips give the same bytes
    previous = _previous_rows(output)
    tables = []
    with reporting(f"{source} -> {output}", "shards") as report:
        for number, group in enumerate(groups):
            shard = output / shards[number]
            rows = previous.get(shard.name)
            if rows is None or not _is_current(shard, rows, source, group):
                rows = _write_shard(shard, source, group)
            tables.append(rows)
            report(number + 1, len(groups))
    _write_index(output, tables)
    own.finish()
    return len(groups)


def _file_names(source: Path, left_out: Callable[[str], object]) -> list[str]:
    if not source.is_dir():
        raise DataError(f"{source}: no such folder; put the clips there")
    listing = list_files(source)
    names = [name for name in listing.names if os.access(source / name, os.R_OK)]
    for name in sorted({*listing.names} - {*names}):
        listing.leave_out(name, "permission denied")
    for line in listing.messages(source):
        left_out(line)
    if not names:
        raise DataError(f"{source}: contains no files that can be packed; put the clips there")
    return names


def _write_shard(shard: Path, source: Path, names: Sequence[str]) -> list[dict[str, Any]]:
    """Write one tar and return its index rows. It has no times or owners, so the same clips give the same bytes."""
    temporary = shard.with_name(f".{shard.name}")
    rows = []
    with temporary.open("wb") as file:
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
    os.replace(temporary, shard)
    atomic_write(_rows_file(shard), _parquet([rows]))  # until the index contains them
    return rows


def _is_current(shard: Path, rows: list[dict[str, Any]], source: Path, names: Sequence[str]) -> bool:
    """Return True if a shard contains exactly these files in their present state."""
    if not shard.exists() or [row["name"] for row in rows] != list(names):
        return False
    if shard.stat().st_size < rows[-1]["offset"] + rows[-1]["bytes"]:
        return False
    written = shard.stat().st_mtime_ns
    stats = [(source / name).stat() for name in names]
    return all(stat.st_size == row["bytes"] and stat.st_mtime_ns <= written for stat, row in zip(stats, rows, strict=True))


def _previous_rows(output: Path) -> dict[str, list[dict[str, Any]]]:
    """Return {shard: index rows} of the shards that an earlier run wrote."""
    import pyarrow.parquet as pq

    previous: dict[str, list[dict[str, Any]]] = {}
    for path in [*output.glob(INDEX), *output.glob(".shard-*.parquet")]:
        shards: dict[str, list[dict[str, Any]]] = {}
        for row in pq.read_table(path).to_pylist():
            shards.setdefault(row["shard"], []).append(row)
        previous |= shards
    return previous


def _rows_file(shard: Path) -> Path:
    return shard.with_name(f".{shard.stem}.parquet")


def _write_index(output: Path, tables: list[list[dict[str, Any]]]) -> None:
    atomic_write(output / INDEX, _parquet(tables))


def _parquet(tables: list[list[dict[str, Any]]]) -> bytes:
    """Return the index as Parquet with one row group per shard, so that finding a clip reads one group."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    kinds = (pa.string(), pa.string(), pa.int64(), pa.int64(), pa.string())
    schema = pa.schema(list(zip(_COLUMNS, kinds, strict=True)))
    sink = io.BytesIO()
    with pq.ParquetWriter(sink, schema, compression="zstd") as writer:
        for rows in tables:
            writer.write_table(pa.Table.from_pylist(rows, schema=schema))
    return sink.getvalue()


# --- locating clips ---------------------------------------------------------------------------------------


def is_sharded(folder: str | Path) -> bool:
    """Return True if a folder contains shards."""
    return (Path(folder) / INDEX).is_file() and any(Path(folder).glob("shard-*.tar"))


def list_clips(folder: str | Path) -> Iterator[tuple[str, str]]:
    """Yield (file name of the shard, name of the clip) for every clip. Raises DataError if there is no valid index."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = Path(folder) / INDEX
    try:
        table = pq.read_table(path, columns=["shard", "name"])
    except (pa.ArrowException, OSError, KeyError) as error:
        raise DataError(f"{path}: not an index of shards ({str(error).splitlines()[0]}); run `alpro data shard`") from None
    yield from zip(table.column("shard").to_pylist(), table.column("name").to_pylist(), strict=True)


def shard_of(path: str | Path) -> Path | None:
    """Return the shard that a clip's path points into, or None for the path of a loose file."""
    text = str(path)
    at = text.find(_IN_SHARD)
    return Path(text[: at + len(_IN_SHARD) - 1]) if at >= 0 else None


def locate_clip(path: str | Path) -> ClipLocation:
    """Return the position of a clip in its shard. Raises DataError if the shard or the clip does not exist."""
    shard = shard_of(path)
    if shard is None:
        raise ValueError(f"{path}: is not a path into a shard")
    name = str(path)[len(str(shard)) + 1 :]
    names, rows = _rows_of(str(shard), os.getpid())
    at = bisect.bisect_left(names, name)
    if at == len(names) or names[at] != name:
        raise DataError(f"{path}: not found in the index of the shards")
    return ClipLocation(shard, *rows[at])


@lru_cache(maxsize=256)
def _rows_of(shard: str, pid: int) -> tuple[list[str], list[tuple[int, int, str]]]:
    """Return the sorted names of a shard's clips and their (offset, bytes, sha256)."""
    index = _open_index(str(Path(shard).parent / INDEX), pid)
    try:
        group = int(Path(shard).stem.rpartition("-")[2])
        rows = index.read_row_group(group).to_pylist()
    except (ValueError, OSError) as error:
        raise DataError(f"{shard}: not in the index ({' '.join(str(error).split())})") from None
    if not rows or rows[0]["shard"] != Path(shard).name:
        raise DataError(f"{shard}: the index belongs to other shards; run `alpro data shard`")
    rows.sort(key=lambda row: row["name"])
    return [row["name"] for row in rows], [(row["offset"], row["bytes"], row["sha256"]) for row in rows]


@lru_cache(maxsize=8)
def _open_index(path: str, pid: int) -> Any:
    """Open the index once per process (`pid`): a forked process must not share the file position."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return pq.ParquetFile(path)
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path}: not an index of shards ({str(error).splitlines()[0]}); run `alpro data shard`") from None


# --- reading ----------------------------------------------------------------------------------------------


def accept_shard_paths(read: Callable[P, R]) -> Callable[P, R]:
    """Let a function whose first argument is a file path also read clips in shards.

    It receives a file in memory, so decoders need no support for tars. Its errors name the clip.
    """

    @wraps(read)
    def read_clip(*args: P.args, **kwargs: P.kwargs) -> R:
        path = args[0]
        if shard_of(str(path)) is None:
            return read(*args, **kwargs)
        with as_memory_file(str(path)) as file:
            try:
                return read(*(file, *args[1:]), **kwargs)  # type: ignore[arg-type]
            except DataError as error:
                raise DataError(str(error).replace(str(file), str(path))) from None

    return read_clip


@contextmanager
def as_memory_file(path: str) -> Iterator[Path]:
    """Provide a clip as a file in memory while the block runs. Raises DataError if the clip or its shard is incomplete."""
    clip = locate_clip(path)
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
