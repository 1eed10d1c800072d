"""A project with small checkpoints of every task, a folder of small clips, and the served stack on both."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from alpro.checkpoints.files import save_checkpoint
from alpro.config import Model
from alpro.models import build_model
from alpro.registry import package
from alpro.served.stack import Served, served
from alpro.tracking import store
from tests.evaluation.conftest import write_video
from tests.serving.conftest import HEADS, SIZES, checkpoints

CLIPS = ("one.mp4", "two.mp4", "sub/three.mp4", "<img src=x onerror=alert(1)>.mp4")

__all__ = ["checkpoints"]


@pytest.fixture(scope="session")
def project(checkpoints: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project without params.yaml and without a registry, so that its newest checkpoints are served."""
    root = tmp_path_factory.mktemp("project")
    for task, place in (("retrieval", "finetune/clips"), ("qa", "finetune/questions"), ("pretrain", "pretrain")):
        shutil.copytree(checkpoints / task, root / "models/tiny" / place)
    (root / "models/tiny/pretrain/entities.txt").write_text("ball 3\ncube 2\nstar 1\n")
    return root


@pytest.fixture(scope="session")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four clips, one in a folder below, one with a name that is HTML, beside a file that is no video."""
    root = tmp_path_factory.mktemp("videos")
    (root / "sub").mkdir()
    for seed, name in enumerate(CLIPS):
        write_video(root / name, seed)
    (root / "broken.mp4").write_text("this is not a video\n" * 20)
    return root


@pytest.fixture(scope="module")  # as long as it is open, ALPRO_STATE is set for all tests
def stack(project: Path, videos: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """The served stack, with the folder indexed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ALPRO_STATE", str(tmp_path_factory.mktemp("state")))
        with served(project, videos) as stack:
            stack.collections.index(stack.videos.path)
            yield stack


@pytest.fixture(scope="session")
def others(checkpoints: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A second checkpoint for search and for questions, with other weights."""
    folder = tmp_path_factory.mktemp("others")
    for task in ("retrieval", "qa"):
        extras = {"tokenizer": checkpoints / "text"} | ({"answers.json": checkpoints / "answers.json"} if task == "qa" else {})
        model = build_model(task, num_frames=2, config=Model(**SIZES), seed=7, **HEADS[task])
        save_checkpoint(folder / f"{task}-2", model, {}, extras)
    return folder


def register(root: Path, model: str, *checkpoints: Path) -> None:
    """Register checkpoints as versions 1, 2, ..."""
    with store.opened(root) as opened:
        opened.client.create_registered_model(model)
        for checkpoint in checkpoints:
            packed = root / "packed" / checkpoint.name
            package.save(checkpoint, packed, frames="uniform", max_text_tokens=20, registered=model)
            opened.client.create_model_version(model, str(packed))
