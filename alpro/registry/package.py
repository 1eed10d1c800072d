"""Packs a checkpoint as an MLflow model, to be loaded with `mlflow.pyfunc.load_model`."""

from __future__ import annotations

import json
import shutil
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

import alpro
from alpro.errors import CheckpointError
from alpro.serving.service import TEXT_COLUMN

if TYPE_CHECKING:
    from mlflow.models import Model, ModelSignature

REQUIREMENTS = (
    "mlflow", "torch", "torchvision", "timm", "transformers", "tokenizers", "safetensors", "decord", "av",
    "numpy", "pandas", "pillow", "psutil", "pydantic", "pyyaml",
)  # fmt: skip
CODE = Path(alpro.__file__).parent
EXAMPLES = {"caption": "a red ball moves to the left", "question": "what moves to the left?"}


def save(
    checkpoint: Path,
    into: Path,
    *,
    frames: str,
    max_text_tokens: int,
    registered: str | None = None,
    model: Model | None = None,
) -> None:
    """Write the MLflow model of a checkpoint into a new folder: files, code, signature, example, requirements.

    frames, max_text_tokens: frame sampling and text length of the evaluation; registered: name of the registered model, by
    which a loaded champion can check its alias. Of the checkpoint only config.json is read. Raises CheckpointError if it
    names no task.
    """
    import mlflow
    import pandas

    from alpro.tracking.store import artifact_location

    task = _task(checkpoint / "config.json")
    column = TEXT_COLUMN[task]
    mlflow.pyfunc.save_model(
        path=str(into),
        python_model=str(Path(__file__).with_name("pyfunc_model.py")),
        artifacts={"checkpoint": artifact_location(checkpoint.absolute())},
        code_paths=[str(CODE)],
        signature=signature(task),
        input_example=pandas.DataFrame({"video": ["video0.mp4"], column: [EXAMPLES[column]]}),
        pip_requirements=requirements(),
        model_config={"frames": frames, "max_text_tokens": max_text_tokens, "media_root": None, "registered": registered},
        mlflow_model=model,
    )
    for cache in [*into.rglob("__pycache__")]:
        shutil.rmtree(cache)


def _task(config: Path) -> str:
    try:
        task = json.loads(config.read_text(encoding="utf-8"))["task"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{config}: no valid `task` ({error!r})") from None
    if task not in TEXT_COLUMN:
        raise CheckpointError(f"{config}: task {task!r} is unknown; expected one of {', '.join(TEXT_COLUMN)}")
    return task


def signature(task: str) -> ModelSignature:
    """Return the input and output columns of a model of this task."""
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, DataType, Schema
    from mlflow.types.schema import Array

    inputs = Schema([ColSpec("string", "video"), ColSpec("string", TEXT_COLUMN[task])])
    if task == "qa":
        answers = [ColSpec("string", "answer"), ColSpec("double", "probability")]
        tops = [ColSpec(Array(DataType.string), "top_answers"), ColSpec(Array(DataType.double), "top_probabilities")]
        return ModelSignature(inputs, Schema([*answers, *tops]))
    names = ["similarity"] if task == "prompter" else ["score", "similarity"]
    return ModelSignature(inputs, Schema([ColSpec("double", name) for name in names]))


def requirements() -> list[str]:
    """Return the pip requirements with the installed versions, without local suffixes such as `+cpu`."""
    return [f"{name}=={metadata.version(name).split('+')[0]}" for name in REQUIREMENTS]
