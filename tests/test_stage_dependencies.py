"""Every stage of the pipeline depends on the packages whose code affects its outputs, so `dvc repro` sees their changes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from .test_imports import graph, package

ROOT = Path(__file__).parents[1]

# The modules that each stage's command runs (see alpro/cli).
ENTRY = {
    "sample": "alpro.data.sample",
    "text": "alpro.data.text.prepare",
    "entities": "alpro.data.text.prepare",
    "convert": "alpro.data.media.convert",
    "validate": "alpro.data.validation",
    "validate_corpus": "alpro.data.validation",
    "prompter": "alpro.training.run",
    "pretrain": "alpro.training.run",
    "finetune": "alpro.training.run",
    "evaluate": "alpro.evaluation.run",
    "zeroshot": "alpro.evaluation.run",
    "report": "alpro.report",
}
# Packages that no stage lists: a change of them must not invalidate days of training.
NO_RESULTS = {
    "alpro.config",  # the parameters themselves are dependencies (`params` of each stage)
    "alpro.errors",
    "alpro.files",  # reading and writing of files
    "alpro.launch",  # processes and heartbeats
    "alpro.lineage",  # Git commit and data versions, for the records
    "alpro.system",
    "alpro.terminal",
    "alpro.tracking",  # MLflow
}
# (stage, package): reached by imports, but not used by this stage.
UNUSED = {
    ("prompter", "alpro.evaluation"),  # validation of fine-tuning only
    ("pretrain", "alpro.evaluation"),
}


def stages() -> dict[str, dict[str, Any]]:
    """Return the stages by name; of a group with `foreach`, its template."""
    read = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
    return {name: stage.get("do", stage) for name, stage in read.items()}


def packages_of(module: str) -> set[str]:
    """Return the packages of all modules that a module imports, also through others."""
    edges, names, waiting = graph(), set(), [module]
    while waiting:
        if (name := waiting.pop()) not in names:
            names.add(name)
            waiting += edges[name]
    return {package(name) for name in names}


def test_the_table_has_every_stage() -> None:
    assert set(ENTRY) == set(stages())


@pytest.mark.parametrize("stage", ENTRY)
def test_a_stage_depends_on_the_code_that_it_runs(stage: str) -> None:
    listed = {path.replace("/", ".") for path in stages()[stage]["deps"] if path.startswith("alpro/")}
    needed = packages_of(ENTRY[stage]) - NO_RESULTS - {name for of, name in UNUSED if of == stage}
    assert listed == needed


def test_settings_of_the_machine_invalidate_no_stage() -> None:
    """`loader.max_unreadable` alone affects results: frames from `loader.cache` equal decoded ones."""
    listed = {param for stage in stages().values() for param in stage.get("params", ()) if param.split(".")[0] == "loader"}
    assert listed == {"loader.max_unreadable"}
