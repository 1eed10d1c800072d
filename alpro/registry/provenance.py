"""Provenance checks of a candidate: clean commit, matching dvc.lock, validated data, same data on disk."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from alpro import lineage
from alpro.config import Dataset, Params
from alpro.registry import versions as tag
from alpro.registry.gate import GateCheck

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion


def provenance_checks(root: Path, params: Params, task: str, version: ModelVersion, checkpoint: Path) -> list[GateCheck]:
    """Return the checks that need no evaluation. `checkpoint`: the version's files, as downloaded from the store.

    The tags are not trusted: the lock file of the commit that they name must list these files and the data on disk.
    """
    commit = version.tags.get(tag.COMMIT)
    if commit is None or lineage.git(root, "cat-file", "-e", f"{commit}^{{commit}}") is None:
        problem = f"commit {commit[:10]} is not in this repository" if commit else "its commit is unknown"
        return [GateCheck("clean", False, problem, needed="a commit that contains its state")]
    stages = lineage.locked_stages(root, commit)
    return [
        _clean(version, commit),
        _lock(root, version, commit, stages, checkpoint),
        _validation(version, task, stages),
        _data(root, params.datasets[task], task, stages),
    ]


def _clean(version: ModelVersion, commit: str) -> GateCheck:
    clean = version.tags.get(tag.CLEAN) == "yes"
    state = commit[:10] if clean else f"changed since {commit[:10]}: {_shorten(version.tags.get(tag.CHANGED, ''))}"
    return GateCheck("clean", clean, state, needed="a commit with this code, pipeline, parameters and lock file")


def _lock(
    root: Path, version: ModelVersion, commit: str, stages: dict[str, lineage.LockedStage], checkpoint: Path
) -> GateCheck:
    path = f"models/{version.tags.get('alpro.recipe')}/{version.tags.get(tag.STAGE)}"
    stage = lineage.stage_of(path, stages)
    out = stage.outs.get(path) if stage else None
    digest = lineage.dvc_hash(checkpoint)
    ok = out is not None and out.hash == digest == version.tags.get(tag.DVC)
    same_lock = lineage.locks_digest(root, commit) == version.tags.get(tag.LOCK)
    if ok and not same_lock:
        return GateCheck("lock", False, "the commit has another lock file", needed="the lock file at its registration")
    return GateCheck("lock", ok, str(digest)[:10], needed=f"{out.hash[:10]} of dvc.lock" if out else f"{path} in dvc.lock")


def _validation(version: ModelVersion, task: str, stages: dict[str, lineage.LockedStage]) -> GateCheck:
    result = version.tags.get(tag.VALIDATION, "unknown")
    in_lock = f"validate@{task}" in stages
    ok = result == tag.PASSED and in_lock
    return GateCheck("validation", ok, result if in_lock else "not in dvc.lock", needed=tag.PASSED)


def _data(root: Path, dataset: Dataset, task: str, stages: dict[str, lineage.LockedStage]) -> GateCheck:
    """Compare annotations and videos on disk with those that the candidate's pipeline validated and evaluated."""
    stage = stages.get(f"validate@{task}")
    declared = (stage.params.get("params.yaml") or {}).get(f"datasets.{task}") or {} if stage else {}
    for role, path in (("annotations", dataset.annotations), ("videos", dataset.videos)):
        locked = stage.deps.get(declared.get(role, "")) if stage else None
        on_disk = lineage.dvc_hash(root / path)
        if locked is None:
            return GateCheck("data", False, f"its dvc.lock has no {role}", needed=f"{role} in dvc.lock")
        if locked.hash != on_disk:
            needed = f"{on_disk[:10]}, the {role} on disk ({path})" if on_disk else f"{path}, which is missing"
            return GateCheck("data", False, f"{role} {locked.hash[:10]}", needed=needed)
    return GateCheck("data", True, "annotations and videos on disk", needed="those of its dvc.lock")


def _shorten(text: str) -> str:
    return text if len(text) <= 60 else text[:57] + "..."
