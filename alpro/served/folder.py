"""Videos below one folder, by their relative names. A path outside is refused before anything about it is revealed."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from alpro.data.media.extensions import is_video_name
from alpro.files.listing import list_files
from alpro.files.names import is_text, same_name
from alpro.served.limits import RequestError, short

FOLDERS = 200  # folders with videos that are offered
DEPTH = 5  # levels below the root that are looked through


class VideoRoot:
    """The folder that the user of the page, or the operator of the service, has chosen. Nothing outside of it is read."""

    def __init__(self, root: str | Path) -> None:
        """Raises RequestError (404) if it is not a folder."""
        self.path = Path(root).expanduser().resolve()
        self.check()

    def check(self) -> None:
        """Raise RequestError (404) if the folder has disappeared."""
        if not self.path.is_dir():
            raise RequestError(
                404, "folder_missing", f"The folder {short(str(self.path))} does not exist; was it moved or unmounted?"
            )

    def folder(self, name: str) -> Path:
        """Return a folder by its path relative to the root, or by its absolute path.

        Raises RequestError: 403 if it is outside, 404 if it does not exist.
        """
        path = self._inside(name or ".", "folder")
        if not path.is_dir():
            raise RequestError(404, "folder_missing", f"The folder {short(name)} does not exist.")
        return path

    def video(self, name: str) -> Path:
        """Return a video by its relative path. Raises RequestError: 403 if it is outside, 404 if it does not exist."""
        path = self._inside(name, "video")
        if not path.is_file() and (other := same_name(path)):
            path = self._inside(str(other), "video")
        if not path.is_file():
            raise RequestError(404, "video_missing", f"The video {short(name)} does not exist in the folder.")
        if not is_video_name(path.name):
            raise RequestError(415, "not_a_video", f"{short(name)} does not have the extension of a video.")
        return path

    def name(self, path: Path) -> str:
        """Return the name of a file or folder below the root."""
        return path.relative_to(self.path).as_posix()

    def videos(self, folder: str = "") -> list[str]:
        """Return the names of all videos below a folder, sorted. Raises as `folder` does."""
        below = self.folder(folder)
        return [self.name(below / name) for name in list_files(below, is_video_name).names]

    def folders(self) -> list[str]:
        """Return the folders below the root that hold videos themselves, sorted; at most FOLDERS, down to DEPTH levels."""
        found = []
        for path in self._walk(self.path, DEPTH):
            found.append(self.name(path))
            if len(found) == FOLDERS:
                break
        return sorted(found)

    def _walk(self, folder: Path, depth: int) -> Iterator[Path]:
        try:
            entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
        except OSError:  # no permission, or removed meanwhile
            return
        if any(is_video_name(entry.name) and entry.is_file() for entry in entries) and is_text(str(folder)):
            yield folder
        for entry in entries:
            if depth and entry.is_dir(follow_symlinks=False) and not entry.name.startswith("."):
                yield from self._walk(folder / entry.name, depth - 1)

    def _inside(self, name: str, kind: str) -> Path:
        try:
            path = (self.path / name).resolve()
            if not path.is_relative_to(self.path):
                raise RequestError(403, "outside_folder", f"The {kind} {short(name)} is outside of the chosen folder.")
            path.exists()  # raises OSError for a name that no file can have
        except (OSError, ValueError, RuntimeError):
            raise RequestError(422, "invalid_path", f"{short(name)} is not a valid path.") from None
        return path
