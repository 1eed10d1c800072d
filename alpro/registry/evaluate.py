"""alpro/registry/evaluate.py: NEW MODULE."""

from __future__ import annotations

import json
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from alpro.config import Params
from alpro.errors import LaunchError, TrackingError
from alpro.tracking.store import TrackingStore

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion

from alpro.registry.versions import label


@dataclass(frozen=True, slots=True)
class Packed:
    """A version's files, and how its evaluation looks at clips and texts."""

    checkpoint: Path
    frames: str
    max_text_tokens: int


def evaluate_packed(params: Params, task: str, packed: Packed, record: Path) -> None:
    """Evaluate a version's files as `evaluate@TASK` does, on as many processes, without the ablations.

    Data, split and ranking are params.yaml's; frames and text length are the model's own. Raises TrackingError.
    """
    from alpro.evaluation.run import LOOKS, run_evaluation
    from alpro.launch.run import in_this_process, run_world, set_threads

    frames = json.loads((packed.checkpoint / "config.json").read_text(encoding="utf-8"))["num_frames"]
    own = {"num_frames": frames, "eval_frames": packed.frames, "max_text_tokens": packed.max_text_tokens}
    training = params.finetune[task].model_copy(update=own)
    given = params.model_copy(update={"finetune": {**params.finetune, task: training}})
    if in_this_process(params.launch):
        set_threads(params.launch.threads)
        run_evaluation(given, task, checkpoint=str(packed.checkpoint), record=record, looks=LOOKS[:1])
        return
    with tempfile.TemporaryDirectory(dir=record.parent) as aside:
        file = Path(aside) / "params.yaml"
        file.write_text(yaml.safe_dump(given.model_dump(mode="json")), encoding="utf-8")
        words = ["--task", task, "--checkpoint", str(packed.checkpoint), "--record", str(record), "--params", str(file)]
        try:
            run_world(params.launch, [sys.executable, "-m", "alpro", "evaluate", *words, "--no-ablations"])
        except LaunchError as error:
            raise TrackingError(f"the evaluation of {packed.checkpoint} failed: {error}") from None


def unpack(store: TrackingStore, version: ModelVersion, into: Path) -> Packed:
    """Bring a version's files out of the store. Raises TrackingError where they are no packed checkpoint."""
    import mlflow

    into.mkdir(parents=True)
    uri = store.client.get_model_version_download_uri(version.name, version.version)
    place = Path(mlflow.artifacts.download_artifacts(artifact_uri=uri, dst_path=str(into), tracking_uri=store.uri))
    try:
        flavour = yaml.safe_load((place / "MLmodel").read_text(encoding="utf-8"))["flavors"]["python_function"]
        checkpoint, config = place / flavour["artifacts"]["checkpoint"]["path"], flavour["config"]
        return Packed(checkpoint, config["frames"], config["max_text_tokens"])
    except (OSError, KeyError, TypeError, yaml.YAMLError) as error:
        raise TrackingError(f"{label(version)}: is no packed checkpoint ({error!r})") from None
