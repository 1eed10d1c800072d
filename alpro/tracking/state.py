"""alpro/tracking/state.py: NEW MODULE."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from alpro import lineage
from alpro.config import Params
from alpro.errors import TrackingError
from alpro.tracking.records import Record, read_records

if TYPE_CHECKING:
    pass


@dataclass(frozen=True)
class State:
    """What the disk says: the records, and what git and DVC know of them."""

    root: Path
    params: Params
    records: Sequence[Record]
    stages: Mapping[str, lineage.LockedStage]
    git: lineage.GitState

    @property
    def key(self) -> str:
        """The state's name: a digest of recipe and records."""
        listing = [self.params.recipe, *(f"{record.stage} {record.digest}" for record in self.records)]
        return hashlib.sha256("\n".join(listing).encode()).hexdigest()

    def locked(self, record: Record) -> lineage.LockedStage | None:
        """The stage of dvc.lock that wrote a record."""
        return lineage.stage_of(f"reports/{record.stage}", self.stages)


def read_state(root: Path, params: Params) -> State:
    """Read records, locks and git's state. Raises TrackingError where there is no record yet, or a damaged one."""
    root = Path(root).resolve()
    records = read_records(root, params)
    if not records:
        raise TrackingError(f"{root / 'reports'}: no stage of recipe {params.recipe} has left a record yet; run `dvc repro`")
    return State(root, params, records, lineage.locked_stages(root), lineage.git_state(root))


def data_deps(state: State, locked: lineage.LockedStage) -> dict[str, lineage.Locked]:
    """The data that a stage reads, with what the lock says of them.

    Trainings depend on corpora through the files that say they were validated, so validations are looked through.
    """
    corpora, datasets = state.params.corpora.values(), state.params.datasets.values()
    named = {path for corpus in corpora for path in (corpus.train, corpus.val, corpus.root)}
    named |= {path for dataset in datasets for path in (dataset.annotations, dataset.videos)}
    found: dict[str, lineage.Locked] = {}
    for path, dep in locked.deps.items():
        if path.startswith("data/") or path in named:
            found[path] = dep
        elif "/validated" in path:
            for stage in state.stages.values():
                if stage.name.startswith("validate") and any(lineage.touch(path, out) for out in stage.outs):
                    found |= data_deps(state, stage)
    return found
