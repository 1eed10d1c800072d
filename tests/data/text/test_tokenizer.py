"""A trained vocabulary loads like BERT's, has the requested size, and is reproducible."""

import random

import pytest

from alpro.data.text.tokenizer import SPECIAL, load_tokenizer, train_vocabulary
from alpro.errors import DataError

TEXTS = [
    "a large red ball moves left over the sea",
    "The small blue box moves right.",
    "a red box rests in the desert",
    "where does the ball go?",
    "a café at night",
]


@pytest.fixture
def folder(tmp_path):
    train_vocabulary(TEXTS * 3, tmp_path / "text", 200)
    return tmp_path / "text"


def test_every_trained_word_is_one_token_and_the_rest_is_unused(folder):
    tokenizer = load_tokenizer(folder, 200)
    assert tokenizer.tokenize("A red BALL moves.") == ["a", "red", "ball", "moves", "."]
    assert tokenizer.tokenize("cafe") == ["cafe"]  # BERT's normalisation: lower case, no accents
    tokens = (folder / "vocab.txt").read_text().splitlines()
    assert len(tokens) == len(set(tokens)) == 200
    assert tokens[: len(SPECIAL)] == list(SPECIAL)
    assert tokens[-1].startswith("[unused")


def test_texts_get_cls_sep_padding_and_unk(folder):
    tokenizer = load_tokenizer(folder)
    ids = tokenizer(["a ball", "a red ball"], padding=True, truncation=True, max_length=4)["input_ids"]
    assert [tokenizer.convert_ids_to_tokens(row) for row in ids] == [
        ["[CLS]", "a", "ball", "[SEP]"],
        ["[CLS]", "a", "red", "[SEP]"],
    ]
    assert tokenizer.tokenize("ξ") == ["[UNK]"]
    assert tokenizer.pad_token_id == 0 and tokenizer.mask_token_id == 4


def test_same_texts_in_any_order_give_the_same_bytes(tmp_path):
    words = ["red", "blue", "ball", "star", "moves", "rests", "left", "sea", "box"]
    texts = [" ".join(random.Random(n).choices(words, k=5)) for n in range(200)]
    contents = set()
    for seed in range(3):
        random.Random(seed).shuffle(texts)
        train_vocabulary(texts, tmp_path / "text", 40)  # stops amid the merges, where ties matter
        contents.add(tuple(path.read_bytes() for path in sorted((tmp_path / "text").iterdir())))
    assert len(contents) == 1


def test_frequent_words_become_tokens_first(tmp_path):
    train_vocabulary(["star"] * 50 + ["moat"] * 2 + ["ramble"], tmp_path / "text", 22)
    tokenizer = load_tokenizer(tmp_path / "text", 22)
    assert tokenizer.tokenize("star") == ["star"]
    assert len(tokenizer.tokenize("ramble")) > 1


def test_folder_in_berts_format_is_read(tmp_path):
    words = ["[PAD]", "[unused0]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "hello", "##s", "world"]
    (tmp_path / "vocab.txt").write_text("\n".join(words) + "\n")  # as in bert-base-uncased: only this file, with other ids
    tokenizer = load_tokenizer(tmp_path, 9)
    assert tokenizer("Hellos world")["input_ids"] == [3, 6, 7, 8, 4]


def test_size_mismatch_error_gives_both_sizes(folder):
    with pytest.raises(DataError, match=r"text: the vocabulary has 200 tokens, the model 400 \(model\.vocab_size\)"):
        load_tokenizer(folder, 400)


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({}, "contains neither vocab.txt nor tokenizer.json"),
        ({"vocab.txt": "a\nb\n"}, r"lacks \[PAD\]"),
        ({"tokenizer.json": "{"}, "the tokenizer cannot be loaded"),
    ],
)
def test_folder_without_a_tokenizer_is_refused(tmp_path, files, words):
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(DataError, match=words):
        load_tokenizer(tmp_path)


def test_texts_insufficient_for_a_vocabulary_are_refused(tmp_path):
    with pytest.raises(DataError, match="no texts"):
        train_vocabulary(["", "  "], tmp_path / "text", 50)
    with pytest.raises(DataError, match=r"more than 10; raise model\.vocab_size"):
        train_vocabulary(TEXTS, tmp_path / "text", 10)
    assert not (tmp_path / "text").exists()
