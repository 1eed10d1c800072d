"""ALPRO_STATE moves everything that is otherwise in `.state`, for checkouts that cannot be written."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import pytest

from alpro.data.media.index import probe_cache_path
from alpro.errors import ConfigError
from alpro.files.state import state_folder, write_hint
from flows.artifacts import keep_data_docs
from flows.stray_files import move_aside

ROOT = Path(__file__).parents[2]


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ALPRO_STATE", str(tmp_path / "elsewhere"))
    project = tmp_path / "project"
    project.mkdir()
    monkeypatch.chdir(project)
    return tmp_path / "elsewhere"


def test_default_is_dot_state(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ALPRO_STATE", raising=False)
    assert state_folder() == Path(".state") and state_folder(Path("/p")) == Path("/p/.state")


@pytest.mark.parametrize("value", ["state", "./state", "../x"])
def test_relative_folder_is_refused(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("ALPRO_STATE", value)
    with pytest.raises(ConfigError, match=rf"ALPRO_STATE={value}: must be an absolute path"):
        state_folder()


def test_caches_and_files_kept_aside_are_elsewhere(elsewhere: Path) -> None:
    assert probe_cache_path("videos").is_relative_to(elsewhere / "index")
    project, worktree = Path.cwd(), Path.cwd().parent / "worktree"
    (project / "mine.txt").write_text("mine")
    assert (move_aside(project, ["mine.txt"]) / "mine.txt").read_text() == "mine"
    (worktree / "reports/validate/a").mkdir(parents=True)
    (worktree / "reports/validate/a/index.html").write_text("found")
    page = keep_data_docs("validate@a", worktree, project)
    assert page == str(elsewhere / "failed/validate/a/index.html") and Path(page).read_text() == "found"
    assert not list(project.iterdir())


def test_only_files_of_the_state_folder_get_the_hint(elsewhere: Path) -> None:
    assert "set ALPRO_STATE" in write_hint(elsewhere / "evaluate/x") and not write_hint("models/x") and not write_hint(None)


def make_video(path: Path) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=4)
        stream.width = stream.height = 32
        for n in range(4):
            frame = av.VideoFrame.from_ndarray(np.full((32, 32, 3), 60 * n, np.uint8), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def mounted_read_only(folder: Path, *command: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a command in a folder that is mounted read-only for it alone."""
    script = 'mount --bind "$0" "$0" && mount -o remount,ro,bind "$0" && cd "$0" && exec "$@"'
    return subprocess.run(
        ["unshare", "-m", "sh", "-c", script, str(folder), *command],
        capture_output=True, text=True, timeout=300, env={**os.environ, "PYTHONPATH": str(ROOT), **variables},
    )  # fmt: skip


def test_read_only_checkout_works_with_alpro_state_and_is_explained_without(tmp_path: Path) -> None:
    project, output = tmp_path / "project", tmp_path / "copies"
    (project / "videos").mkdir(parents=True)
    make_video(project / "videos/a.mp4")
    if mounted_read_only(project, "true").returncode:
        pytest.skip("this system does not let the tests mount a folder")
    words = [sys.executable, "-m", "alpro", "data", "convert", "--source", "videos", "--output", str(output)]
    refused = mounted_read_only(project, *words)
    assert refused.returncode == 2
    assert "Read-only file system; set ALPRO_STATE to a folder that can be written" in refused.stderr
    assert len(refused.stderr.splitlines()) == 1
    done = mounted_read_only(project, *words, ALPRO_STATE=str(tmp_path / "state"))
    assert done.returncode == 0, done.stderr
    assert (output / "a.mp4").exists() and list((tmp_path / "state/convert").glob("*.jsonl"))
