"""Commits, lock files and hashes of the state on disk, read without running DVC."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from alpro import lineage
from alpro.errors import TrackingError


def test_hash_of_a_folder_equals_dvcs(tmp_path):
    """Compare with the hashes of `dvc add d` in DVC 3.67.1."""
    for name, content in (("a.txt", "one\n"), ("sub/x.bin", "two"), ("b/ü é.txt", ""), ("B", "z")):
        (tmp_path / "d" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "d" / name).write_text(content)
    assert lineage.dvc_hash(tmp_path / "d") == "e7f73001d8bd976feac44a6e934e6734.dir"
    assert lineage.dvc_hash(tmp_path / "d" / "a.txt") == "5bbf5a52328e7439ae6e719dfe712200"
    assert lineage.dvc_hash(tmp_path / "none") is None


@pytest.fixture
def locked(tmp_path: Path) -> Path:
    """A lock file with the stages of a group, and with and without `wdir`."""
    _write(
        tmp_path / "dvc.yaml",
        {"evaluate": {"foreach": ["a"], "do": {"cmd": "x"}}, "train": {"cmd": "y"}, "inside": {"wdir": "models", "cmd": "z"}},
    )
    train = {
        "cmd": "y",
        "deps": [_entry("data/x", "3")],
        "outs": [_entry("models/m", "1.dir")],
        "params": {"params.yaml": {"lr": 1}},
    }
    evaluate = {"cmd": "x", "deps": [_entry("models/m", "1.dir")], "outs": [_entry("reports/e/m.json", "2")]}
    inside = {"cmd": "z", "deps": [_entry("../data/y", "4")]}
    _write(tmp_path / "dvc.lock", {"evaluate@a": evaluate, "train": train, "inside": inside})
    return tmp_path


def test_paths_of_the_lock_are_relative_to_the_root(locked):
    stages = lineage.locked_stages(locked)
    assert set(stages) == {"evaluate@a", "train", "inside"}
    assert stages["train"].outs == {"models/m": lineage.LockedPath("1.dir", 10, None)}
    assert stages["train"].params == {"params.yaml": {"lr": 1}}
    assert set(stages["inside"].deps) == {"data/y"}


def test_stage_is_found_by_its_output(locked):
    stages = lineage.locked_stages(locked)
    assert lineage.stage_of("reports/e", stages).name == "evaluate@a"
    assert lineage.stage_of("models/m/model.safetensors", stages).name == "train"
    assert lineage.stage_of("reports/other", stages) is None


def test_edited_output_does_not_match_the_lock(locked):
    stage = lineage.locked_stages(locked)["evaluate@a"]
    assert not lineage.matches_lock(locked, "reports/e", stage)


def test_damaged_lock_is_reported(locked):
    (locked / "dvc.lock").write_text("stages: [")
    with pytest.raises(TrackingError, match=r"dvc\.lock: cannot be read"):
        lineage.locked_stages(locked)


def test_without_git_there_is_no_commit(tmp_path, monkeypatch):
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert lineage.git_state(tmp_path) == lineage.GitState(None, None, ())
    monkeypatch.setenv("PATH", "")
    assert lineage.main_checkout(tmp_path) == tmp_path


def test_state_is_clean_if_code_pipeline_parameters_and_lock_are_committed(tmp_path):
    _git(tmp_path, "init", "-q", "-b", "trunk")
    for name in ("alpro/x.py", "params.yaml", "dvc.yaml", "dvc.lock", "README.md"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("1")
    _git(tmp_path, "add", "alpro", "params.yaml", "dvc.yaml")
    _git(tmp_path, "commit", "-qm", "x")
    assert lineage.git_state(tmp_path).changed == ("dvc.lock",)
    (tmp_path / ".gitignore").write_text("dvc.lock\n")
    assert lineage.git_state(tmp_path).changed == ("dvc.lock",)
    _git(tmp_path, "add", "-f", "dvc.lock")
    _git(tmp_path, "commit", "-qm", "y")
    state = lineage.git_state(tmp_path)
    assert (state.branch, state.changed, state.clean) == ("trunk", (), True)
    (tmp_path / "README.md").write_text("2")
    assert lineage.git_state(tmp_path).clean
    (tmp_path / "alpro" / "new file.py").write_text("1")
    assert lineage.git_state(tmp_path).changed == ("alpro/new file.py",)


def _entry(path: str, digest: str) -> dict[str, object]:
    return {"path": path, "hash": "md5", "md5": digest, "size": 10}


def _write(path: Path, stages: dict[str, object]) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(yaml.safe_dump({"stages": stages}))


def _git(root: Path, *args: str) -> None:
    subprocess.run(["git", "-c", "user.name=a", "-c", "user.email=a@b", *args], cwd=root, check=True, capture_output=True)


def test_state_committed_on_another_branch_or_experiment_is_clean(tmp_path):
    _git(tmp_path, "init", "-q", "-b", "trunk")
    (tmp_path / "params.yaml").write_text("lr: 1")
    _git(tmp_path, "add", "-A")
    _git(tmp_path, "commit", "-qm", "x")
    (tmp_path / "params.yaml").write_text("lr: 2")
    (tmp_path / "dvc.lock").write_text("stages: {}")
    assert not lineage.git_state(tmp_path).clean
    _git(tmp_path, "checkout", "-qb", "other")
    _git(tmp_path, "add", "-A")
    _git(tmp_path, "commit", "-qm", "y")
    held = lineage.git(tmp_path, "rev-parse", "HEAD")
    _git(tmp_path, "checkout", "-q", "trunk")
    (tmp_path / "params.yaml").write_text("lr: 2")
    (tmp_path / "dvc.lock").write_text("stages: {}")
    assert lineage.git_state(tmp_path) == lineage.GitState(held.strip(), "other", ())
    _git(tmp_path, "update-ref", "refs/exps/ab/cdef/tidy-otter", held.strip())
    _git(tmp_path, "branch", "-qD", "other")
    before = lineage.git(tmp_path, "status", "--porcelain")
    assert lineage.git_state(tmp_path) == lineage.GitState(held.strip(), "tidy-otter", ())
    assert lineage.git(tmp_path, "status", "--porcelain") == before, "the index is unchanged"
    (tmp_path / "params.yaml").write_text("lr: 3")
    assert lineage.git_state(tmp_path).changed == ("dvc.lock", "params.yaml")


def test_lock_can_be_read_from_a_commit(locked):
    _git(locked, "init", "-q", "-b", "trunk")
    _git(locked, "add", "-A")
    _git(locked, "commit", "-qm", "x")
    was, digest = lineage.locked_stages(locked), lineage.locks_digest(locked)
    (locked / "dvc.lock").unlink()
    assert lineage.locked_stages(locked, "HEAD") == was
    assert lineage.locks_digest(locked, "HEAD") == digest != lineage.locks_digest(locked)
    assert lineage.locked_stages(locked, "0" * 40) == {}


PIPELINE = """\
stages:
  finetune:
    foreach: [a]
    do:
      cmd: cat given > models/tiny/finetune/a
      deps: [given]
      outs: [models/tiny/finetune/a]
  evaluate:
    foreach: [a]
    do:
      cmd: >-
        mkdir -p reports/evaluate/a; printf '{"r1": %s}' "$(cat models/tiny/finetune/a)" > reports/evaluate/a/metrics.json
      deps: [models/tiny/finetune/a]
      metrics: [reports/evaluate/a/metrics.json]
