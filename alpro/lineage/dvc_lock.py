"""dvc.lock and stages/dvc.lock: which data, parameters and code gave which outputs, by DVC's hashes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import yaml

from alpro.errors import TrackingError
from alpro.lineage.git import show

LOCKS = ("dvc.lock", "stages/dvc.lock")


@dataclass(frozen=True)
class Locked:
    """What a lock says of one path: DVC's hash (of a folder it ends in `.dir`), bytes, files (folders only)."""

    hash: str
    size: int | None = None
    files: int | None = None


@dataclass(frozen=True)
class LockedStage:
    """One stage of a lock; paths are relative to the project's root."""

    name: str
    deps: Mapping[str, Locked]
    outs: Mapping[str, Locked]
    params: Mapping[str, Any] = field(default_factory=dict)
    command: Any = None

    def as_json(self) -> dict[str, Any]:
        """What goes beside a run, so that it can be read without the repository."""
        table = {kind: {path: vars(locked) for path, locked in getattr(self, kind).items()} for kind in ("deps", "outs")}
        return {"stage": self.name, "command": self.command, "params": self.params, **table}


def locked_stages(root: Path, commit: str | None = None) -> dict[str, LockedStage]:
    """All stages of the project's locks by name, on disk or in a commit. Raises TrackingError where a lock is no YAML."""
    stages = {}
    for lock in LOCKS:
        content = _read(root, lock, commit)
        if content is not None:
            pipeline = lock.replace(".lock", ".yaml")
            folders = _working_folders(_parsed(_read(root, pipeline, commit) or "", root / pipeline))
            for name, entry in (_parsed(content, root / lock).get("stages") or {}).items():
                base = PurePosixPath(lock).parent / folders.get(name.split("@")[0], ".")
                deps, outs = (_locked(entry.get(kind), base) for kind in ("deps", "outs"))
                stages[name] = LockedStage(name, deps, outs, entry.get("params") or {}, entry.get("cmd"))
    return stages


def stage_of(folder: str, stages: Mapping[str, LockedStage]) -> LockedStage | None:
    """The stage with an output that is `folder`, lies in it or holds it; None where no stage has one."""
    return next((stage for stage in stages.values() if any(touch(folder, out) for out in stage.outs)), None)


def agrees(root: Path, folder: str, stage: LockedStage) -> bool:
    """Whether what lies in `folder` is what the lock says the stage wrote there."""
    outs = {path: locked for path, locked in stage.outs.items() if touch(folder, path)}
    return all(locked.hash == dvc_hash(Path(root) / path) for path, locked in outs.items())


def locks_digest(root: Path, commit: str | None = None) -> str | None:
    """One hash over the project's locks, on disk or in a commit; None where there is none."""
    found = [content.encode() for lock in LOCKS if (content := _read(root, lock, commit)) is not None]
    return hashlib.sha256(b"\0".join(found)).hexdigest() if found else None


def dvc_hash(path: Path) -> str | None:
    """The hash under which DVC stores a file or folder (MD5; a folder's is the MD5 of its listing plus `.dir`)."""
    if path.is_file():
        return _md5(path)
    if not path.is_dir():
        return None
    files = sorted((file.relative_to(path).as_posix().split("/"), file) for file in path.rglob("*") if file.is_file())
    listing = [{"md5": _md5(file), "relpath": "/".join(parts)} for parts, file in files]
    return hashlib.md5(json.dumps(listing, sort_keys=True).encode(), usedforsecurity=False).hexdigest() + ".dir"


def _md5(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def touch(one: str, other: str) -> bool:
    """Whether two paths are the same, or one lies in the other."""
    return one == other or one.startswith(f"{other}/") or other.startswith(f"{one}/")


def _locked(entries: list[dict[str, Any]] | None, base: PurePosixPath) -> dict[str, Locked]:
    found = {}
    for entry in entries or []:
        hashed = entry.get("md5") or next((str(entry[key]) for key in ("etag", "checksum") if key in entry), None)
        if hashed:
            found[_relative(base / entry["path"])] = Locked(hashed, entry.get("size"), entry.get("nfiles"))
    return found


def _relative(path: PurePosixPath) -> str:
    parts: list[str] = []
    for part in path.parts:
        if part == ".." and parts and parts[-1] != "..":
            parts.pop()
        elif part != ".":
            parts.append(part)
    return "/".join(parts)


def _working_folders(content: Mapping[str, Any]) -> dict[str, str]:
    """`wdir` of each stage of a dvc.yaml: the lock's paths are relative to it."""
    stages = content.get("stages") or {}
    return {
        name: wdir
        for name, stage in stages.items()
        if isinstance(stage, dict) and (wdir := (stage.get("do") or stage).get("wdir"))
    }


def _read(root: Path, path: str, commit: str | None) -> str | None:
    if commit:
        return show(root, commit, path)
    file = Path(root) / path
    try:
        return file.read_text(encoding="utf-8") if file.exists() else None
    except (OSError, UnicodeDecodeError) as error:
        raise TrackingError(f"{file}: can't be read: {' '.join(str(error).split())}") from None


def _parsed(content: str, path: Path) -> dict[str, Any]:
    try:
        found = yaml.load(content, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except yaml.YAMLError as error:
        raise TrackingError(f"{path}: can't be read: {' '.join(str(error).split())}") from None
    return found or {}
