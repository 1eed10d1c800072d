"""Fills MLflow from the records on disk: runs, and registered versions of the checkpoints."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path

from alpro.config import Params
from alpro.errors import TrackingError
from alpro.registry.register import is_locked, register_checkpoints
from alpro.registry.versions import checkpoints
from alpro.tracking.state import read_state
from alpro.tracking.store import locked, opened, redacted
from alpro.tracking.sync import Synced, _children, _finish_parent, _parent


def sync(
    root: Path | str,
    params: Params,
    *,
    tags: Mapping[str, str] | None = None,
    candidates: Collection[str] | None = None,
) -> Synced:
    """Bring the store to the state on disk; what is there already is left alone.

    `tags` go to the parent run and the checkpoints' versions, where those have none such; `candidates`: as
    `register_checkpoints` has it. Raises TrackingError (one line) where the store can't be used or a record is damaged.
    """
    state = read_state(Path(root), params)
    with locked(state.root), opened(state.root) as store:
        parent = _parent(store, state, tags or {})
        done = Synced(redacted(store.uri), store.experiment, parent.info.run_id)
        children = _children(store, state, parent, done)
        done.runs.update({stage: run.info.run_id for stage, run in children.items()})
        done.registered.extend(register_checkpoints(store, state, children, tags, candidates))
        _finish_parent(store, state, parent, children)
    return done


def register(
    root: Path, params: Params, *, tags: Mapping[str, str] | None = None, candidates: Collection[str] | None = None
) -> Synced:
    """Register the checkpoints of a pipeline that has ended; fills MLflow as `alpro track sync` does.

    Raises TrackingError, before anything is written, where a checkpoint is not the one that dvc.lock names.
    """
    state = read_state(root, params)
    made = checkpoints(state)
    if not made:
        raise TrackingError(f"{state.root / 'models' / params.recipe}: no checkpoint to register; run `dvc repro`")
    foreign = [checkpoint.path for checkpoint in made if not is_locked(state, checkpoint)]
    if foreign:
        raise TrackingError(
            f"{', '.join(foreign)}: not what dvc.lock names; `dvc repro` makes it anew, `dvc checkout` brings it back"
        )
    return sync(root, params, tags=tags, candidates=candidates)
