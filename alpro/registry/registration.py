"""Registers the checkpoints of a pipeline state as model versions, with their origin as tags."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Collection, Mapping
from contextlib import suppress
from hashlib import sha256 as digest_of
from pathlib import Path
from typing import TYPE_CHECKING

from alpro import lineage
from alpro.checkpoints.layout import WEIGHTS
from alpro.files.atomic import sha256
from alpro.registry import card
from alpro.registry import versions as tag
from alpro.registry.versions import CHECKPOINT, DVC, Checkpoint, checkpoints, find_version, label, training_of
from alpro.tracking.state import data_deps
from alpro.tracking.store import TrackingStore, store_folder

if TYPE_CHECKING:
    from mlflow.entities import Run
    from mlflow.entities.model_registry import ModelVersion

    from alpro.tracking.state import PipelineState

MAX_TAG_CHARS = 4000  # MLflow allows 5000


def origin_tags(flow: str | None, experiment: str | None) -> dict[str, str]:
    """Return the tags for the Prefect run and the DVC experiment that produced a state."""
    return {key: name for key, name in ((tag.FLOW, flow), (tag.EXPERIMENT, experiment)) if name}


def register_checkpoints(
    store: TrackingStore,
    state: PipelineState,
    stage_runs: Mapping[str, Run],
    tags: Mapping[str, str] | None = None,
    candidates: Collection[str] | None = None,
    versions: dict[str, str] | None = None,
) -> list[str]:
    """Register new checkpoints and move `candidate`; return the new versions, for example `alpro-msvd_qa/2`.

    stage_runs: run of each stage; a checkpoint without one is registered without a run.
    tags: further tags, such as the flow that produced the state; tags that a version already has are kept.
    candidates: tasks whose `candidate` moves and whose versions get `tags`; None means all. Checkpoints of other tasks may
    be on disk only because they were checked out.
    versions: gets the number of the version of each fine-tuned checkpoint, by task.
    """
    new = []
    for checkpoint in checkpoints(state):
        digest = checkpoint.digest()
        selected = candidates is None or not checkpoint.finetuned or checkpoint.task in candidates
        fixed = {**_fixed_tags(store, state, checkpoint, digest), **(tags or {} if selected else {})}
        state_tags = _state_tags(state, checkpoint)
        version = find_version(store, checkpoint.model, CHECKPOINT, digest)
        if version is None:
            version = _register(store, state, checkpoint, {**fixed, **state_tags}, stage_runs.get(checkpoint.stage))
            new.append(label(version))
        else:
            _complete(store, version, fixed, state_tags)
        figures = json.dumps(card.headline_figures(state, checkpoint, fixed[tag.SHA256]))
        if version.tags.get(tag.METRICS, "{}") != figures:
            store.client.set_model_version_tag(version.name, version.version, tag.METRICS, figures)
        description = card.describe_version(state, checkpoint, {**version.tags, **fixed})
        if version.description != description:
            store.client.update_model_version(version.name, version.version, description)
        if checkpoint.finetuned and selected and tag.CANDIDATE not in version.aliases:
            store.client.set_registered_model_alias(version.name, tag.CANDIDATE, version.version)
        if checkpoint.finetuned and versions is not None:
            versions[checkpoint.task] = str(version.version)
    return new


def _register(
    store: TrackingStore, state: PipelineState, checkpoint: Checkpoint, tags: dict[str, str], run: Run | None
) -> ModelVersion:
    """Pack the checkpoint as an MLflow model of the run that trained it, and create a version of it.

    The version is created last, with its tags; a kill before that leaves only an unused model, and a failed upload nothing.
    """
    from mlflow.entities import LoggedModelOutput
    from mlflow.exceptions import MlflowException
    from mlflow.models import Model

    from alpro.registry import package

    client = store.client
    run_id = run.data.tags.get("alpro.origin", run.info.run_id) if run else None
    model_tags = {CHECKPOINT: tags[CHECKPOINT]}
    model = client.create_logged_model(store.experiment, name=checkpoint.model, source_run_id=run_id, tags=model_tags)
    metadata = Model(artifact_path=model.artifact_location, run_id=run_id, model_uuid=model.model_id, model_id=model.model_id)
    with tempfile.TemporaryDirectory(dir=store_folder(state.root), prefix=".pack.") as temporary:
        packed, training = Path(temporary) / "model", training_of(checkpoint, state.params)
        package.save(
            checkpoint.folder,
            packed,
            frames=training.eval_frames,
            max_text_tokens=training.max_text_tokens,
            registered=checkpoint.model,
            model=metadata,
        )
        try:
            client.log_model_artifacts(model.model_id, str(packed))
        except Exception:
            with suppress(Exception):  # the first error is the one to report
                client.delete_logged_model(model.model_id)
            raise
    client.finalize_logged_model(model.model_id, "READY")
    if run_id:
        client.log_outputs(run_id, [LoggedModelOutput(model.model_id, step=0)])
    try:
        client.get_registered_model(checkpoint.model)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        try:
            client.create_registered_model(checkpoint.model, description=card.describe_model(checkpoint))
        except MlflowException as another:  # a program on another machine created it first
            if another.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
    return client.create_model_version(
        checkpoint.model, f"models:/{model.model_id}", run_id=run_id, tags=tags, model_id=model.model_id, await_creation_for=60
    )


def _complete(store: TrackingStore, version: ModelVersion, fixed: Mapping[str, str], state_tags: Mapping[str, str]) -> None:
    """Add the tags that were unknown at registration. The state's tags are updated until its commit is clean and validated."""
    settled = version.tags.get(tag.CLEAN) == "yes" and version.tags.get(tag.VALIDATION) == tag.PASSED
    changes = {key: value for key, value in fixed.items() if key not in version.tags}
    if not settled and DVC in {**version.tags, **fixed}:
        changes |= {key: value for key, value in state_tags.items() if version.tags.get(key) != value}
    for key, value in changes.items():
        store.client.set_model_version_tag(version.name, version.version, key, value)


