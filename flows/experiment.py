"""A run that never touches the checkout: a git worktree with DVC's shared cache, saved as a DVC experiment.

The worktree starts as the checkout is, uncommitted edits included, as with `dvc exp run`; the experiment shows in the
checkout (`dvc exp show`) and can be compared, applied and committed there.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from alpro.lineage import LOCKS
from flows.commands import ask, dvc, environment

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


def restore(root: Path) -> None:
    """Bring the data, and the outputs that the lock knows, out of the shared cache, so that only what changed runs."""
    ask([dvc(), "checkout", "--quiet", "--force", "--allow-missing"], root)


def save(root: Path, name: str, stages: Sequence[str], message: str) -> None:
    """Save the worktree's state as experiment `name`. Stages that did not take part need not have outputs."""
    untracked = ask(["git", "ls-files", "--others", "--exclude-standard", "--", *LOCKS], root).split()
    included = [word for lock in untracked for word in ("--include-untracked", lock)]
    ask([dvc(), "exp", "save", "--quiet", "--force", "--name", name, "--message", message, *included, *stages], root)


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
    for lock in LOCKS:
        if (checkout / lock).exists() and not (place / lock).exists():
            shutil.copy(checkout / lock, place / lock)


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


def describe(recipe: str | None, overrides: Sequence[str]) -> str:
    """One line for the experiment's commit."""
    return " ".join(["flow:", *([f"recipe {recipe}"] if recipe else []), *overrides])
