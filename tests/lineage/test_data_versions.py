"""Data under DVC: one clone pulls exactly the bytes that another pushed, and stages never edit a linked file."""

import configparser
import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from alpro.data.sources import fetch
from alpro.lineage import dvc_add, dvc_hash
from tests.data.clips import make_video
from tests.data.hostile import Page, hostile

CONFIG = Path(__file__).parents[2] / ".dvc" / "config"


def run(folder, *command):
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, env=os.environ | ENV)
    assert done.returncode == 0, done.stderr + done.stdout
    return done.stdout


ENV = {
    "GIT_AUTHOR_NAME": "a", "GIT_AUTHOR_EMAIL": "a@b", "GIT_COMMITTER_NAME": "a", "GIT_COMMITTER_EMAIL": "a@b",
    "DVC_NO_ANALYTICS": "1", "GIT_CONFIG_GLOBAL": "/dev/null",
}  # fmt: skip


def dvc(folder, *command):
    return run(folder, sys.executable, "-m", "dvc", *command)


def hashes(folder):
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_cache_uses_links_and_copies_only_if_necessary():
    config = configparser.ConfigParser()
    config.read(CONFIG)
    assert config["cache"]["type"].strip('"') == "reflink,hardlink,symlink,copy"


@pytest.mark.slow
def test_file_imported_by_url_can_be_updated_from_its_source(tmp_path):
    run(tmp_path, "git", "init", "-q")
    dvc(tmp_path, "init", "-q")
    (tmp_path / "data/own").mkdir(parents=True)
    clips, version = tmp_path / "data/own/clips.tar", tmp_path / "data/own/clips.tar.dvc"
    page = Page(b"the clips", etag='"one"')
    with hostile({"/clips.tar": page}) as address:
        dvc(tmp_path, "import-url", "-q", f"{address}/clips.tar", "data/own/clips.tar")
        first = version.read_text()
        assert clips.read_bytes() == b"the clips" and f"{address}/clips.tar" in first
        dvc(tmp_path, "update", "-q", str(version))
        assert version.read_text() == first, "nothing changed at the source"
        page.content, page.etag = b"more clips", '"two"'
        dvc(tmp_path, "update", "-q", str(version))
        assert clips.read_bytes() == b"more clips" and version.read_text() != first


@pytest.mark.slow
def test_pushed_data_is_pulled_with_the_same_hashes(tmp_path):
    first, second, given = tmp_path / "first", tmp_path / "second", tmp_path / "given"
    given.mkdir()
    for i in range(3):
        make_video(given / f"clip{i}.avi", frames=4, hue=40 * i)
    first.mkdir()
    run(first, "git", "init", "-q")
    dvc(first, "init", "-q")
    shutil.copyfile(CONFIG, first / ".dvc/config")
    dvc(first, "remote", "add", "-d", "local", str(tmp_path / "remote"))
    folders = fetch("msvd_qa", first, [given], say=lambda _: None)
    dvc_add(first, folders)
    assert folders == ["data/msvd_qa/videos"] and (first / "data/msvd_qa/videos.dvc").exists()
    (first / "dvc.yaml").write_text(
        "stages:\n  copy:\n    cmd: python3 -c \"import shutil; shutil.copytree('data/msvd_qa/videos', 'out')\"\n"
        "    deps: [data/msvd_qa/videos]\n    outs: [out]\n"
    )
    dvc(first, "repro", "-q")
    run(first, "git", "add", "-A", ".")
    run(first, "git", "commit", "-qm", "data")
    dvc(first, "push", "-q")

    run(tmp_path, "git", "clone", "-q", str(first), str(second))
    assert not (second / "data/msvd_qa/videos").exists()
    dvc(second, "pull", "-q")
    videos = "data/msvd_qa/videos"
    assert hashes(second / videos) == hashes(first / videos) == hashes(given)
    assert dvc_hash(second / videos) == dvc_hash(first / videos)
    assert "up to date" in dvc(second, "status")
    assert "up to date" in dvc(second, "repro")

    # linked files are read-only: editing in place fails, and a stage's new output is a new file
    clip = first / videos / "clip0.avi"
    cached = hashes(first / ".dvc/cache")
    if os.stat(clip).st_nlink > 1 or clip.is_symlink():
        assert not os.stat(clip).st_mode & 0o222
    dvc(first, "unprotect", videos)
    clip.write_bytes(b"another")
    dvc(first, "repro", "-q")
    assert (first / "out/clip0.avi").read_bytes() == b"another"
    kept = hashes(first / ".dvc/cache")
    assert {name: kept[name] for name in cached} == cached
