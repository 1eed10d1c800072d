"""Download of one file from one address: resumed after an interruption, and verified by size and checksums.

The bytes are written to `NAME.part`. `NAME.part.json` beside it holds the server's version (ETag or date), so that parts of
two versions are never joined. If a server ignores ranges, the download starts again.
"""

from __future__ import annotations

import hashlib
import http.client
import json
import re
import shutil
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from alpro.errors import DataError
from alpro.files.atomic import atomic_write
from alpro.terminal.progress import ProgressCallback

CHUNK = 1 << 20
TIMEOUT_S = 60.0
TRIES = 5  # in a row that bring no new byte
ROOM_LEFT = 1 << 30  # bytes that a download leaves free on the disk
_PERMANENT_ERRORS = {400, 401, 403, 404, 405, 410, 451}  # HTTP statuses that a retry does not change


class Unavailable(DataError):
    """The file is not available from this address; another one may have it."""


@dataclass(frozen=True, slots=True)
class Expected:
    """Published properties of a file; None if not published."""

    size: int | None = None
    md5: str | None = None
    sha256: str | None = None
    at_most: int | None = None  # bytes; more are refused


def download(
    url: str,
    target: str | Path,
    expected: Expected = Expected(),
    report: ProgressCallback = lambda done, total: None,
    tries: int = TRIES,
    pause_s: float = 1.0,
    timeout_s: float = TIMEOUT_S,
) -> Path:
    """Download a file to `target`, resuming an earlier attempt; return `target`.

    Raises Unavailable if the address does not provide the expected file.
    """
    target = Path(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    _check_address(url)
    part = _PartialFile(target)
    resumed = part.size > 0
    while True:
        _download_with_retries(url, part, expected, report, tries, pause_s, timeout_s)
        fault = mismatch(part.path, expected)
        if fault is None:
            part.finish(target)
            return target
        part.clear()
        if not resumed:
            raise Unavailable(f"{url}: wrong content: {fault}; the download was deleted")
        resumed = False  # two versions may have been joined: start again once


def mismatch(path: Path, expected: Expected) -> str | None:
    """Describe how a file differs from the published size and checksums; None if it does not."""
    size = path.stat().st_size
    if expected.size is not None and size != expected.size:
        return f"it has {size} bytes, but the published size is {expected.size}"
    for kind, published in (("md5", expected.md5), ("sha256", expected.sha256)):
        if published:
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, kind).hexdigest()
            if digest != published:
                return f"its {kind} is {digest}, expected {published}"
    return None


class _PartialFile:
    """The bytes downloaded so far, with the version of the file that they belong to."""

    def __init__(self, target: Path) -> None:
        self.path = target.with_name(target.name + ".part")
        self._version_file = target.with_name(target.name + ".part.json")

    @property
    def size(self) -> int:
        return self.path.stat().st_size if self.path.exists() else 0

    @property
    def version(self) -> str | None:
        try:
            return json.loads(self._version_file.read_text(encoding="utf-8"))["version"]
        except (OSError, ValueError, KeyError):
            return None

    def begin(self, version: str | None) -> None:
        atomic_write(self._version_file, json.dumps({"version": version}))

    def clear(self) -> None:
        self.path.unlink(missing_ok=True)
        self._version_file.unlink(missing_ok=True)

    def finish(self, target: Path) -> None:
        self.path.replace(target)
        self._version_file.unlink(missing_ok=True)


