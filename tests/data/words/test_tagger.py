"""A spaCy pipeline finds the entities and is recorded; without spaCy the parameter is refused."""

import json
import sys

import pytest
import yaml

from alpro.config import load
from alpro.data.words.prepare import make_entities
from alpro.data.words.tagger import Tagger
from alpro.errors import ConfigError
from tests.data.validation.test_check import ROOT

SENTENCES = {
    "a man plays a guitar": "DET NOUN VERB DET NOUN",
    "a dog runs": "DET NOUN VERB",
    "the red ball rolls": "DET ADJ NOUN VERB",
    "a woman plays the piano": "DET NOUN VERB DET NOUN",
}


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory):
    """A small pipeline trained on four sentences; skipped without spaCy."""
    spacy = pytest.importorskip("spacy")
    from spacy.training import Example

    nlp = spacy.blank("en", meta={"name": "small", "version": "1.2.3"})
    nlp.add_pipe("morphologizer")
    examples = [
        Example.from_dict(nlp.make_doc(text), {"pos": pos.split(), "morphs": [""] * len(pos.split())})
        for text, pos in SENTENCES.items()
    ]
    optimizer = nlp.initialize(lambda: examples)
    for _ in range(40):
        nlp.update(examples, sgd=optimizer)
    folder = tmp_path_factory.mktemp("pipeline")
    nlp.to_disk(folder)
    return folder


def test_entities_are_the_taggers_nouns(pipeline):
    nouns = Tagger(str(pipeline)).count_nouns(["The red ball rolls", "a man plays the piano", "a man"])
    assert nouns == {"ball": 1, "man": 2, "piano": 1}


def test_entity_list_records_its_tagger(pipeline, tmp_path):
    raw = yaml.safe_load((ROOT / "recipes" / "tiny.yaml").read_text())
    (tmp_path / "train.csv").write_text("video_id,text\n1,a man plays the piano\n2,a dog runs\n")
    raw["corpora"] = {"own": {"media": "video", "train": str(tmp_path / "train.csv"), "root": str(tmp_path)}}
    raw["pretrain"]["corpora"] = raw["prompter"]["corpora"] = ["own"]
    raw["entities"] = {"source": None, "tagger": str(pipeline), "number": 40}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(raw))
    assert make_entities(load(tmp_path / "params.yaml"), tmp_path / "entities") == ["dog", "man", "piano"]
    about = json.loads((tmp_path / "entities" / "tagger.json").read_text())
    assert about == {"pipeline": "en_small", "version": "1.2.3", "spacy": sys.modules["spacy"].__version__}


def test_missing_or_untrained_pipeline_is_refused(tmp_path):
    spacy = pytest.importorskip("spacy")
    with pytest.raises(ConfigError, match="no spaCy pipeline is installed under this name"):
        Tagger("en_core_web_no")
    spacy.blank("en").to_disk(tmp_path)
    with pytest.raises(ConfigError, match=r"has no tagger \(components: none\)"):
        Tagger(str(tmp_path))


def test_without_spacy_the_parameter_is_refused_with_a_remedy(monkeypatch):
    monkeypatch.setitem(sys.modules, "spacy", None)
    with pytest.raises(ConfigError, match=r"entities\.tagger 'en_core_web_sm' needs spaCy; run `pip install spacy`"):
        Tagger("en_core_web_sm")
