"""A missing repository or git user is reported before the first stage, with what to do."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project folder as unpacked from a ZIP file, and an environment in which git has no user."""
    for name in [name for name in os.environ if name.startswith("GIT_") or name == "EMAIL"]:
        monkeypatch.delenv(name)
    for name in ("GIT_CONFIG_GLOBAL", "GIT_CONFIG_SYSTEM"):
        monkeypatch.setenv(name, "/dev/null")
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))
    folder = tmp_path / "project"
    folder.mkdir()
    for name in ("dvc.yaml", "recipes", "params.yaml"):
        (folder / name).symlink_to(REPOSITORY / name)
    return folder


def run(folder: Path, *words: str) -> tuple[int, list[str]]:
    """Run a Python module of this project; return its exit code and the lines of stderr."""
    done = subprocess.run([sys.executable, "-m", *words], cwd=folder, capture_output=True, text=True, timeout=300)
    return done.returncode, done.stderr.splitlines()


def git(folder: Path, *words: str) -> None:
    subprocess.run(["git", "-c", "user.name=t", "-c", "user.email=t@t", *words], cwd=folder, check=True, capture_output=True)


def test_preflight_and_flows_refuse_a_folder_without_a_repository(project: Path) -> None:
    for words, code in ((("alpro", "preflight"), 2), (("flows.pipeline",), 1), (("flows.pipeline", "--in-checkout"), 1)):
        status, lines = run(project, *words)
        assert status == code and len(lines) == 1, lines
        assert "not a git repository; clone the project with git" in lines[0] and "git init && git add -A" in lines[0]


def test_a_repository_without_a_commit_is_refused_too(project: Path) -> None:
    git(project, "init", "-q")
    status, lines = run(project, "alpro", "preflight")
    assert status == 2 and len(lines) == 1 and "git has no commit with dvc.yaml" in lines[0]


def test_flows_refuse_to_start_without_a_git_user_and_preflight_warns(project: Path) -> None:
    git(project, "init", "-q")
    git(project, "add", "-A")
    git(project, "commit", "-qm", "start")
    status, lines = run(project, "flows.pipeline", "--task", "msvd_qa")
    assert status == 1 and len(lines) == 1, lines
    assert "git has no user; run: git config user.name NAME && git config user.email ADDRESS" in lines[0]
    _, lines = run(project, "alpro", "preflight")
    assert "git has no user" in lines[0] and "`dvc repro` works without one" in lines[0]
    git(project, "config", "user.name", "t")  # a name alone is not enough
    assert "git has no user" in run(project, "flows.pipeline")[1][0]
    git(project, "config", "user.email", "t@t")
    _, lines = run(project, "alpro", "preflight")
    assert not any("git has no user" in line for line in lines)
