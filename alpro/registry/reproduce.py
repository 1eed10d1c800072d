"""`alpro reproduce`: a registered version's state in a clean worktree, evaluated (or trained) anew, and compared."""

from __future__ import annotations

import json
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
from alpro.lineage.dvc import dvc_cache
from alpro.lineage.dvc_lock import LockedStage, dvc_hash, locked_stages
from alpro.lineage.git import git, home
from alpro.registry.versions import find

FOLDER = Path(".dvc/tmp/reproduce")  # where DVC neither tracks nor searches, on the disk of its cache
RUNNING = "Running stage '"
TOLERANCE = 1e-6  # metrics.json is rounded to as much


@dataclass(frozen=True, slots=True)
class Reproduction:
    """What came out. `ran`: the stages that really ran; `outputs`: whether each has the bytes that the lock names."""

    commit: str
    ran: tuple[str, ...]
    outputs: Mapping[str, bool]
    differences: Mapping[str, tuple[Any, Any]]  # figures that differ: was, is
    compared: int  # figures

    @property
    def same(self) -> bool:
        """Whether every figure came out again."""
        return self.compared > 0 and not self.differences

    def __str__(self) -> str:
        lines = [f"commit {self.commit}: {len(self.ran)} stages ran: {', '.join(self.ran)}"]
        lines += [f"  {'same bytes' if same else 'other bytes'}  {path}" for path, same in self.outputs.items()]
        lines += [f"  {name}: was {was}, is {now}" for name, (was, now) in self.differences.items()]
        verdict = "all the same" if self.same else f"{len(self.differences)} differ" if self.compared else "nothing to compare"
        return "\n".join([*lines, f"{self.compared} figures: {verdict}"])


def reproduce(root: Path, uri: str, *, train: bool = False, say: Callable[[str], object] = print) -> Reproduction:
    """Evaluate a fine-tuned version's state anew in a worktree of its commit, and compare the figures.

    The checkpoint comes from DVC's cache; no stage comes from its run cache. With `train` nothing that a stage made comes
    from anywhere: the cache is an own one, empty but for the data that .dvc files track. Raises TrackingError where no commit
    holds the state, or a stage fails.
    """
    from alpro.registry import versions as tag
    from alpro.tracking.store import opened

    with opened(root) as store:
        tags = find(store, uri).tags
    commit, stage = tags.get(tag.COMMIT, ""), tags.get(tag.STAGE, "")
    kind, _, task = stage.partition("/")
    if kind != "finetune":
        raise TrackingError(f"{uri}: {stage or 'it'} has no evaluation of its own; name a fine-tuned model")
    if tags.get(tag.CLEAN) != "yes":
        raise TrackingError(f"{uri}: no commit holds its state ({tags.get(tag.CHANGED)} was changed)")
    with _worktree(home(root), root, commit) as place:
        stages = locked_stages(place)
        target = f"evaluate@{task}"
        if target not in stages:
            raise TrackingError(f"{uri}: dvc.lock of {commit[:10]} has no {target}")
        outputs = {**stages[target].outs, **(stages[f"finetune@{task}"].outs if train else {})}
        _dvc(place, "checkout", "--quiet", "--force", "--allow-missing", say=say)
        metrics = place / "reports" / "evaluate" / task / "metrics.json"
        was = _figures(metrics)
        if train:
            _forget(place, stages)
        words = ["repro", "--no-run-cache", *([] if train else ["--single-item", "--force"]), target]
        lines = _dvc(place, *words, say=say)
        ran = tuple(line.split("'")[1].rsplit(":", 1)[-1] for line in lines if line.startswith(RUNNING))
        now = _figures(metrics)
        return Reproduction(
            commit,
            ran,
            {path: locked.hash == dvc_hash(place / path) for path, locked in outputs.items()},
            {name: (was.get(name), now.get(name)) for name in {**was, **now} if not _equal(was.get(name), now.get(name))},
            len(was),
        )


@contextmanager
def _worktree(main: Path, root: Path, commit: str) -> Iterator[Path]:
    """A worktree at a commit that reads this project's DVC cache; gone afterwards. Raises TrackingError."""
    (main / FOLDER).mkdir(parents=True, exist_ok=True)
    place = Path(tempfile.mkdtemp(dir=main / FOLDER, prefix=f"{commit[:10]}."))
    try:
        if git(root, "worktree", "add", "--quiet", "--detach", "--force", str(place), commit) is None:
            raise TrackingError(f"commit {commit} is not in this repository: fetch it (experiments: `dvc exp pull`)")
        local = root / ".dvc" / "config.local"
        if local.exists():
            shutil.copy(local, place / ".dvc" / "config.local")
        if (cache := dvc_cache(root)) is None:
            raise TrackingError(f"{root}: `dvc cache dir` fails here; `alpro doctor` says what is missing")
        _dvc(place, "cache", "dir", "--local", str(cache), say=lambda line: None)
        yield place
    finally:
        git(root, "worktree", "remove", "--force", "--force", str(place))
        shutil.rmtree(place, ignore_errors=True)
        git(root, "worktree", "prune")


def _forget(place: Path, stages: Mapping[str, LockedStage]) -> None:
    """Remove what stages made, and turn to a cache that has none of it; the data that .dvc files track stay."""
    _dvc(place, "cache", "dir", "--local", str(place / ".dvc" / "cache"), say=lambda line: None)
    for stage in stages.values():
        for path in stage.outs:
            made = place / path
            shutil.rmtree(made) if made.is_dir() and not made.is_symlink() else made.unlink(missing_ok=True)


def _dvc(place: Path, *words: str, say: Callable[[str], object]) -> list[str]:
    """Run dvc, hand each line of its output on. Raises TrackingError with its last line where it fails."""
    variables = {**os.environ, "DVC_NO_ANALYTICS": "1", "PYTHONUNBUFFERED": "1"}
    command = [sys.executable, "-P", "-m", "dvc", *words]
    lines = []
    with subprocess.Popen(
        command, cwd=place, env=variables, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as child:
        assert child.stdout is not None
        for line in child.stdout:
            lines.append(line.rstrip())
            say(lines[-1])
    if child.returncode:
        last = next((line for line in reversed(lines) if line.strip()), f"exit code {child.returncode}")
        raise TrackingError(f"dvc {' '.join(words)} in {place} failed: {last}")
    return lines


def _figures(path: Path) -> dict[str, Any]:
    """Every number of a metrics.json by its path of keys."""
    from alpro.tracking.records import flat_numbers

    return dict(flat_numbers(json.loads(path.read_text(encoding="utf-8")))) if path.is_file() else {}


def _equal(was: Any, now: Any) -> bool:
    return was is not None and now is not None and abs(was - now) <= TOLERANCE
