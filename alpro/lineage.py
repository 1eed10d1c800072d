"""What git and DVC know about the state on disk: the one module that calls git and reads dvc.lock.

Everything here answers without them too: outside a repository there is no commit, without a lock there are no hashes.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import yaml

from alpro.errors import TrackingError

CODE = ("alpro", "flows", "stages", "recipes", "dvc.yaml", "dvc.lock", "params.yaml", "pyproject.toml")
"""What a result depends on: a state is clean when a commit holds exactly these."""

LOCKS = ("dvc.lock", "stages/dvc.lock")
TEMPORARY = (".dvc", "tmp", "exps")  # where `dvc exp run --temp` and `--queue` put their own small repositories


# --- git ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class GitState:
    """A checkout as git sees it. `changed` names the paths under `CODE` that no commit holds as they are."""

    commit: str | None
    branch: str | None
    changed: tuple[str, ...]

    @property
    def clean(self) -> bool:
        """Whether a commit holds code, pipeline, parameters and lock as they lie here."""
        return self.commit is not None and not self.changed


def git(root: Path, *args: str) -> str | None:
    """Standard output of a git command run in `root`; None where git is missing, or says no."""
    try:
        done = subprocess.run(["git", *args], cwd=root, capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None


def git_state(root: Path) -> GitState:
    """Commit, branch and what differs from the commit. Ignored files that the pipeline needs count as changed."""
    commit = git(root, "rev-parse", "HEAD")
    if commit is None:
        return GitState(None, None, ())
    branch = git(root, "symbolic-ref", "--short", "-q", "HEAD")
    present = [path for path in CODE if (root / path).exists()]
    status = git(root, "status", "--porcelain", "-z", "--no-renames", "--untracked-files=all", "--", *present) or ""
    changed = {entry[3:] for entry in status.split("\0") if len(entry) > 3}
    held = set((git(root, "ls-files", "-z", "--", "dvc.yaml", "params.yaml", *LOCKS) or "").split("\0"))
    changed |= {path for path in ("dvc.yaml", "params.yaml", *LOCKS) if (root / path).exists() and path not in held}
    return GitState(commit.strip(), branch.strip() if branch else None, tuple(sorted(changed)))


def home(root: Path) -> Path:
    """The folder that all worktrees and DVC's temporary experiment folders of one project share.

    It is the main checkout: the parent of git's common directory. A submodule, whose common directory lies
    inside another repository, is its own home; outside git `root` is.
    """
    root = Path(root).resolve()
    parts = root.parts
    for at in range(len(parts) - 2):
        if parts[at : at + 3] == TEMPORARY and at:
            return home(Path(*parts[:at]))
    answer = git(root, "rev-parse", "--git-dir", "--git-common-dir")
    if answer is None:
        return root
    own, common = ((root / line).resolve() for line in answer.splitlines()[:2])
    if own == common:
        top = git(root, "rev-parse", "--show-toplevel")
        return Path(top.strip()).resolve() if top else common.parent
    return common.parent


# --- dvc.lock -----------------------------------------------------------------------------------------------


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


def locked_stages(root: Path) -> dict[str, LockedStage]:
    """All stages of the project's locks by name. Raises TrackingError where a lock is no YAML."""
    stages = {}
    for lock in LOCKS:
        path = Path(root) / lock
        if path.exists():
            folders = _working_folders(path.with_suffix(".yaml"))
            for name, entry in (_yaml(path).get("stages") or {}).items():
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


def locks_digest(root: Path) -> str | None:
    """One hash over the project's locks; None where there is none."""
    found = [Path(root) / lock for lock in LOCKS if (Path(root) / lock).exists()]
    return hashlib.sha256(b"\0".join(path.read_bytes() for path in found)).hexdigest() if found else None


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


def _working_folders(path: Path) -> dict[str, str]:
    """`wdir` of each stage of a dvc.yaml: the lock's paths are relative to it."""
    stages = (_yaml(path).get("stages") or {}) if path.exists() else {}
    return {name: wdir for name, wdir in _wdirs(stages) if wdir}


def _wdirs(stages: Mapping[str, Any]) -> Iterator[tuple[str, str | None]]:
    for name, stage in stages.items():
        if isinstance(stage, dict):
            yield name, (stage.get("do") or stage).get("wdir")


def _yaml(path: Path) -> dict[str, Any]:
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except (OSError, yaml.YAMLError) as error:
        raise TrackingError(f"{path}: can't be read: {' '.join(str(error).split())}") from None
    return content or {}
