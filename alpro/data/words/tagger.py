"""Nouns found by a trained tagger: any installed spaCy pipeline.

spaCy is an optional dependency (`pip install spacy`), and its pipelines are separate packages (`python -m spacy download
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
    """A spaCy pipeline, given by its package name or folder. Raises ConfigError if it is missing or has no tagger."""

    def __init__(self, model: str) -> None:
        try:
            import spacy
        except ImportError:
            raise ConfigError(
                f"entities.tagger {model!r} needs spaCy; run `pip install spacy`, or use null for the built-in rule"
            ) from None
        try:
            self._pipeline = spacy.load(model, exclude=UNUSED)
        except OSError:
            raise ConfigError(
                f"entities.tagger {model!r}: no spaCy pipeline is installed under this name, and it is not the folder of one; "
                f"run `python -m spacy download {model}`"
            ) from None
        pipes = self._pipeline.pipe_names
        if not {"tagger", "morphologizer"} & set(pipes):
            raise ConfigError(f"entities.tagger {model!r}: has no tagger (components: {', '.join(pipes) or 'none'})")
        self._version = spacy.__version__

    def about(self) -> dict[str, Any]:
        """Return the pipeline with its version, and the version of spaCy."""
        meta = self._pipeline.meta
        return {"pipeline": f"{meta['lang']}_{meta['name']}", "version": meta["version"], "spacy": self._version}

    def count_nouns(self, captions: Iterable[str]) -> Counter[str]:
        """Count the common nouns of the captions, in lower case; only words of letters."""
        counts: Counter[str] = Counter()
        for words in self._pipeline.pipe((caption.lower() for caption in captions), batch_size=BATCH):
            counts.update(word.text for word in words if word.pos_ == "NOUN" and word.is_alpha and len(word) > 1)
        return counts
