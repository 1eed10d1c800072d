"""Resume state on disk: snapshots written atomically and verified by checksum before use.

A store is one directory, `.state/<stage>/<fingerprint>`. `step-<n>` holds a snapshot: tensors as safetensors, the rest as
JSON, and MANIFEST.json with every file's checksum. `best-<n>` holds the best weights so far. The last two snapshots are
kept, with the best weights that they refer to. The training process holds `lock`; the kernel releases it if it dies.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
from torch import Tensor

from alpro.errors import TrainingError
from alpro.files.atomic import replace_dir, save_tensors, sha256
from alpro.files.json_files import write_json
from alpro.files.locks import take_lock
from alpro.terminal import logs

log = logs.get(__name__)
KEEP = 2  # snapshots
MANIFEST = "MANIFEST.json"
STATE = "facts.json"  # in a snapshot: everything but the tensors
DEPENDENCIES = "params.json"  # in a store: everything that its snapshots depend on


@dataclass(frozen=True)
class DiskSnapshot:
    """A complete, verified directory of the store."""

    path: Path
    state: dict[str, Any]  # everything but the tensors

    def tensors(self, group: str) -> dict[str, Tensor]:
        """Load one group of tensors, to the CPU."""
        return safetensors.torch.load_file(self.path / f"{group}.safetensors")


@dataclass(frozen=True)
class InMemorySnapshot:
    """The last committed state of an elastic training; every rank has one, to resume from when another rank is lost."""

    state: dict[str, Any]
    groups: dict[str, dict[str, Tensor]]

    def tensors(self, group: str) -> dict[str, Tensor]:
        """Return one group of tensors."""
        return self.groups[group]


Snapshot = DiskSnapshot | InMemorySnapshot


def copy_to_memory(
    previous: InMemorySnapshot | None, state: dict[str, Any], **groups: Mapping[str, Tensor]
) -> InMemorySnapshot:
    """Copy a state into memory. The tensors of the previous copy are overwritten, not allocated again."""
    old = previous.groups if previous is not None else {}
    return InMemorySnapshot(state, {name: _copies(tensors, old.get(name, {})) for name, tensors in groups.items()})


def _copies(tensors: Mapping[str, Tensor], old: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {
        name: old[name].copy_(tensor.detach()) if name in old else tensor.detach().clone() for name, tensor in tensors.items()
    }


class SnapshotStore:
    """The snapshots of one training on disk; only rank 0 has one."""

    def __init__(self, path: str | Path, say: Callable[[str], None] = log.info) -> None:
        """Lock the directory, and remove what a killed process left half-written. Raises TrainingError if it is in use."""
        self.path = Path(path)
        self.say = say
        self.lock = take_lock(self.path / "lock", "a training", TrainingError)
        for leftover in self.path.glob(".*"):
            shutil.rmtree(leftover, ignore_errors=True)

    def save(self, state: Mapping[str, Any], **groups: Mapping[str, Tensor]) -> Path:
        """Write the snapshot of `state["step"]`, then drop older ones. If it raises OSError, the older ones are still there."""
        step = state["step"]
        path = self._write(self.path / f"step-{step:09d}", state, groups)
        snapshots = self._paths("step-")
        for old in snapshots[:-KEEP]:
            shutil.rmtree(old)
        referenced = {self._state(snapshot).get("best", {}).get("step") for snapshot in snapshots[-KEEP:]}
        for best in self._paths("best-"):
            if _step(best) not in referenced and _step(best) < step:
                shutil.rmtree(best)
        return path

    def save_best(self, step: int, weights: Mapping[str, Tensor]) -> Path:
        """Write the best weights so far, which are those after `step`."""
        return self._write(self.path / f"best-{step:09d}", {"step": step}, {"weights": weights})

    def best(self, step: int) -> DiskSnapshot:
        """Return the best weights, by their step. Raises TrainingError if they are damaged."""
        return self._verified(self.path / f"best-{step:09d}")

    def keep(self, name: str, step: int, weights: Mapping[str, Tensor]) -> Path:
        """Write weights that stay until the training ends, under a name."""
        return self._write(self.path / f"kept-{name}", {"step": step}, {"weights": weights})

    def kept(self, name: str) -> DiskSnapshot:
        """Return weights that `keep` wrote. Raises TrainingError if they are damaged."""
        return self._verified(self.path / f"kept-{name}")

    def last(self) -> Path | None:
        """Return the path of the newest snapshot."""
        return next(reversed(self._paths("step-")), None)

    def newest(self) -> DiskSnapshot | None:
        """Return the newest intact snapshot. Damaged ones are reported and removed."""
        for path in reversed(self._paths("step-")):
            damage = find_damage(path)
            best = self._state(path).get("best", {}).get("step") if not damage else None
            if best is not None:
                damage = find_damage(self.path / f"best-{best:09d}")
            if not damage:
                return DiskSnapshot(path, self._state(path))
            self.say(f"resume: {path} is damaged ({damage}); falling back to the previous snapshot")
            shutil.rmtree(path)
        return None

    def delete(self) -> None:
        """Remove the whole store after a successful training."""
        shutil.rmtree(self.path, ignore_errors=True)
        self.close()

    def close(self) -> None:
        """Release the lock."""
        self.lock.release()

    def _verified(self, path: Path) -> DiskSnapshot:
        if damage := find_damage(path):
            raise TrainingError(f"{path} is damaged: {damage}; remove {self.path} and train again")
        return DiskSnapshot(path, self._state(path))

    def _paths(self, prefix: str) -> list[Path]:
        return sorted(self.path.glob(f"{prefix}*"))

    def _state(self, path: Path) -> dict[str, Any]:
        state: dict[str, Any] = json.loads((path / STATE).read_text())
        return state

    def _write(self, path: Path, state: Mapping[str, Any], groups: Mapping[str, Mapping[str, Tensor]]) -> Path:
        with replace_dir(path) as temporary:
            for name, tensors in groups.items():
                contiguous = {key: tensor.detach().contiguous() for key, tensor in tensors.items()}
                save_tensors(contiguous, temporary / f"{name}.safetensors")
            write_json(temporary / STATE, state)
            write_json(temporary / MANIFEST, {file.name: sha256(file) for file in sorted(temporary.iterdir())})
        return path


def find_damage(path: Path) -> str:
    """Describe the damage of a snapshot directory; empty if it is intact."""
    try:
        manifest = json.loads((path / MANIFEST).read_text())
        for name, digest in manifest.items():
            if sha256(path / name) != digest:
                return f"{name} does not have the checksum of {MANIFEST}"
        if STATE not in manifest:
            return f"{STATE} is missing"
    except FileNotFoundError as error:
        return f"{Path(error.filename).name} is missing"
    except ValueError:
        return f"{MANIFEST} can't be read"
    return ""


def prune(stage: Path, keep: Path, others: int = 2) -> None:
    """Remove old stores of a stage: all but `keep`, the newest `others`, and those in use."""
    stores = [path for path in stage.iterdir() if path.is_dir() and path != keep and not path.name.startswith(".")]
    for old in sorted(stores, key=lambda path: path.stat().st_mtime)[:-others]:
        try:
            lock = take_lock(old / "lock", "a training", TrainingError)
        except TrainingError:
            continue
        renamed = Path(tempfile.mkdtemp(dir=stage, prefix=".gone."))
        os.replace(old, renamed)
        lock.release()
        shutil.rmtree(renamed)


def explain_unused(stage: Path, dependencies: dict[str, Any]) -> str:
    """Explain why the newest snapshot of a stage can't be resumed: which inputs changed. Empty if there is no snapshot."""
    stores = {path.parent for path in stage.glob("[!.]*/step-*") if (path.parent / DEPENDENCIES).exists()}
    if not stores:
        return ""
    path = max(stores, key=lambda store: store.stat().st_mtime)
    then, now = json.loads((path / DEPENDENCIES).read_text()), json.loads(json.dumps(dependencies))
    changed = _differing_keys(then, now)
    names = ", ".join(changed[:8]) + (f" and {len(changed) - 8} more" if len(changed) > 8 else "")
    return (
        f"resume: starting from scratch: {names} changed since {path} was saved; "
        f"restore the old values (see {path / DEPENDENCIES}) to resume it"
    )


def _differing_keys(left: Any, right: Any, prefix: str = "") -> list[str]:
    """Return the dotted keys at which two trees differ."""
    if not (isinstance(left, dict) and isinstance(right, dict)):
        return [] if left == right else [prefix]
    names = sorted({*left, *right})
    return [key for name in names for key in _differing_keys(left.get(name), right.get(name), f"{prefix}.{name}".lstrip("."))]


def _step(path: Path) -> int:
    return int(path.name.rsplit("-", 1)[1])
