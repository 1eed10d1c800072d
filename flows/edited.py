"""Files that somebody put into, or edited inside, the output of a stage: DVC would delete them without a word."""

from __future__ import annotations

import json
import time
from pathlib import Path

import yaml

from flows.commands import LONG_S, ask, dvc

KEPT = Path(".state/kept")


def edited_outputs(root: Path) -> list[str]:
    """Paths in outputs of stages that are not what a stage wrote there. Data that .dvc files track are their owner's."""
    status = json.loads(ask([dvc(), "data", "status", "--json", "--granular"], root, LONG_S))
    changed = status.get("uncommitted", {})
    data = _tracked_data(root)
    return sorted(
        path
        for kind in ("added", "modified")
        for path in changed.get(kind, [])
        if not path.endswith("/") and not any(path == place or path.startswith(f"{place}/") for place in data)
    )


def put_aside(root: Path, paths: list[str]) -> Path:
    """Move these files to a folder of their own, below .state/kept; returns it."""
    place = root / KEPT / time.strftime("%Y%m%d-%H%M%S")
    for path in paths:
        target = place / path
        target.parent.mkdir(parents=True, exist_ok=True)
        (root / path).rename(target)
    return place


def _tracked_data(root: Path) -> set[str]:
    listed = ask(["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z", "--", "*.dvc"], root)
    found = set()
    for name in filter(None, listed.split("\0")):
        file = root / name
        if file.is_file():
            content = yaml.safe_load(file.read_text(encoding="utf-8")) or {}
            found |= {(Path(name).parent / out["path"]).as_posix() for out in content.get("outs", [])}
    return found
