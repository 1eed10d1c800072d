"""State dicts are found in what trainers wrap around them, and the report says what was unwrapped."""

from __future__ import annotations

import time
from collections import OrderedDict
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from alpro.checkpoints.files import load_checkpoint, save_checkpoint
from alpro.checkpoints.load import load_model
from alpro.checkpoints.unwrap import MAX_DEPTH, WRAPPER_KEYS, unwrap
from alpro.errors import CheckpointError

ONE = torch.zeros(1)
NAMES = ("visual_encoder.model.blocks.0.attn.qkv.weight", "text_encoder.bert.embeddings.position_ids")


def state(prefix: str = "") -> dict[str, Tensor]:
    """Return tensors under ALPRO's names with a prefix."""
    return {prefix + name: torch.full((1,), float(n)) for n, name in enumerate(NAMES)}


@pytest.mark.parametrize(
    ("content", "noted"),
    [
        (state("_orig_mod."), "'_orig_mod.'"),
        (state("module."), "'module.'"),
        (state("module._orig_mod."), "'_orig_mod.', 'module.'"),
        (state("_orig_mod.module."), "'_orig_mod.', 'module.'"),
        (state("model.module._orig_mod."), "'_orig_mod.', 'model.', 'module.'"),
        (state("_forward_module.model."), "'_forward_module.', 'model.'"),
        ({"module": state(), "optimizer": None, "global_steps": 3}, "under module"),
        ({"module": state("module."), "ds_version": "0.9"}, "under module"),
        ({"state_dict": state("model."), "hyper_parameters": {"lr": 1}}, "under state_dict"),
        ({"model": state("model.")}, "under model"),
        ({"state_dict": {"model": {"module": state("_orig_mod.model.")}}}, "under state_dict > model > module"),
        ({"model_state_dict": OrderedDict(state())}, "under model_state_dict"),
        ({"epoch": 3, **state()}, "no tensors: epoch"),
        ({"state_dict": {**state("model."), "criterion.weight": ONE}}, "outside of the model: criterion.weight"),
        ({"model": state(), "model_ema": {"x": ONE}}, "they have tensors too: model_ema"),
        ({"model": {"name": "alpro"}, "state_dict": state()}, "under state_dict"),
        ({"model": {"module": {"name": "alpro"}}, "state_dict": {"model": state()}}, "under state_dict > model"),
        ({"params": {"lr": 1}, **state()}, "no tensors: params"),
        ({"params": {"lr": ONE}, **state("module.")}, "'module.'"),
        ({"model": {"temperature": ONE}, "state_dict": state()}, "they have tensors too: model"),
    ],
)
def test_wrappers_are_removed_and_reported(content: Any, noted: str) -> None:
    found, notes = unwrap(content, Tensor)
    assert list(found) == list(NAMES) and [float(tensor) for tensor in found.values()] == [0, 1]
    assert any(noted in sentence for sentence in notes), notes


def test_wrappers_inside_of_names_are_removed() -> None:
    """Compiled parts, FSDP and activation checkpointing add to the middle of a name."""
    inside = {
        "visual_encoder._orig_mod.model._fsdp_wrapped_module.blocks.0._checkpoint_wrapped_module.attn.qkv.weight": ONE,
        "text_encoder.bert.embeddings.position_ids": ONE,
    }
    assert list(unwrap(inside, Tensor)[0]) == list(NAMES)


def test_names_without_wrappers_are_unchanged_and_nothing_is_reported() -> None:
    found, notes = unwrap(state(), Tensor)
    assert list(found) == list(NAMES) and notes == []


@pytest.mark.parametrize(
    "content", [{}, {"model": {}}, {"state_dict": {"a": 1}}, {"model": {"model": {"x": 1}}}, [1], "x", None, {"a": [ONE]}]
)
def test_content_without_a_state_dict_is_refused(content: Any) -> None:
    with pytest.raises(CheckpointError, match="no state dict"):
        unwrap(content, Tensor)


def test_mapping_that_contains_itself_is_refused() -> None:
    content: dict[str, Any] = {}
    content["model"] = content
    with pytest.raises(CheckpointError, match="no state dict"):
        unwrap(content, Tensor)


def test_mapping_that_is_stored_in_many_places_is_searched_once() -> None:
    content: dict[str, Any] = {"x": 1}
    for _ in range(MAX_DEPTH):
        content = dict.fromkeys(WRAPPER_KEYS, content)
    start = time.process_time()
    with pytest.raises(CheckpointError, match="no state dict"):
        unwrap(content, Tensor)
    assert time.process_time() - start < 1


def test_two_tensors_that_get_one_name_are_refused() -> None:
    with pytest.raises(CheckpointError, match=r"_orig_mod\.a and a are both a"):
        unwrap({"_orig_mod.a": ONE, "a": ONE}, Tensor)


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_compiled_model_of_a_data_parallel_training_loads(small, tmp_path, suffix) -> None:
    """https://github.com/pytorch/pytorch/issues/101107: the names of a compiled model begin with _orig_mod."""
    model = small("retrieval", seed=1)
    wrapped = nn.ModuleDict({"module": nn.ModuleDict({"_orig_mod": model})}).state_dict()
    wrapped.pop("module._orig_mod.text_encoder.cls.predictions.decoder.weight", None)
    wrapped.pop("module._orig_mod.text_encoder.cls.predictions.decoder.bias", None)
    path = tmp_path / f"wrapped{suffix}"
    if suffix == ".pt":
        torch.save({"state_dict": wrapped, "epoch": 1}, path)
    else:
        safetensors.torch.save_file(wrapped, path)
    state, info = load_checkpoint(path)
    assert all(state[key].equal(tensor) for key, tensor in model.state_dict().items())
    assert "'_orig_mod.', 'module.'" in " ".join(info["unwrapped"])


def test_report_of_an_import_says_what_was_unwrapped(small, tmp_path) -> None:
    save_checkpoint(tmp_path / "own", small("retrieval", seed=1), {})
    assert load_model(tmp_path / "own")[2].unwrapped == []
    (tmp_path / "own" / "model.safetensors").replace(tmp_path / "plain.safetensors")
    wrapped = {f"_orig_mod.{k}": v for k, v in safetensors.torch.load_file(tmp_path / "plain.safetensors").items()}
    safetensors.torch.save_file(wrapped, tmp_path / "own" / "model.safetensors")
    report = str(load_model(tmp_path / "own")[2])
    assert "  unwrapped: the names began with, or contained, '_orig_mod.'" in report.splitlines()
