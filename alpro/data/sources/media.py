"""Download of the videos or images that a set's tables list by URL (WebVid, Conceptual Captions).

Failed URLs are listed in data/fetched/SET_failed.tsv and not requested again. Their files are added to known_missing.txt beside
the tables, so that trainings and validation leave them out. Existing files are skipped, so an interrupted run can be resumed.
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
IN_FLIGHT = 4  # queued downloads per worker


def fetch_media(
    name: str, root: str | Path = ".", workers: int = 16, retry: bool = False, say: Callable[[str], None] = print
) -> str:
    """Download the files that the set's tables list; return their folder. `retry` requests failed URLs again.

    Raises DataError if the set has no tables of URLs, a table is missing, or no file at all is available.
    """
    media, root = source(name).media, Path(root)
    if media is None:
        raise DataError(f"{name}: has no tables of URLs; its videos come as archives")
    failures = _FailureLog(root / "data" / "fetched" / f"{name}_failed.tsv", retry)
    listed_files = _listed_files(media, root)
    downloaded = existing = 0
    unavailable: list[Path] = []
    queue: deque[tuple[Path, str, Future[str | None]]] = deque()
    with ThreadPoolExecutor(workers) as pool, reporting(name) as report, failures:
        for path, url in listed_files:
            if path.exists():
                existing += 1
                continue
            if str(path.relative_to(root)) in failures.earlier:
                unavailable.append(path)
                continue
            queue.append((path, url, pool.submit(_download_media, url, path, media)))
            if len(queue) >= IN_FLIGHT * workers:
                downloaded += _finish(queue.popleft(), root, failures, unavailable)
                report(existing + downloaded + len(unavailable), None)
        while queue:
            downloaded += _finish(queue.popleft(), root, failures, unavailable)
    total, missing = existing + downloaded, len(unavailable)
    say(f"  {total:,} files are in {media.folder}, {downloaded:,} of them new; {missing:,} are unavailable ({failures.path})")
    if not total:
        raise DataError(f"{name}: none of its {missing:,} files is available; {failures.path} lists the reasons")
    if unavailable:
        absent = [path.relative_to(root / media.folder).as_posix() for path in unavailable]
        known_missing = add_known_missing(root / media.table, absent, f"unavailable to `alpro data fetch {name}`")
        say(f"  {known_missing} lists the unavailable files; trainings leave them out; --retry requests them again")
    return media.folder


def has_media(name: str) -> bool:
    """Return True if the set's tables list its videos or images by URL."""
    return source(name).media is not None


def image_name(url: str, split: str) -> str:
    """Return an image's name in the released annotations: the split and the CRC-32 of the URL."""
    return f"{split}/{zlib.crc32(url.encode())}"


def _listed_files(media: Media, root: Path) -> Iterator[tuple[Path, str]]:
    """Yield target path and URL of each listed file. Raises DataError if a name leads out of the folder."""
    folder = root / media.folder
    csv.field_size_limit(sys.maxsize)
    for split, table in media.splits.items():
        path = root / media.table / table
        if not path.is_file():
            raise DataError(f"{path}: not found; fetch the tables first, or pass them with --from")
        try:
            with path.open(encoding="utf-8-sig", newline="") as file:
                for line, (url, name) in enumerate(_urls_and_names(file, path, media, split), 1):
                    if name.startswith("/") or ".." in name.split("/") or "\0" in name:
                        raise DataError(f"{path}: row {line}: {name!r} leads out of {media.folder}")
                    yield folder / name, url
        except UnicodeDecodeError as error:
            raise DataError(f"{path}: not UTF-8 ({error.reason}); fetch the table again") from None


def _urls_and_names(file: Iterator[str], path: Path, media: Media, split: str) -> Iterator[tuple[str, str]]:
    columns = media.columns
    if isinstance(columns["url"], int):
        for cells in csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE):
            if cells and len(cells) <= columns["url"]:
                raise DataError(f"{path}: {cells[0][:60]!r} has no URL; fetch the table again")
            if cells:
                yield cells[columns["url"]], image_name(cells[columns["url"]], split)
        return
    table = csv.DictReader(file)
    missing = [str(column) for column in columns.values() if column not in (table.fieldnames or [])]
    if missing:
        raise DataError(f"{path}: has no column {', '.join(missing)} (it has {', '.join(table.fieldnames or [])})")
    for row in table:
        if None in row or None in row.values():
            raise DataError(f"{path}: line {table.line_num}: has not as many cells as the header; fetch the table again")
        yield row[str(columns["url"])], f"{row[str(columns['folder'])]}/{row[str(columns['name'])]}{media.extension}"


def _download_media(url: str, path: Path, media: Media) -> str | None:
    """Download one file; return None, or the reason why it is unavailable."""
    temporary = path.with_name(f".{path.name}")
    try:
        download(url, temporary, Expected(at_most=media.at_most_mb * 10**6), tries=2, pause_s=0.5, timeout_s=TIMEOUT_S)
    except Unavailable as error:
        return str(error).removeprefix(f"{url}: ")
    with temporary.open("rb") as file:
        head = file.read(64).lstrip()
    if not head or head.startswith((b"<", b"{")):
        temporary.unlink()
        return "the server sent a web page, or nothing, instead of the file"
    temporary.replace(path)
    return None


def _finish(item: tuple[Path, str, Future[str | None]], root: Path, failures: _FailureLog, unavailable: list[Path]) -> int:
    """Wait for a download; return 1, or log the failure and return 0."""
    path, url, future = item
    reason = future.result()
    if reason is None:
        return 1
    failures.add(str(path.relative_to(root)), url, reason)
    unavailable.append(path)
    return 0


class _FailureLog:
    """A file with one line of path, URL and reason for each failed download."""

    def __init__(self, path: Path, retry: bool) -> None:
        self.path, self.earlier = path, set[str]()
        if retry:
            path.unlink(missing_ok=True)
        elif path.exists():
            self.earlier = {line.split("\t")[0] for line in path.read_text(encoding="utf-8").splitlines()}

    def add(self, name: str, url: str, reason: str) -> None:
        """Append a failed download."""
        print(name, url, " ".join(reason.split()), sep="\t", file=self._file, flush=True)

    def __enter__(self) -> _FailureLog:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._file = self.path.open("a", encoding="utf-8")
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
