"""The videos or images of a set whose tables name them by address, one download each (WebVid, Conceptual Captions).

What is gone at its source is listed in data/fetched/SET_failed.tsv and not asked for again, and in known_missing.txt beside
the tables, so that trainings and validation leave it out; what is there already is skipped, so a run that was stopped goes on.
"""

from __future__ import annotations

import csv
import sys
import zlib
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from alpro.data.sources.download import Expected, Unavailable, download
from alpro.data.sources.known_missing import add_known_missing
from alpro.data.sources.registry import Media, source
from alpro.errors import DataError
from alpro.terminal.progress import reporting

TIMEOUT_S = 20.0
IN_FLIGHT = 4  # downloads waiting for each worker


def fetch_media(
    name: str, root: str | Path = ".", workers: int = 16, retry: bool = False, say: Callable[[str], None] = print
) -> str:
    """Download what the set's tables name; returns the folder. `retry` asks again for what failed before.

    Raises DataError when the set has no addresses, a table is missing, or nothing at all could be had.
    """
    media, root = source(name).media, Path(root)
    if media is None:
        raise DataError(f"{name}: its videos come as archives; there is no table of addresses")
    failed = _Failed(root / "data" / "fetched" / f"{name}_failed.tsv", retry)
    rows = _rows(media, root)
    got = there = 0
    lost: list[Path] = []
    waiting: deque[tuple[Path, str, Future[str | None]]] = deque()
    with ThreadPoolExecutor(workers) as pool, reporting(name) as report, failed:
        for path, url in rows:
            if path.exists():
                there += 1
                continue
            if str(path.relative_to(root)) in failed.known:
                lost.append(path)
                continue
            waiting.append((path, url, pool.submit(_one, url, path, media)))
            if len(waiting) >= IN_FLIGHT * workers:
                got += _settle(waiting.popleft(), root, failed, lost)
                report(there + got + len(lost), None)
        while waiting:
            got += _settle(waiting.popleft(), root, failed, lost)
    say(f"  {there + got:,} files are in {media.folder}, {got:,} of them new; {len(lost):,} could not be had ({failed.path})")
    if not there + got:
        raise DataError(f"{name}: none of its {len(lost):,} files could be had; the first reasons are in {failed.path}")
    if lost:
        absent = [path.relative_to(root / media.folder).as_posix() for path in lost]
        listed = add_known_missing(root / media.table, absent, f"could not be had by `alpro data fetch {name}`")
        say(f"  what could not be had is in {listed}: trainings leave it out while it is absent; --retry asks for it again")
    return media.folder


def has_media(name: str) -> bool:
    """Whether a set's tables name its videos or images by address."""
    return source(name).media is not None


def image_name(url: str, split: str) -> str:
    """The name by which the released annotations call an image: the split, and the CRC-32 of its address."""
    return f"{split}/{zlib.crc32(url.encode())}"


def _rows(media: Media, root: Path) -> Iterator[tuple[Path, str]]:
    """(where a file goes, its address); a name that leads out of the folder is an error."""
    folder = root / media.folder
    csv.field_size_limit(sys.maxsize)
    for split, table in media.splits.items():
        path = root / media.table / table
        if not path.is_file():
            raise DataError(f"{path}: not found; fetch the tables first, or give them with --from")
        with path.open(encoding="utf-8", newline="") as file:
            for line, (url, name) in enumerate(_named(file, path, media, split), 1):
                if name.startswith("/") or ".." in name.split("/") or "\0" in name:
                    raise DataError(f"{path}: row {line}: {name!r} leads out of {media.folder}")
                yield folder / name, url


def _named(file: Iterator[str], path: Path, media: Media, split: str) -> Iterator[tuple[str, str]]:
    columns = media.columns
    if isinstance(columns["url"], int):
        for cells in csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE):
            if len(cells) > columns["url"]:
                yield cells[columns["url"]], image_name(cells[columns["url"]], split)
        return
    table = csv.DictReader(file)
    lacking = [str(column) for column in columns.values() if column not in (table.fieldnames or [])]
    if lacking:
        raise DataError(f"{path}: has no column {', '.join(lacking)} (it has {', '.join(table.fieldnames or [])})")
    for row in table:
        yield row[str(columns["url"])], f"{row[str(columns['folder'])]}/{row[str(columns['name'])]}{media.extension}"


def _one(url: str, path: Path, media: Media) -> str | None:
    """None, or why the file could not be had."""
    aside = path.with_name(f".{path.name}")
    try:
        download(url, aside, Expected(at_most=media.at_most_mb * 10**6), tries=2, pause_s=0.5, timeout_s=TIMEOUT_S)
    except Unavailable as error:
        return str(error).removeprefix(f"{url}: ")
    with aside.open("rb") as file:
        head = file.read(64).lstrip()
    if not head or head.startswith((b"<", b"{")):
        aside.unlink()
        return "a web page, or nothing, in its place"
    aside.replace(path)
    return None


def _settle(item: tuple[Path, str, Future[str | None]], root: Path, failed: _Failed, lost: list[Path]) -> int:
    """How many files came: one, or none, which is noted."""
    path, url, future = item
    reason = future.result()
    if reason is None:
        return 1
    failed.add(str(path.relative_to(root)), url, reason)
    lost.append(path)
    return 0


class _Failed:
    """Lines of (file, address, reason), appended as they come."""

    def __init__(self, path: Path, retry: bool) -> None:
        self.path, self.known = path, set[str]()
        if retry:
            path.unlink(missing_ok=True)
        elif path.exists():
            self.known = {line.split("\t")[0] for line in path.read_text(encoding="utf-8").splitlines()}

    def add(self, name: str, url: str, reason: str) -> None:
        """Record a file that could not be had."""
        print(name, url, " ".join(reason.split()), sep="\t", file=self._file, flush=True)

    def __enter__(self) -> _Failed:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._file = self.path.open("a", encoding="utf-8")
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
