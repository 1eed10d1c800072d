"""Evaluates the packed files of a registered version, for the promotion gate."""

from __future__ import annotations

import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

import yaml

from alpro.checkpoints.layout import CONFIG
from alpro.config import Params
from alpro.errors import LaunchError, TrackingError
from alpro.files.json_files import read_json_object
from alpro.registry.versions import label
from alpro.tracking.store import TrackingStore

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion


@dataclass(frozen=True, slots=True)
class PackedModel:
    """Checkpoint of a version, with its frame sampling and its text length in tokens."""

    checkpoint: Path
    frames: str
    max_text_tokens: int


def evaluate_packed(params: Params, task: str, packed: PackedModel, record: Path) -> None:
    """Evaluate a version like the stage `evaluate@TASK`, on as many processes, but without the ablations.

    Data, split and ranking come from params.yaml, frames and text length from the model. Raises TrackingError.
    """
    from alpro.evaluation.run import run_evaluation
    from alpro.launch.run import in_this_process, run_world, set_threads

    config = packed.checkpoint / CONFIG
    frames = read_json_object(config, TrackingError, "register the model again").get("num_frames")
    if not isinstance(frames, int):
        raise TrackingError(f"{config}: no valid num_frames; register the model again")
    viewing = {"num_frames": frames, "eval_frames": packed.frames, "max_text_tokens": packed.max_text_tokens}
    training = params.finetune[task].model_copy(update=viewing)
    model_params = params.model_copy(update={"finetune": {**params.finetune, task: training}})
    if in_this_process(params.launch):
        set_threads(params.launch.threads)
        run_evaluation(model_params, task, checkpoint=str(packed.checkpoint), record=record, modes=("full",))
        return
    with tempfile.TemporaryDirectory(dir=record.parent) as temporary:
        file = Path(temporary) / "params.yaml"
        file.write_text(yaml.safe_dump(model_params.model_dump(mode="json")), encoding="utf-8")
        options = ["--task", task, "--checkpoint", str(packed.checkpoint), "--record", str(record), "--params", str(file)]
        try:
            run_world(params.launch, [sys.executable, "-m", "alpro", "evaluate", *options, "--no-ablations"])
        except LaunchError as error:
            raise TrackingError(f"the evaluation of {packed.checkpoint} failed: {error}") from None


def unpack(store: TrackingStore, version: ModelVersion, folder: Path) -> PackedModel:
    """Download a version's checkpoint, without its code, into a new folder. Raises TrackingError if it has none."""
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    folder.mkdir(parents=True)
    uri = store.client.get_model_version_download_uri(version.name, version.version)
    files = get_artifact_repository(uri, tracking_uri=store.uri)

    def download(path: str) -> Path:
        return Path(files.download_artifacts(path, str(folder)))

    try:
        if "MLmodel" not in {file.path for file in files.list_artifacts()}:
            raise ValueError("there is no MLmodel")
        flavour = yaml.safe_load(download("MLmodel").read_text(encoding="utf-8"))["flavors"]["python_function"]
        path, config = PurePosixPath(flavour["artifacts"]["checkpoint"]["path"]), flavour["config"]
        if path.is_absolute() or ".." in path.parts:
            raise ValueError(f"the checkpoint's path {path} leads out of them")
        if not files.list_artifacts(str(path)):
            raise ValueError(f"there is no {path}")
        return PackedModel(download(str(path)), config["frames"], config["max_text_tokens"])
    except (OSError, KeyError, TypeError, ValueError, yaml.YAMLError) as error:
        raise TrackingError(f"{label(version)}: its files are not a packed checkpoint ({error!r})") from None
