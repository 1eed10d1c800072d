"""alpro/training/tasks/make.py: NEW MODULE."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from alpro.config import Params
from alpro.data.annotations.read import annotation_file, answer_file
from alpro.data.text.prepare import ENTITY_FILE
from alpro.errors import ConfigError, nearest
from alpro.training.tasks.base import ClipTask
from alpro.training.tasks.corpus import PretrainTask, PrompterTask
from alpro.training.tasks.dataset import QuestionAnsweringTask, RetrievalTask

# --- making them ------------------------------------------------------------------------------------------


def entity_file(params: Params) -> Path:
    """Where the pipeline puts the entity list."""
    return Path("models") / params.recipe / "entities" / ENTITY_FILE


def make_task(
    params: Params, stage: str, name: str | None, init: str, teacher: str | None, say: Callable[[str], None] = print
) -> ClipTask:
    """The task of a stage. Raises ConfigError, DataError or CheckpointError, each before any training."""
    if stage == "prompter":
        return PrompterTask(params, init, say)
    if stage == "pretrain":
        return PretrainTask(params, init, teacher, entity_file(params), say)
    if name not in params.finetune:
        raise ConfigError(f"task {name!r}: `finetune` has no such task{nearest(name or '', params.finetune)}")
    kind = RetrievalTask if params.datasets[name].task == "retrieval" else QuestionAnsweringTask
    return kind(params, name, init, say)


def inputs(params: Params, stage: str, name: str | None, init: str, teacher: str | None) -> dict[str, tuple[str, ...]]:
    """What a stage reads: (kind of digest, path) by its name in the record."""
    found: dict[str, tuple[str, ...]] = {"init": ("content", init), "tokenizer": ("content", params.text.tokenizer)}
    if stage == "pretrain" and params.pem:
        found["teacher"] = ("content", teacher or "")
        found["entities"] = ("content", str(entity_file(params)))
    if stage == "finetune" and name is not None:
        dataset = params.datasets[name]
        for split in ("train", "val"):
            found[f"annotations_{split}"] = ("content", str(annotation_file(dataset, split)))
        if dataset.task == "qa" and (file := answer_file(dataset)):  # else they are those of the training annotations
            found["answers"] = ("content", str(file))
        found["videos"] = ("listing", dataset.videos)
        return found
    section = params.prompter if stage == "prompter" else params.pretrain
    for corpus in section.corpora:
        files = params.corpora[corpus]
        found[f"{corpus}_train"] = ("content", files.train)
        if files.val:
            found[f"{corpus}_val"] = ("content", files.val)
        found[f"{corpus}_files"] = ("listing", files.root)
    return found
