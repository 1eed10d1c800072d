"""`alpro reproduce`: evaluates (or trains) a registered version again in a clean worktree, and compares the metrics."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alpro.errors import TrackingError
from alpro.files.json_files import read_json_object
from alpro.lineage.dvc import dvc_cache
from alpro.lineage.dvc_lock import LockedStage, dvc_hash, locked_stages
from alpro.lineage.git import git, main_checkout
from alpro.registry import versions as tag
from alpro.registry.versions import find
from alpro.tracking.records import flat_numbers
from alpro.tracking.store import opened

FOLDER = Path(".dvc/tmp/reproduce")  # ignored by DVC, and on the same disk as its cache
RUNNING = "Running stage '"
TOLERANCE = 1e-6  # precision of metrics.json


@dataclass(frozen=True, slots=True)
class Reproduction:
    """Result of a reproduction. `ran`: the stages that really ran; `outputs`: True for each output with the locked hash."""

    commit: str
    ran: tuple[str, ...]
    outputs: Mapping[str, bool]
    differences: Mapping[str, tuple[Any, Any]]  # metrics that differ: before, now
    compared: int  # number of metrics

    @property
    def same(self) -> bool:
        """True if all metrics are the same."""
        return self.compared > 0 and not self.differences

    def __str__(self) -> str:
        lines = [f"commit {self.commit}: {len(self.ran)} stages ran: {', '.join(self.ran)}"]
        lines += [f"  {'same bytes' if same else 'other bytes'}  {path}" for path, same in self.outputs.items()]
        lines += [f"  {name}: was {before}, is {now}" for name, (before, now) in self.differences.items()]
        verdict = "all the same" if self.same else f"{len(self.differences)} differ" if self.compared else "nothing to compare"
        return "\n".join([*lines, f"{self.compared} metrics: {verdict}"])


def reproduce(root: Path, uri: str, *, train: bool = False, say: Callable[[str], object] = print) -> Reproduction:
    """Evaluate a fine-tuned version again in a worktree of its commit, and compare the metrics.

    The checkpoint comes from DVC's cache; the run cache is not used. With `train` a separate, empty cache is used, so all
    stages run again; only data tracked by .dvc files are reused. Raises TrackingError if no commit contains the state, or
    if a stage fails.
    """
    with opened(root) as store:
        tags = find(store, uri).tags
    commit, stage = tags.get(tag.COMMIT, ""), tags.get(tag.STAGE, "")
    kind, _, task = stage.partition("/")
    if kind != "finetune":
        raise TrackingError(f"{uri}: stage {stage or 'unknown'} has no evaluation; give a fine-tuned model")
    if tags.get(tag.CLEAN) != "yes":
        raise TrackingError(f"{uri}: no commit contains its state (changed: {tags.get(tag.CHANGED)})")
    with _worktree(main_checkout(root), root, commit) as worktree:
        stages = locked_stages(worktree)
        target = f"evaluate@{task}"
        if target not in stages:
            raise TrackingError(f"{uri}: dvc.lock of commit {commit[:10]} has no stage {target}")
        outputs = {**stages[target].outs, **(stages[f"finetune@{task}"].outs if train else {})}
        _run_dvc(worktree, "checkout", "--quiet", "--force", "--allow-missing", say=say)
        metrics = worktree / "reports" / "evaluate" / task / "metrics.json"
        before = _read_metrics(metrics)
        if train:
            _remove_outputs(worktree, stages)
        command = ["repro", "--no-run-cache", *([] if train else ["--single-item", "--force"]), target]
        lines = _run_dvc(worktree, *command, say=say)
        ran = tuple(line.split("'")[1].rsplit(":", 1)[-1] for line in lines if line.startswith(RUNNING))
        now = _read_metrics(metrics)
        pairs = {name: (before.get(name), now.get(name)) for name in {**before, **now}}
        return Reproduction(
            commit,
            ran,
            {path: locked.hash == dvc_hash(worktree / path) for path, locked in outputs.items()},
            {name: pair for name, pair in pairs.items() if not _equal(*pair)},
            len(before),
        )


@contextmanager
def _worktree(main: Path, root: Path, commit: str) -> Iterator[Path]:
    """Make a worktree of a commit that uses this project's DVC cache; it is removed afterwards. Raises TrackingError."""
    (main / FOLDER).mkdir(parents=True, exist_ok=True)
    worktree = Path(tempfile.mkdtemp(dir=main / FOLDER, prefix=f"{commit[:10]}."))
    try:
        if git(root, "worktree", "add", "--quiet", "--detach", "--force", str(worktree), commit) is None:
            raise TrackingError(f"commit {commit} is not in this repository: fetch it (experiments: `dvc exp pull`)")
        local = root / ".dvc" / "config.local"
        if local.exists():
            shutil.copy(local, worktree / ".dvc" / "config.local")
        if (cache := dvc_cache(root)) is None:
            raise TrackingError(f"{root}: `dvc cache dir` fails; run `alpro doctor` to see what is missing")
        _run_dvc(worktree, "cache", "dir", "--local", str(cache), say=lambda line: None)
        yield worktree
    finally:
        git(root, "worktree", "remove", "--force", "--force", str(worktree))
        shutil.rmtree(worktree, ignore_errors=True)
        git(root, "worktree", "prune")


def _remove_outputs(worktree: Path, stages: Mapping[str, LockedStage]) -> None:
    """Remove the stages' outputs and switch to an empty cache. Data tracked by .dvc files stay."""
    _run_dvc(worktree, "cache", "dir", "--local", str(worktree / ".dvc" / "cache"), say=lambda line: None)
    for stage in stages.values():
        for path in stage.outs:
            output = worktree / path
            shutil.rmtree(output) if output.is_dir() and not output.is_symlink() else output.unlink(missing_ok=True)


def _run_dvc(worktree: Path, *command: str, say: Callable[[str], object]) -> list[str]:
    """Run dvc and pass each line of its output to `say`. Raises TrackingError with its last line if it fails."""
    variables = {**os.environ, "DVC_NO_ANALYTICS": "1", "PYTHONUNBUFFERED": "1"}
    lines = []
    with subprocess.Popen(
        [sys.executable, "-P", "-m", "dvc", *command],
        cwd=worktree,
        env=variables,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as child:
        assert child.stdout is not None
        for line in child.stdout:
            lines.append(line.rstrip())
            say(lines[-1])
    if child.returncode:
        last = next((line for line in reversed(lines) if line.strip()), f"exit code {child.returncode}")
        raise TrackingError(f"dvc {' '.join(command)} in {worktree} failed: {last}")
    return lines


def _read_metrics(path: Path) -> dict[str, Any]:
    """Return every number of a metrics.json by its flattened name. Raises TrackingError if the file is damaged."""
    hint = "its copy in DVC's cache is damaged; run the stage again"
    return dict(flat_numbers(read_json_object(path, TrackingError, hint))) if path.is_file() else {}


def _equal(before: Any, now: Any) -> bool:
    return before is not None and now is not None and abs(before - now) <= TOLERANCE
