"""Compares the MLflow store with the results on disk, without changing anything (`alpro track status`)."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from alpro.config import Params
from alpro.registry.versions import CHECKPOINT, checkpoints, find_version, label
from alpro.tracking import runs
from alpro.tracking.mlflow_runs import find_parent
from alpro.tracking.runs import LIVE, PARENT_RUN, RECORD, STAGE
from alpro.tracking.state import PipelineState, read_state
from alpro.tracking.store import TrackingStore, exists, opened, redacted, store_uri


@dataclass(frozen=True)
class StoreStatus:
    """Status of each record's run and of each checkpoint's version.

    `stages`: `complete`, `partial` (interrupted sync), `live` (being written) or `missing`, by stage.
    `models`: version and aliases (`alpro-msvd_qa/2 (candidate)`), or `not registered`, by checkpoint path.
    """

    store: str
    parent: str | None
    stages: dict[str, str] = field(default_factory=dict)
    models: dict[str, str] = field(default_factory=dict)

    @property
    def complete(self) -> bool:
        """True if `alpro track sync` has nothing to do."""
        return set(self.stages.values()) <= {"complete"} and "not registered" not in self.models.values()

    def __str__(self) -> str:
        lines = [f"store    {self.store}", f"parent   {self.parent or 'none for this state'}"]
        for kind, table in (("run", self.stages), ("model", self.models)):
            lines += [f"{kind:8} {name:36} {state}" for name, state in table.items()]
        return "\n".join([*lines, "complete" if self.complete else "incomplete: run `alpro track sync`"])


def status(root: Path | str, params: Params) -> StoreStatus:
    """Compare the store with the disk. Raises TrackingError if the store cannot be used, or if no record exists."""
    state = read_state(Path(root), params)
    uri = store_uri(state.root)
    missing = StoreStatus(redacted(uri), None, dict.fromkeys((r.stage for r in state.records), "missing"))
    missing.models.update(dict.fromkeys((c.path for c in checkpoints(state)), "not registered"))
    if exists(uri):
        with opened(state.root) as store:
            return _compare(store, state, missing)
    return missing


def _compare(store: TrackingStore, state: PipelineState, missing: StoreStatus) -> StoreStatus:
    """Return `missing` with the runs and versions that the store has."""
    parent = find_parent(store, state)
    children = list(runs.search(store.client, store.experiment, runs.has_tag(PARENT_RUN, parent.info.run_id))) if parent else []
    complete = {run.data.tags[RECORD] for run in children if RECORD in run.data.tags}
    partial = {run.data.tags.get(STAGE) for run in children}
    written = filter(runs.being_written, runs.search(store.client, store.experiment, runs.has_tag(LIVE, "open")))
    live = {run.data.tags.get(STAGE) for run in written}
    stages, models = dict(missing.stages), dict(missing.models)
    for record in state.records:
        if record.digest in complete:
            stages[record.stage] = "complete"
        elif record.stage in live:
            stages[record.stage] = "live"
        elif record.stage in partial:
            stages[record.stage] = "partial"
    for checkpoint in checkpoints(state):
        version = find_version(store, checkpoint.model, CHECKPOINT, checkpoint.digest())
        if version is not None:
            aliases = f" ({', '.join(sorted(version.aliases))})" if version.aliases else ""
            models[checkpoint.path] = f"{label(version)}{aliases}"
    return StoreStatus(missing.store, parent.info.run_id if parent else None, stages, models)
