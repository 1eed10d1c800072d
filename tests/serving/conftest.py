"""Small checkpoints of every task, and the texts of their vocabulary."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from alpro.checkpoints.files import save_checkpoint
from alpro.config import Model
from alpro.data.text.tokenizer import train_vocabulary
from alpro.evaluation.clips import Preprocessing
from alpro.models import build_model

TESTS = Path(__file__).parents[1]
VIDEO = TESTS / "videos" / "torchcodec_h265_video.mp4"
TEXTS = ["a red circle moves to the left", "what moves to the left ?", "a blue square", "what colour is the square ?"]
SIZES = {
    "image_size": 32, "patch_size": 8, "width": 128, "heads": 2, "intermediate": 64, "vision_layers": 1, "text_layers": 1,
    "fusion_layers": 1, "embed_dim": 16, "vocab_size": 200, "max_positions": 40,
}  # fmt: skip
HEADS = {"retrieval": {}, "qa": {"num_answers": 3}, "prompter": {"num_entities": 3}, "pretrain": {"num_entities": 3}}
ANSWERS = {"red": 0, "blue": 1, "circle": 2}
PREPROCESSING = Preprocessing(num_frames=2, image_size=32, max_text_tokens=20)


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One small checkpoint of each task."""
    folder = tmp_path_factory.mktemp("checkpoints")
    train_vocabulary(TEXTS * 3, folder / "text", SIZES["vocab_size"])
    (folder / "answers.json").write_text(json.dumps(ANSWERS))
    for task, head in HEADS.items():
        extras = {"tokenizer": folder / "text"} | ({"answers.json": folder / "answers.json"} if task == "qa" else {})
        save_checkpoint(folder / task, build_model(task, num_frames=2, config=Model(**SIZES), **head), {}, extras)
    return folder
