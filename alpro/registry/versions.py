"""Checkpoints and the versions that stand for them: their names, and what their tags say."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from alpro.config import Params, Training
from alpro.config.pipeline import made_by_pipeline
from alpro.errors import TrackingError
from alpro.files.atomic import sha256
from alpro.tracking.store import TrackingStore

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion

    from alpro.tracking.state import State

CANDIDATE, CHAMPION, PREVIOUS = "candidate", "champion", "previous"
WEIGHTS = "model.safetensors"
FILES = (WEIGHTS, "config.json")

# What never changes for a checkpoint
CHECKPOINT = "alpro.checkpoint"  # digest of all its files: what a version is known by
SHA256 = "alpro.sha256"  # of its weights
STAGE = "alpro.stage"  # prompter, pretrain or finetune/<task>
DVC = "alpro.dvc.hash"  # the hash under which dvc.lock knows it; only there where the lock does
PARENT = "alpro.parent"  # the versions that the training started from, as `alpro-pretrain/3`
START = "alpro.start"  # checkpoints it started from that are no registered version, with DVC's hash
DATA = "alpro.data"  # JSON: the data that the training read, with DVC's hashes
PARAMS = "alpro.params"  # digest of the training's parameters, as dvc.lock has them

# Of the state in which it was registered; these follow it until a commit holds the state
COMMIT = "alpro.git.commit"
CLEAN = "alpro.git.clean"  # yes where that commit holds code, pipeline, parameters and lock
BRANCH = "alpro.git.branch"  # or the experiment
CHANGED = "alpro.git.changed"  # what no commit holds
LOCK = "alpro.lock"  # digest of the locks
VALIDATION = "alpro.validation"  # passed, or what kept it from passing
PASSED = "passed"

# Of the run that made it; they stay
FLOW = "alpro.flow"  # Prefect's run
EXPERIMENT = "alpro.experiment"  # DVC's experiment


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


def find_version(store: TrackingStore, model: str, tag: str, value: str) -> ModelVersion | None:
    """The newest ready version of a model with this tag."""
    found = store.client.search_model_versions(f"name = '{model}' and tags.`{tag}` = '{value}'", max_results=200)
    ready = [version for version in found if version.status == "READY"]
    newest = max(ready, key=lambda version: int(version.version), default=None)
    return store.client.get_model_version(model, newest.version) if newest else None  # a search leaves out the aliases


FORM = re.compile(r"^models:/(?P<model>[^/@]+)(?:@(?P<alias>[^/@]+)|/(?P<version>\d+))$")


def find(store: TrackingStore, uri: str) -> ModelVersion:
    """The version that `models:/NAME@ALIAS` or `models:/NAME/NUMBER` means. Raises TrackingError where there is none."""
    from mlflow.exceptions import MlflowException

    parts = FORM.match(uri)
    if parts is None:
        raise TrackingError(f"{uri!r}: write models:/alpro-TASK@champion or models:/alpro-TASK/NUMBER")
    try:
        if parts["alias"]:
            return store.client.get_model_version_by_alias(parts["model"], parts["alias"])
        return store.client.get_model_version(parts["model"], parts["version"])
    except MlflowException as error:
        if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            raise
        raise TrackingError(f"{uri}: there is no such version; `alpro track status` shows those of this state") from None


def label(version: ModelVersion) -> str:
    """Return the name of a version in messages: `alpro-msvd_qa/3`."""
    return f"{version.name}/{version.version}"
