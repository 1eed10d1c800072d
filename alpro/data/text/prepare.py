"""What is made of a data set before any training: a vocabulary, and the entity list of PEM."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from alpro.config import Params
from alpro.data.annotations.read import read_corpus, read_dataset
from alpro.data.text.entities import count_nouns, read_counts, write_entities, write_lines
from alpro.data.text.tagger import Tagger
from alpro.data.text.tokenizer import train_vocabulary
from alpro.errors import DataError
from alpro.files.atomic import new_dir
from alpro.files.json_files import write_json

ENTITY_FILE = "unigrams.txt"


def training_texts(params: Params) -> Iterator[str]:
    """Every caption and question of all training splits."""
    for corpus in params.corpora.values():
        for record in read_corpus(corpus):
            yield from record.captions
    for dataset in params.datasets.values():
        for record in read_dataset(dataset, "train"):
            yield from record.captions
            yield from (question.text for question in record.questions)


def make_vocabulary(params: Params, output: Path) -> None:
    """Write a WordPiece vocabulary of `model.vocab_size` tokens from the training texts. Raises DataError."""
    train_vocabulary(training_texts(params), output, params.model.vocab_size)


def make_entities(params: Params, output: Path) -> list[str]:
    """Write the folder of the entity list (`unigrams.txt`): given, or the captions' most frequent nouns; returns it.

    The list may hold fewer than `entities.number` words where the captions do, and holds all where nothing learns of them
    (0). `tagger.json` says which tagger found them, where one did. Raises DataError, ConfigError without such a tagger.
    """
    number, tagger, source = params.entities.number or None, None, params.entities.source
    counts: Counter[str] = Counter()
    if source:
        given = read_counts(source, number)
        if number and len(given) < number:
            raise DataError(f"{source}: holds {len(given)} words, entities.number asks for {number}")
    else:
        tagger = Tagger(params.entities.tagger) if params.entities.tagger else None
        for name in params.pretrain.corpora:
            captions = (caption for record in read_corpus(params.corpora[name]) for caption in record.captions)
            counts += tagger.count_nouns(captions) if tagger else count_nouns(captions)
    with new_dir(output) as aside:
        if source:
            return write_lines(given, aside / ENTITY_FILE)
        if tagger:
            write_json(aside / "tagger.json", tagger.about())
        return write_entities(counts, aside / ENTITY_FILE, number)
