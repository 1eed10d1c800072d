"""Finds the file of a video or image by its name in the annotations, with any extension; each folder is listed once."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path
from typing import Literal
from unicodedata import normalize

from alpro.data.media.extensions import IMAGE_EXTENSIONS, VIDEO_EXTENSIONS, bare_name
from alpro.data.media.shards import is_sharded, list_clips, shard_of
from alpro.errors import DataError


class MediaFolder:
    """The files in a folder and its sub-folders, found by the names that annotations use.

    A name may have an extension (then exactly that file is preferred), none, or a sub-folder, also with `\\` as on Windows.
    Names that differ only in their Unicode form (`é` as one or two code points) are the same, unless the exact one exists.
    If a name does not exist because the files were moved, it is searched in the folder with less and less of its path:
    `/old/disk/part/1.jpg` as `part/1.jpg`, then as `1.jpg`. A missing folder has no files. A folder of shards has the files
    of its index. Raises DataError if the folder is a broken link.
    """

    def __init__(self, root: str | Path, media: Literal["video", "image"]) -> None:
        self.root = Path(root)
        if self.root.is_symlink() and not self.root.exists():
            raise DataError(f"{self.root}: is a broken link (to {self.root.readlink()}); fix it")
        self._extensions = VIDEO_EXTENSIONS if media == "video" else IMAGE_EXTENSIONS
        self._folders: dict[Path, tuple[set[str], dict[str, str]]] = {}
        self._shards: dict[str, dict[str, str]] | None = None  # folder in the shards -> file name -> shard
        if is_sharded(self.root):
            self._shards = {}
            for shard, clip in list_clips(self.root):
                folder, _, last = clip.rpartition("/")
                self._shards.setdefault(folder, {})[last] = shard

    def path(self, name: str) -> Path:
        """Return the path of a file. A missing file gets its expected path, with the usual extension of the folder."""
        path = self._find(name) or self._expected(name)
        return path if self._shards is None else self._in_shard(path)

    def has(self, name: str) -> bool:
        """Return True if there is a file for a name."""
        return self._find(name) is not None

    def _find(self, name: str) -> Path | None:
        found = self._find_exactly(name)
        if found is None and "\\" in name:  # a path written on Windows
            return self._find(name.replace("\\", "/"))
        if found is None and not name.isascii():
            found = self._find_in_another_form(name)
        return found

    def _find_in_another_form(self, name: str) -> Path | None:
        """Find a name in the Unicode form of the files, which may differ for each folder of its path."""
        path = Path(Path(name).anchor)
        for component in Path(name).parts[len(path.parts) :]:
            folder = self.root / path
            names, by_bare_name = self._list(folder)
            same = {normalize("NFC", other): other for other in (*by_bare_name, *names) if not other.isascii()}
            path /= component if component in names else same.get(normalize("NFC", component), component)
        return self._find_exactly(str(path))

    def _find_exactly(self, name: str) -> Path | None:
        components = Path(name).parts
        for start in range(len(components)):
            path = self.root.joinpath(*components[start:])  # an absolute name is first tried as it is
            names, by_bare_name = self._list(path.parent)
            if path.name in names:
                return path
            if (bare := bare_name(path.name)) in by_bare_name:
                return path.parent / by_bare_name[bare]
        return None

    def _expected(self, name: str) -> Path:
        path = self.root / (Path(name).name if Path(name).is_absolute() else name)
        folder, last = path.parent, path.name
        bare = bare_name(last)
        has_extension = bare != last and not last.endswith(".")
        return path if has_extension else folder / (bare + self._usual_extension(self._list(folder)[0]))

    def _in_shard(self, path: Path) -> Path:
        """Return the path that points into the shard of a clip."""
        name = path.relative_to(self.root) if path.is_relative_to(self.root) else path
        shard = (self._shards or {}).get(_shard_folder(name.parent), {}).get(name.name)
        return self.root / shard / name if shard else path

    def _list(self, folder: Path) -> tuple[set[str], dict[str, str]]:
        """Return all file names of a folder, and the preferred file of each bare name."""
        if folder not in self._folders:
            names = self._file_names(folder)
            by_bare_name: dict[str, str] = {}
            for file in sorted(names, key=self._rank, reverse=True):  # the most preferred comes last and overwrites
                if self._rank(file)[0] < len(self._extensions) + 1:
                    by_bare_name[bare_name(file)] = file
            self._folders[folder] = names, by_bare_name
        return self._folders[folder]

    def _file_names(self, folder: Path) -> set[str]:
        if self._shards is not None and folder.is_relative_to(self.root):
            return set(self._shards.get(_shard_folder(folder.relative_to(self.root)), {}))
        try:
            return set(os.listdir(folder))
        except OSError:  # missing, unreadable, a loop of links, or too long: reading a file in it reports the reason
            return set()

    def _rank(self, file: str) -> tuple[int, str]:
        if file.endswith(".") and self._extensions is VIDEO_EXTENSIONS:
            return len(self._extensions), file
        extension = os.path.splitext(file)[1].lower()
        return self._extensions.index(extension) if extension in self._extensions else len(self._extensions) + 1, file

    def _usual_extension(self, files: set[str]) -> str:
        counts = Counter(extension for file in files if (extension := os.path.splitext(file)[1].lower()) in self._extensions)
        return max(self._extensions, key=lambda extension: (counts[extension], -self._extensions.index(extension)))


def _shard_folder(folder: Path) -> str:
    return "" if folder == Path() else folder.as_posix()


def missing_paths(paths: list[Path]) -> set[Path]:
    """Return the paths that are not files or links to files. Each folder is listed once instead of asking per file."""
    listings: dict[Path, set[str]] = {}
    absent = set()
    for path in paths:
        file = shard_of(path) or path  # a clip in a shard exists if its shard does: the index named it
        if file.parent not in listings:
            try:
                with os.scandir(file.parent) as entries:
                    listings[file.parent] = {entry.name for entry in entries if _is_file(entry)}
            except OSError:
                listings[file.parent] = set()
        if file.name not in listings[file.parent]:
            absent.add(path)
    return absent


def _is_file(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_file()
    except OSError:  # a loop of links
        return False
