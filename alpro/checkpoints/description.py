"""Checks the description in a checkpoint's config.json against its weights, before a model is built from it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, get_args

from pydantic import ValidationError

from alpro.checkpoints.layout import CONFIG
from alpro.checkpoints.names import UNUSED_WEIGHTS
from alpro.config import Model
from alpro.data.media.frames import Strategy
from alpro.errors import CheckpointError

COUNTS = ("num_frames", "num_answers", "num_entities")
GUESSED = ("heads", "text_layers", "fusion_layers")  # sizes of a model that shapes do not reveal
MAX_TEXT_TOKENS = 100_000


def check_task(task: Any) -> None:
    """Raise CheckpointError if a task is not one of the models'."""
    if not isinstance(task, str) or task not in UNUSED_WEIGHTS:
        raise CheckpointError(f"its task is {repr(task)[:80]}, but must be one of {', '.join(UNUSED_WEIGHTS)}")


def check_description(config: Mapping[str, Any], sizes: Mapping[str, Any]) -> None:
    """Raise CheckpointError if config.json has invalid values, or sizes that differ from those of the weights.

    `sizes` are those that the shapes of the tensors show (`names.sizes_of`).
    """
    if "model" in config:
        _check_model(config["model"], sizes["model"])
    for name in COUNTS:
        if name in config and (type(config[name]) is not int or config[name] != sizes.get(name, 0)):
            raise _differs(name, config[name], sizes.get(name, 0))
    for name in ("viewing", "trained"):
        if not isinstance(config.get(name, {}), Mapping):
            raise CheckpointError(f"{CONFIG}: {name} is no object; copy the checkpoint again")
    viewing = config.get("viewing", {})
    frames, tokens = viewing.get("frames"), viewing.get("max_text_tokens")
    if frames is not None and frames not in get_args(Strategy):
        raise CheckpointError(
            f"{CONFIG}: viewing.frames is {repr(frames)[:80]}, but must be one of {', '.join(get_args(Strategy))}"
        )
    if tokens is not None and (type(tokens) is not int or not 0 < tokens <= MAX_TEXT_TOKENS):
        raise CheckpointError(f"{CONFIG}: viewing.max_text_tokens is {repr(tokens)[:80]}, but must be a positive whole number")


def _check_model(model: Any, sizes: Mapping[str, Any]) -> None:
    try:
        parsed = Model(**model)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(("model", *map(str, first["loc"])))
        raise CheckpointError(f"its {CONFIG} describes no model ({place}: {first['msg']}); copy the checkpoint again") from None
    except TypeError:
        raise CheckpointError(f"its {CONFIG} describes no model (model is no object); copy the checkpoint again") from None
    for name, value in sizes.items():
        if name in model and name not in GUESSED and getattr(parsed, name) != value:
            raise _differs(f"model.{name}", getattr(parsed, name), value)
    layers, stored = parsed.text_layers + parsed.fusion_layers, sizes["text_layers"] + sizes["fusion_layers"]
    if {"text_layers", "fusion_layers"} <= set(model) and layers != stored:
        raise _differs("model.text_layers + model.fusion_layers", layers, stored)


def _differs(name: str, described: Any, stored: Any) -> CheckpointError:
    return CheckpointError(
        f"{CONFIG}: {name} is {str(described)[:40]}, but the weights have {stored}; copy the checkpoint again"
    )
