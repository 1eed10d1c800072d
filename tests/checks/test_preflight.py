"""All missing inputs are listed before the first stage, each with its size and the command that fetches it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from alpro.checks import preflight
from alpro.config import load
from alpro.errors import DataError

ROOT = Path(__file__).parents[2]
FETCHED = {  # recipe official, in a checkout without any data
    "data/webvid2m/txt/train.csv": "webvid2m --from FILE_OR_FOLDER` (2,500,000 files, one by one)",
    "data/webvid2m/txt/val.csv": "webvid2m --from FILE_OR_FOLDER` (2,500,000 files, one by one)",
    "data/webvid2m/videos": "webvid2m --from FILE_OR_FOLDER` (2,500,000 files, one by one)",
    "data/cc3m/txt/cc3m.json": "annotations` (at most 20 GB unpacked)",
    "data/cc3m/images": "cc3m` (3,300,000 files, one by one)",
    "data/unigrams.txt": "annotations` (at most 20 GB unpacked)",
    **{
        f"data/{name}/txt": "annotations` (at most 20 GB unpacked)"
        for name in ("didemo_ret", "msrvtt_qa", "msvd_qa", "msrvtt_ret")
    },
    "data/msrvtt_ret/videos": "msrvtt_ret` (10,000 videos, at most 60 GB unpacked)",
    "data/didemo_ret/videos": "didemo_ret` (10,463 videos, at most 200 GB unpacked)",
    "data/msvd_qa/videos": "msvd_qa` (1,970 videos, at most 10 GB unpacked)",
    "ext/bert-base-uncased": "ext` (at most 20 GB unpacked)",
}


@pytest.fixture(autouse=True)
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A checkout with the recipes and no data."""
    shutil.copytree(ROOT / "recipes", tmp_path / "recipes")
    monkeypatch.chdir(tmp_path)


def listed(*changes: str) -> dict[str, str]:
    """Return the inputs that `check` reports as missing: path -> the rest of its line."""
    with pytest.raises(DataError) as error:
        preflight.check(load("recipes/official.yaml", changes))
    first, *lines = str(error.value).splitlines()
    assert first == f"{len(lines)} inputs are missing:"
    return {line.split()[0]: line for line in lines}


def test_each_missing_input_is_listed_with_size_and_fetch_command() -> None:
    lines = listed()
    assert set(lines) == set(FETCHED)
    for path, command in FETCHED.items():
        assert lines[path].endswith(f": `alpro data fetch {command}"), lines[path]


def test_official_checkpoint_replaces_its_training_data() -> None:
    lines = listed("init.finetune=output/pretrain/alpro_pretrained_ckpt.pt")
    assert "`alpro data fetch checkpoints` (at most 60 GB unpacked)" in lines["output/pretrain/alpro_pretrained_ckpt.pt"]
    assert not [path for path in lines if "webvid2m" in path or "cc3m" in path]


def test_with_all_checkpoints_only_the_evaluation_needs_data() -> None:
    given = [f"evaluate.{task}.checkpoint={task}.pt" for task in ("msrvtt_ret", "didemo_ret", "msrvtt_qa", "msvd_qa")]
    lines = listed("~zeroshot", *given)
    assert set(lines) == {path for path in FETCHED if "webvid2m" not in path and "cc3m" not in path} - {"data/unigrams.txt"} | {
        f"{task}.pt" for task in ("msrvtt_ret", "didemo_ret", "msrvtt_qa", "msvd_qa")
    }
    assert "name another one in params.yaml" in lines["msvd_qa.pt"]


def test_custom_data_has_no_fetch_command() -> None:
    line = listed("datasets.msvd_qa.videos=data/own/videos")["data/own/videos"]
    assert "datasets.msvd_qa" in line and "fetch" not in line and "docs/data.md" in line
