"""Fills MLflow from the results on disk: runs of the stages, and registered versions of the checkpoints."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path

from alpro.config import Params
from alpro.errors import TrackingError
from alpro.registry.registration import locked_stage, register_checkpoints
from alpro.registry.versions import checkpoints
from alpro.tracking.mlflow_runs import SyncResult, find_or_create_parent, finish_parent, make_stage_runs
from alpro.tracking.state import read_state
from alpro.tracking.store import locked, opened, redacted


def sync(
    root: Path | str,
    params: Params,
    *,
    tags: Mapping[str, str] | None = None,
    candidates: Collection[str] | None = None,
) -> SyncResult:
    """Update the store to the state on disk. Runs and versions that are already complete are not changed.

    tags: added to the parent run and to the checkpoints' versions, unless they have such tags; candidates: see
    `register_checkpoints`. Raises TrackingError (one line) if the store cannot be used or a record is damaged.
    """
    state = read_state(Path(root), params)
    with locked(state.root), opened(state.root) as store:
        parent = find_or_create_parent(store, state, tags or {})
        result = SyncResult(redacted(store.uri), store.experiment, parent.info.run_id)
        stage_runs = make_stage_runs(store, state, parent, result)
        result.registered.extend(register_checkpoints(store, state, stage_runs, tags, candidates, result.versions))
        finish_parent(store, state, parent, stage_runs)
    return result


def register(
    root: Path, params: Params, *, tags: Mapping[str, str] | None = None, candidates: Collection[str] | None = None
) -> SyncResult:
    """Register the checkpoints of a finished pipeline; fills MLflow like `sync`.

    Raises TrackingError, before anything is written, if a checkpoint differs from dvc.lock.
    """
    state = read_state(root, params)
    on_disk = checkpoints(state)
    if not on_disk:
        raise TrackingError(f"{state.root / 'models' / params.recipe}: no checkpoint to register; run `dvc repro`")
    changed = [checkpoint.path for checkpoint in on_disk if not locked_stage(state, checkpoint)]
    if changed:
        raise TrackingError(
            f"{', '.join(changed)}: differs from dvc.lock; run `dvc repro` to make it again, or `dvc checkout` to restore it"
        )
    return sync(root, params, tags=tags, candidates=candidates)
