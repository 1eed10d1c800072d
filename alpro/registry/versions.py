"""Checkpoints of the pipeline and their registered versions: names, tags, and how to find them."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from alpro.checkpoints.layout import CONFIG, WEIGHTS
from alpro.config import Params, Training
from alpro.config.pipeline import pipeline_outputs
from alpro.errors import TrackingError
from alpro.files.atomic import sha256
from alpro.files.outputs import MANIFEST
from alpro.tracking import runs
from alpro.tracking.store import TrackingStore

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion

    from alpro.tracking.state import PipelineState

CANDIDATE, CHAMPION, PREVIOUS = "candidate", "champion", "previous"
CHECKPOINT_FILES = (WEIGHTS, CONFIG)

# tags that never change for a checkpoint
CHECKPOINT = "alpro.checkpoint"  # digest of all its files, which identifies a version
SHA256 = "alpro.sha256"  # of its weights
STAGE = runs.STAGE  # prompter, pretrain or finetune/<task>
DVC = "alpro.dvc.hash"  # hash of the checkpoint in dvc.lock, if dvc.lock contains it
PARENT_VERSIONS = "alpro.parent"  # registered versions that the training started from, for example `alpro-pretrain/3`
START = "alpro.start"  # other checkpoints that the training started from, with DVC's hash
DATA = "alpro.data"  # JSON: the data that the training read, with DVC's hashes
PARAMS = "alpro.params"  # digest of the training's parameters in dvc.lock

# tags of the pipeline state; they are updated until a commit contains the state
COMMIT = "alpro.git.commit"
CLEAN = "alpro.git.clean"  # yes if that commit contains code, pipeline, parameters and lock file
BRANCH = "alpro.git.branch"  # branch or experiment
CHANGED = "alpro.git.changed"  # paths that differ from the commit
LOCK = "alpro.lock"  # digest of the lock files
METRICS = "alpro.metrics"  # JSON: name -> value and limits of its 95 % interval, of the evaluation of these weights
VALIDATION = "alpro.validation"  # `passed`, or a description of the validation problems
PASSED = "passed"

# tags of the run that produced the checkpoint; they never change
FLOW = "alpro.flow"  # Prefect's run
EXPERIMENT = "alpro.experiment"  # DVC's experiment

MODEL_URI = re.compile(r"^models:/(?P<model>[^/@]+)(?:@(?P<alias>[^/@]+)|/(?P<version>\d+))$")


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint of the pipeline. `stage` is prompter, pretrain or finetune/<task>."""

    stage: str
    path: str
    folder: Path

    @property
    def model(self) -> str:
        """Name of the registered model."""
        return f"alpro-{self.task}"

    @property
    def task(self) -> str:
        """Downstream dataset, or the stage itself for prompter and pretrain."""
        return self.stage.split("/")[-1]

    @property
    def finetuned(self) -> bool:
        """True for a downstream task; only these can be promoted."""
        return self.stage.startswith("finetune/")

    def digest(self) -> str:
        """Return a SHA-256 over names and contents of all its files."""
        files = sorted(file for file in self.folder.rglob("*") if file.is_file() and file.name != MANIFEST)
        lines = [f"{sha256(file)}  {file.relative_to(self.folder).as_posix()}" for file in files]
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def checkpoints(state: PipelineState) -> list[Checkpoint]:
    """Return the pipeline's checkpoints on disk, ordered so that each comes after those it may be trained from."""
    prefix = f"models/{state.params.recipe}/"
    stages = {path.removeprefix(prefix) for path in pipeline_outputs(state.params)}
    order = [*(stage for stage in ("prompter", "pretrain") if stage in stages), *sorted(stages - {"prompter", "pretrain"})]
    expected = [Checkpoint(stage, prefix + stage, state.root / prefix / stage) for stage in order]
    return [checkpoint for checkpoint in expected if all((checkpoint.folder / name).is_file() for name in CHECKPOINT_FILES)]


def training_of(checkpoint: Checkpoint, params: Params) -> Training:
    """Return the parameters of the training that produces a checkpoint."""
    return {"prompter": params.prompter, "pretrain": params.pretrain}.get(checkpoint.stage) or params.finetune[checkpoint.task]


def find_version(store: TrackingStore, model: str, tag: str, value: str) -> ModelVersion | None:
    """Return the newest ready version of a model with this tag, or None."""
    versions = store.client.search_model_versions(f"name = '{model}' and tags.`{tag}` = '{value}'", max_results=200)
    ready = [version for version in versions if version.status == "READY"]
    newest = max(ready, key=lambda version: int(version.version), default=None)
    return store.client.get_model_version(model, newest.version) if newest else None  # a search returns no aliases


def find(store: TrackingStore, uri: str) -> ModelVersion:
    """Return the version of `models:/NAME@ALIAS` or `models:/NAME/NUMBER`. Raises TrackingError if there is none."""
    from mlflow.exceptions import MlflowException

    match = MODEL_URI.match(uri)
    if match is None:
        raise TrackingError(f"{uri!r}: not a model; write models:/alpro-TASK@champion or models:/alpro-TASK/NUMBER")
    try:
        if match["alias"]:
            return store.client.get_model_version_by_alias(match["model"], match["alias"])
        return store.client.get_model_version(match["model"], match["version"])
    except MlflowException as error:
        if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            raise
        raise TrackingError(f"{uri}: no such version; run `alpro track status` to list the versions of this checkout") from None


def label(version: ModelVersion) -> str:
    """Return the name of a version in messages: `alpro-msvd_qa/3`."""
    return f"{version.name}/{version.version}"
