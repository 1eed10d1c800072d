"""A config.json that is damaged, or does not describe the weights beside it, is reported in one line by every command."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from alpro.checkpoints.convert import describe_checkpoint, import_checkpoint
from alpro.checkpoints.files import load_checkpoint, save_checkpoint
from alpro.checkpoints.load import load_model
from alpro.errors import CheckpointError
from alpro.evaluation.official import find_checkpoint

VALUES: list[dict[str, Any]] = [
    {"task": 5}, {"task": ["qa"]}, {"task": {}}, {"model": "x"}, {"model": [1]}, {"model": {"width": -1}},
    {"model": {"width": "64"}}, {"model": {"heads": 7}}, {"model": {"vision_layers": 10**9}},
    {"model": {"text_layers": 7, "fusion_layers": 7}}, {"model": {"unknown": 1}}, {"num_frames": "x"},
    {"num_frames": 0}, {"num_frames": -3}, {"num_frames": 10**12}, {"num_frames": True}, {"num_frames": [2]},
    {"num_answers": "x"}, {"num_answers": -1}, {"num_answers": 10**13}, {"num_entities": 3}, {"viewing": "x"},
    {"viewing": {"frames": "bogus"}}, {"viewing": {"frames": ["uniform"]}}, {"viewing": {"max_text_tokens": "x"}},
    {"viewing": {"max_text_tokens": -4}}, {"trained": "x"},
]  # fmt: skip


@pytest.fixture
def own(small, tmp_path: Path) -> Path:
    save_checkpoint(tmp_path / "own", small("qa"), {"trained": {"step": 3}, "viewing": {"frames": "uniform"}})
    return tmp_path / "own"


@pytest.mark.parametrize("values", VALUES, ids=str)
def test_values_that_do_not_fit_the_weights_are_refused(own: Path, values: dict[str, Any]) -> None:
    config = json.loads((own / "config.json").read_text())
    for name, value in values.items():
        both = isinstance(value, dict) and isinstance(config.get(name), dict)
        config[name] = {**config[name], **value} if both else value
    (own / "config.json").write_text(json.dumps(config))
    for read in (load_checkpoint, load_model, describe_checkpoint, lambda path: import_checkpoint(path, own.parent / "other")):
        with pytest.raises(CheckpointError) as caught:
            read(own)
        assert "\n" not in str(caught.value) and str(own) in str(caught.value)
    assert find_checkpoint(own).path == own and not (own.parent / "other").exists()


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b"5", b'"x"', b"\xff\xfe\x00", b"[" * 100_000])
def test_damaged_file_is_reported_in_one_line(own: Path, content: bytes) -> None:
    (own / "config.json").write_bytes(content)
    for read in (load_checkpoint, find_checkpoint, describe_checkpoint):
        with pytest.raises(CheckpointError, match=r"config\.json: .*copy the checkpoint again") as caught:
            read(own)
        assert "\n" not in str(caught.value)


def test_sound_description_is_kept(own: Path) -> None:
    info = load_checkpoint(own)[1]
    assert info["trained"] == {"step": 3} and info["viewing"] == {"frames": "uniform"}
    (own / "config.json").write_text('{"task": "qa"}')
    assert load_checkpoint(own)[1]["num_answers"] == info["num_answers"]
