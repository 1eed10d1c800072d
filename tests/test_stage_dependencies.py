"""Every stage depends on the code that affects its outputs, and on no other, so that DVC repeats what it must."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from .test_imports import LIBRARY, graph, modules, package

ROOT = Path(__file__).parents[1]

# The modules that each stage's command runs (see alpro/cli).
ENTRY = {
    "sample": "alpro.data.sample",
    "text": "alpro.data.words.prepare",
    "entities": "alpro.data.words.prepare",
    "convert": "alpro.data.copies.convert",
    "validate": "alpro.data.validation",
    "validate_corpus": "alpro.data.validation",
    "prompter": "alpro.training.run",
    "pretrain": "alpro.training.run",
    "finetune": "alpro.training.run",
    "evaluate": "alpro.evaluation.run",
    "zeroshot": "alpro.evaluation.run",
    "report": "alpro.report",
}
# Packages that no stage lists: a change of them must not repeat days of training.
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


@cache
def stages() -> dict[str, dict[str, Any]]:
    """Return the stages by name; of a group with `foreach`, its template."""
    read = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
    return {name: stage.get("do", stage) for name, stage in read.items()}


@cache
def modules_of(stage: str) -> set[str]:
    """Return the files of all modules whose code affects the outputs of a stage, relative to the root."""
    (edges, files), names, waiting = code(), set(), [ENTRY[stage]]
    while waiting:
        if (name := waiting.pop()) not in names:
            names.add(name)
            waiting += edges[name]
    leave_out = NO_RESULTS | {name for of, name in UNUSED if of == stage}
    return {path_of(files[name]) for name in names.intersection(LIBRARY) if package(name) not in leave_out}


@cache
def code() -> tuple[dict[str, set[str]], dict[str, Path]]:
    """Return the imports and the file of every module."""
    return graph(), modules()


def path_of(file: Path) -> str:
    return file.relative_to(ROOT).as_posix()


def code_of(stage: str) -> list[str]:
    """Return the files and folders of code that a stage depends on."""
    return [path for path in stages()[stage]["deps"] if path.startswith("alpro/")]


@cache
def ignored() -> set[str]:
    """Return the modules that DVC does not see."""
    lines = (ROOT / ".dvcignore").read_text(encoding="utf-8").splitlines()
    return {line.removeprefix("/") for line in lines if line.startswith("/alpro/")}


def covers(dependency: str, file: str) -> bool:
    return file not in ignored() and f"{file}/".startswith(f"{dependency}/")


def rerun(file: str) -> list[str]:
    """Return the stages that run again after a file was changed, as DVC decides by dvc.yaml and .dvcignore."""
    return [stage for stage in stages() if any(covers(dependency, file) for dependency in code_of(stage))]


def examples() -> dict[str, list[str]]:
    """Return a module of each package and of each set of stages that it repeats, with these stages."""
    found = {}
    for name, file in code()[1].items():
        if name in LIBRARY and file.name != "__init__.py":
            found[package(name), tuple(rerun(path_of(file)))] = path_of(file)
    return {file: list(stages) for (_, stages), file in found.items()}


def table() -> list[str]:
    """Return the table of docs/pipeline.md: for each package, the stages that run again after a change of it."""
    rows: dict[str, dict[str, list[str]]] = {}
    for name, file in code()[1].items():
        found = ", ".join(f"`{stage}`" for stage in rerun(path_of(file)))
        if found and file.name != "__init__.py":
            rows.setdefault(package(name).replace(".", "/"), {}).setdefault(found, []).append(f"`{file.stem}`")
    lines = ["| code | stages that run again |", "|---|---|"]
    for name, groups in sorted(rows.items()):
        for found, stems in groups.items():
            lines.append(f"| `{name}`{': ' + ', '.join(sorted(stems)) if len(groups) > 1 else ''} | {found} |")
    return lines


def test_the_table_has_every_stage() -> None:
    assert set(ENTRY) == set(stages())


@pytest.mark.parametrize("stage", ENTRY)
def test_a_stage_depends_on_the_code_that_it_runs(stage: str) -> None:
    needed = modules_of(stage)
    missing = [file for file in sorted(needed) if not any(covers(path, file) for path in code_of(stage))]
    assert missing == [], "a change in these would not be seen"
    unused = [path for path in code_of(stage) if not any(covers(path, file) for file in needed)]
    assert unused == [], "a change in these would repeat the stage for nothing"


def test_modules_that_no_stage_runs_are_ignored() -> None:
    used = set().union(*map(modules_of, ENTRY))
    folders = tuple(f"{path}/" for stage in ENTRY for path in code_of(stage) if not path.endswith(".py"))
    files = {path_of(file) for file in code()[1].values() if file.name != "__init__.py"}
    assert {file for file in files - used if file.startswith(folders)} == ignored()


def test_documentation_has_the_stages_that_run_again() -> None:
    text = (ROOT / "docs/pipeline.md").read_text(encoding="utf-8")
    assert "\n".join(table()) in text, "docs/pipeline.md needs this table:\n" + "\n".join(table())


@pytest.mark.parametrize(
    ("file", "expected"),
    [
        ("alpro/data/words/nouns.py", {"text", "entities"}),
        ("alpro/evaluation/plots.py", {"evaluate", "zeroshot"}),
        ("alpro/report/page.py", {"report"}),
        ("alpro/training/optim.py", {"prompter", "pretrain", "finetune"}),
        ("alpro/evaluation/official.py", set()),
        ("alpro/config/params.py", set()),
        ("alpro/cli/train.py", set()),
    ],
)
def test_a_comment_repeats_only_the_stages_that_use_its_package(file: str, expected: set[str]) -> None:
    assert set(rerun(file)) == expected


def test_settings_of_the_machine_invalidate_no_stage() -> None:
    """Of `loader`, only these two affect results: frames from `loader.cache` equal decoded ones."""
    listed = {param for stage in stages().values() for param in stage.get("params", ()) if param.split(".")[0] == "loader"}
    assert listed == {"loader.max_unreadable", "loader.decoder"}
    decoding = {name.split("@")[0] for name, stage in stages().items() if "loader.decoder" in stage.get("params", ())}
    assert decoding == {"prompter", "pretrain", "finetune", "evaluate", "zeroshot"}
    assert not any(param.startswith("tracking") for stage in stages().values() for param in stage.get("params", ()))
