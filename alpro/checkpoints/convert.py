"""Functions of `alpro weights`: describe checkpoints, and import official files as checkpoints of our own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from alpro.checkpoints.files import check_answer_head, load_checkpoint, save_checkpoint
from alpro.checkpoints.load import LoadReport, Resize, load_model
from alpro.errors import CheckpointError, nearest
from alpro.files.names import brief
from alpro.files.outputs import check_output
from alpro.models.heads import TASKS, build_model


def describe_checkpoint(path: str | Path, task: str | None = None) -> str:
    """Describe a checkpoint: sizes, tensors and parameter count; with `task`, also what a model of that task loads from it.

    Raises CheckpointError for an unknown task or an unreadable checkpoint.
    """
    state, info = load_checkpoint(path)
    lines = [
        f"{brief(key, 120):60} {'x'.join(map(str, tensor.shape)) or 'scalar':16} {tensor.dtype}"
        for key, tensor in state.items()
    ]
    with torch.device("meta"):
        model = build_model(_task(info["task"]), seed=None, **_arguments(info))
    lines.append(f"{info['task']} checkpoint, {sum(p.numel() for p in model.parameters()):,} parameters")
    lines += info["unwrapped"]
    lines.append(
        ", ".join(f"{brief(key)} {brief(str(value), 200)}" for key, value in info.items() if isinstance(value, (int, str)))
    )
    if task is not None:
        extra = {"num_answers": info.get("num_answers", 1)} if task == "qa" else {}
        _, _, report = load_model(path, _task(task), **extra)
        lines.append(str(report))
    return "\n".join(lines)


def import_checkpoint(
    path: str | Path,
    output: str | Path,
    task: str | None = None,
    *,
    tokenizer: Path | None = None,
    answers: Path | None = None,
    num_frames: int | None = None,
    image_size: int | None = None,
    resize: Resize = "flat_nearest",
    sanitize: bool = False,
) -> LoadReport:
    """Write an official file as a checkpoint directory, with its tokenizer and answer list; return the loading report.

    With `sanitize`, a pickle that names classes or functions is read as data instead of refused. Raises CheckpointError for
    an unusable file or an answer list that does not fit the answer head, DataError for an unreadable tokenizer or answer list.
    """
    check_output(output, path, *(source for source in (tokenizer, answers) if source is not None))
    sizes: dict[str, Any] = {"num_frames": num_frames, "image_size": image_size}
    overrides = {name: value for name, value in sizes.items() if value is not None}
    model, info, report = load_model(path, _task(task) if task else None, resize=resize, sanitize=sanitize, **overrides)
    extras: dict[str, str | Path] = {}
    if tokenizer is not None:
        from alpro.data.text.tokenizer import TOKENIZER_FILES, load_tokenizer

        load_tokenizer(tokenizer, vocab_size=model.config.vocab_size)
        extras |= {f"tokenizer/{name}": tokenizer / name for name in TOKENIZER_FILES if (tokenizer / name).is_file()}
    if answers is not None:
        _check_answers(answers, info.get("num_answers"))
        extras["answers.json"] = answers
    save_checkpoint(output, model, {"source": str(path)}, extras)
    return report


def _check_answers(path: Path, width: int | None) -> None:
    from alpro.data.annotations.read import read_answer_list

    if width is None:
        raise CheckpointError(f"{path}: the checkpoint has no answer head; import it without an answer list")
    check_answer_head(len(read_answer_list(path)), width)


def _arguments(info: dict[str, Any]) -> dict[str, Any]:
    from alpro.config import Model

    names = ("num_frames", "num_answers", "num_entities")
    return {"config": Model(**info["model"]), **{name: info[name] for name in names if name in info}}


def _task(name: str) -> str:
    if name not in TASKS:
        raise CheckpointError(f"task {name!r}: must be one of {', '.join(TASKS)}{nearest(name, TASKS)}")
    return name
