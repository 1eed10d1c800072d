"""The videos of a folder: found with its sub-folders, probed once, and looked up by the names that tables use."""

from __future__ import annotations

import os
import statistics
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from unicodedata import normalize

from alpro.data.media.extensions import VIDEO_EXTENSIONS, bare_name, is_video_name
from alpro.data.media.index import build_index, probe_cache_path
from alpro.data.media.probe import VideoInfo
from alpro.errors import DataError
from alpro.files.listing import list_files
from alpro.files.names import shown


@dataclass
class Videos:
    """Readable videos of a folder by their path in it, and those left out with the reason."""

    folder: Path
    infos: dict[str, VideoInfo]
    left_out: list[tuple[str, str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._by_name: dict[str, str | None] = {}
        for path in self.infos:
            for name in {path, bare_name(path), Path(path).name, bare_name(Path(path).name)}:
                key = _key(name)
                self._by_name[key] = path if self._by_name.get(key, path) == path else None  # None: of several videos
        for path in self.infos:  # a whole path is never ambiguous
            self._by_name[_key(path)] = path

    def find(self, name: str) -> str | None:
        """Return the path of the video that a table calls `name`: a path, a file name, or either without extension."""
        name = name.strip().replace("\\", "/")
        parts = [part for part in name.split("/") if part not in ("", ".")]
        for start in range(len(parts)):
            for candidate in ("/".join(parts[start:]), bare_name("/".join(parts[start:]))):
                if found := self._by_name.get(_key(candidate)):
                    return found
        return None

    def is_ambiguous(self, name: str) -> bool:
        """Return True if a file name, without its folder, is that of several videos."""
        last = name.strip().replace("\\", "/").rsplit("/", 1)[-1]
        return _key(last) in self._by_name and self._by_name[_key(last)] is None

    @property
    def seconds(self) -> float:
        """Median duration in seconds."""
        return statistics.median(info.seconds for info in self.infos.values())

    @property
    def frames(self) -> int:
        """Number of frames that nine of ten videos have at least."""
        counts = sorted(info.frames for info in self.infos.values())
        return counts[len(counts) // 10]

    @property
    def short_side(self) -> int:
        """Median of the shorter side in pixels."""
        return int(statistics.median(min(info.width, info.height) for info in self.infos.values()))


def read_videos(folder: Path, workers: int | None = None) -> Videos:
    """Probe every video of a folder; earlier probes of unchanged files are used again, also by the pipeline's validation.

    Raises DataError if the folder is missing, or has no readable video.
    """
    from alpro.terminal.progress import reporting

    if not folder.is_dir():
        raise DataError(
            f"{shown(folder)}: {'is a file; give the folder that it is in' if folder.exists() else 'no such folder'}"
        )
    listing = list_files(folder, is_video_name)
    left_out = list(listing.left_out)
    names, duplicates = _without_same_names(listing.names)
    left_out += duplicates
    if not names:
        raise DataError(f"{shown(folder)}: contains no videos ({', '.join(VIDEO_EXTENSIONS)})")
    paths = {str(folder / name): name for name in names}
    with tempfile.TemporaryDirectory() as temporary, reporting("videos checked") as report:
        infos = build_index(
            paths, Path(temporary) / "index.parquet", len(os.sched_getaffinity(0)) if workers is None else workers,
            cache=probe_cache_path(folder), report=report,
        )  # fmt: skip
    left_out += [(name, infos[path].reason) for path, name in paths.items() if not infos[path].readable]
    readable = {name: infos[path] for path, name in paths.items() if infos[path].readable}
    if not readable:
        first, reason = left_out[0]
        raise DataError(f"{shown(folder)}: none of its {len(names)} videos can be read; the first is {shown(first)}: {reason}")
    return Videos(folder, readable, sorted(left_out))


def _without_same_names(names: Sequence[str]) -> tuple[list[str], list[tuple[str, str]]]:
    """Keep one file of each name without extension, as the pipeline finds files by it: the one it would prefer."""
    chosen: dict[str, str] = {}
    for name in sorted(names, key=lambda name: _rank(name)):
        chosen.setdefault(bare_name(name), name)
    kept = set(chosen.values())
    others = [(name, f"has the name of {chosen[bare_name(name)]}; rename one of them") for name in names if name not in kept]
    return [name for name in names if name in kept], others


def _rank(name: str) -> tuple[int, str]:
    extension = Path(name).suffix.lower()
    return VIDEO_EXTENSIONS.index(extension) if extension in VIDEO_EXTENSIONS else len(VIDEO_EXTENSIONS), name


def _key(name: str) -> str:
    return normalize("NFC", name).casefold()
