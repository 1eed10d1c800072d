"""git: which commit holds the state on disk, what a commit holds, and where the project's home is."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

CODE = ("alpro", "flows", "stages", "recipes", "dvc.yaml", "dvc.lock", "params.yaml", "pyproject.toml")


"""What a result depends on: a state is clean when a commit holds exactly these."""

PIPELINE = ("dvc.yaml", "params.yaml", "dvc.lock", "stages/dvc.lock")


TEMPORARY = (".dvc", "tmp", "exps")  # where `dvc exp run --temp` and `--queue` put their own small repositories


EXPERIMENT_DEPTH = 4  # refs/exps/AB/CDEF.../NAME


@dataclass(frozen=True)
class GitState:
    """A checkout as git sees it. `changed` names the paths under `CODE` that no commit holds as they are.

    `commit` is the one that holds the state, else HEAD; `branch` the branch, or the experiment, of that commit.
    """

    commit: str | None
    branch: str | None
    changed: tuple[str, ...]

    @property
    def clean(self) -> bool:
        """Whether a commit holds code, pipeline, parameters and lock as they lie here."""
        return self.commit is not None and not self.changed


def git(root: Path, *args: str, variables: Mapping[str, str] | None = None) -> str | None:
    """Standard output of a git command run in `root`; None where git is missing, or says no."""
    environment = {**os.environ, **(variables or {})}
    try:
        done = subprocess.run(["git", *args], cwd=root, capture_output=True, text=True, timeout=60, env=environment)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None


def git_state(root: Path) -> GitState:
    """Commit, branch and what differs from the commit. Ignored files that the pipeline needs count as changed.

    A state that HEAD does not hold may be one that a branch or an experiment of DVC's holds, as after `dvc exp save`.
    """
    commit = git(root, "rev-parse", "HEAD")
    if commit is None:
        return GitState(None, None, ())
    branch = git(root, "symbolic-ref", "--short", "-q", "HEAD")
    present = [path for path in CODE if (root / path).exists()]
    status = git(root, "status", "--porcelain", "-z", "--no-renames", "--untracked-files=all", "--", *present) or ""
    changed = {entry[3:] for entry in status.split("\0") if len(entry) > 3}
    held = set((git(root, "ls-files", "-z", "--", *PIPELINE) or "").split("\0"))
    changed |= {path for path in PIPELINE if (root / path).exists() and path not in held}
    if changed and (holder := _holder(root, present)):
        return GitState(*holder, ())
    return GitState(commit.strip(), branch.strip() if branch else None, tuple(sorted(changed)))


def show(root: Path, commit: str, path: str) -> str | None:
    """A file as a commit holds it; None where it does not, or where there is no such commit."""
    return git(root, "show", f"{commit}:{path}")


def _holder(root: Path, present: Sequence[str]) -> tuple[str, str] | None:
    """The commit of a branch or experiment, and its name, that holds exactly what lies here under `CODE`."""
    with tempfile.TemporaryDirectory(prefix="alpro-index.") as aside:  # an index of its own: the user's stays as it is
        index = {"GIT_INDEX_FILE": str(Path(aside) / "index")}
        forced = [path for path in PIPELINE if (root / path).exists()]
        staged = [("read-tree", "HEAD"), ("add", "--all", "--", *present), ("add", "--force", "--", *forced)]
        if any(git(root, *words, variables=index) is None for words in staged):
            return None
        tree = git(root, "write-tree", variables=index)
    refs = git(root, "for-each-ref", "--sort=-committerdate", "--format=%(objectname) %(refname)", "refs/heads", "refs/exps")
    if tree is None or refs is None:
        return None
    for line in refs.splitlines():
        commit, _, name = line.partition(" ")
        own = name.startswith("refs/heads/") or name.count("/") == EXPERIMENT_DEPTH  # DVC keeps other refs there too
        if own and git(root, "diff-tree", "--quiet", commit, tree.strip(), "--", *CODE) is not None:
            return commit, name.removeprefix("refs/heads/") if name.startswith("refs/heads/") else name.rsplit("/", 1)[-1]
    return None


def home(root: Path) -> Path:
    """The folder that all worktrees and DVC's temporary experiment folders of one project share.

    It is the main checkout: the parent of git's common directory. A submodule, whose common directory lies
    inside another repository, is its own home; outside git `root` is.
    """
    root = Path(root).resolve()
    parts = root.parts
    for at in range(len(parts) - 2):
        if parts[at : at + 3] == TEMPORARY and at:
            return home(Path(*parts[:at]))
    answer = git(root, "rev-parse", "--git-dir", "--git-common-dir")
    if answer is None:
        return root
    own, common = ((root / line).resolve() for line in answer.splitlines()[:2])
    if own == common:
        top = git(root, "rev-parse", "--show-toplevel")
        return Path(top.strip()).resolve() if top else common.parent
    return common.parent
