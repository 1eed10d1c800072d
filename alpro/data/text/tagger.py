"""Nouns by a tagger that was trained for it: any spaCy pipeline, where one is installed.

spaCy is an optional dependency (`pip install spacy`), its pipelines are packages of their own (`python -m spacy download
en_core_web_sm`). `nouns.py` needs neither.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

from alpro.errors import ConfigError

UNUSED = ["parser", "ner", "lemmatizer", "senter", "textcat"]
BATCH = 256  # captions


class Tagger:
    """A spaCy pipeline, by the name of its package or its folder. Raises ConfigError where there is none that tags."""

    def __init__(self, model: str) -> None:
        try:
            import spacy
        except ImportError:
            raise ConfigError(
                f"entities.tagger {model!r} needs spaCy (pip install spacy); null takes a rule of our own"
            ) from None
        try:
            self._pipeline = spacy.load(model, exclude=UNUSED)
        except OSError:
            raise ConfigError(
                f"entities.tagger {model!r}: no spaCy pipeline of this name is installed (python -m spacy download {model}), "
                "and no folder holds one"
            ) from None
        pipes = self._pipeline.pipe_names
        if not {"tagger", "morphologizer"} & set(pipes):
            raise ConfigError(f"entities.tagger {model!r}: tags no words (it has {', '.join(pipes) or 'no components'})")
        self._version = spacy.__version__

    def about(self) -> dict[str, Any]:
        """What made the nouns: the pipeline and its version, and spaCy's."""
        meta = self._pipeline.meta
        return {"pipeline": f"{meta['lang']}_{meta['name']}", "version": meta["version"], "spacy": self._version}

    def count_nouns(self, captions: Iterable[str]) -> Counter[str]:
        """How often each common noun occurs in the captions, in lower case; words of letters alone."""
        found: Counter[str] = Counter()
        for words in self._pipeline.pipe((caption.lower() for caption in captions), batch_size=BATCH):
            found.update(word.text for word in words if word.pos_ == "NOUN" and word.is_alpha and len(word) > 1)
        return found
