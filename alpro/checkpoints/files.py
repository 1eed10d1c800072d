"""Checkpoint files: official ones are opened safely, our own are safetensors + config.json.

Code in a file is never executed: pickles are opened with `weights_only`, and refused if they need more.
"""

from __future__ import annotations

import os
import pickle
import shutil
import tempfile
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from alpro.checkpoints import names
from alpro.checkpoints.layout import CONFIG, WEIGHTS
from alpro.errors import CheckpointError
from alpro.files.atomic import save_tensors
from alpro.files.json_files import read_json_object, write_json
from alpro.files.outputs import new_dir
from alpro.models.encoders import PIXEL_MEAN, PIXEL_STD
from alpro.models.heads import Alpro, Pretrain, QuestionAnswering, Retrieval
from alpro.models.prompter import Prompter

NEVER = -1e4  # logit of a padding class of an answer head; fits float16
State = dict[str, Tensor]
Info = dict[str, Any]


def load_checkpoint(path: str | Path) -> tuple[State, Info]:
    """Read a checkpoint: a directory of our own, or an official file (.pt, .pth, .bin, .safetensors).

    Returns the tensors in float32 under the official names of the checkpoint's task, and its description: `task`,
    `num_frames`, `model` (sizes), `num_answers` or `num_entities`, `source` and all keys of a directory's config.json.
    Raises CheckpointError if a file is missing, damaged, unsafe, not an ALPRO model, or has values that are not finite.
    """
    path = Path(path)
    if path.is_dir():
        state, info = open_weights(path / WEIGHTS), _read_config(path / CONFIG)
    else:
        state, info = open_weights(path), {}
    try:
        task = info.get("task") or names.task_of(state)
        if task not in names.UNUSED_WEIGHTS:
            raise CheckpointError(f"its task is {task!r}, but must be one of {', '.join(names.UNUSED_WEIGHTS)}")
        state = names.official(state, task)
        info = {**names.sizes_of(state), **info, "task": task, "source": str(path)}
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


def open_weights(path: Path) -> State:
    """Load the tensors of a .safetensors file, or of a pickle (.pt, .pth, .pyth, .bin) without the trainer's wrappers.

    Floating-point tensors are converted to float32; no code is executed. Raises CheckpointError if the file is missing, empty,
    truncated, a zip that is no checkpoint, a pickle with code, or if it has no tensors or values that are not finite.
    """
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file; a checkpoint is a directory with {WEIGHTS} and {CONFIG}, or a .pt file")
    state = _read_safetensors(path) if path.suffix == ".safetensors" else _read_pickle(path)
    for key, tensor in state.items():
        if tensor.is_floating_point():
            if not tensor.isfinite().all():
                raise CheckpointError(f"{path}: {key} holds NaN or infinite values; use an earlier checkpoint")
            state[key] = tensor.float()
    return state


def _read_pickle(path: Path) -> State:
    with path.open("rb") as file:
        start = file.read(2)
    if start == b"PK":
        if not zipfile.is_zipfile(path):
            raise CheckpointError(f"{path}: cut short (a zip file without its end); copy or download it again")
        with zipfile.ZipFile(path) as archive:
            if not any(name.endswith("/data.pkl") for name in archive.namelist()):
                raise CheckpointError(f"{path}: a zip, but no checkpoint; unpack it and give the .pt file inside")
    try:
        with warnings.catch_warnings(action="ignore"):  # torch warns about pickle protocols before it refuses them
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # unpickling may raise anything
        if "GLOBAL" in str(error):  # torch's word for a function or class in the pickle
            reason = "it contains code that loading would run; nothing was executed"
            raise CheckpointError(f"{path}: refused: {reason}; get the file from a trusted source") from None
        reason = "no plain tensors" if isinstance(error, pickle.UnpicklingError) else str(error).partition("\n")[0][:100]
        reason = reason or type(error).__name__
        raise CheckpointError(f"{path}: no checkpoint, or a damaged one ({reason}); copy or download it again") from None
    for wrapper in ("model", "model_state", "model_state_dict", "state_dict"):
        if isinstance(content, Mapping) and isinstance(content.get(wrapper), Mapping):
            content = content[wrapper]
    if not isinstance(content, Mapping) or not content or not all(isinstance(tensor, Tensor) for tensor in content.values()):
        raise CheckpointError(f"{path}: has no state dict (names and tensors); give a file with a model's weights")
    return {str(key).removeprefix("module."): tensor for key, tensor in content.items()}


def _read_safetensors(path: Path) -> State:
    try:
        return safetensors.torch.load_file(path)
    except (safetensors.SafetensorError, OSError) as error:
        raise CheckpointError(f"{path}: damaged ({error}); copy or download it again") from None


def _read_config(path: Path) -> Info:
    layout = f"a checkpoint directory holds {WEIGHTS} and {CONFIG}"
    return read_json_object(path, CheckpointError, "copy the checkpoint again", missing_hint=layout)


def task_of_model(model: Alpro) -> str:
    """Return the task that a model was built for."""
    kinds = {Prompter: "prompter", Pretrain: "pretrain", Retrieval: "retrieval", QuestionAnswering: "qa"}
    return kinds[type(model)]
