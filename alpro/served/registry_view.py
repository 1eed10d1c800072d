"""The registry for people: champion, candidate and previous version of each task, with metrics, gate and lineage."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alpro.config import Params
from alpro.registry import aliases
from alpro.registry.lineage import trace
from alpro.registry.versions import CANDIDATE, CHAMPION, METRICS, PREVIOUS, label
from alpro.served.sources import REGISTRY
from alpro.tracking import store

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion

ALIASES = (CHAMPION, CANDIDATE, PREVIOUS)


@dataclass(frozen=True, slots=True)
class RegisteredVersion:
    """A version with its aliases. `metrics`: name -> value, then limits of its 95 % interval; `gate`: the gate's record."""

    aliases: tuple[str, ...]
    name: str
    metrics: Mapping[str, Sequence[float]]
    gate: Mapping[str, Any] | None


@dataclass(frozen=True, slots=True)
class TaskView:
    """The versions of a task by alias, and one line if an alias was moved by hand."""

    task: str
    kind: str  # retrieval or qa
    versions: list[RegisteredVersion]
    warning: str | None


def registered(root: Path, params: Params | None) -> list[TaskView]:
    """Return the registered versions of each task of params.yaml; empty without a registry. Raises TrackingError."""
    if params is None or importlib.util.find_spec("mlflow") is None or not store.exists(store.store_uri(root)):
        return []
    with REGISTRY, store.opened(root) as opened:
        views = []
        for task, dataset in params.datasets.items():
            model = f"alpro-{task}"
            found: dict[str, tuple[ModelVersion, list[str]]] = {}
            for alias in ALIASES:
                if version := aliases.version_at(opened.client, model, alias):
                    found.setdefault(str(version.version), (version, []))[1].append(alias)
            versions = [_version(version, names) for version, names in found.values()]
            warning = aliases.alias_mismatch(opened.client, model) if versions else None
            views.append(TaskView(task, dataset.task, versions, warning))
    return views


def lineage_text(root: Path, name: str) -> str:
    """Return the lineage of a version such as `alpro-msvd_qa/3`, as `alpro lineage` prints it. Raises TrackingError."""
    with REGISTRY:
        return str(trace(root, f"models:/{name}"))


def _version(version: ModelVersion, names: list[str]) -> RegisteredVersion:
    metrics = json.loads(version.tags.get(METRICS, "{}"))
    gate = json.loads(version.tags[aliases.GATE]) if version.tags.get(aliases.GATE) else None
    return RegisteredVersion(tuple(names), label(version), metrics, gate)
