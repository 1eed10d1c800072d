"""What must be true of a candidate whatever its figures are: a commit holds it, the lock names it, its data are these."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from alpro import lineage
from alpro.config import Params
from alpro.registry import versions as tag
from alpro.registry.gate import Check

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion


def of_candidate(root: Path, params: Params, task: str, version: ModelVersion, checkpoint: Path) -> list[Check]:
    """The checks that need no evaluation. `checkpoint`: the version's own files, as the store holds them.

    What the tags claim is looked up in the commit that they name: its lock must name these files and the data on disk.
    """
    commit = version.tags.get(tag.COMMIT)
    if commit is None or lineage.git(root, "cat-file", "-e", f"{commit}^{{commit}}") is None:
        said = f"commit {commit[:10]} is not in this repository" if commit else "no commit is known"
        return [Check("clean", False, said, needed="a commit that holds its state")]
    stages = lineage.locked_stages(root, commit)
    return [
        _clean(version, commit),
        _lock(root, version, commit, stages, checkpoint),
        _validation(version, task, stages),
        _data(root, params, task, stages),
    ]


def _clean(version: ModelVersion, commit: str) -> Check:
    clean = version.tags.get(tag.CLEAN) == "yes"
    said = commit[:10] if clean else f"changed since {commit[:10]}: {_short(version.tags.get(tag.CHANGED, ''))}"
    return Check("clean", clean, said, needed="a commit that holds code, pipeline, parameters and lock")


def _lock(root: Path, version: ModelVersion, commit: str, stages: dict[str, lineage.LockedStage], checkpoint: Path) -> Check:
    path = f"models/{version.tags.get('alpro.recipe')}/{version.tags.get(tag.STAGE)}"
    stage = lineage.stage_of(path, stages)
    out = stage.outs.get(path) if stage else None
    digest = lineage.dvc_hash(checkpoint)
    ok = out is not None and out.hash == digest == version.tags.get(tag.DVC)
    same = lineage.locks_digest(root, commit) == version.tags.get(tag.LOCK)
    if ok and not same:
        return Check("lock", False, "the commit's lock is another", needed="the lock that it was registered with")
    return Check("lock", ok, str(digest)[:10], needed=f"{out.hash[:10]} of dvc.lock" if out else f"{path} in dvc.lock")


def _validation(version: ModelVersion, task: str, stages: dict[str, lineage.LockedStage]) -> Check:
    said = version.tags.get(tag.VALIDATION, "unknown")
    known = f"validate@{task}" in stages
    return Check("validation", said == tag.PASSED and known, said if known else "not in dvc.lock", needed=tag.PASSED)


def _data(root: Path, params: Params, task: str, stages: dict[str, lineage.LockedStage]) -> Check:
    """Annotations and videos on disk, against those that the candidate's pipeline validated and evaluated."""
    locked = stages.get(f"validate@{task}")
    declared = (locked.params.get("params.yaml") or {}).get(f"datasets.{task}") or {} if locked else {}
    dataset = params.datasets[task]
    for role, path in (("annotations", dataset.annotations), ("videos", dataset.videos)):
        theirs = locked.deps.get(declared.get(role, "")) if locked else None
        here = lineage.dvc_hash(root / path)
        if theirs is None:
            return Check("data", False, f"its lock names no {role}", needed=f"{role} in dvc.lock")
        if theirs.hash != here:
            found = f"{here[:10]} in {path}" if here else f"{path}, which is missing"
            return Check("data", False, f"{role} {theirs.hash[:10]}", needed=f"{found}: what is on disk")
    return Check("data", True, "annotations and videos on disk", needed="those of its lock")


def _short(text: str) -> str:
    return text if len(text) <= 60 else text[:57] + "..."
