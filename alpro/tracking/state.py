"""State of the pipeline on disk: stage records, lock files and git, as `alpro track sync` mirrors it to MLflow."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from alpro import lineage
from alpro.config import Params
from alpro.errors import TrackingError
from alpro.tracking.records import StageRecord, read_records


@dataclass(frozen=True)
class PipelineState:
    """Records of all stages, the entries of the lock files by stage name, and the state of git."""

    root: Path
    params: Params
    records: Sequence[StageRecord]
    stages: Mapping[str, lineage.LockedStage]
    git: lineage.GitState

    @property
    def key(self) -> str:
        """Identity of the state: a SHA-256 over the recipe's name and the digests of all records."""
        listing = [self.params.recipe, *(f"{record.stage} {record.digest}" for record in self.records)]
        return hashlib.sha256("\n".join(listing).encode()).hexdigest()

    def locked_stage(self, record: StageRecord) -> lineage.LockedStage | None:
        """Return the stage of dvc.lock that wrote a record, or None."""
        return lineage.stage_of(f"reports/{record.stage}", self.stages)


def read_state(root: Path, params: Params) -> PipelineState:
    """Read records, lock files and git. Raises TrackingError if there is no record yet, or if one is damaged."""
    root = Path(root).resolve()
    records = read_records(root, params)
    if not records:
        raise TrackingError(f"{root / 'reports'}: no records of recipe {params.recipe} yet; run `dvc repro`")
    return PipelineState(root, params, records, lineage.locked_stages(root), lineage.git_state(root))


def data_deps(state: PipelineState, stage: lineage.LockedStage) -> dict[str, lineage.LockedPath]:
    """Return the data that a stage reads, with their entries of the lock file.

    A training depends on a corpus through the report of its validation, so the inputs of validation stages count too.
    """
    corpora, datasets = state.params.corpora.values(), state.params.datasets.values()
    data_paths = {path for corpus in corpora for path in (corpus.train, corpus.val, corpus.root)}
    data_paths |= {path for dataset in datasets for path in (dataset.annotations, dataset.videos)}
    deps: dict[str, lineage.LockedPath] = {}
    for path, dep in stage.deps.items():
        if path.startswith("data/") or path in data_paths:
            deps[path] = dep
        elif "/validated" in path:
            for other in state.stages.values():
                if other.name.startswith("validate") and any(lineage.overlap(path, out) for out in other.outs):
                    deps |= data_deps(state, other)
    return deps
