"""Writes a model as a folder in the Hub's layout: weights, config, tokenizer, answer list and model card, all in one folder.

    config.json  model.safetensors  tokenizer.json  tokenizer_config.json  vocab.txt  answers.json  README.md

The weights and the keys of config.json are those of this project's checkpoint folders. The tokenizer is at the top, where
transformers looks for it.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

import alpro.models  # noqa: F401  before transformers: it makes torchvision importable
from alpro.checkpoints.files import save_checkpoint
from alpro.checkpoints.layout import CONFIG, WEIGHTS
from alpro.data.text.tokenizer import TOKENIZER_FILES
from alpro.errors import CheckpointError
from alpro.files.json_files import read_json_object
from alpro.serving.service import tokenizer_folder

if TYPE_CHECKING:
    from alpro.serving.service import Service

README = "README.md"
LISTS = ("answers.json", "entities.txt")
FILES = (CONFIG, WEIGHTS, *TOKENIZER_FILES, *LISTS, README)  # what is downloaded of a repository on the Hub
MODEL_TYPE = "alpro"


def write_folder(into: Path, service: Service, source: Path) -> None:
    """Write weights, config.json, tokenizer and lists of a loaded model into an existing folder.

    The weights are those that the model has now. `source` is the checkpoint that it was loaded from.
    """
    with tempfile.TemporaryDirectory(dir=into, prefix=".weights.") as temporary:
        checkpoint = Path(temporary) / "checkpoint"
        save_checkpoint(checkpoint, service.model, description(service, source))
        for name in (WEIGHTS, CONFIG):
            os.replace(checkpoint / name, into / name)
    service.tokenizer.save_pretrained(str(into))
    for folder in (tokenizer_folder(source), source):
        for name in ("vocab.txt", *LISTS):
            if (folder / name).is_file() and not (into / name).exists():
                shutil.copyfile(folder / name, into / name)


def description(service: Service, source: Path) -> dict[str, Any]:
    """Return the keys of config.json that a checkpoint's own description lacks, and those of the source's config.json."""
    config: dict[str, Any] = {}
    if (source / CONFIG).is_file():
        config = read_json_object(source / CONFIG, CheckpointError, "copy the checkpoint again")
    viewing = {"frames": service.frames, "max_text_tokens": service.max_text_tokens}
    names = {"model_type": MODEL_TYPE, "architectures": [type(service.model).__name__], "library_name": "alpro"}
    described = {**config, "viewing": viewing, **names}
    if "inputs" in config:
        described["inputs"] = without_folders(config["inputs"])
    return described


def without_folders(inputs: Any) -> Any:
    """Return the inputs of a training with only the names of files outside of the project, whose folders concern nobody."""
    if not isinstance(inputs, Mapping):
        return inputs
    shortened = {}
    for name, entry in inputs.items():
        path = PurePath(str(entry.get("path"))) if isinstance(entry, Mapping) else PurePath()
        is_outside = path.is_absolute() or ".." in path.parts
        shortened[name] = {**entry, "path": path.name} if is_outside else entry
    return shortened


def check_folder(folder: Path, name: str) -> None:
    """Raise CheckpointError if a folder has no weights in safetensors or no config.json. `name` is what the user typed."""
    missing = [file for file in (CONFIG, WEIGHTS) if not (folder / file).is_file()]
    if missing:
        raise CheckpointError(
            f"{name}: has no {' and no '.join(missing)}; give a folder or repository that "
            "`alpro weights export --format hub` wrote"
        )
