"""The checkpoints of a pipeline state as registered models: alpro-prompter, alpro-pretrain, alpro-<task>.

One version stands for one content: registering again finds it. A version says which checkpoint it is (hashes), which
version it was trained from, and which run made it; the fine-tuned ones carry the alias `candidate`.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from alpro import lineage
from alpro.config import Params, Training
from alpro.files import sha256
from alpro.preflight import made_by_pipeline
from alpro.tracking.store import Store, folder

if TYPE_CHECKING:
    from mlflow.entities import Run
    from mlflow.entities.model_registry import ModelVersion

    from alpro.tracking.sync import State

CANDIDATE = "candidate"
CHECKPOINT = "alpro.checkpoint"  # digest of all files of the checkpoint: what a version is known by
DVC = "alpro.dvc.hash"
PARENT = "alpro.parent"  # the versions that the training started from, as `alpro-pretrain/3`
START = "alpro.start"  # checkpoints it started from that are no registered version, with DVC's hash
WEIGHTS = "model.safetensors"
FILES = (WEIGHTS, "config.json")


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that the pipeline makes. `stage` is prompter, pretrain or finetune/<task>."""

    stage: str
    path: str
    folder: Path

    @property
    def model(self) -> str:
        """Name of the registered model."""
        return f"alpro-{self.task}"

    @property
    def task(self) -> str:
        """The down-stream data set, else the stage."""
        return self.stage.split("/")[-1]

    @property
    def finetuned(self) -> bool:
        """Whether it is of a down-stream task, and so may be promoted."""
        return self.stage.startswith("finetune/")

    def digest(self) -> str:
        """Digest over names and contents of all its files."""
        files = sorted(file for file in self.folder.rglob("*") if file.is_file())
        lines = [f"{sha256(file)}  {file.relative_to(self.folder).as_posix()}" for file in files]
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def checkpoints(state: State) -> list[Checkpoint]:
    """The checkpoints on disk that the pipeline makes, each after those that it can have started from."""
    prefix = f"models/{state.params.recipe}/"
    made = {path.removeprefix(prefix) for path in made_by_pipeline(state.params)}
    order = [*(stage for stage in ("prompter", "pretrain") if stage in made), *sorted(made - {"prompter", "pretrain"})]
    found = [Checkpoint(stage, prefix + stage, state.root / prefix / stage) for stage in order]
    return [checkpoint for checkpoint in found if all((checkpoint.folder / name).is_file() for name in FILES)]


def training_of(checkpoint: Checkpoint, params: Params) -> Training:
    """The parameters of the training that makes a checkpoint."""
    return {"prompter": params.prompter, "pretrain": params.pretrain}.get(checkpoint.stage) or params.finetune[checkpoint.task]


def register_checkpoints(store: Store, state: State, stage_runs: Mapping[str, Run]) -> list[str]:
    """Register what is not registered yet and move `candidate`; returns the new versions as `alpro-msvd_qa/2`.

    `stage_runs`: the run of each stage by name; a checkpoint whose stage left no run is registered without one.
    """
    new = []
    for checkpoint in checkpoints(state):
        digest = checkpoint.digest()
        version = find_version(store, checkpoint.model, CHECKPOINT, digest)
        if version is None:
            version = _register(store, state, checkpoint, digest, stage_runs.get(checkpoint.stage))
            new.append(f"{version.name}/{version.version}")
        else:
            _complete(store, version, _tags(store, state, checkpoint, digest))
        if checkpoint.finetuned and CANDIDATE not in version.aliases:
            store.client.set_registered_model_alias(version.name, CANDIDATE, version.version)
    return new


def find_version(store: Store, model: str, tag: str, value: str) -> ModelVersion | None:
    """The newest ready version of a model with this tag."""
    found = store.client.search_model_versions(f"name = '{model}' and tags.`{tag}` = '{value}'", max_results=200)
    ready = [version for version in found if version.status == "READY"]
    newest = max(ready, key=lambda version: int(version.version), default=None)
    return store.client.get_model_version(model, newest.version) if newest else None  # a search leaves out the aliases


def _register(store: Store, state: State, checkpoint: Checkpoint, digest: str, run: Run | None) -> ModelVersion:
    """Pack the checkpoint as a model that can be loaded, as one of the run that made it, and make a version of it.

    The version appears last, with its tags: a kill before that leaves a model that nothing refers to.
    """
    from mlflow.entities import LoggedModelOutput
    from mlflow.exceptions import MlflowException
    from mlflow.models import Model

    from alpro.serving import package

    client = store.client
    run_id = run.data.tags.get("alpro.origin", run.info.run_id) if run else None
    model = client.create_logged_model(store.experiment, name=checkpoint.model, source_run_id=run_id, tags={CHECKPOINT: digest})
    described = Model(artifact_path=model.artifact_location, run_id=run_id, model_uuid=model.model_id, model_id=model.model_id)
    with tempfile.TemporaryDirectory(dir=folder(state.root), prefix=".pack.") as aside:
        made, views = Path(aside) / "model", training_of(checkpoint, state.params)
        package.save(checkpoint.folder, made, frames=views.eval_frames, max_text_tokens=views.max_text_tokens, model=described)
        client.log_model_artifacts(model.model_id, str(made))
    client.finalize_logged_model(model.model_id, "READY")
    if run_id:
        client.log_outputs(run_id, [LoggedModelOutput(model.model_id, step=0)])
    try:
        client.get_registered_model(checkpoint.model)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        client.create_registered_model(checkpoint.model, description=_about(checkpoint))
    tags = _tags(store, state, checkpoint, digest)
    return client.create_model_version(
        checkpoint.model, f"models:/{model.model_id}", run_id=run_id, tags=tags, model_id=model.model_id, await_creation_for=60
    )


def _complete(store: Store, version: ModelVersion, tags: Mapping[str, str]) -> None:
    """Add the tags that were not known when the version was made; those that were are left as they are."""
    for key, value in tags.items():
        if key not in version.tags:
            store.client.set_model_version_tag(version.name, version.version, key, value)


def _tags(store: Store, state: State, checkpoint: Checkpoint, digest: str) -> dict[str, str]:
    tags = {
        CHECKPOINT: digest,
        "alpro.sha256": sha256(checkpoint.folder / WEIGHTS),
        "alpro.stage": checkpoint.stage,
        "alpro.recipe": state.params.recipe,
    }
    locked = lineage.stage_of(checkpoint.path, state.stages)
    out = locked.outs.get(checkpoint.path) if locked else None
    if locked and out and out.hash == lineage.dvc_hash(checkpoint.folder):  # else the lock speaks of another checkpoint
        tags |= {DVC: out.hash, **_ancestry(store, state, checkpoint, locked)}
    return tags


def _ancestry(store: Store, state: State, checkpoint: Checkpoint, locked: lineage.LockedStage) -> dict[str, str]:
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
    return {key: ", ".join(values) for key, values in ((PARENT, parents), (START, others)) if values}


def _about(checkpoint: Checkpoint) -> str:
    kind = {
        "prompter": "The prompter: gives video crops their entity labels in pre-training.",
        "pretrain": "The pre-trained video-language model.",
    }
    return kind.get(checkpoint.stage, f"Fine-tuned for {checkpoint.task}.") + " ALPRO, arXiv 2112.09583."
