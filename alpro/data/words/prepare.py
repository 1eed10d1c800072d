"""Preparation of texts before training: the vocabulary and the entity list of PEM."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from alpro.config import Params
from alpro.data.annotations.read import read_corpus, read_dataset
from alpro.data.text.entities import ENTITY_FILE, read_counts, write_counts, write_entities
from alpro.data.text.tokenizer import train_vocabulary
from alpro.data.words.nouns import count_nouns
from alpro.data.words.tagger import Tagger
from alpro.errors import DataError
from alpro.files.json_files import write_json
from alpro.files.outputs import check_output, new_dir


def training_texts(params: Params) -> Iterator[str]:
    """Yield all captions and questions of the training splits."""
    for corpus in params.corpora.values():
        for record in read_corpus(corpus):
            yield from record.captions
    for dataset in params.datasets.values():
        for record in read_dataset(dataset, "train"):
            yield from record.captions
            yield from (question.text for question in record.questions)


def make_vocabulary(params: Params, output: Path) -> None:
    """Write a WordPiece vocabulary of `model.vocab_size` tokens from the training texts. Raises DataError."""
    check_output(output)
    train_vocabulary(training_texts(params), output, params.model.vocab_size)


def make_entities(params: Params, output: Path) -> list[str]:
    """Write the folder of the entity list (`unigrams.txt`) and return its words.

    The words are those of `entities.source`, or else the most frequent nouns of the captions: `entities.number` of them, or
    fewer if the captions have fewer. 0 keeps all. If a tagger is used, `tagger.json` records it. Raises DataError, and
    ConfigError if the tagger is not installed.
    """
    check_output(output, *([params.entities.source] if params.entities.source else []))
    limit, tagger, source = params.entities.number or None, None, params.entities.source
    counts: Counter[str] = Counter()
    if source:
        listed = read_counts(source, limit)
        if limit and len(listed) < limit:
            raise DataError(f"{source}: has {len(listed)} words, but entities.number is {limit}; lower it or extend the list")
    else:
        tagger = Tagger(params.entities.tagger) if params.entities.tagger else None
        for name in params.pretrain.corpora:
            captions = (caption for record in read_corpus(params.corpora[name]) for caption in record.captions)
            counts += tagger.count_nouns(captions) if tagger else count_nouns(captions)
    with new_dir(output) as temporary:
        if source:
            return write_counts(listed, temporary / ENTITY_FILE)
        if tagger:
            write_json(temporary / "tagger.json", tagger.about())
        return write_entities(counts, temporary / ENTITY_FILE, limit)
