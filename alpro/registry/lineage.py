"""From an alias in MLflow back to commit, lock, data and parameters: `alpro lineage models:/alpro-msvd_qa@champion`."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from alpro.lineage.dvc import dvc_cache
from alpro.lineage.git import git

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion


from alpro.registry.versions import find


def trace(root: Path, uri: str) -> str:
    """The chain of a version, as text for people. Raises TrackingError where there is no such version."""
    from alpro.registry import aliases
    from alpro.tracking.store import opened

    with opened(root) as store:
        version = find(store, uri)
        lines = [uri]
        if uri.endswith("@champion") and (wrong := aliases.alias_mismatch(store.client, version.name)):
            lines.append(f"  WARNING: {wrong}")
        seen: set[str] = set()
        queue = [version]
        while queue:
            one = queue.pop(0)
            if (name := f"{one.name}/{one.version}") not in seen:
                seen.add(name)
                lines += ["", f"{name}{_aliases(one)}", *_facts(root, one)]
                queue += [find(store, f"models:/{parent}") for parent in _parents(one)]
        return "\n".join([*lines, "", *_way_back(root, version, uri)])


def _parents(version: ModelVersion) -> list[str]:
    from alpro.registry import versions as tag

    return [name for name in version.tags.get(tag.PARENT, "").split(", ") if name]


def _aliases(version: ModelVersion) -> str:
    return f" ({', '.join(sorted(version.aliases))})" if version.aliases else ""


def _facts(root: Path, version: ModelVersion) -> Iterator[str]:
    from alpro.registry import aliases
    from alpro.registry import versions as tag

    tags = version.tags
    clean = tags.get(tag.CLEAN) == "yes"
    commit = tags.get(tag.COMMIT)
    subject = (git(root, "log", "-1", "--format=%s", commit) or "").strip() if commit else ""
    said = f"{commit} ({tags.get(tag.BRANCH, 'no branch')}) {subject}" if commit else "none"
    told = {
        "stage": tags.get(tag.STAGE),
        "weights": f"sha256 {tags.get(tag.SHA256)}",
        "commit": said if clean else f"{said}; CHANGED since: {tags.get(tag.CHANGED)}",
        "lock": f"{tags.get(tag.LOCK)}, output {tags.get(tag.DVC, 'not in it')}",
        "parameters": tags.get(tag.PARAMS),
        "validation": tags.get(tag.VALIDATION),
        "flow": tags.get(tag.FLOW),
        "experiment": tags.get(tag.EXPERIMENT),
        "run": version.run_id,
        "from": tags.get(tag.PARENT),
        "started": tags.get(tag.START),
    }
    yield from (f"  {name:11} {value}" for name, value in told.items() if value)
    yield from (f"  {'data':11} {path} {digest}" for path, digest in json.loads(tags.get(tag.DATA, "{}")).items())
    if record := tags.get(aliases.GATE):
        gate = json.loads(record)
        yield f"  {'gate':11} passed {gate['at']}, against {gate['against'] or 'chance'}, by the code of {gate['code']}"


def _way_back(root: Path, version: ModelVersion, uri: str) -> Iterator[str]:
    from alpro.registry import versions as tag

    commit = version.tags.get(tag.COMMIT)
    if not commit or version.tags.get(tag.CLEAN) != "yes":
        yield "No commit holds this state: it can't be brought back as a whole."
        return
    if git(root, "cat-file", "-e", f"{commit}^{{commit}}") is None:
        yield f"The commit {commit} is not in this repository: fetch it (experiments: `dvc exp pull`)."
        return
    yield "This state again, in a folder of its own:"
    yield f"  git worktree add ../alpro-{commit[:10]} {commit}"
    yield f"  cd ../alpro-{commit[:10]}"
    if cache := dvc_cache(root):
        yield f"  dvc cache dir --local {shlex.quote(str(cache))}"
    yield "  dvc checkout"
    yield "Or, from here, evaluated anew and compared (--train: trained anew too):"
    yield f"  alpro reproduce {uri}"
