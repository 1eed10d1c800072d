"""What git and DVC know: of the state on disk, and of the one that a commit holds. Only here are git and DVC called.

Everything here answers without them too: outside a repository there is no commit, without a lock there are no hashes.
"""

from alpro.lineage.dvc import dvc_add
from alpro.lineage.dvc_lock import LOCKS, Locked, LockedStage, agrees, dvc_hash, locked_stages, locks_digest, stage_of, touch
from alpro.lineage.git import CODE, GitState, git, git_state, home

__all__ = [
    "CODE",
    "LOCKS",
    "GitState",
    "Locked",
    "LockedStage",
    "agrees",
    "dvc_add",
    "dvc_hash",
    "git",
    "git_state",
    "home",
    "locked_stages",
    "locks_digest",
    "stage_of",
    "touch",
]
