"""Creates the task of a stage, and lists the files that it reads."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from alpro.config import Params
from alpro.data.annotations.read import annotation_file, answer_file
from alpro.data.text.entities import ENTITY_FILE
from alpro.errors import ConfigError, nearest
from alpro.training.tasks.base import ClipTask
from alpro.training.tasks.corpus import PretrainTask, PrompterTask
from alpro.training.tasks.dataset import QuestionAnsweringTask, RetrievalTask


def entity_file(recipe: str) -> Path:
    """Return the path at which a recipe's pipeline writes the entity list."""
    return Path("models") / recipe / "entities" / ENTITY_FILE


def make_task(
    params: Params, stage: str, name: str | None, init: str, teacher: str | None, say: Callable[[str], None] = print
) -> ClipTask:
    """Return the task of a stage. Raises ConfigError, DataError or CheckpointError."""
    if stage == "prompter":
        return PrompterTask(params, init, say)
    if stage == "pretrain":
        return PretrainTask(params, init, teacher, entity_file(params.recipe), say)
    if name not in params.finetune:
        raise ConfigError(f"task {name!r}: `finetune` has no such task{nearest(name or '', params.finetune)}")
    task_class = RetrievalTask if params.datasets[name].task == "retrieval" else QuestionAnsweringTask
    return task_class(params, name, init, say)


def input_paths(params: Params, stage: str, name: str | None, init: str, teacher: str | None) -> dict[str, tuple[str, ...]]:
    """Return what a stage reads: (kind of digest, path) by the name that the record uses."""
    paths: dict[str, tuple[str, ...]] = {"init": ("content", init), "tokenizer": ("content", params.text.tokenizer)}
    if stage == "pretrain" and params.pem:
        paths["teacher"] = ("content", teacher or "")
        paths["entities"] = ("content", str(entity_file(params.recipe)))
    if stage == "finetune" and name is not None:
        dataset = params.datasets[name]
        for split in ("train", "val"):
            paths[f"annotations_{split}"] = ("content", str(annotation_file(dataset, split)))
        if dataset.task == "qa" and (file := answer_file(dataset)):  # else they come from the training annotations
            paths["answers"] = ("content", str(file))
        paths["videos"] = ("listing", dataset.videos)
        return paths
    section = params.prompter if stage == "prompter" else params.pretrain
    for corpus in section.corpora:
        files = params.corpora[corpus]
        paths[f"{corpus}_train"] = ("content", files.train)
        if files.val:
            paths[f"{corpus}_val"] = ("content", files.val)
        paths[f"{corpus}_files"] = ("listing", files.root)
    return paths
