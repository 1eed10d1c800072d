"""Reads DVC's experiments: their parameters and metrics."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alpro.errors import TrackingError


@dataclass(frozen=True, slots=True)
class Experiment:
    """A finished DVC experiment. `params` is the content of its params.yaml; `metrics` has the numbers of all metrics files."""

    name: str
    params: Mapping[str, Any]
    metrics: Mapping[str, float]


def experiments(root: Path, all_commits: bool = False) -> list[Experiment]:
    """Return the experiments of the current commit, or of all commits, newest first; those without results are left out.

    Raises TrackingError if DVC is missing or fails.
    """
    command = [sys.executable, "-P", "-m", "dvc", "exp", "show", "--json", *(["--all-commits"] if all_commits else [])]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True)
    if done.returncode:
        raise TrackingError(f"dvc exp show: {(done.stderr.strip().splitlines() or ['failed'])[-1]}")
    return list(_read(json.loads(done.stdout)))


def _read(commits: list[dict[str, Any]]) -> Iterator[Experiment]:
    for shown in (shown for commit in commits for shown in commit.get("experiments") or ()):
        revision = (shown.get("revs") or [{}])[0]
        data = revision.get("data") or {}
        params = ((data.get("params") or {}).get("params.yaml") or {}).get("data") or {}
        files = [file.get("data") for file in (data.get("metrics") or {}).values()]
        metrics = {name: float(value) for file in files if isinstance(file, dict) for name, value in file.items()}
        if params and metrics:
            yield Experiment(shown.get("name") or revision["rev"][:7], params, metrics)
