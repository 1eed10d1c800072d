"""What git and DVC know of the state on disk, read without running DVC."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
import yaml

from alpro import lineage
from alpro.errors import TrackingError


def test_a_folders_hash_is_the_one_that_dvc_gives_it(tmp_path):
    """Made with `dvc add d` of DVC 3.67.1."""
    for name, content in (("a.txt", "one\n"), ("sub/x.bin", "two"), ("b/ü é.txt", ""), ("B", "z")):
        (tmp_path / "d" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "d" / name).write_text(content)
    assert lineage.dvc_hash(tmp_path / "d") == "e7f73001d8bd976feac44a6e934e6734.dir"
    assert lineage.dvc_hash(tmp_path / "d" / "a.txt") == "5bbf5a52328e7439ae6e719dfe712200"
    assert lineage.dvc_hash(tmp_path / "none") is None


@pytest.fixture
def locked(tmp_path: Path) -> Path:
    """A lock in the root, and one in stages/ whose stages work in `..` or in their own folder."""
    _write(tmp_path / "dvc.yaml", {"evaluate": {"foreach": ["a"], "do": {"cmd": "x"}}})
    _write(
        tmp_path / "dvc.lock",
        {"evaluate@a": {"cmd": "x", "deps": [_entry("models/m", "1.dir")], "outs": [_entry("reports/e/m.json", "2")]}},
    )
    _write(tmp_path / "stages" / "dvc.yaml", {"train": {"wdir": "..", "cmd": "y"}, "near": {"cmd": "z"}})
    stages = {
        "train": {
            "cmd": "y",
            "deps": [_entry("data/x", "3")],
            "outs": [_entry("models/m", "1.dir")],
            "params": {"params.yaml": {"lr": 1}},
        }
    }
    _write(tmp_path / "stages" / "dvc.lock", {**stages, "near": {"cmd": "z", "deps": [_entry("../data/y", "4")]}})
    return tmp_path


def test_paths_of_all_locks_are_those_from_the_root(locked):
    stages = lineage.locked_stages(locked)
    assert set(stages) == {"evaluate@a", "train", "near"}
    assert stages["train"].outs == {"models/m": lineage.Locked("1.dir", 10, None)}
    assert stages["train"].params == {"params.yaml": {"lr": 1}}
    assert set(stages["near"].deps) == {"data/y"}


def test_a_stage_is_found_by_what_it_writes(locked):
    stages = lineage.locked_stages(locked)
    assert lineage.stage_of("reports/e", stages).name == "evaluate@a"
    assert lineage.stage_of("models/m/model.safetensors", stages).name == "train"
    assert lineage.stage_of("reports/other", stages) is None


def test_what_was_edited_after_its_stage_does_not_agree(locked):
    stage = lineage.locked_stages(locked)["evaluate@a"]
    assert not lineage.agrees(locked, "reports/e", stage)


def test_a_damaged_lock_is_named(locked):
    (locked / "dvc.lock").write_text("stages: [")
    with pytest.raises(TrackingError, match=r"dvc\.lock: can't be read"):
        lineage.locked_stages(locked)


def test_without_git_there_is_no_commit(tmp_path, monkeypatch):
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert lineage.git_state(tmp_path) == lineage.GitState(None, None, ())
    monkeypatch.setenv("PATH", "")
    assert lineage.home(tmp_path) == tmp_path


def test_clean_means_that_a_commit_holds_code_pipeline_parameters_and_lock(tmp_path):
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
