"""One file from one address: resumed where it was cut, and only believed when its size and checksums agree.

The bytes gather in `NAME.part`; beside it stands what the server called this version (ETag or date), so that a
resumed file is never put together from two. A server that ignores ranges is read from the start again.
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
from alpro.terminal.progress import Report

CHUNK = 1 << 20
TIMEOUT_S = 60.0
TRIES = 5  # without a single new byte
ROOM_LEFT = 1 << 30  # bytes that a download leaves free on the disk
_GONE = {400, 401, 403, 404, 405, 410, 451}  # asking again will not help


class Unavailable(DataError):
    """The file can't be had from there; another address may have it."""


@dataclass(frozen=True, slots=True)
class Expected:
    """What is known of a file beforehand; None where nothing is published."""

    size: int | None = None
    md5: str | None = None
    sha256: str | None = None
    at_most: int | None = None  # bytes; more are refused


def download(
    url: str,
    target: str | Path,
    expected: Expected = Expected(),
    report: Report = lambda done, total: None,
    tries: int = TRIES,
    pause_s: float = 1.0,
    timeout_s: float = TIMEOUT_S,
) -> Path:
    """Bring a file to `target` and return it; what a broken-off download left is gone on with.

    Raises Unavailable when this address does not give the file as expected.
    """
    target = Path(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    _check_address(url)
    part = _Part(target)
    resumed = part.have > 0
    while True:
        _transfer(url, part, expected, report, tries, pause_s, timeout_s)
        fault = mismatch(part.path, expected)
        if fault is None:
            part.finish(target)
            return target
        part.clear()
        if not resumed:
            raise Unavailable(f"{url}: wrong bytes: {fault}; they were thrown away")
        resumed = False  # perhaps two versions were put together: once more from the start


def mismatch(path: Path, expected: Expected) -> str | None:
    """What about a file is not as expected, or None."""
    size = path.stat().st_size
    if expected.size is not None and size != expected.size:
        return f"{size} bytes, {expected.size} are published"
    for kind, published in (("md5", expected.md5), ("sha256", expected.sha256)):
        if published:
            with path.open("rb") as file:
                found = hashlib.file_digest(file, kind).hexdigest()
            if found != published:
                return f"{kind} is {found}, {published} is expected"
    return None


class _Part:
    """The bytes that came so far, and which version of the file they are of."""

    def __init__(self, target: Path) -> None:
        self.path = target.with_name(target.name + ".part")
        self._note = target.with_name(target.name + ".part.json")

    @property
    def have(self) -> int:
        return self.path.stat().st_size if self.path.exists() else 0

    @property
    def version(self) -> str | None:
        try:
            return json.loads(self._note.read_text(encoding="utf-8"))["version"]
        except (OSError, ValueError, KeyError):
            return None

    def begin(self, version: str | None) -> None:
        atomic_write(self._note, json.dumps({"version": version}))

    def clear(self) -> None:
        self.path.unlink(missing_ok=True)
        self._note.unlink(missing_ok=True)

    def finish(self, target: Path) -> None:
        self.path.replace(target)
        self._note.unlink(missing_ok=True)


def _transfer(url: str, part: _Part, expected: Expected, report: Report, tries: int, pause_s: float, timeout_s: float) -> None:
    """Until all bytes are there; as long as new ones come, it goes on asking."""
    best, failed = part.have, 0
    while True:
        try:
            if _once(url, part, expected, report, timeout_s):
                return
            reason = f"cut after {part.have} bytes"
        except urllib.error.HTTPError as error:
            if error.code in _GONE:
                raise Unavailable(f"{url}: HTTP {error.code} {error.reason}") from None
            reason = f"HTTP {error.code} {error.reason}"
        except (OSError, http.client.HTTPException) as error:  # also urllib.error.URLError
            reason = str(getattr(error, "reason", error)) or type(error).__name__
        failed = 0 if part.have > best else failed + 1
        best = max(best, part.have)
        if failed >= tries:
            raise Unavailable(f"{url}: {reason}; given up after {failed} tries without a new byte; what came is kept") from None
        time.sleep(pause_s * min(2**failed, 60))


def _once(url: str, part: _Part, expected: Expected, report: Report, timeout_s: float) -> bool:
    """Ask once; whether the file is complete now."""
    have, version = part.have, part.version
    headers = {"Accept-Encoding": "identity", "User-Agent": "alpro-data-fetch"}
    if have and (version or expected.md5 or expected.sha256):  # else nothing would say that it still is the same file
        headers |= {"Range": f"bytes={have}-"} | ({"If-Range": version} if version else {})
    try:
        answer = _opener().open(urllib.request.Request(url, headers=headers), timeout=timeout_s)
    except urllib.error.HTTPError as error:
        if error.code != 416:
            raise
        length = re.fullmatch(r"bytes \*/(\d+)", error.headers.get("Content-Range", ""))
        if length and int(length[1]) == have:
            return True
        part.clear()  # more bytes than the file has now: another version
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


def _copy(answer: Any, file: IO[bytes], done: int, total: int | None, expected: Expected, report: Report, url: str) -> int:
    limit = expected.size or expected.at_most
    for chunk in iter(lambda: answer.read(CHUNK), b""):
        done += len(chunk)
        if limit is not None and done > limit:
            raise Unavailable(f"{url}: sends more than the {limit} bytes that are expected")
        file.write(chunk)
        report(done, total)
    return done


def _check_size(url: str, total: int, expected: Expected, folder: Path, have: int) -> None:
    if expected.size is not None and total and total != expected.size:
        raise Unavailable(f"{url}: offers {total} bytes, {expected.size} are published")
    if expected.at_most is not None and total > expected.at_most:
        raise Unavailable(f"{url}: offers {total} bytes, at most {expected.at_most} are accepted")
    free = shutil.disk_usage(folder).free
    if total - have > free - ROOM_LEFT:
        raise DataError(f"{folder}: {total / 1e9:.1f} GB are to come, {free / 1e9:.1f} GB are free; make room and run it again")


def _version(headers: Any) -> str | None:
    """A strong ETag, or the date: what `If-Range` takes."""
    tag = headers.get("ETag")
    return tag if tag and not tag.startswith("W/") else headers.get("Last-Modified")


def _check_address(url: str) -> None:
    if not re.match(r"https?://[^/]", url):
        raise Unavailable(f"{url}: neither http nor https")


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Redirects are followed, but never out of an encrypted connection."""

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        if req.full_url.startswith("https:") and not newurl.startswith("https:"):
            raise Unavailable(f"{req.full_url}: redirects to {newurl}, which is not encrypted")
        _check_address(newurl)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _opener() -> urllib.request.OpenerDirector:
    return urllib.request.build_opener(_Redirects)
