"""One process for all that `make repro` asks DVC: which files changed, which stages the targets need, then `dvc repro`.

A program, with the targets as arguments: it prints one JSON line, waits for a line on stdin, and runs `dvc repro`.
Without a line it only ends. Importing DVC takes a second, which separate commands would each pay.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from typing import Any


def describe(targets: Sequence[str]) -> dict[str, Any]:
    """Return the changed files of `dvc data status` by kind, and the addresses of the stages in the order of `dvc repro`."""
    from dvc.repo import Repo
    from dvc.repo.reproduce import get_active_graph, plan_repro

    with Repo() as repo:
        status = repo.data_status(granular=True)
        wanted = [stage for target in targets for stage in repo.stage.collect(target)]
        stages = plan_repro(get_active_graph(repo.index.graph), wanted)
        return {
            "changed": {kind: list(status["uncommitted"].get(kind, [])) for kind in ("added", "modified")},
            "stages": [stage.addressing for stage in stages if stage.cmd],
        }


def main(targets: Sequence[str]) -> int:
    """Print the description, wait for the answer, and run `dvc repro TARGETS`; return its exit code."""
    from dvc.cli import main as dvc
    from dvc.exceptions import DvcException

    try:
        print(json.dumps(describe(targets)), flush=True)
    except (DvcException, OSError) as error:
        print(json.dumps({"error": " ".join(str(error).split())}), flush=True)
        return 1
    if not sys.stdin.readline():
        return 0
    with open(os.devnull) as null:
        os.dup2(null.fileno(), sys.stdin.fileno())  # stages must not wait for input
    return int(dvc(["repro", *targets]) or 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
