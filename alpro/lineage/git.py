"""Reads git: the commit that contains the state on disk, files of a commit, and the project's main checkout."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

CODE = ("alpro", "flows", "recipes", "dvc.yaml", "dvc.lock", "params.yaml", "pyproject.toml")
"""Paths that a result depends on. A state is clean if a commit contains exactly these."""

PIPELINE = ("dvc.yaml", "params.yaml", "dvc.lock")
TEMPORARY = (".dvc", "tmp", "exps")  # folder in which `dvc exp run --temp` and `--queue` create small repositories
EXPERIMENT_DEPTH = 4  # slashes in refs/exps/AB/CDEF.../NAME


@dataclass(frozen=True)
class GitProblem:
    """Problem that keeps git from serving DVC, and its remedy."""

    detail: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.detail}; {self.remedy}"


@dataclass(frozen=True)
class GitState:
    """State of a checkout. `changed` lists the paths under `CODE` that differ from the commit.

    `commit` is the one that contains the state, otherwise HEAD; `branch` is the branch or experiment of that commit.
    """

    commit: str | None
    branch: str | None
    changed: tuple[str, ...]

    @property
    def clean(self) -> bool:
        """True if a commit contains code, pipeline, parameters and lock file as they are on disk."""
        return self.commit is not None and not self.changed


def git(root: Path, *args: str, variables: Mapping[str, str] | None = None) -> str | None:
    """Return the standard output of a git command run in `root`, or None if it fails or git is missing."""
    environment = {**os.environ, **(variables or {})}
    try:
        process = subprocess.run(["git", *args], cwd=root, capture_output=True, text=True, timeout=60, env=environment)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return process.stdout if process.returncode == 0 else None


def repository_problem(root: Path) -> GitProblem | None:
    """Return a problem if `root` is not in a git repository that has its dvc.yaml in a commit: all DVC commands need one."""
    if git(root, "rev-parse", "--git-dir") is None:
        remedy = (
            "clone the project with git (a ZIP file has no repository), or run: git init && git add -A && git commit -m start"
        )
        return GitProblem("not a git repository", remedy)
    if (root / "dvc.yaml").exists() and git(root, "cat-file", "-e", "HEAD:./dvc.yaml") is None:
        return GitProblem("git has no commit with dvc.yaml", "run: git init && git add -A && git commit -m start")
    return None


def user_problem(root: Path) -> GitProblem | None:
    """Return a problem if git has no user: DVC saves experiments as commits, and does not guess a name as git does."""
    for role in ("AUTHOR", "COMMITTER"):
        for part in ("name", "email"):
            configured = git(root, "config", f"user.{part}") or ""
            if not os.environ.get(f"GIT_{role}_{part.upper()}", configured).strip():
                remedy = "run: git config user.name NAME && git config user.email ADDRESS"
                return GitProblem("git has no user", remedy)
    return None


def git_state(root: Path) -> GitState:
    """Return commit, branch and changed paths. Ignored files that the pipeline needs count as changed.

    If HEAD does not contain the state, the branches and DVC's experiments are searched, as after `dvc exp save`.
    """
    commit = git(root, "rev-parse", "HEAD")
    if commit is None:
        return GitState(None, None, ())
    branch = git(root, "symbolic-ref", "--short", "-q", "HEAD")
    present = [path for path in CODE if (root / path).exists()]
    status = git(root, "status", "--porcelain", "-z", "--no-renames", "--untracked-files=all", "--", *present) or ""
    changed = {entry[3:] for entry in status.split("\0") if len(entry) > 3}
    tracked = set((git(root, "ls-files", "-z", "--", *PIPELINE) or "").split("\0"))
    changed |= {path for path in PIPELINE if (root / path).exists() and path not in tracked}
    if changed and (match := _find_commit(root, present)):
        return GitState(*match, ())
    return GitState(commit.strip(), branch.strip() if branch else None, tuple(sorted(changed)))


def show_file(root: Path, commit: str, path: str) -> str | None:
    """Return the content of a file in a commit, or None if the commit or the file does not exist."""
    return git(root, "show", f"{commit}:{path}")


def _find_commit(root: Path, present: Sequence[str]) -> tuple[str, str] | None:
    """Return commit and name of the branch or experiment whose paths under `CODE` are exactly those on disk."""
    with tempfile.TemporaryDirectory(prefix="alpro-index.") as temporary:  # a separate index: the user's is not changed
        index = {"GIT_INDEX_FILE": str(Path(temporary) / "index")}
        forced = [path for path in PIPELINE if (root / path).exists()]
        staged = [("read-tree", "HEAD"), ("add", "--all", "--", *present), ("add", "--force", "--", *forced)]
        if any(git(root, *words, variables=index) is None for words in staged):
            return None
        tree = git(root, "write-tree", variables=index)
    refs = git(root, "for-each-ref", "--sort=-committerdate", "--format=%(objectname) %(refname)", "refs/heads", "refs/exps")
    if tree is None or refs is None:
        return None
    for line in refs.splitlines():
        commit, _, ref = line.partition(" ")
        is_branch = ref.startswith("refs/heads/")
        is_experiment = ref.count("/") == EXPERIMENT_DEPTH  # DVC has other refs below refs/exps, too
        if not is_branch and not is_experiment:
            continue
        if git(root, "diff-tree", "--quiet", commit, tree.strip(), "--", *CODE) is not None:
            return commit, ref.removeprefix("refs/heads/") if is_branch else ref.rsplit("/", 1)[-1]
    return None


def main_checkout(root: Path) -> Path:
    """Return the main checkout, which all worktrees and DVC's temporary experiment folders of one project share.

    It is the parent of git's common directory. A submodule, whose common directory is inside another repository, is its
    own main checkout. Outside git it is `root`.
    """
    root = Path(root).resolve()
    names = root.parts
    for start in range(len(names) - 2):
        if names[start : start + 3] == TEMPORARY and start:
            return main_checkout(Path(*names[:start]))
    answer = git(root, "rev-parse", "--git-dir", "--git-common-dir")
    if answer is None:
        return root
    git_dir, common = ((root / line).resolve() for line in answer.splitlines()[:2])
    if git_dir == common:
        top = git(root, "rev-parse", "--show-toplevel")
        return Path(top.strip()).resolve() if top else common.parent
    return common.parent
