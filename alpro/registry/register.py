"""Registers the checkpoints of a pipeline state, each version with where it comes from."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Collection, Mapping
from hashlib import sha256 as digest_of
from pathlib import Path
from typing import TYPE_CHECKING

from alpro import lineage
from alpro.files.atomic import sha256
from alpro.registry import card
from alpro.registry import versions as tag
from alpro.registry.versions import CHECKPOINT, DVC, WEIGHTS, Checkpoint, checkpoints, find_version, training_of
from alpro.tracking.store import TrackingStore, store_folder

if TYPE_CHECKING:
    from mlflow.entities import Run
    from mlflow.entities.model_registry import ModelVersion

    from alpro.tracking.state import State

LONGEST = 4000  # characters of a tag: MLflow takes 5000


def made_by(flow: str | None, experiment: str | None) -> dict[str, str]:
    """The tags that name the run that made a state: Prefect's run, DVC's experiment."""
    return {key: name for key, name in ((tag.FLOW, flow), (tag.EXPERIMENT, experiment)) if name}


def register_checkpoints(
    store: TrackingStore,
    state: State,
    stage_runs: Mapping[str, Run],
    about: Mapping[str, str] | None = None,
    candidates: Collection[str] | None = None,
) -> list[str]:
    """Register what is not registered yet and move `candidate`; returns the new versions as `alpro-msvd_qa/2`.

    `stage_runs`: the run of each stage by name; a checkpoint whose stage left no run is registered without one.
    `about`: more tags, as the flow that made the state; a version keeps those that it has.
    `candidates`: the tasks whose `candidate` moves, and that `about` is about; None: all. Checkpoints of other tasks may lie
    there only because they were checked out.
    """
    new = []
    for checkpoint in checkpoints(state):
        digest = checkpoint.digest()
        meant = candidates is None or not checkpoint.finetuned or checkpoint.task in candidates
        own = {**_own_tags(store, state, checkpoint, digest), **(about or {} if meant else {})}
        around = _state_tags(state, checkpoint)
        version = find_version(store, checkpoint.model, CHECKPOINT, digest)
        if version is None:
            version = _register(store, state, checkpoint, {**own, **around}, stage_runs.get(checkpoint.stage))
            new.append(f"{version.name}/{version.version}")
        else:
            _complete(store, version, own, around)
        described = card.of_version(state, checkpoint, {**version.tags, **own})
        if version.description != described:
            store.client.update_model_version(version.name, version.version, described)
        if checkpoint.finetuned and meant and tag.CANDIDATE not in version.aliases:
            store.client.set_registered_model_alias(version.name, tag.CANDIDATE, version.version)
    return new


def _register(
    store: TrackingStore, state: State, checkpoint: Checkpoint, tags: dict[str, str], run: Run | None
) -> ModelVersion:
    """Pack the checkpoint as a model that can be loaded, as one of the run that made it, and make a version of it.

    The version appears last, with its tags: a kill before that leaves a model that nothing refers to.
    """
    from mlflow.entities import LoggedModelOutput
    from mlflow.exceptions import MlflowException
    from mlflow.models import Model

    from alpro.registry import package

    client = store.client
    run_id = run.data.tags.get("alpro.origin", run.info.run_id) if run else None
    known = {CHECKPOINT: tags[CHECKPOINT]}
    model = client.create_logged_model(store.experiment, name=checkpoint.model, source_run_id=run_id, tags=known)
    described = Model(artifact_path=model.artifact_location, run_id=run_id, model_uuid=model.model_id, model_id=model.model_id)
    with tempfile.TemporaryDirectory(dir=store_folder(state.root), prefix=".pack.") as aside:
        made, views = Path(aside) / "model", training_of(checkpoint, state.params)
        package.save(
            checkpoint.folder,
            made,
            frames=views.eval_frames,
            max_text_tokens=views.max_text_tokens,
            registered=checkpoint.model,
            model=described,
        )
        client.log_model_artifacts(model.model_id, str(made))
    client.finalize_logged_model(model.model_id, "READY")
    if run_id:
        client.log_outputs(run_id, [LoggedModelOutput(model.model_id, step=0)])
    try:
        client.get_registered_model(checkpoint.model)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        client.create_registered_model(checkpoint.model, description=card.of_model(checkpoint))
    return client.create_model_version(
        checkpoint.model, f"models:/{model.model_id}", run_id=run_id, tags=tags, model_id=model.model_id, await_creation_for=60
    )


def _complete(store: TrackingStore, version: ModelVersion, own: Mapping[str, str], around: Mapping[str, str]) -> None:
    """Add what was not known when the version was made. Its state follows, until it is one that a commit holds."""
    settled = version.tags.get(tag.CLEAN) == "yes" and version.tags.get(tag.VALIDATION) == tag.PASSED
    wanted = {key: value for key, value in own.items() if key not in version.tags}
    if not settled and DVC in {**version.tags, **own}:
        wanted |= {key: value for key, value in around.items() if version.tags.get(key) != value}
    for key, value in wanted.items():
        store.client.set_model_version_tag(version.name, version.version, key, value)


def is_locked(state: State, checkpoint: Checkpoint) -> lineage.LockedStage | None:
    """The stage that made the checkpoint, where the lock knows exactly this one."""
    stage = lineage.stage_of(checkpoint.path, state.stages)
    out = stage.outs.get(checkpoint.path) if stage else None
    return stage if out and out.hash == lineage.dvc_hash(checkpoint.folder) else None


def _own_tags(store: TrackingStore, state: State, checkpoint: Checkpoint, digest: str) -> dict[str, str]:
    from alpro.tracking.state import data_deps

    tags = {
        CHECKPOINT: digest,
        tag.SHA256: sha256(checkpoint.folder / WEIGHTS),
        tag.STAGE: checkpoint.stage,
        "alpro.recipe": state.params.recipe,
    }
    locked = is_locked(state, checkpoint)
    if locked:
        data = {path: dep.hash for path, dep in sorted(data_deps(state, locked).items())}
        given = json.dumps(locked.params, sort_keys=True, default=str)
        tags |= {
            DVC: locked.outs[checkpoint.path].hash,
            tag.DATA: json.dumps(data)[:LONGEST],
            tag.PARAMS: digest_of(given.encode()).hexdigest(),
            **_ancestry(store, state, checkpoint, locked),
        }
    return tags


def _state_tags(state: State, checkpoint: Checkpoint) -> dict[str, str]:
    around = {
        tag.CLEAN: "yes" if state.git.clean else "no",
        tag.COMMIT: state.git.commit,
        tag.BRANCH: state.git.branch,
        tag.CHANGED: ", ".join(state.git.changed)[:LONGEST],
        tag.LOCK: lineage.locks_digest(state.root),
        tag.VALIDATION: _validation(state, checkpoint),
    }
    return {key: value for key, value in around.items() if value is not None}


def _validation(state: State, checkpoint: Checkpoint) -> str:
    """`passed` where all data that the training read passed, and what the lock names; else what is wrong."""
    corpora = {"prompter": state.params.prompter.corpora, "pretrain": state.params.pretrain.corpora}
    folder = f"models/{state.params.recipe}/validated"
    names = [f"{folder}/corpora/{name}.json" for name in corpora.get(checkpoint.stage, ())]
    wrong = []
    for path in names or [f"{folder}/{checkpoint.task}.json"]:
        stage = lineage.stage_of(path, state.stages)
        if not (state.root / path).is_file():
            wrong.append(f"{Path(path).stem} did not pass")
        elif stage is None or not lineage.agrees(state.root, path, stage):
            wrong.append(f"{Path(path).stem} passed in another state than dvc.lock's")
    return ", ".join(wrong) or tag.PASSED


def _ancestry(store: TrackingStore, state: State, checkpoint: Checkpoint, locked: lineage.LockedStage) -> dict[str, str]:
    """What the training started from, as dvc.lock has it: registered versions, and other checkpoints."""
    init = state.params.init
    starts = {"prompter": [init.prompter], "pretrain": [init.pretrain, init.teacher]}.get(checkpoint.stage, [init.finetune])
    parents, others = [], []
    for path in starts:
        dep = locked.deps.get(path)
        if dep:
            found = (find_version(store, model, DVC, dep.hash) for model in ("alpro-pretrain", "alpro-prompter"))
            version = next(filter(None, found), None)
            if version:
                parents.append(f"{version.name}/{version.version}")
            else:
                others.append(f"{path} {dep.hash}")
    return {key: ", ".join(values) for key, values in ((tag.PARENT, parents), (tag.START, others)) if values}
