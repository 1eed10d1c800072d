"""A run that never touches the checkout: a git worktree with DVC's shared cache, saved as a DVC experiment.

The worktree starts as the checkout is, uncommitted edits included, as with `dvc exp run`, and finds the checkout's inputs that
nobody tracks; the experiment shows in the checkout (`dvc exp show`) and can be compared, applied and committed there.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from alpro.lineage import LOCKS
from flows.commands import LONG_S, ask, dvc, environment
from flows.form import Changes
from flows.inputs import link_inputs

FOLDER = Path(".dvc/tmp/flows")  # DVC neither tracks nor searches .dvc/tmp, and its cache lies on the same disk


@contextmanager
def worktree(checkout: Path, name: str, saved: bool = False) -> Iterator[Path]:
    """A worktree of the project in the state of `checkout`, or of the experiment `name` where that is `saved`.

    It is gone afterwards, whatever happened. Raises RuntimeError.
    """
    commit = _commit(checkout, name) if saved else "HEAD"
    place = checkout / FOLDER / name
    _sweep(checkout)
    place.parent.mkdir(parents=True, exist_ok=True)
    ask(["git", "worktree", "add", "--quiet", "--detach", str(place), commit], checkout)
    try:
        if not saved:
            _carry_edits(checkout, place)
        _share(checkout, place)
        yield place
    finally:
        _remove(checkout, place)


def override(root: Path, overrides: Sequence[str]) -> None:
    """Change keys of params.yaml exactly as `dvc exp run -S key=value` does. Raises ValueError on what is no override."""
    from dvc.exceptions import DvcException
    from dvc.utils.hydra import apply_overrides

    try:
        apply_overrides(root / "params.yaml", list(overrides))
    except DvcException as error:
        raise ValueError(f"overrides {list(overrides)}: {' '.join(str(error.__cause__ or error).split())}") from None


def apply(root: Path, given: Changes) -> None:
    """Make a run's changes to params.yaml, all but the gate: no run chooses the judge of its own results.

    Raises ValueError on an override of `gate`, or on what is none.
    """
    from dvc.utils.serialize import modify_yaml

    file = root / "params.yaml"
    gate = _gate(file)
    if given.recipe:
        ask([sys.executable, "-m", "alpro", "recipe", "use", given.recipe], root)
        with modify_yaml(file) as params:
            if gate is None:
                params.pop("gate", None)
            else:
                params["gate"] = gate
    if given.overrides:
        override(root, given.overrides)
    if _gate(file) != gate:
        raise ValueError(
            f"overrides {list(given.overrides)}: `gate` judges what the run makes, so no run changes it; "
            "edit params.yaml and commit that"
        )


def restore(checkout: Path, root: Path) -> list[str]:
    """Bring the data, and the outputs that the lock knows, out of the shared cache, so that only what changed runs.

    Returns the inputs of `checkout` that neither git nor DVC holds, and that were linked.
    """
    ask([dvc(), "checkout", "--quiet", "--force", "--allow-missing"], root, LONG_S)
    return link_inputs(checkout, root)


def save(root: Path, name: str, stages: Sequence[str], message: str) -> None:
    """Save the worktree's state as experiment `name`. Stages that did not take part need not have outputs."""
    included = [word for file in _untracked(root, *LOCKS, "*.dvc") for word in ("--include-untracked", file)]
    ask([dvc(), "exp", "save", "--quiet", "--force", "--name", name, "--message", message, *included, *stages], root, LONG_S)


def _commit(checkout: Path, name: str) -> str:
    found = ask(["git", "for-each-ref", "--format=%(objectname)", f"refs/exps/*/*/{name}"], checkout).split()
    if not found:
        raise RuntimeError(f"there is no experiment {name} (any more): `dvc exp list` shows those that there are")
    return found[0]


def _carry_edits(checkout: Path, place: Path) -> None:
    edits = subprocess.run(["git", "diff", "--binary", "HEAD"], cwd=checkout, capture_output=True, check=True).stdout
    if edits:
        apply = ["git", "apply", "--whitespace=nowarn", "-"]
        subprocess.run(apply, cwd=place, input=edits, check=True, capture_output=True, env=environment())
    for file in {*LOCKS, *_untracked(checkout, "*.dvc")}:
        if (checkout / file).exists() and not (place / file).exists():
            (place / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(checkout / file, place / file)


def _untracked(root: Path, *patterns: str) -> list[str]:
    listed = ask(["git", "ls-files", "--others", "--exclude-standard", "-z", "--", *patterns], root)
    return list(filter(None, listed.split("\0")))


def _gate(file: Path) -> Any:
    return (yaml.safe_load(file.read_text(encoding="utf-8")) or {}).get("gate")


def _share(checkout: Path, place: Path) -> None:
    """DVC's cache and its local settings, and the state from which an interrupted training goes on."""
    local = checkout / ".dvc" / "config.local"
    if local.exists():
        shutil.copy(local, place / ".dvc" / "config.local")
    cache = ask([dvc(), "cache", "dir"], checkout).strip()
    ask([dvc(), "cache", "dir", "--local", str((checkout / cache).resolve())], place)
    state = checkout / ".state"
    state.mkdir(exist_ok=True)
    (place / ".state").symlink_to(state.resolve())


def _sweep(checkout: Path) -> None:
    """Worktrees of runs that were killed; only one run is at work at a time, so none is anybody's."""
    for left in (checkout / FOLDER).glob("*"):
        _remove(checkout, left)


def _remove(checkout: Path, place: Path) -> None:
    subprocess.run(["git", "worktree", "remove", "--force", "--force", str(place)], cwd=checkout, capture_output=True)
    shutil.rmtree(place, ignore_errors=True)
    subprocess.run(["git", "worktree", "prune"], cwd=checkout, capture_output=True)


def describe(flow: str, given: Changes) -> str:
    """One line for the experiment's commit: the id of Prefect's run, and what it changed."""
    return " ".join([f"flow {flow}:", *([f"recipe {given.recipe}"] if given.recipe else []), *given.overrides])
