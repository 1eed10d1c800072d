"""A full-size official checkpoint, imported, evaluated, exported and imported again, keeps every byte of every tensor."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from alpro.checkpoints.convert import import_checkpoint
from alpro.checkpoints.files import export_official
from alpro.checkpoints.load import load_model
from alpro.config import load
from alpro.data.text.tokenizer import train_vocabulary
from alpro.evaluation.official import evaluate_checkpoint
from tests.goldens_recipe import model_of

ROOT = Path(__file__).parents[2]
VIDEOS = ROOT / "tests/videos"
SHOWN = ("torchcodec_h265_video", "decord_video_180")
VOCABULARY = 30522
HEADS = {"retrieval": {"num_frames": 8}, "qa": {"num_frames": 16, "num_answers": 1500}}
SETS = {"retrieval": "msrvtt_ret", "qa": "msrvtt_qa"}


def tensors(path: Path) -> dict[str, torch.Tensor]:
    return torch.load(path, weights_only=True, mmap=True)


@pytest.mark.slow
@pytest.mark.parametrize("task", SETS)
def test_golden_weights_survive_import_evaluation_export_and_import(tmp_path: Path, task: str) -> None:
    name, official = SETS[task], tmp_path / "public/ckpt/model_step_best.pt"
    export_official(model_of(task, **HEADS[task]), official)
    train_vocabulary(["what is the man doing", "a man talks"], tmp_path / "text", VOCABULARY)
    (tmp_path / "answers.json").write_text(json.dumps({f"word{n}": n for n in range(1500)}))
    (tmp_path / "txt").mkdir()
    rows = (
        [{"clip_name": f"{video}.mp4", "caption": "a man talks"} for video in SHOWN]
        if task == "retrieval"
        else [{"video_id": video, "question": "what is it", "answer": "word3", "answer_type": "what"} for video in SHOWN]
    )
    (tmp_path / "txt/test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    answers = tmp_path / "answers.json" if task == "qa" else None
    import_checkpoint(official, tmp_path / "own", task, tokenizer=tmp_path / "text", answers=answers)
    params = load(ROOT / "recipes/official.yaml")
    data = {"videos": VIDEOS, "annotations": tmp_path / "txt/test.jsonl", "tokenizer": tmp_path / "text", "answers": answers}
    theirs = evaluate_checkpoint(params, name, tmp_path / "public", **data)
    ours = evaluate_checkpoint(params, name, tmp_path / "own", output=tmp_path / "results", **data)
    assert theirs == ours
    found = [place / "results_test/step_best/results.json" for place in (tmp_path / "public", tmp_path / "results")]
    assert found[0].read_bytes() == found[1].read_bytes()

    export_official(load_model(tmp_path / "own")[0], tmp_path / "again.pt")
    import_checkpoint(tmp_path / "again.pt", tmp_path / "twice", task)
    first, second = tensors(official), tensors(tmp_path / "again.pt")
    assert list(first) == list(second)
    for key, tensor in first.items():
        assert tensor.dtype == second[key].dtype and tensor.numpy().tobytes() == second[key].numpy().tobytes(), key
    own, twice = (tmp_path / folder / "model.safetensors" for folder in ("own", "twice"))
    assert own.read_bytes() == twice.read_bytes()
