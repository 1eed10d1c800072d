"""Traces a registered model back to commit, lock file, data and parameters: `alpro lineage models:/alpro-msvd_qa@champion`."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alpro.lineage.dvc import dvc_cache
from alpro.lineage.git import git
from alpro.registry import aliases
from alpro.registry import versions as tag
from alpro.registry.versions import find, label
from alpro.tracking.store import opened

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion


@dataclass(frozen=True, slots=True)
class VersionOrigin:
    """Origin of a version. `provenance`: text of its tags by title; `data`: DVC's hash by path; `gate`: the gate's record."""

    name: str
    aliases: tuple[str, ...]
    provenance: Mapping[str, str]
    data: Mapping[str, str]
    gate: Mapping[str, Any] | None

    def __str__(self) -> str:
        lines = [f"{self.name} ({', '.join(self.aliases)})" if self.aliases else self.name]
        lines += [f"  {title:11} {value}" for title, value in self.provenance.items()]
        lines += [f"  {'data':11} {path} {digest}" for path, digest in self.data.items()]
        if self.gate:
            against = self.gate["against"] or "chance"
            lines.append(f"  {'gate':11} passed {self.gate['at']}, against {against}, with the code of {self.gate['code']}")
        return "\n".join(lines)


@dataclass(frozen=True, slots=True)
class Lineage:
    """A version with all versions it was trained from, and how to restore its state.

    `restore`: the shell commands, empty if the state cannot be restored; `problem` then says why.
    """

    uri: str
    warning: str | None
    versions: tuple[VersionOrigin, ...]
    restore: tuple[str, ...]
    problem: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return the lineage as plain JSON types (`alpro lineage --json`)."""
        return asdict(self)

    def __str__(self) -> str:
        lines = [self.uri, *([f"  WARNING: {self.warning}"] if self.warning else [])]
        for version in self.versions:
            lines += ["", str(version)]
        lines.append("")
        if self.problem:
            return "\n".join([*lines, self.problem])
        lines += ["To restore this state in a separate folder:", *(f"  {command}" for command in self.restore)]
        lines += ["Or, to evaluate it again from here and compare the metrics (--train: also train it again):"]
        return "\n".join([*lines, f"  alpro reproduce {self.uri}"])


def trace(root: Path, uri: str) -> Lineage:
    """Return the lineage of a version. Raises TrackingError if there is no such version."""
    with opened(root) as store:
        version = find(store, uri)
        warning = aliases.alias_mismatch(store.client, version.name) if uri.endswith("@champion") else None
        origins: dict[str, VersionOrigin] = {}
        queue = [version]
        while queue:
            current = queue.pop(0)
            if label(current) not in origins:
                origins[label(current)] = _origin(root, current)
                queue += [find(store, f"models:/{parent}") for parent in _parents(current)]
        problem = _problem(root, version)
        restore = () if problem else tuple(_restore(root, version))
        return Lineage(uri, warning, tuple(origins.values()), restore, problem)


def _parents(version: ModelVersion) -> Sequence[str]:
    return [name for name in version.tags.get(tag.PARENT_VERSIONS, "").split(", ") if name]


def _origin(root: Path, version: ModelVersion) -> VersionOrigin:
    tags = version.tags
    clean = tags.get(tag.CLEAN) == "yes"
    commit = tags.get(tag.COMMIT)
    subject = (git(root, "log", "-1", "--format=%s", commit) or "").strip() if commit else ""
    described = f"{commit} ({tags.get(tag.BRANCH, 'no branch')}) {subject}" if commit else "none"
    provenance = {
        "stage": tags.get(tag.STAGE),
        "weights": f"sha256 {tags.get(tag.SHA256)}",
        "commit": described if clean else f"{described}; CHANGED since: {tags.get(tag.CHANGED)}",
        "lock": f"{tags.get(tag.LOCK)}, output {tags.get(tag.DVC, 'not in it')}",
        "parameters": tags.get(tag.PARAMS),
        "validation": tags.get(tag.VALIDATION),
        "flow": tags.get(tag.FLOW),
        "experiment": tags.get(tag.EXPERIMENT),
        "run": version.run_id,
        "from": tags.get(tag.PARENT_VERSIONS),
        "started": tags.get(tag.START),
    }
    return VersionOrigin(
        name=label(version),
        aliases=tuple(sorted(version.aliases)),
        provenance={title: value for title, value in provenance.items() if value},
        data=json.loads(tags.get(tag.DATA, "{}")),
        gate=json.loads(tags[aliases.GATE]) if tags.get(aliases.GATE) else None,
    )


def _problem(root: Path, version: ModelVersion) -> str | None:
    """Return why the state of a version cannot be restored, or None."""
    commit = version.tags.get(tag.COMMIT)
    if not commit or version.tags.get(tag.CLEAN) != "yes":
        return "This state cannot be restored: no commit contains it exactly."
    if git(root, "cat-file", "-e", f"{commit}^{{commit}}") is None:
        return f"The commit {commit} is not in this repository: fetch it (experiments: `dvc exp pull`)."
    return None


def _restore(root: Path, version: ModelVersion) -> Iterator[str]:
    commit = version.tags[tag.COMMIT]
    yield f"git worktree add ../alpro-{commit[:10]} {commit}"
    yield f"cd ../alpro-{commit[:10]}"
    if cache := dvc_cache(root):
        yield f"dvc cache dir --local {shlex.quote(str(cache))}"
    yield "dvc checkout"
