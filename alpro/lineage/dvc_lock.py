"""Reads dvc.lock: the hashes of every stage's inputs and outputs, and its parameters."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import yaml

from alpro.errors import TrackingError
from alpro.lineage.git import show_file

LOCKS = ("dvc.lock",)


@dataclass(frozen=True)
class LockedPath:
    """Entry of a lock file for one path: DVC's hash (for a folder it ends in `.dir`), bytes, number of files (folders only)."""

    hash: str
    size: int | None = None
    files: int | None = None


@dataclass(frozen=True)
class LockedStage:
    """Entry of a lock file for one stage. Paths are relative to the project's root."""

    name: str
    deps: Mapping[str, LockedPath]
    outs: Mapping[str, LockedPath]
    params: Mapping[str, Any] = field(default_factory=dict)
    command: Any = None

    def as_dict(self) -> dict[str, Any]:
        """Return the entry as plain JSON types; it is stored with a run, which is then readable without the repository."""
        table = {kind: {path: vars(entry) for path, entry in getattr(self, kind).items()} for kind in ("deps", "outs")}
        return {"stage": self.name, "command": self.command, "params": self.params, **table}


def locked_stages(root: Path, commit: str | None = None) -> dict[str, LockedStage]:
    """Return all stages of the lock files by name, from disk or from a commit. Raises TrackingError on invalid YAML."""
    stages = {}
    for lock in LOCKS:
        content = _read(root, lock, commit)
        if content is not None:
            pipeline = lock.replace(".lock", ".yaml")
            folders = _working_folders(_parse(_read(root, pipeline, commit) or "", root / pipeline))
            for name, entry in (_parse(content, root / lock).get("stages") or {}).items():
                base = PurePosixPath(lock).parent / folders.get(name.split("@")[0], ".")
                deps, outs = (_locked_paths(entry.get(kind), base) for kind in ("deps", "outs"))
                stages[name] = LockedStage(name, deps, outs, entry.get("params") or {}, entry.get("cmd"))
    return stages


def stage_of(folder: str, stages: Mapping[str, LockedStage]) -> LockedStage | None:
    """Return the first stage with an output that overlaps `folder`, or None."""
    return next((stage for stage in stages.values() if any(overlap(folder, out) for out in stage.outs)), None)


def matches_lock(root: Path, folder: str, stage: LockedStage) -> bool:
    """Return True if the stage's outputs in `folder` have the hashes of the lock file."""
    outs = {path: entry for path, entry in stage.outs.items() if overlap(folder, path)}
    return all(entry.hash == dvc_hash(Path(root) / path) for path, entry in outs.items())


def locks_digest(root: Path, commit: str | None = None) -> str | None:
    """Return one SHA-256 over the lock files, from disk or from a commit; None if there are none."""
    contents = [content.encode() for lock in LOCKS if (content := _read(root, lock, commit)) is not None]
    return hashlib.sha256(b"\0".join(contents)).hexdigest() if contents else None


def dvc_hash(path: Path) -> str | None:
    """Return the hash under which DVC stores a file or folder, or None if the path does not exist.

    It is the MD5 of a file; for a folder the MD5 of its listing, with the suffix `.dir`.
    """
    if path.is_file():
        return _md5(path)
    if not path.is_dir():
        return None
    files = sorted((file.relative_to(path).as_posix().split("/"), file) for file in path.rglob("*") if file.is_file())
    listing = [{"md5": _md5(file), "relpath": "/".join(names)} for names, file in files]
    return hashlib.md5(json.dumps(listing, sort_keys=True).encode(), usedforsecurity=False).hexdigest() + ".dir"


def _md5(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def overlap(path: str | PurePosixPath, other: str | PurePosixPath) -> bool:
    """Return True if two relative paths are equal, or one is inside the other."""
    path, other = PurePosixPath(path), PurePosixPath(other)
    return path.is_relative_to(other) or other.is_relative_to(path)


def _locked_paths(entries: list[dict[str, Any]] | None, base: PurePosixPath) -> dict[str, LockedPath]:
    paths = {}
    for entry in entries or []:
        digest = entry.get("md5") or next((str(entry[key]) for key in ("etag", "checksum") if key in entry), None)
        if digest:
            paths[_normalise(base / entry["path"])] = LockedPath(digest, entry.get("size"), entry.get("nfiles"))
    return paths


def _normalise(path: PurePosixPath) -> str:
    names: list[str] = []
    for name in path.parts:
        if name == ".." and names and names[-1] != "..":
            names.pop()
        elif name != ".":
            names.append(name)
    return "/".join(names)


def _working_folders(content: Mapping[str, Any]) -> dict[str, str]:
    """Return `wdir` of each stage of a dvc.yaml; the paths in the lock file are relative to it."""
    stages = content.get("stages") or {}
    return {
        name: wdir
        for name, stage in stages.items()
        if isinstance(stage, dict) and (wdir := (stage.get("do") or stage).get("wdir"))
    }


def _read(root: Path, path: str, commit: str | None) -> str | None:
    if commit:
        return show_file(root, commit, path)
    file = Path(root) / path
    try:
        return file.read_text(encoding="utf-8") if file.exists() else None
    except (OSError, UnicodeDecodeError) as error:
        raise TrackingError(f"{file}: cannot be read: {' '.join(str(error).split())}") from None


def _parse(content: str, path: Path) -> dict[str, Any]:
    try:
        parsed = yaml.load(content, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except yaml.YAMLError as error:
        raise TrackingError(f"{path}: cannot be read: {' '.join(str(error).split())}") from None
    return parsed or {}
