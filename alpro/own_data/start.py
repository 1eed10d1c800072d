"""Start of the training: from scratch with a vocabulary of the own texts, or from a checkpoint with its tokenizer."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from alpro.config import Model, Params
from alpro.data.text.tokenizer import VOCABULARY_FILES, load_tokenizer, train_vocabulary
from alpro.data.text.wordpiece import count_words
from alpro.errors import CheckpointError

SCRATCH = "recipes/init/scratch.yaml"
BERT = Path("ext/bert-base-uncased")
MOST_TOKENS = 8000  # of a vocabulary made here


@dataclass(frozen=True)
class Start:
    """Start of a training. `model` and `num_frames` are None from scratch; `tokenizer` is a folder."""

    path: str
    tokenizer: Path
    model: Model | None = None
    num_frames: int | None = None

    @property
    def from_scratch(self) -> bool:
        """True if no weights are loaded."""
        return self.model is None

    def is_that_of(self, params: Params) -> bool:
        """Return True if params.yaml starts from the same checkpoint with the same tokenizer, so that a dataset can join it."""
        same = (params.init.finetune, Path(params.text.tokenizer)) == (self.path, self.tokenizer)
        return self.model is not None and same and self.model.vocab_size == params.model.vocab_size


def find_start(checkpoint: str | None, tokenizer: Path | None, vocabulary: Path, params: Params) -> Start:
    """Return the start that the user chose; by default the one of params.yaml if it is a checkpoint of real data.

    vocabulary: folder for the vocabulary of a training from scratch. Raises CheckpointError for an unusable checkpoint,
    DataError for an unusable tokenizer.
    """
    given = checkpoint
    if given is None and params.sample is None and not params.init.finetune.endswith(".yaml"):
        given = params.init.finetune if Path(params.init.finetune).exists() else None
        tokenizer = tokenizer or (Path(params.text.tokenizer) if given else None)
    if given in (None, "scratch", SCRATCH):
        if tokenizer is not None:
            load_tokenizer(tokenizer)
        return Start(SCRATCH, tokenizer or vocabulary)
    assert given is not None
    from alpro.checkpoints.files import load_checkpoint

    if not Path(given).exists():
        raise CheckpointError(f"{given}: no such checkpoint; give a folder or file, or scratch")
    _, info = load_checkpoint(given)
    model = Model(**info["model"])
    folder = tokenizer or _tokenizer_of(Path(given))
    load_tokenizer(folder, model.vocab_size)
    return Start(given, folder, model, info["num_frames"])


def _tokenizer_of(checkpoint: Path) -> Path:
    """Return the folder of a checkpoint's tokenizer: in it, in the Hub's layout, or BERT's."""
    for folder in (checkpoint / "tokenizer", checkpoint):
        if any((folder / name).is_file() for name in VOCABULARY_FILES):
            return folder
    return BERT


def make_vocabulary(texts: Sequence[str], folder: Path) -> int:
    """Write a vocabulary that suits the texts and return its size."""
    words = count_words(texts)
    pieces = {word[0] for word in words} | {f"##{letter}" for word in words for letter in word[1:]}
    size = min(100 * ((2 * len(words) + len(pieces)) // 100 + 1), MOST_TOKENS)
    size = max(size, len(pieces) + 100)
    train_vocabulary(texts, folder, size)
    return size


def newest_model(models: Path = Path("models")) -> Path | None:
    """Return the newest checkpoint here that matches texts with videos; None if there is none."""
    found = []
    for config in [*models.glob("*/finetune/*/config.json"), *models.glob("*/pretrain/config.json")]:
        try:
            task = json.loads(config.read_text(encoding="utf-8")).get("task")
        except (OSError, ValueError, AttributeError):
            continue
        if task in ("retrieval", "pretrain"):
            found.append((task == "retrieval", config.stat().st_mtime, config.parent))
    return max(found)[-1] if found else None
