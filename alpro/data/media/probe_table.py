"""The table of `alpro data probe`: properties of each video in a folder, and why unreadable ones cannot be read.

Files that cannot be probed at all, such as broken links and names that are not UTF-8, are rows of the table too.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from alpro.data.media.extensions import VIDEO_EXTENSIONS, is_video_name
from alpro.data.media.probe import VideoInfo, unreadable_info
from alpro.errors import DataError
from alpro.files.listing import list_files
from alpro.files.names import shown

COLUMNS = ("file", "readable", "frames", "fps", "size", "rotation", "decoder", "reason")


def probe_folder(folder: str | Path, workers: int | None = None) -> dict[str, VideoInfo]:
    """Probe every frame of each video in a folder; return {path relative to the folder: info}.

    Raises DataError if there are no videos.
    """
    from alpro.data.media.index import probe_all
    from alpro.terminal.progress import reporting

    folder = Path(folder)
    listing = list_files(folder, is_video_name)
    files = [folder / name for name in listing.names]
    if not files and not listing.left_out:
        raise DataError(
            f"{folder}: contains no videos ({', '.join(VIDEO_EXTENSIONS)})" if folder.is_dir() else f"{folder}: no such folder"
        )
    workers = workers or len(os.sched_getaffinity(0))
    infos = {name: unreadable_info(0, reason) for name, reason in listing.left_out}
    with reporting("probe") as report:
        for name, info in probe_all([str(file) for file in files], workers, every_frame=True):
            infos[Path(name).relative_to(folder).as_posix()] = info
            report(len(infos) - len(listing.left_out), len(files))
    return dict(sorted(infos.items()))


def table(infos: Mapping[str, VideoInfo]) -> str:
    """Format a header and one line per video, with columns as wide as needed."""
    rows = [COLUMNS, *(_row(name, info) for name, info in infos.items())]
    widths = [max(len(row[column]) for row in rows) for column in range(len(COLUMNS) - 1)]
    return "\n".join("  ".join([*map(str.ljust, row, widths), row[-1]]).rstrip() for row in rows)


def _row(name: str, info: VideoInfo) -> tuple[str, ...]:
    size = f"{info.width}x{info.height}" if info.width else "-"
    readable = "yes" if info.readable else "no"
    rotation = f"{info.rotation}{' mirrored' if info.mirrored else ''}"
    return shown(name), readable, str(info.frames), f"{info.fps:g}", size, rotation, info.decoder, info.reason
