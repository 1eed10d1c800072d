"""Runs in a git worktree with DVC's shared cache, saved as a DVC experiment, so that the checkout is never changed.

Like `dvc exp run`, the worktree starts from the checkout's state, including uncommitted edits. It also gets links to untracked
inputs. The experiment appears in the checkout (`dvc exp show`) and can be compared, applied and committed there.

Several runs can work at once: each holds a lock on the name of its worktree, which is also that of its experiment.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path

from alpro.files.locks import Lock, LockHeld
from alpro.files.state import DEFAULT, state_folder
from alpro.lineage import LOCKS, main_checkout
from flows.commands import LONG_S, dvc, environment, output_of
from flows.form import ParamChanges
from flows.link_inputs import link_inputs
from flows.protected import GATE, check, protected

FOLDER = Path(".dvc/tmp/flows")  # ignored by DVC, and on the same disk as its cache
ADDING, SAVING = ".adding", ".saving"  # locks there
WAIT_S = 3600.0  # to save an experiment, DVC may have to hash large files


@contextmanager
def worktree(checkout: Path, name: str, flow: str = "") -> Iterator[Path]:
    """Make a worktree in the state of `checkout` for the run `name` of Prefect with the id `flow`; remove it afterwards.

    The worktree's name is that of the experiment to be saved. It differs from the run's if that is not a valid one, or if
    another run has it. Raises RuntimeError if a git or DVC command fails.
    """
    with _own_name(checkout, name, flow) as folder, _added(checkout, folder, "HEAD"):
        _copy_edits(checkout, folder)
        _share_cache_and_state(checkout, folder)
        yield folder


@contextmanager
def saved_worktree(checkout: Path, name: str) -> Iterator[Path]:
    """Make a worktree in the state of a saved experiment; remove it afterwards.

    Raises RuntimeError if a git or DVC command fails, or if there is no such experiment.
    """
    commit = _experiment_commit(checkout, name)
    if commit is None:
        raise RuntimeError(f"there is no experiment {name}; run `dvc exp list` to see all experiments")
    folder = checkout / FOLDER / name
    folder.parent.mkdir(parents=True, exist_ok=True)
    with Lock(_lock_file(folder), wait_s=WAIT_S), _added(checkout, folder, commit):
        _share_cache_and_state(checkout, folder)
        yield folder


@contextmanager
def _own_name(checkout: Path, name: str, flow: str) -> Iterator[Path]:
    """Lock a folder for a worktree whose name no other run has, and no experiment but an earlier one of the same run."""
    valid = re.sub(r"[^A-Za-z0-9_-]+", "-", name).strip("-") or "run"
    (checkout / FOLDER).mkdir(parents=True, exist_ok=True)
    for number in count(1):
        folder = checkout / FOLDER / (valid if number == 1 else f"{valid}-{number}")
        try:
            lock = Lock(_lock_file(folder))
        except LockHeld:
            continue
        with lock:
            if not _is_of_another(checkout, folder.name, flow):
                yield folder
                return


@contextmanager
def _added(checkout: Path, folder: Path, commit: str) -> Iterator[None]:
    """Add a worktree whose name this process has locked. Git fails if another process adds or removes one meanwhile."""
    one_at_a_time = checkout / FOLDER / ADDING
    with Lock(one_at_a_time, wait_s=WAIT_S):
        _remove(checkout, folder)  # one that a killed run left
        _remove_leftovers(checkout)
        output_of(["git", "worktree", "add", "--quiet", "--detach", str(folder), commit], checkout)
    try:
        yield
    finally:
        with Lock(one_at_a_time, wait_s=WAIT_S):
            _remove(checkout, folder)
            _remove_leftovers(checkout)


def _lock_file(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.lock")


def override(root: Path, overrides: Sequence[str]) -> None:
    """Change params.yaml like `dvc exp run -S key=value`, without its `${...}`, which could read secrets from the environment.

    Raises ValueError if an override is invalid.
    """
    from dvc.exceptions import DvcException
    from dvc.utils.hydra import apply_overrides

    if any("${" in text for text in overrides):
        raise ValueError(f"overrides {list(overrides)}: `${{` is not allowed; write the value itself")
    try:
        apply_overrides(root / "params.yaml", list(overrides))
    except DvcException as error:
        raise ValueError(f"overrides {list(overrides)}: {' '.join(str(error.__cause__ or error).split())}") from None


def apply(root: Path, changes: ParamChanges) -> None:
    """Make a run's changes to params.yaml, except to the parameters that flows.protected names.

    They may only have the value in params.yaml or in the recipe. Raises ValueError if an override is invalid or sets one of
    them to something else.
    """
    from dvc.utils.serialize import modify_yaml

    file = root / "params.yaml"
    committed = protected(file)
    if changes.recipe:
        output_of([sys.executable, "-m", "alpro", "recipe", "use", changes.recipe], root)
        with modify_yaml(file) as params:
            if committed[GATE] is None:
                params.pop(GATE, None)
            else:
                params[GATE] = committed[GATE]
            if committed["launch.scheduler"] is not None:  # a recipe says what is computed, the checkout where
                params["launch"] |= {name: committed[f"launch.{name}"] for name in ("scheduler", "slurm")}
    if changes.overrides:
        of_recipe = protected(file)
        override(root, changes.overrides)
        check(file, changes.overrides, committed, of_recipe)


def restore(checkout: Path, root: Path) -> list[str]:
    """Restore data and locked outputs from the shared cache, so that only changed stages run.

    Returns the inputs that neither git nor DVC tracks; they are linked to those of `checkout`.
    """
    output_of([dvc(), "checkout", "--force", "--allow-missing"], root, LONG_S)
    return link_inputs(checkout, root)


def save(root: Path, name: str, stages: Sequence[str], message: str) -> None:
    """Save the worktree's state as experiment `name`. Only the given stages must have their outputs.

    Runs save one after the other, because DVC keeps its notes on a save in git references of the whole repository.
    """
    untracked = [word for file in _untracked(root, *LOCKS, "*.dvc") for word in ("--include-untracked", file)]
    command = [dvc(), "exp", "save", "--force", "--name", name, "--message", message, *untracked, *stages]
    with Lock(main_checkout(root) / FOLDER / SAVING, wait_s=WAIT_S):
        output_of(command, root, LONG_S)


def _experiment_commit(checkout: Path, name: str) -> str | None:
    commits = output_of(["git", "for-each-ref", "--format=%(objectname)", f"refs/exps/*/*/{name}"], checkout).split()
    return commits[0] if commits else None


def _is_of_another(checkout: Path, name: str, flow: str) -> bool:
    """Return True if there is an experiment of this name, and the run `flow` of Prefect did not save it."""
    commit = _experiment_commit(checkout, name)
    return commit is not None and not output_of(["git", "log", "-1", "--format=%s", commit], checkout).startswith(_mark(flow))


def _copy_edits(checkout: Path, folder: Path) -> None:
    """Copy uncommitted edits, lock files and untracked .dvc files of the checkout to a worktree."""
    edits = subprocess.run(["git", "diff", "--binary", "HEAD"], cwd=checkout, capture_output=True, check=True).stdout
    if edits:
        apply = ["git", "apply", "--whitespace=nowarn", "-"]
        subprocess.run(apply, cwd=folder, input=edits, check=True, capture_output=True, env=environment())
    for file in {*LOCKS, *_untracked(checkout, "*.dvc")}:
        if (checkout / file).exists() and not (folder / file).exists():
            (folder / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(checkout / file, folder / file)


def _untracked(root: Path, *patterns: str) -> list[str]:
    listed = output_of(["git", "ls-files", "--others", "--exclude-standard", "-z", "--", *patterns], root)
    return list(filter(None, listed.split("\0")))


def _share_cache_and_state(checkout: Path, folder: Path) -> None:
    """Use the checkout's DVC cache, its local DVC settings, and its resume state of interrupted trainings."""
    local = checkout / ".dvc" / "config.local"
    if local.exists():
        shutil.copy(local, folder / ".dvc" / "config.local")
    cache = output_of([dvc(), "cache", "dir"], checkout).strip()
    output_of([dvc(), "cache", "dir", "--local", str((checkout / cache).resolve())], folder)
    state = state_folder(checkout)
    state.mkdir(parents=True, exist_ok=True)
    (folder / DEFAULT).symlink_to(state.resolve())


def _remove_leftovers(checkout: Path) -> None:
    """Remove the worktrees of killed runs. A run holds the lock on its worktree's name."""
    for folder in filter(Path.is_dir, (checkout / FOLDER).iterdir()):
        with suppress(LockHeld), Lock(_lock_file(folder)):
            _remove(checkout, folder)


def _remove(checkout: Path, folder: Path) -> None:
    subprocess.run(["git", "worktree", "remove", "--force", "--force", str(folder)], cwd=checkout, capture_output=True)
    shutil.rmtree(folder, ignore_errors=True)
    subprocess.run(["git", "worktree", "prune"], cwd=checkout, capture_output=True)


def describe(flow: str, changes: ParamChanges) -> str:
    """Return one line for the experiment's commit: the id of Prefect's run, and its changes."""
    return " ".join([_mark(flow), *([f"recipe {changes.recipe}"] if changes.recipe else []), *changes.overrides])


def _mark(flow: str) -> str:
    """Return how the message of a run's experiment begins."""
    return f"flow {flow}:"
