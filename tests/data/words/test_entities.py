"""Entities: nouns are found without a tagger, written in a fixed order, and read in the official format."""

from collections import Counter

import pytest

from alpro.config import Sample, load
from alpro.data.sample import plan_sample
from alpro.data.sample.scenes import COLORS, SETTINGS, SHAPES
from alpro.data.text.entities import read_entities, write_entities
from alpro.data.words.nouns import count_nouns
from alpro.data.words.prepare import make_entities
from alpro.errors import DataError


def test_nouns_are_found_among_adjectives_verbs_and_function_words():
    captions = [
        "A young man in a blue shirt is playing the guitar on stage.",
        "two women are walking their dogs in the park",
        "the man slowly pours oil into a frying pan",
        "beautiful sunset over the ocean, waves crashing on rocks",
        "a dog runs after the ball and the ball rolls away",
    ]
    nouns = count_nouns(captions)
    assert {"man", "shirt", "guitar", "stage", "women", "dogs", "park", "oil", "pan", "sunset", "ocean", "rocks"} <= set(nouns)
    assert not {"young", "blue", "playing", "slowly", "pours", "runs", "rolls", "beautiful", "two", "the", "on"} & set(nouns)
    assert nouns["man"] == 2 and nouns["ball"] == 2


def test_word_used_mostly_as_a_modifier_is_not_a_noun():
    assert count_nouns(["a stone bridge", "a stone wall", "the stone house", "a stone"]) == Counter(bridge=1, wall=1, house=1)


def test_sample_captions_give_their_toys_and_places():
    plan = plan_sample(Sample(pretrain_videos=300, pretrain_images=50, train_videos=5, val_videos=5, test_videos=5))
    texts = [line.split(",")[1] for line in plan.texts["webvid2m/txt/train.csv"].splitlines()[1:]]
    nouns = count_nouns(texts)
    assert {*SHAPES, *SETTINGS} <= set(nouns)
    assert not {*COLORS, "moves", "goes", "turns", "grows", "rests", "small", "large", "while", "there"} & set(nouns)


def test_entities_are_sorted_by_count_then_alphabetically(tmp_path):
    words = write_entities(Counter(sea=2, ball=2, sun=5, a=1), tmp_path / "unigrams.txt", 3)
    assert words == ["sun", "ball", "sea"]
    assert (tmp_path / "unigrams.txt").read_text() == "sun 5\nball 2\nsea 2\n"


def test_official_file_is_used_unchanged(tmp_path):
    path = tmp_path / "unigrams.txt"
    path.write_text("man 900\nwoman 1000\nt-shirt 3\n\n")  # its order is kept
    assert read_entities(path) == ["man", "woman", "t-shirt"]
    assert read_entities(path, 2) == ["man", "woman"]
    assert read_entities(path, 99) == ["man", "woman", "t-shirt"]


def test_custom_list_keeps_its_counts_and_order(tmp_path):
    (tmp_path / "given.txt").write_text("man 900\nwoman 1000\nt-shirt 3\n")
    changes = [f"entities.source={tmp_path / 'given.txt'}", "entities.number=2"]
    params = load("recipes/tiny.yaml", changes)
    assert make_entities(params, tmp_path / "entities") == ["man", "woman"]
    assert (tmp_path / "entities" / "unigrams.txt").read_text() == "man 900\nwoman 1000\n"
    with pytest.raises(DataError, match=r"has 3 words, but entities\.number is 4"):
        make_entities(load("recipes/tiny.yaml", [changes[0], "entities.number=4"]), tmp_path / "more")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("man 3\nold man 2\n", r"line 2: 'old man 2' is not `word count`"),
        ("man\n", "line 1"),
        ("man ²\n", "line 1: 'man ²' is not"),
        ("man 3\nman 2\n", r"line 2: 'man' is a duplicate of line 1"),
        ("\n", "has no words"),
        (b"\xff\xfe", "not UTF-8"),
    ],
)
def test_broken_file_is_refused_with_the_line(tmp_path, text, words):
    path = tmp_path / "unigrams.txt"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(DataError, match=words):
        read_entities(path)


def test_missing_file_and_captions_without_nouns_are_refused(tmp_path):
    with pytest.raises(DataError, match="not found"):
        read_entities(tmp_path / "unigrams.txt")
    with pytest.raises(DataError, match=r"no nouns; .*entities\.source"):
        write_entities(count_nouns(["red and blue"]), tmp_path / "unigrams.txt")
