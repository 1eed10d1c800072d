"""The tokenizer: BERT's WordPiece, read from a folder; and a vocabulary of one's own in the same form.

A folder is BERT's (`ext/bert-base-uncased`) or one that `train_vocabulary` wrote: both hold `vocab.txt` or
`tokenizer.json` and are read by the same code.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alpro.data.text.wordpiece import count_words, learn_pieces
from alpro.errors import DataError
from alpro.files.atomic import new_dir

if TYPE_CHECKING:
    from transformers import BertTokenizerFast  # type: ignore[attr-defined]  # known at run time only

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
FILES = ("vocab.txt", "tokenizer.json")
TOKENIZER_FILES = (*FILES, "tokenizer_config.json", "special_tokens_map.json")  # those that a checkpoint copies, if present


def load_tokenizer(directory: str | Path, vocab_size: int | None = None) -> BertTokenizerFast:
    """The tokenizer of a folder; nothing is downloaded.

    Raises DataError when the folder holds none, lacks one of BERT's special tokens, or when its size isn't
    `vocab_size` (the model's).
    """
    directory = Path(directory)
    if not any((directory / name).is_file() for name in FILES):
        raise DataError(
            f"{directory}: holds neither {' nor '.join(FILES)}; put BERT's there, or make one with `alpro data vocabulary`"
        )
    from transformers import BertTokenizerFast  # type: ignore[attr-defined]  # known at run time only

    try:  # from_pretrained, not BertTokenizerFast(vocab_file=...), which leaves the file unread
        tokenizer = BertTokenizerFast.from_pretrained(str(directory), local_files_only=True)
    except Exception as error:  # the Rust part raises bare Exception
        raise DataError(f"{directory}: no tokenizer can be read: {' '.join(str(error).split())}") from None
    own = tokenizer.backend_tokenizer.get_vocab(with_added_tokens=False)  # what is lacking, transformers adds in silence
    lost = [token for token in SPECIAL if token not in own]
    if lost:
        raise DataError(f"{directory}: the vocabulary lacks {', '.join(lost)}; it is no BERT vocabulary")
    if vocab_size is not None and len(tokenizer) != vocab_size:
        raise DataError(
            f"{directory}: the vocabulary has {len(tokenizer)} tokens, the model {vocab_size} (model.vocab_size); "
            "make the two equal, or take the tokenizer that belongs to the checkpoint"
        )
    return tokenizer


def train_vocabulary(texts: Iterable[str], directory: str | Path, size: int) -> None:
    """Make a WordPiece vocabulary of exactly `size` tokens from texts, as a folder that `load_tokenizer` reads.

    Where the texts give fewer tokens the rest is `[unusedN]`, as in BERT's. The same texts, in any order, give the
    same bytes. Raises DataError when the texts are empty or hold more characters than `size` has room for.
    """
    words = count_words(texts)
    if not words:
        raise DataError(f"{directory}: no texts to make a vocabulary from; give captions or questions")
    tokens = [*SPECIAL, *learn_pieces(words, size - len(SPECIAL))]
    if len(tokens) > size:
        raise DataError(
            f"{directory}: the texts' characters alone make {len(tokens)} tokens, more than {size}; raise model.vocab_size"
        )
    tokens += [f"[unused{number}]" for number in range(size - len(tokens))]
    with new_dir(directory) as aside:
        (aside / "vocab.txt").write_text("".join(token + "\n" for token in tokens), encoding="utf-8")
        settings: dict[str, Any] = {"do_lower_case": True, "model_max_length": 512, "tokenizer_class": "BertTokenizer"}
        (aside / "tokenizer_config.json").write_text(json.dumps(settings, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def copy_tokenizer(source: str | Path, directory: str | Path) -> None:
    """Copy a tokenizer's files into a checkpoint, so that the checkpoint can be used alone."""
    source, directory = Path(source), Path(directory)
    load_tokenizer(source)
    with new_dir(directory) as aside:
        for name in TOKENIZER_FILES:
            if (source / name).is_file():
                (aside / name).write_bytes((source / name).read_bytes())


# Tokenizing in several threads gains nothing on short captions, and warns in every forked reading process.
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