def _download_with_retries(
    url: str, part: _PartialFile, expected: Expected, report: ProgressCallback, tries: int, pause_s: float, timeout_s: float
) -> None:
    """Request until the file is complete; give up after `tries` requests in a row that bring no new byte."""
    best, failed = part.size, 0
    while True:
        try:
            if _request(url, part, expected, report, timeout_s):
                return
            reason = f"the connection closed after {part.size} bytes"
        except urllib.error.HTTPError as error:
            if error.code in _PERMANENT_ERRORS:
                raise Unavailable(f"{url}: HTTP {error.code} {error.reason}") from None
            reason = f"HTTP {error.code} {error.reason}"
        except (OSError, http.client.HTTPException) as error:  # also urllib.error.URLError
            reason = str(getattr(error, "reason", error)) or type(error).__name__
        failed = 0 if part.size > best else failed + 1
        best = max(best, part.size)
        if failed >= tries:
            raise Unavailable(
                f"{url}: {reason}; stopped after {failed} tries without a new byte; run again to resume"
            ) from None
        time.sleep(pause_s * min(2**failed, 60))


def _request(url: str, part: _PartialFile, expected: Expected, report: ProgressCallback, timeout_s: float) -> bool:
    """Request the missing bytes once; return True if the file is complete."""
    have, version = part.size, part.version
    headers = {"Accept-Encoding": "identity", "User-Agent": "alpro-data-fetch"}
    if have and (version or expected.md5 or expected.sha256):  # else a changed file would go unnoticed
        headers |= {"Range": f"bytes={have}-"} | ({"If-Range": version} if version else {})
    try:
        answer = _opener().open(urllib.request.Request(url, headers=headers), timeout=timeout_s)
    except urllib.error.HTTPError as error:
        if error.code != 416:
            raise
        length = re.fullmatch(r"bytes \*/(\d+)", error.headers.get("Content-Range", ""))
        if length and int(length[1]) == have:
            return True
        part.clear()  # the file has become shorter, so the part is of another version
        return False
    with answer:
        if answer.status == 206 and answer.headers.get("Content-Range", "").startswith(f"bytes {have}-"):
            start = have
        elif answer.status == 200:
            start = 0
            part.clear()
            part.begin(_version(answer.headers))
        else:
            part.clear()
            return False
        length = answer.headers.get("Content-Length", "")
        total = start + int(length) if length.isdigit() else None
        _check_size(url, total or 0, expected, part.path.parent, start)
        with part.path.open("ab") as file:
            done = _copy(answer, file, start, total, expected, report, url)
    return done == total if total is not None else True


def _copy(
    answer: Any, file: IO[bytes], done: int, total: int | None, expected: Expected, report: ProgressCallback, url: str
) -> int:
    limit = expected.size or expected.at_most
    for chunk in iter(lambda: answer.read(CHUNK), b""):
        done += len(chunk)
        if limit is not None and done > limit:
            raise Unavailable(f"{url}: sends more than the expected {limit} bytes")
        file.write(chunk)
        report(done, total)
    return done


def _check_size(url: str, total: int, expected: Expected, folder: Path, have: int) -> None:
    if expected.size is not None and total and total != expected.size:
        raise Unavailable(f"{url}: offers {total} bytes, but the published size is {expected.size}")
    if expected.at_most is not None and total > expected.at_most:
        raise Unavailable(f"{url}: offers {total} bytes, more than the limit of {expected.at_most}")
    free = shutil.disk_usage(folder).free
    if total - have > free - ROOM_LEFT:
        raise DataError(
            f"{folder}: needs {total / 1e9:.1f} GB, but only {free / 1e9:.1f} GB are free; free some space and try again"
        )


def _version(headers: Any) -> str | None:
    """Return a value for `If-Range`: a strong ETag, else the modification date."""
    tag = headers.get("ETag")
    return tag if tag and not tag.startswith("W/") else headers.get("Last-Modified")


def _check_address(url: str) -> None:
    if not re.match(r"https?://[^/]", url):
        raise Unavailable(f"{url}: neither http nor https")


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects, but never from https to http."""

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        if req.full_url.startswith("https:") and not newurl.startswith("https:"):
            raise Unavailable(f"{req.full_url}: redirects to {newurl}, which is not encrypted")
        _check_address(newurl)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _opener() -> urllib.request.OpenerDirector:
    return urllib.request.build_opener(_Redirects)
