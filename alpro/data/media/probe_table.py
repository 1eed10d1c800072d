"""`alpro data probe`: what each video below a folder is, and why those that can't be read can't."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from alpro.data.media.extensions import VIDEO_EXTENSIONS
from alpro.data.media.probe import VideoInfo
from alpro.errors import DataError

COLUMNS = ("file", "readable", "frames", "fps", "size", "rotation", "decoder", "reason")


def probe_folder(folder: str | Path, workers: int | None = None) -> dict[str, VideoInfo]:
    """{path below the folder: what one look at the file found}; every frame is decoded. Raises DataError without videos."""
    from alpro.data.media.index import probe_all
    from alpro.terminal.progress import reporting

    folder = Path(folder)
    endings = (*VIDEO_EXTENSIONS, ".")  # DiDeMo has names that end in a bare dot
    files = sorted(file for file in folder.rglob("*") if file.name.lower().endswith(endings) and file.is_file())
    if not files:
        raise DataError(
            f"{folder}: holds no videos ({', '.join(VIDEO_EXTENSIONS)})" if folder.is_dir() else f"{folder}: no folder"
        )
    workers = workers or len(os.sched_getaffinity(0))
    found: dict[str, VideoInfo] = {}
    with reporting("probe") as report:
        for name, info in probe_all([str(file) for file in files], workers, every_frame=True):
            found[Path(name).relative_to(folder).as_posix()] = info
            report(len(found), len(files))
    return dict(sorted(found.items()))


def table(infos: Mapping[str, VideoInfo]) -> str:
    """One line a video under a line of names, columns as wide as they must be."""
    rows = [COLUMNS, *(_row(name, info) for name, info in infos.items())]
    widths = [max(len(row[place]) for row in rows) for place in range(len(COLUMNS) - 1)]
    return "\n".join("  ".join([*map(str.ljust, row, widths), row[-1]]).rstrip() for row in rows)


def _row(name: str, info: VideoInfo) -> tuple[str, ...]:
    size = f"{info.width}x{info.height}" if info.width else "-"
    readable = "yes" if info.readable else "no"
    return name, readable, str(info.frames), f"{info.fps:g}", size, str(info.rotation), info.decoder, info.reason
