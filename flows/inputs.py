"""Inputs that neither git nor DVC holds, as a start checkpoint or a folder of videos: a run finds those of the checkout."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import yaml

from flows.commands import ask, dvc

BESIDE = "ext"  # where a start file's BERT is looked for too


def link_inputs(checkout: Path, place: Path) -> list[str]:
    """Link what params.yaml names, the checkout has and the worktree `place` has not, unless a stage makes it; returns that.

    A start file (recipes/init) is read for the names in it. The links are for reading: nothing in the pipeline writes into its
    inputs. Raises RuntimeError where DVC can't read the pipeline.
    """
    named = list(_strings(_yaml(place / "params.yaml")))
    for start in {name for name in named if name.endswith((".yaml", ".yml"))}:
        file = next((file for file in (place / start, checkout / start) if file.is_file()), None)
        found = list(_strings(_yaml(file))) if file else []
        named += [*found, *(f"{BESIDE}/{name}" for name in found)]
    wanted = [name for name in dict.fromkeys(named) if _lacks(checkout, place, name)]
    outputs = _outputs(place) if wanted else []
    linked = [name for name in wanted if not any(_touch(PurePosixPath(name), output) for output in outputs)]
    for name in linked:
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).symlink_to((checkout / name).resolve())
    return linked


def _lacks(checkout: Path, place: Path, name: str) -> bool:
    path = PurePosixPath(name)
    if not name or "\0" in name or path.is_absolute() or ".." in path.parts:
        return False
    try:
        return not (place / path).exists() and (checkout / path).exists()
    except OSError:  # a long text is no path
        return False


def _touch(one: PurePosixPath, other: PurePosixPath) -> bool:
    """Whether one is the other, or lies in it, in whichever order."""
    return one.is_relative_to(other) or other.is_relative_to(one)


def _outputs(place: Path) -> list[PurePosixPath]:
    """Whatever stages make and .dvc files track."""
    said = ask([dvc(), "dag", "--dot", "--outs"], place)
    return [PurePosixPath(name) for name in dict.fromkeys(re.findall(r'"([^"]+)"', said))]


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
