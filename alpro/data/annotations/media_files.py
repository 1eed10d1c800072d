"""Finds a video's or image's file by its name in the annotations, whatever its extension; each folder is listed once."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path
from typing import Literal

from alpro.data.media.extensions import IMAGE_EXTENSIONS, VIDEO_EXTENSIONS, bare_name
from alpro.data.media.shards import is_sharded, listing, shard_of
from alpro.errors import DataError


class MediaFolder:
    """The files below a folder, found by the names that annotations use.

    A name may hold an extension (then that very file comes first), none, or a sub-folder. Where a name leads nowhere
    because the files were moved, it is looked for below the folder by less and less of its path: `/old/disk/part/1.jpg`
    as `part/1.jpg`, then as `1.jpg`. A folder that does not exist has no files; one of shards has those that its index
    names. Raises DataError when the folder is a link that leads nowhere.
    """

    def __init__(self, root: str | Path, media: Literal["video", "image"]) -> None:
        self.root = Path(root)
        if self.root.is_symlink() and not self.root.exists():
            raise DataError(f"{self.root}: the link leads nowhere (to {self.root.readlink()}); mend it")
        self._extensions = VIDEO_EXTENSIONS if media == "video" else IMAGE_EXTENSIONS
        self._folders: dict[Path, tuple[set[str], dict[str, str]]] = {}
        self._shards: dict[str, dict[str, str]] | None = None  # folder in the shards -> file name -> shard
        if is_sharded(self.root):
            self._shards = {}
            for shard, clip in listing(self.root):
                folder, _, last = clip.rpartition("/")
                self._shards.setdefault(folder, {})[last] = shard

    def path(self, name: str) -> Path:
        """Where the file lies, or, when it is missing, where it is expected (with the folder's usual extension)."""
        whole = self._found(name) or self._expected(name)
        return whole if self._shards is None else self._in_shard(whole)

    def has(self, name: str) -> bool:
        """Whether there is a file for a name."""
        return self._found(name) is not None

    def _found(self, name: str) -> Path | None:
        parts = Path(name).parts
        for start in range(len(parts)):
            whole = self.root.joinpath(*parts[start:])  # an absolute name stands for itself at first
            exact, by_name = self._listing(whole.parent)
            if whole.name in exact:
                return whole
            if (bare := bare_name(whole.name)) in by_name:
                return whole.parent / by_name[bare]
        return None

    def _expected(self, name: str) -> Path:
        whole = self.root / (Path(name).name if Path(name).is_absolute() else name)
        folder, last = whole.parent, whole.name
        bare = bare_name(last)
        has_extension = bare != last and not last.endswith(".")
        return whole if has_extension else folder / (bare + self._usual(self._listing(folder)[0]))

    def _in_shard(self, whole: Path) -> Path:
        """The path that leads into the shard of a clip."""
        name = whole.relative_to(self.root) if whole.is_relative_to(self.root) else whole
        shard = (self._shards or {}).get(_key(name.parent), {}).get(name.name)
        return self.root / shard / name if shard else whole

    def _listing(self, folder: Path) -> tuple[set[str], dict[str, str]]:
        """All file names of a folder, and the preferred file of each bare name."""
        if folder not in self._folders:
            exact = self._names(folder)
            by_name: dict[str, str] = {}
            for file in sorted(exact, key=self._rank, reverse=True):  # the best comes last and stays
                if self._rank(file)[0] < len(self._extensions) + 1:
                    by_name[bare_name(file)] = file
            self._folders[folder] = exact, by_name
        return self._folders[folder]

    def _names(self, folder: Path) -> set[str]:
        if self._shards is not None and folder.is_relative_to(self.root):
            return set(self._shards.get(_key(folder.relative_to(self.root)), {}))
        try:
            return set(os.listdir(folder))
        except (FileNotFoundError, NotADirectoryError):
            return set()

    def _rank(self, file: str) -> tuple[int, str]:
        if file.endswith(".") and self._extensions is VIDEO_EXTENSIONS:
            return len(self._extensions), file
        extension = os.path.splitext(file)[1].lower()
        return self._extensions.index(extension) if extension in self._extensions else len(self._extensions) + 1, file

    def _usual(self, files: set[str]) -> str:
        found = Counter(extension for file in files if (extension := os.path.splitext(file)[1].lower()) in self._extensions)
        return max(self._extensions, key=lambda extension: (found[extension], -self._extensions.index(extension)))


def _key(folder: Path) -> str:
    return "" if folder == Path() else folder.as_posix()


def missing(paths: list[Path]) -> set[Path]:
    """Which of the paths are no files or links to files; each folder is listed once instead of asking for each file."""
    listings: dict[Path, set[str]] = {}
    absent = set()
    for path in paths:
        file = shard_of(path) or path  # a clip is there when its shard is: the index named it
        if file.parent not in listings:
            try:
                with os.scandir(file.parent) as entries:
                    listings[file.parent] = {entry.name for entry in entries if entry.is_file()}
            except (FileNotFoundError, NotADirectoryError):
                listings[file.parent] = set()
        if file.name not in listings[file.parent]:
            absent.add(path)
    return absent
