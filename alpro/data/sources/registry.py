"""The types of registry.yaml: where each set comes from, what is known of its files, and where they go."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Literal

import yaml
from pydantic import Field, PositiveInt

from alpro.config import Section
from alpro.errors import DataError, nearest


class File(Section):
    """A file of a set as it is distributed: an archive, or a table that is taken as it is."""

    name: str
    urls: tuple[str, ...] = ()
    size: PositiveInt | None = Field(None, description="Bytes, where published.")
    md5: str | None = Field(None, pattern="^[0-9a-f]{32}$")
    sha256: str | None = Field(None, pattern="^[0-9a-f]{64}$")
    into: str = Field(description="Folder below the project's root.")
    members: tuple[str, ...] = Field((), description="Patterns of the members that are taken; none: it is no archive.")
    without: tuple[str, ...] = Field((), description="Patterns of what is no part of it, where a whole tree is given.")
    keep: Literal["path", "name"] = Field("path", description="What of a member's path is kept below `into`.")
    rename: str | None = Field(None, description="What a file that is no archive is called below `into`.")
    at_most_gb: float = Field(20, gt=0, description="An archive that unpacks to more is refused.")


class Videos(Section):
    """The folder of a set's videos, and how many it holds when it is complete."""

    folder: str
    number: PositiveInt


class Link(Section):
    """A link that the official tree holds; it is accepted, not needed."""

    path: str
    to: str


class Media(Section):
    """Files that a set names by their addresses, one a row of its tables."""

    table: str
    splits: dict[str, str]
    columns: dict[str, str | int]
    folder: str
    number: PositiveInt = Field(description="About how many, as published.")
    extension: str
    at_most_mb: PositiveInt


class Source(Section):
    """A set: the ways of getting it, and what a person should know."""

    title: str
    licence: str
    page: str
    ways: tuple[tuple[File, ...], ...]
    videos: Videos | None = None
    known_missing: tuple[str, ...] = ()
    needs: tuple[str, ...] = Field((), description="Sets without which this one is not complete.")
    brings: tuple[str, ...] = Field(
        (), description="Of the official tree, besides `videos`, `media` and files that are no archive."
    )
    link: Link | None = None
    media: Media | None = None
    note: str = ""

    @property
    def files(self) -> tuple[File, ...]:
        """All files of all ways."""
        return tuple(file for way in self.ways for file in way)

    @property
    def extent(self) -> str:
        """How large the set is, as far as it is published: `10,000 videos, at most 60 GB unpacked`."""
        parts = [f"{self.videos.number:,} videos"] if self.videos else []
        if self.media:
            parts.append(f"{self.media.number:,} files, one by one")
        archives = [file.at_most_gb for file in (self.ways[0] if self.ways else ()) if file.members]
        if archives:
            parts.append(f"at most {sum(archives):g} GB unpacked")
        return ", ".join(parts)

    @property
    def places(self) -> tuple[str, ...]:
        """Files and folders of the official tree that come with this set."""
        own = [part.folder for part in (self.videos, self.media) if part]
        tables = [f"{file.into}/{file.rename or file.name}" for file in self.files if not file.members]
        return (*own, *tables, *self.brings)


@cache
def registry() -> dict[str, Source]:
    """All sets by name."""
    raw = yaml.safe_load(Path(__file__).with_name("registry.yaml").read_text(encoding="utf-8"))
    return {name: Source.model_validate(entry) for name, entry in raw.items()}


def set_of(path: str) -> str | None:
    """The name of the set that a file or folder of the official tree comes with."""
    for name, entry in registry().items():
        if any(path == place or path.startswith(place + "/") for place in entry.places):
            return name
    return None


def source(name: str) -> Source:
    """A set by its name. Raises DataError for an unknown one."""
    known = registry()
    if name not in known:
        raise DataError(f"{name!r}: no such set; there are {', '.join(known)}{nearest(name, known)}")
    return known[name]
