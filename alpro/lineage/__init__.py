"""The only code that calls git and DVC: commits, lock files and content hashes of the project.

Everything here also works without them: outside a repository there is no commit, without a lock file there are no hashes.
"""

from alpro.lineage.dvc import dvc_add, dvc_cache
from alpro.lineage.dvc_lock import (
    LOCKS,
    LockedPath,
    LockedStage,
    dvc_hash,
    locked_stages,
    locks_digest,
    matches_lock,
    overlap,
    stage_of,
)
from alpro.lineage.git import (
    CODE,
    GitProblem,
    GitState,
    git,
    git_state,
    main_checkout,
    repository_problem,
    user_problem,
)

__all__ = [
    "CODE",
    "LOCKS",
    "GitProblem",
    "GitState",
    "LockedPath",
    "LockedStage",
    "dvc_add",
    "dvc_cache",
    "dvc_hash",
    "git",
    "git_state",
    "locked_stages",
    "locks_digest",
    "main_checkout",
    "matches_lock",
    "overlap",
    "repository_problem",
    "stage_of",
    "user_problem",
]