"""


@pytest.mark.slow  # a dozen DVC commands take seconds each
def test_version_is_reevaluated_or_retrained_at_its_commit(tmp_path, monkeypatch):
    from alpro.registry import reproduce as module

    files = {"dvc.yaml": PIPELINE, "given": "1.5", "models/tiny/finetune/.gitkeep": "", "params.yaml": "{}"}
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content)
    _git(tmp_path, "init", "-q", "-b", "trunk")
    for words in (["init", "-q"], ["repro", "-q", "evaluate@a"]):
        subprocess.run([sys.executable, "-m", "dvc", *words], cwd=tmp_path, check=True)
    _git(tmp_path, "add", "-A")
    _git(tmp_path, "commit", "-qm", "state")
    commit = lineage.git(tmp_path, "rev-parse", "HEAD").strip()
    for number in range(3):  # later commits of the project
        (tmp_path / "given").write_text(f"2.{number}")
        _git(tmp_path, "commit", "-qam", "later")
    tags = {"alpro.git.commit": commit, "alpro.git.clean": "yes", "alpro.stage": "finetune/a"}
    monkeypatch.setattr(module, "find", lambda store, uri: SimpleNamespace(tags=tags))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    log: list[str] = []
    done = module.reproduce(tmp_path, "models:/alpro-a@champion", say=log.append)
    assert (done.ran, done.same, set(done.outputs.values())) == (("evaluate@a",), True, {True})
    again = module.reproduce(tmp_path, "models:/alpro-a@champion", train=True, say=log.append)
    assert (again.ran, again.same, again.outputs["models/tiny/finetune/a"]) == (("finetune@a", "evaluate@a"), True, True)
    assert not [*(tmp_path / module.FOLDER).iterdir()] and lineage.git(tmp_path, "worktree", "list").count("\n") == 1
    tags["alpro.git.clean"] = "no"
    with pytest.raises(TrackingError, match="no commit contains its state"):
        module.reproduce(tmp_path, "models:/alpro-a@champion")
