"""Links inputs that neither git nor DVC tracks, such as a start checkpoint or a folder of videos, into a run's worktree."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import yaml

from alpro.lineage import overlap
from flows.commands import dvc, output_of

BERT_FOLDER = "ext"  # fallback folder for the BERT that a recipes/init file names


def link_inputs(checkout: Path, worktree: Path) -> list[str]:
    """Link the paths named in params.yaml that exist in the checkout but not in the worktree; return them.

    Outputs of stages are not linked. Start files (recipes/init) are searched for further paths. No stage writes into its
    inputs, so the links are only read. Raises RuntimeError if DVC cannot read the pipeline.
    """
    names = list(_strings(_yaml(worktree / "params.yaml")))
    for start in {name for name in names if name.endswith((".yaml", ".yml"))}:
        file = next((file for file in (worktree / start, checkout / start) if file.is_file()), None)
        inner = list(_strings(_yaml(file))) if file else []
        names += [*inner, *(f"{BERT_FOLDER}/{name}" for name in inner)]
    missing = [name for name in dict.fromkeys(names) if _needs_link(checkout, worktree, name)]
    outputs = _outputs(worktree) if missing else []
    linked = [name for name in missing if not any(overlap(name, output) for output in outputs)]
    for name in linked:
        (worktree / name).parent.mkdir(parents=True, exist_ok=True)
        (worktree / name).symlink_to((checkout / name).resolve())
    return linked


def _needs_link(checkout: Path, worktree: Path, name: str) -> bool:
    path = PurePosixPath(name)
    if not name or "\0" in name or path.is_absolute() or ".." in path.parts:
        return False
    try:
        return not (worktree / path).exists() and (checkout / path).exists()
    except OSError:  # a long text is not a path
        return False


def _outputs(worktree: Path) -> list[str]:
    """Return all outputs of stages and all paths that .dvc files track."""
    graph = output_of([dvc(), "dag", "--dot", "--outs"], worktree)
    return list(dict.fromkeys(re.findall(r'"([^"]+)"', graph)))


def _yaml(file: Path) -> Any:
    return yaml.safe_load(file.read_text(encoding="utf-8"))


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for inner in value.values():
            yield from _strings(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _strings(inner)
