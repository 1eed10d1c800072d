"""The tokenizer: BERT's WordPiece, loaded from a folder, and training of a vocabulary in the same format.

A folder is BERT's (`ext/bert-base-uncased`) or written by `train_vocabulary`. Both contain `vocab.txt` or
`tokenizer.json` and are loaded in the same way.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alpro.data.text.wordpiece import count_words, learn_pieces
from alpro.errors import DataError
from alpro.files.outputs import new_dir

if TYPE_CHECKING:
    from transformers import BertTokenizerFast  # type: ignore[attr-defined]  # known at run time only

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
VOCABULARY_FILES = ("vocab.txt", "tokenizer.json")
# files that a checkpoint copies, if present
TOKENIZER_FILES = (*VOCABULARY_FILES, "tokenizer_config.json", "special_tokens_map.json")


def load_tokenizer(directory: str | Path, vocab_size: int | None = None) -> BertTokenizerFast:
    """Load the tokenizer of a folder; nothing is downloaded.

    Raises DataError if the folder contains no tokenizer, if one of BERT's special tokens is missing, or if the size
    differs from `vocab_size` (the model's).
    """
    directory = Path(directory)
    if not any((directory / name).is_file() for name in VOCABULARY_FILES):
        raise DataError(
            f"{directory}: contains neither {' nor '.join(VOCABULARY_FILES)}; copy BERT's, "
            "or create one with `alpro data vocabulary`"
        )
    from transformers import BertTokenizerFast  # type: ignore[attr-defined]  # known at run time only

    try:  # from_pretrained, not BertTokenizerFast(vocab_file=...), which leaves the file unread
        tokenizer = BertTokenizerFast.from_pretrained(str(directory), local_files_only=True)
    except Exception as error:  # the Rust code raises plain Exception
        raise DataError(f"{directory}: the tokenizer cannot be loaded: {' '.join(str(error).split())}") from None
    vocabulary = tokenizer.backend_tokenizer.get_vocab(with_added_tokens=False)  # transformers silently adds missing ones
    missing = [token for token in SPECIAL if token not in vocabulary]
    if missing:
        raise DataError(f"{directory}: the vocabulary lacks {', '.join(missing)}; use a BERT vocabulary")
    if vocab_size is not None and len(tokenizer) != vocab_size:
        raise DataError(
            f"{directory}: the vocabulary has {len(tokenizer)} tokens, the model {vocab_size} (model.vocab_size); "
            "make them equal, or use the tokenizer of the checkpoint"
        )
    return tokenizer


def train_vocabulary(texts: Iterable[str], directory: str | Path, size: int) -> None:
    """Train a WordPiece vocabulary of exactly `size` tokens and write it as a folder for `load_tokenizer`.

    If the texts give fewer tokens, the rest are `[unusedN]` as in BERT's. The same texts in any order give the same
    bytes. Raises DataError if there are no texts or their distinct characters alone exceed `size`.
    """
    words = count_words(texts)
    if not words:
        raise DataError(f"{directory}: there are no texts to train a vocabulary on; give captions or questions")
    tokens = [*SPECIAL, *learn_pieces(words, size - len(SPECIAL))]
    if len(tokens) > size:
        raise DataError(
            f"{directory}: the distinct characters alone need {len(tokens)} tokens, more than {size}; raise model.vocab_size"
        )
    tokens += [f"[unused{number}]" for number in range(size - len(tokens))]
    with new_dir(directory) as temporary:
        (temporary / "vocab.txt").write_text("".join(token + "\n" for token in tokens), encoding="utf-8")
        settings: dict[str, Any] = {"do_lower_case": True, "model_max_length": 512, "tokenizer_class": "BertTokenizer"}
        (temporary / "tokenizer_config.json").write_text(
            json.dumps(settings, indent=1, sort_keys=True) + "\n", encoding="utf-8"
        )


# Tokenizing short captions in several threads is no faster, and it warns in every forked worker process.
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
