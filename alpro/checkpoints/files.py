"""Checkpoint files: official ones are opened safely, our own are safetensors + config.json.

Code in a file is never executed (see `foreign`).
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from alpro.checkpoints import names
from alpro.checkpoints.description import check_description, check_task
from alpro.checkpoints.foreign import State, open_weights
from alpro.checkpoints.layout import CONFIG, WEIGHTS
from alpro.errors import CheckpointError
from alpro.files.atomic import save_tensors
from alpro.files.json_files import read_json_object, write_json
from alpro.files.outputs import new_dir
from alpro.models.encoders import PIXEL_MEAN, PIXEL_STD
from alpro.models.heads import Alpro, Pretrain, QuestionAnswering, Retrieval
from alpro.models.prompter import Prompter

NEVER = -1e4  # logit of a padding class of an answer head; fits float16
Info = dict[str, Any]


def load_checkpoint(path: str | Path, sanitize: bool = False) -> tuple[State, Info]:
    """Read a checkpoint: a directory of our own, or an official file (.pt, .pth, .bin, .safetensors).

    Returns the tensors in float32 under the official names of the checkpoint's task, and its description: `task`,
    `num_frames`, `model` (sizes), `num_answers` or `num_entities`, `source`, `unwrapped` (sentences on what trainers wrapped
    around the tensors) and all keys of a directory's config.json. `sanitize`: read a pickle with code as data.
    Raises CheckpointError if a file is missing, damaged, unsafe, not an ALPRO model, or has values that are not finite.
    """
    path = Path(path)
    if path.is_dir():
        (state, unwrapped), config = open_weights(path / WEIGHTS), _read_config(path / CONFIG)
    else:
        (state, unwrapped), config = open_weights(path, sanitize), {}
    try:
        task = config["task"] if "task" in config else names.task_of(state)
        check_task(task)
        state = names.official(state, task)
        sizes = names.sizes_of(state)
        check_description(config, sizes)
        info = {**sizes, **config, "task": task, "source": str(path), "unwrapped": unwrapped}
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from None
    return state, info


def save_checkpoint(
    directory: str | Path, model: Alpro, config: Mapping[str, Any], extras: Mapping[str, str | Path] | None = None
) -> None:
    """Write a checkpoint directory atomically: model.safetensors, config.json and copies of `extras`.

    config.json has the model's description (see `describe`) and `config`. `extras` maps names in the directory to files or
    folders: tokenizer, answer list, entity list. The same weights and config give the same bytes.
    """
    with new_dir(directory) as temporary:
        state = model.state_dict()
        for alias, _ in names.tied(state):
            del state[alias]
        tensors = {key: tensor.detach().cpu().contiguous() for key, tensor in state.items()}
        save_tensors(tensors, temporary / WEIGHTS, {"format": "pt"})
        os.chmod(temporary / WEIGHTS, 0o644)
        write_json(temporary / CONFIG, {**describe(model), **config})
        for name, source in (extras or {}).items():
            target = temporary / name
            target.parent.mkdir(parents=True, exist_ok=True)
            if Path(source).is_dir():
                shutil.copytree(source, target)
            else:
                shutil.copy(source, target)


def export_official(model: Alpro, path: str | Path) -> None:
    """Write an official-style .pt: a plain state dict in float32 under the official names, tied tensors under both.

    The released code loads it like its own (`e2e_weights_path`, `teacher_weights_path`, `ckpt/model_step_N.pt`). It builds
    answer heads of at least 1,500 classes and silently drops a head of another size, so a smaller head is padded with
    classes that are never predicted.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".export.") as folder:
        temporary = Path(folder) / path.name  # torch writes the file's name into the archive
        state = {key: tensor.detach().cpu() for key, tensor in model.state_dict().items()}
        if isinstance(model, QuestionAnswering):
            missing = answer_head_width(len(state["classifier.2.bias"])) - len(state["classifier.2.bias"])
            for key, value in (("classifier.2.weight", 0.0), ("classifier.2.bias", NEVER)):
                state[key] = torch.cat([state[key], torch.full((missing, *state[key].shape[1:]), value)])
        torch.save({key: t.float() if t.is_floating_point() else t for key, t in state.items()}, temporary)
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)


def answer_head_width(answers: int) -> int:
    """Return the released code's width of the answer head for a list of this length: at least 1,500."""
    return max(answers, 1500)


def check_answer_head(answers: int, classes: int) -> None:
    """Raise CheckpointError unless an answer head fits an answer list, here or in the released code."""
    if classes not in (answers, answer_head_width(answers)):
        raise CheckpointError(
            f"the answer list has {answers} answers, the checkpoint's head {classes} classes; "
            "use the list that it was trained with (train_ans2label.json)"
        )


def describe(model: Alpro) -> Info:
    """Return a model's description for config.json: enough to rebuild it and to preprocess its pixels."""
    info: Info = {
        "task": task_of_model(model),
        "num_frames": model.num_frames,
        "model": model.config.model_dump(),
        "preprocessing": {"image_size": model.config.image_size, "mean": list(PIXEL_MEAN), "std": list(PIXEL_STD)},
    }
    if isinstance(model, QuestionAnswering):
        info["num_answers"] = model.classifier[2].out_features
    elif isinstance(model, Prompter):
        info["num_entities"] = len(model.video_prompt_feat)
    elif isinstance(model, Pretrain):
        info["num_entities"] = 0 if model.prompter is None else len(model.prompter.video_prompt_feat)
    return info


def _read_config(path: Path) -> Info:
    layout = f"a checkpoint directory holds {WEIGHTS} and {CONFIG}"
    return read_json_object(path, CheckpointError, "copy the checkpoint again", missing_hint=layout)


def task_of_model(model: Alpro) -> str:
    """Return the task that a model was built for."""
    kinds = {Prompter: "prompter", Pretrain: "pretrain", Retrieval: "retrieval", QuestionAnswering: "qa"}
    return kinds[type(model)]
