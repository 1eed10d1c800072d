"""A program that prints `skip` if `dvc repro --single-item STAGE` would not run the stage's command, else `run`.

`dvc repro --dry` cannot tell: it does not look for changed inputs in DVC's run cache.
"""

from __future__ import annotations

import sys


def would_run(name: str) -> bool:
    """Return False if a stage of the project in the working directory is up to date or in the run cache."""
    from dvc.repo import Repo
    from dvc.stage.cache import RunCacheNotFoundError

    with Repo() as repo, repo.lock:
        (stage,) = repo.stage.collect(name)
        if not stage.changed():
            return False
        stage.save_deps()
        try:
            repo.stage_cache.restore(stage, dry=True)
        except RunCacheNotFoundError:
            return True
        return False


if __name__ == "__main__":
    print("run" if would_run(sys.argv[1]) else "skip")
