"""A checkpoint as an MLflow model: loadable with `mlflow.pyfunc.load_model` wherever its requirements are installed."""

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
EXAMPLES = {"caption": "a red circle moves to the left", "question": "what moves to the left?"}


def save(
    checkpoint: Path,
    into: Path,
    *,
    frames: str,
    max_text_tokens: int,
    registered: str | None = None,
    model: Model | None = None,
) -> None:
    """Write the MLflow model of a checkpoint directory into a new folder: files, code, signature, example, requirements.

    frames, max_text_tokens: how the evaluation looks at clips and texts; registered: the model that it becomes a version of,
    so that a champion that was made by hand says so when it is loaded. Nothing is loaded but config.json; raises
    CheckpointError where that names no task.
    """
    import mlflow
    import pandas

    task = _task(checkpoint / "config.json")
    column = TEXT_COLUMN[task]
    mlflow.pyfunc.save_model(
        path=str(into),
        python_model=str(Path(__file__).with_name("pyfunc_model.py")),
        artifacts={"checkpoint": str(checkpoint)},
        code_paths=[str(Path(alpro.__file__).parent)],
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
        raise CheckpointError(f"{config}: names no task ({error!r})") from None
    if task not in TEXT_COLUMN:
        raise CheckpointError(f"{config}: its task {task!r} is none of {', '.join(TEXT_COLUMN)}")
    return task


def signature(task: str) -> ModelSignature:
    """The columns that a model of this task takes and gives."""
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, DataType, Schema
    from mlflow.types.schema import Array

    given = Schema([ColSpec("string", "video"), ColSpec("string", TEXT_COLUMN[task])])
    if task == "qa":
        answers = [ColSpec("string", "answer"), ColSpec("double", "probability")]
        tops = [ColSpec(Array(DataType.string), "top_answers"), ColSpec(Array(DataType.double), "top_probabilities")]
        return ModelSignature(given, Schema([*answers, *tops]))
    names = ["similarity"] if task == "prompter" else ["score", "similarity"]
    return ModelSignature(given, Schema([ColSpec("double", name) for name in names]))


def requirements() -> list[str]:
    """What the model needs, at the versions that are installed here; a local part (`+cpu`) names no public release."""
    return [f"{name}=={metadata.version(name).split('+')[0]}" for name in REQUIREMENTS]
