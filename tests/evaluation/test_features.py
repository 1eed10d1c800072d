"""The key of the feature store depends on all code that makes the features."""

from __future__ import annotations

from alpro.evaluation.features import CODE
from tests.test_imports import graph, modules

PIXELS_AND_MODEL = ("alpro.data.batches.", "alpro.data.media.", "alpro.evaluation.", "alpro.models.")
# Modules that the reading and encoding of a clip import, but that do not change a feature:
NOT_IN_FEATURES = {
    "alpro.data.batches.batch",  # containers of training batches
    "alpro.data.batches.masking",  # masks of training texts and clips
    "alpro.data.media.probe",  # refuses a file that was cut short
    "alpro.data.media.shards",  # finds the bytes, and the store's names are digests of the bytes
    "alpro.models.bert",  # texts only
    "alpro.models.dropout",  # off in an evaluation
}


def code_modules() -> set[str]:
    """Return the modules of CODE, each of which must exist."""
    root = modules()["alpro"].parent
    names = {path: name for name, path in modules().items()}
    assert [path for path in CODE if root / path not in names] == []
    return {names[root / path] for path in CODE}


def reached(module: str) -> set[str]:
    """Return a module and all modules of PIXELS_AND_MODEL that it imports, also through others."""
    edges, names, waiting = graph(), set(), [module]
    while waiting:
        if (name := waiting.pop()) not in names and name.startswith(PIXELS_AND_MODEL):
            names.add(name)
            waiting += edges[name]
    return names


def test_the_store_key_covers_the_code_that_reads_and_encodes_clips() -> None:
    needed = reached("alpro.evaluation.clips") | reached("alpro.models.encoders")
    assert needed - NOT_IN_FEATURES == code_modules()
    assert needed >= NOT_IN_FEATURES, "remove modules from NOT_IN_FEATURES that are no longer imported"