def locked_stage(state: PipelineState, checkpoint: Checkpoint) -> lineage.LockedStage | None:
    """Return the stage that wrote the checkpoint if dvc.lock has exactly these files, else None."""
    stage = lineage.stage_of(checkpoint.path, state.stages)
    out = stage.outs.get(checkpoint.path) if stage else None
    return stage if out and out.hash == lineage.dvc_hash(checkpoint.folder) else None


def _fixed_tags(store: TrackingStore, state: PipelineState, checkpoint: Checkpoint, digest: str) -> dict[str, str]:
    """Return the tags that never change for a checkpoint."""
    tags = {
        CHECKPOINT: digest,
        tag.SHA256: sha256(checkpoint.folder / WEIGHTS),
        tag.STAGE: checkpoint.stage,
        "alpro.recipe": state.params.recipe,
    }
    stage = locked_stage(state, checkpoint)
    if stage:
        data = {path: dep.hash for path, dep in sorted(data_deps(state, stage).items())}
        params = json.dumps(stage.params, sort_keys=True, default=str)
        tags |= {
            DVC: stage.outs[checkpoint.path].hash,
            tag.DATA: json.dumps(data)[:MAX_TAG_CHARS],
            tag.PARAMS: digest_of(params.encode()).hexdigest(),
            **_ancestry(store, state, checkpoint, stage),
        }
    return tags


def _state_tags(state: PipelineState, checkpoint: Checkpoint) -> dict[str, str]:
    """Return the tags that describe the pipeline state in which a checkpoint is registered."""
    tags = {
        tag.CLEAN: "yes" if state.git.clean else "no",
        tag.COMMIT: state.git.commit,
        tag.BRANCH: state.git.branch,
        tag.CHANGED: ", ".join(state.git.changed)[:MAX_TAG_CHARS],
        tag.LOCK: lineage.locks_digest(state.root),
        tag.VALIDATION: _validation(state, checkpoint),
    }
    return {key: value for key, value in tags.items() if value is not None}


def _validation(state: PipelineState, checkpoint: Checkpoint) -> str:
    """Return `passed` if the validation of all training data passed and is the one in dvc.lock, else the problems."""
    corpora = {"prompter": state.params.prompter.corpora, "pretrain": state.params.pretrain.corpora}
    folder = f"models/{state.params.recipe}/validated"
    names = [f"{folder}/corpora/{name}.json" for name in corpora.get(checkpoint.stage, ())]
    problems = []
    for path in names or [f"{folder}/{checkpoint.task}.json"]:
        stage = lineage.stage_of(path, state.stages)
        if not (state.root / path).is_file():
            problems.append(f"{Path(path).stem} did not pass")
        elif stage is None or not lineage.matches_lock(state.root, path, stage):
            problems.append(f"{Path(path).stem} passed, but its result differs from dvc.lock")
    return ", ".join(problems) or tag.PASSED


def _ancestry(store: TrackingStore, state: PipelineState, checkpoint: Checkpoint, stage: lineage.LockedStage) -> dict[str, str]:
    """Return the tags for what the training started from, according to dvc.lock: registered versions and other checkpoints."""
    init = state.params.init
    starts = {"prompter": [init.prompter], "pretrain": [init.pretrain, init.teacher]}.get(checkpoint.stage, [init.finetune])
    parents, others = [], []
    for path in starts:
        dep = stage.deps.get(path)
        if dep:
            matches = (find_version(store, model, DVC, dep.hash) for model in ("alpro-pretrain", "alpro-prompter"))
            version = next(filter(None, matches), None)
            if version:
                parents.append(label(version))
            else:
                others.append(f"{path} {dep.hash}")
    return {key: ", ".join(values) for key, values in ((tag.PARENT_VERSIONS, parents), (tag.START, others)) if values}
