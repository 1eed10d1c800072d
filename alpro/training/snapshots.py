"""What a killed training goes on from: snapshots on disk that are whole or not there, checked before they are believed.

A store is one directory, `.state/<stage>/<fingerprint>`: `step-<n>` holds a snapshot (tensors as safetensors, the rest as
JSON, and MANIFEST.json with every file's checksum), `best-<n>` the best weights so far. The last two snapshots are kept,
and the best weights they speak of. `lock` is held by the process that trains; the kernel frees it when that process dies.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import safetensors.torch
from torch import Tensor

from alpro.errors import TrainingError
from alpro.files.atomic import new_dir, save_tensors, sha256
from alpro.files.json_files import write_json
from alpro.files.locks import take_lock
from alpro.terminal import console

KEEP = 2


MANIFEST = "MANIFEST.json"


PARTS = "params.json"  # in a store: all that its snapshots depend on


class Held(Protocol):
    """A state that can be gone on from."""

    @property
    def facts(self) -> dict[str, Any]:
        """All but the tensors."""

    def tensors(self, name: str) -> dict[str, Tensor]:
        """One of its groups of tensors."""


@dataclass(frozen=True)
class Snapshot:
    """A whole, checked directory of the store."""

    path: Path
    facts: dict[str, Any]

    def tensors(self, name: str) -> dict[str, Tensor]:
        """One of its groups of tensors, on the CPU."""
        return safetensors.torch.load_file(self.path / f"{name}.safetensors")


@dataclass(frozen=True)
class Kept:
    """A state in memory."""

    facts: dict[str, Any]
    groups: dict[str, dict[str, Tensor]]

    def tensors(self, name: str) -> dict[str, Tensor]:
        """One of its groups of tensors."""
        return self.groups[name]


class Memory:
    """The last committed state, in every process of an elastic training: what the others go on from when one is lost."""

    def __init__(self) -> None:
        self.snapshot: Kept | None = None

    def save(self, step: int, facts: dict[str, Any], **groups: dict[str, Tensor]) -> None:
        """Keep a copy, in place of the one before."""
        old = self.snapshot.groups if self.snapshot is not None else {}
        kept = {name: _copied(tensors, old.get(name, {})) for name, tensors in groups.items()}
        self.snapshot = Kept({"step": step, **facts}, kept)


def _copied(tensors: dict[str, Tensor], into: dict[str, Tensor]) -> dict[str, Tensor]:
    """Copies, into the memory of older ones where there are."""
    return {
        name: into[name].copy_(tensor.detach()) if name in into else tensor.detach().clone() for name, tensor in tensors.items()
    }


class Store:
    """The snapshots of one training; only the first rank has one."""

    def __init__(self, path: str | Path, say: Callable[[str], None] = console.say) -> None:
        self.path = Path(path)
        self.say = say
        self.lock = take_lock(self.path / "lock", "a training", TrainingError)
        for left in self.path.glob(".*"):  # a write that a kill cut off
            shutil.rmtree(left, ignore_errors=True)

    def save(self, step: int, facts: dict[str, Any], **groups: dict[str, Tensor]) -> Path:
        """Write the snapshot of a step, then drop older ones. Raises OSError when the disk refuses; nothing is lost then."""
        path = self._write(self.path / f"step-{step:09d}", {"step": step, **facts}, groups)
        snapshots = self._names("step-")
        for old in snapshots[:-KEEP]:
            shutil.rmtree(old)
        spoken_of = {self._facts(snapshot).get("best", {}).get("step") for snapshot in snapshots[-KEEP:]}
        for best in self._names("best-"):
            if _step(best) not in spoken_of and _step(best) < step:
                shutil.rmtree(best)
        return path

    def save_best(self, step: int, weights: dict[str, Tensor]) -> Path:
        """Write the best weights so far, as those of a step."""
        return self._write(self.path / f"best-{step:09d}", {"step": step}, {"weights": weights})

    def keep(self, name: str, step: int, weights: dict[str, Tensor]) -> Path:
        """Write weights that stay until the end, under a name."""
        return self._write(self.path / f"kept-{name}", {"step": step}, {"weights": weights})

    def kept(self, name: str) -> Snapshot:
        """Weights that stayed. Raises TrainingError when they are not whole."""
        return self._checked(self.path / f"kept-{name}")

    def best(self, step: int) -> Snapshot:
        """The best weights, by their step. Raises TrainingError when they are not whole."""
        return self._checked(self.path / f"best-{step:09d}")

    def _checked(self, path: Path) -> Snapshot:
        if fault := check(path):
            raise TrainingError(f"{path}: {fault}; remove {self.path} and train again")
        return Snapshot(path, self._facts(path))

    def last(self) -> Path | None:
        """Where the newest snapshot lies."""
        return next(reversed(self._names("step-")), None)

    def newest(self) -> Snapshot | None:
        """The newest snapshot that is whole; damaged ones are named, and removed so that they are not counted again."""
        for path in reversed(self._names("step-")):
            fault = check(path)
            best = self._facts(path).get("best", {}).get("step") if not fault else None
            if best is not None:
                fault = check(self.path / f"best-{best:09d}")
            if not fault:
                return Snapshot(path, self._facts(path))
            self.say(f"resume: {path}: {fault}; falling back to the snapshot before")
            shutil.rmtree(path)
        return None

    def delete(self) -> None:
        """Remove everything: the training ended well."""
        shutil.rmtree(self.path, ignore_errors=True)
        self.close()

    def close(self) -> None:
        """Let another process have it."""
        self.lock.release()

    def _names(self, prefix: str) -> list[Path]:
        return sorted(self.path.glob(f"{prefix}*"))

    def _facts(self, path: Path) -> dict[str, Any]:
        facts: dict[str, Any] = json.loads((path / "facts.json").read_text())
        return facts

    def _write(self, path: Path, facts: dict[str, Any], groups: dict[str, dict[str, Tensor]]) -> Path:
        with new_dir(path) as aside:
            for name, tensors in groups.items():
                whole = {key: tensor.detach().contiguous() for key, tensor in tensors.items()}
                save_tensors(whole, aside / f"{name}.safetensors")
            write_json(aside / "facts.json", facts)
            write_json(aside / MANIFEST, {file.name: sha256(file) for file in sorted(aside.iterdir())})
        return path


def check(path: Path) -> str:
    """What is wrong with a directory of the store; empty when it is whole."""
    try:
        manifest = json.loads((path / MANIFEST).read_text())
        for name, digest in manifest.items():
            if sha256(path / name) != digest:
                return f"{name} does not have the checksum of {MANIFEST}"
        if "facts.json" not in manifest:
            return "facts.json is missing"
    except FileNotFoundError as error:
        return f"{Path(error.filename).name} is missing"
    except ValueError:
        return f"{MANIFEST} can't be read"
    return ""


def prune(stage: Path, keep: Path, others: int = 2) -> None:
    """Remove all but the newest `others` stores of a stage besides `keep`, as long as nobody trains in them."""
    stores = [path for path in stage.iterdir() if path.is_dir() and path != keep and not path.name.startswith(".")]
    for old in sorted(stores, key=lambda path: path.stat().st_mtime)[:-others]:
        try:
            lock = take_lock(old / "lock", "a training", TrainingError)
        except TrainingError:
            continue
        gone = Path(tempfile.mkdtemp(dir=stage, prefix=".gone."))
        os.replace(old, gone)
        lock.release()
        shutil.rmtree(gone)


def unused(stage: Path, parts: dict[str, Any]) -> str:
    """What to say of a stage's newest snapshot where it depends on other `parts`; empty where there is none."""
    stores = {path.parent for path in stage.glob("[!.]*/step-*") if (path.parent / PARTS).exists()}
    if not stores:
        return ""
    path = max(stores, key=lambda store: store.stat().st_mtime)
    then, now = json.loads((path / PARTS).read_text()), json.loads(json.dumps(parts))
    changed = _differing(then, now)
    names = ", ".join(changed[:8]) + (f" and {len(changed) - 8} more" if len(changed) > 8 else "")
    return (
        f"resume: starting anew, as the state in {path} was trained with another {names}; with these as they were "
        f"({path / PARTS}) the same command goes on from it"
    )


def _differing(one: Any, other: Any, at: str = "") -> list[str]:
    """The dotted keys at which two trees differ."""
    if not (isinstance(one, dict) and isinstance(other, dict)):
        return [] if one == other else [at]
    names = sorted({*one, *other})
    return [key for name in names for key in _differing(one.get(name), other.get(name), f"{at}.{name}".lstrip("."))]


def _step(path: Path) -> int:
    return int(path.name.rsplit("-", 1)[1])
