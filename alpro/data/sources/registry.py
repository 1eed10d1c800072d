"""Types of registry.yaml, which lists where each set comes from, its files, and their places in the official tree."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Literal

import yaml
from pydantic import Field, PositiveInt

from alpro.config import Section
from alpro.errors import DataError, nearest


class File(Section):
    """A file of a set as it is distributed: an archive, or a table that is used as it is."""

    name: str
    urls: tuple[str, ...] = ()
    size: PositiveInt | None = Field(None, description="Bytes, if published.")
    md5: str | None = Field(None, pattern="^[0-9a-f]{32}$")
    sha256: str | None = Field(None, pattern="^[0-9a-f]{64}$")
    into: str = Field(description="Folder below the project's root.")
    members: tuple[str, ...] = Field((), description="Patterns of the members to unpack; empty if it is not an archive.")
    exclude: tuple[str, ...] = Field((), description="Patterns of paths in a complete tree that are not part of this file.")
    keep: Literal["path", "name"] = Field("path", description="Keep the whole path of a member below `into`, or only its name.")
    rename: str | None = Field(None, description="Name below `into` of a file that is not an archive.")
    at_most_gb: float = Field(20, gt=0, description="Largest unpacked size that is accepted.")


class Videos(Section):
    """The folder of a set's videos, and their number in the complete set."""

    folder: str
    number: PositiveInt


class Link(Section):
    """A symbolic link of the official tree; optional."""

    path: str
    to: str


class Media(Section):
    """Files that a set's tables list by URL, one per row."""

    table: str
    splits: dict[str, str]
    columns: dict[str, str | int]
    folder: str
    number: PositiveInt = Field(description="Approximate number, as published.")
    extension: str
    at_most_mb: PositiveInt


class Source(Section):
    """A set: where to get it, its licence and its contents. Any one of `alternatives` provides the complete set."""

    title: str
    licence: str
    page: str
    alternatives: tuple[tuple[File, ...], ...]
    videos: Videos | None = None
    known_missing: tuple[str, ...] = ()
    needs: tuple[str, ...] = Field((), description="Other sets that this one needs.")
    provides: tuple[str, ...] = Field(
        (), description="Paths of the official tree besides `videos`, `media` and the tables among its files."
    )
    link: Link | None = None
    media: Media | None = None
    note: str = ""

    @property
    def files(self) -> tuple[File, ...]:
        """All files of all alternatives."""
        return tuple(file for files in self.alternatives for file in files)

    @property
    def extent(self) -> str:
        """Published size of the set, such as `10,000 videos, at most 60 GB unpacked`."""
        sizes = [f"{self.videos.number:,} videos"] if self.videos else []
        if self.media:
            sizes.append(f"{self.media.number:,} files, one by one")
        archives = [file.at_most_gb for file in (self.alternatives[0] if self.alternatives else ()) if file.members]
        if archives:
            sizes.append(f"at most {sum(archives):g} GB unpacked")
        return ", ".join(sizes)

    @property
    def paths(self) -> tuple[str, ...]:
        """Files and folders of the official tree that come with this set."""
        folders = [section.folder for section in (self.videos, self.media) if section]
        tables = [f"{file.into}/{file.rename or file.name}" for file in self.files if not file.members]
        return (*folders, *tables, *self.provides)


@cache
def registry() -> dict[str, Source]:
    """Load registry.yaml; return all sets by name."""
    raw = yaml.safe_load(Path(__file__).with_name("registry.yaml").read_text(encoding="utf-8"))
    return {name: Source.model_validate(entry) for name, entry in raw.items()}


def set_containing(path: str) -> str | None:
    """Return the name of the set that provides a file or folder of the official tree; None if no set does."""
    for name, entry in registry().items():
        if any(path == prefix or path.startswith(prefix + "/") for prefix in entry.paths):
            return name
    return None


def source(name: str) -> Source:
    """Return a set by its name. Raises DataError for an unknown name."""
    sets = registry()
    if name not in sets:
        raise DataError(f"{name!r}: no such set; choose one of {', '.join(sets)}{nearest(name, sets)}")
    return sets[name]
