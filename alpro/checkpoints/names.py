"""The names of parameters: one table for both directions, and which of them go from one task's model to another's.

The official names are the models' own. Two things differ between files: question answering (and LAVIS' ALPRO, in every task)
has no `.bert` level in the text encoder, and tied tensors may be written once or twice.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from alpro.errors import CheckpointError

# Level in the models with a masked-language head -> in question answering's, and in LAVIS' files.
WITH_BERT, WITHOUT_BERT = "text_encoder.bert.", "text_encoder."
BERT_PARTS = ("embeddings.", "encoder.")

# The end of a tied name -> the end of the name whose tensor it is.
TIED = {
    "cls.predictions.decoder.weight": "bert.embeddings.word_embeddings.weight",
    "cls.predictions.decoder.bias": "cls.predictions.bias",
}

# Weights that official checkpoints carry and a task's model never reads; a file may lack them.
UNUSED_WEIGHTS = {
    "prompter": ("visual_encoder.model.head.", "text_encoder.cls.", "itm_head."),
    "pretrain": (
        "visual_encoder.model.head.",
        "prompter.text_encoder.cls.",
        "prompter.visual_encoder.model.head.",
        "prompter.itm_head.",
    ),
    "retrieval": ("visual_encoder.model.head.", "text_encoder.cls."),
    "qa": ("visual_encoder.model.head.", "temp", "vision_proj.", "text_proj.", "itm_head."),
}
CONSTANT = "position_ids"  # a buffer of 0, 1, 2, ..., which not every version of transformers writes


@dataclass(frozen=True)
class Transfer:
    """What happens to the parts of a model when its weights start another: prefixes of names."""

    take: str = ""  # only names under this prefix, without it
    drop: tuple[str, ...] = ()  # of the source
    new: tuple[str, ...] = ()  # of the target: stay as they were initialised


PEM_PARTS = ("prompter.", "mpm_head.")
PROMPTS = ("video_prompt_feat", "image_prompt_feat")
TRANSFERS = {
    ("prompter", "prompter"): Transfer(),
    ("retrieval", "retrieval"): Transfer(),
    ("qa", "qa"): Transfer(),
    ("pretrain", "pretrain"): Transfer(),
    ("pretrain", "prompter"): Transfer(take="prompter."),
    ("pretrain", "retrieval"): Transfer(drop=PEM_PARTS),
    ("pretrain", "qa"): Transfer(drop=(*PEM_PARTS, "text_encoder.cls."), new=("classifier.",)),
    ("prompter", "pretrain"): Transfer(drop=PROMPTS, new=PEM_PARTS),
}


def transfer(source: str, target: str) -> Transfer:
    """The rule from one task's weights to another's model. Raises CheckpointError where there is none."""
    try:
        return TRANSFERS[source, target]
    except KeyError:
        takes = ", ".join(s for s, t in TRANSFERS if t == target)
        raise CheckpointError(f"a {source} checkpoint can't start a {target} model, which takes: {takes}") from None


def task_of(keys: Iterable[str]) -> str:
    """The task whose model has these names. Raises CheckpointError when it is none of ALPRO's."""
    keys = set(keys)
    heads = {key.split(".")[0] for key in keys}
    if not {"visual_encoder", "text_encoder"} <= heads:
        some = ", ".join(sorted(keys)[:3]) or "nothing"
        raise CheckpointError(f"no ALPRO model: neither visual_encoder.* nor text_encoder.* in it (found {some}, ...)")
    if {"prompter", "mpm_head"} & heads:
        return "pretrain"
    if "classifier" in heads:
        return "qa"
    return "prompter" if set(PROMPTS) & heads else "retrieval"


def with_bert(key: str) -> str:
    """A name with the `.bert` level."""
    head, found, tail = key.partition(WITHOUT_BERT)
    return head + WITH_BERT + tail if found and tail.startswith(BERT_PARTS) else key


def without_bert(key: str) -> str:
    """A name without the `.bert` level."""
    return key.replace(WITH_BERT, WITHOUT_BERT)


def official(state: Mapping[str, Tensor], task: str) -> dict[str, Tensor]:
    """The tensors under a task's official names, tied ones under both. Raises CheckpointError when tied ones differ."""
    named = {without_bert(key) if task == "qa" else with_bert(key): tensor for key, tensor in state.items()}
    for key, source in list(tied(named)):
        if key not in named:
            named[key] = named[source]
        elif named[key] is not named[source] and not named[key].equal(named[source]):
            raise CheckpointError(f"{key} and {source} are one tensor in the model and differ in the checkpoint")
    return named


def tied(keys: Iterable[str]) -> Iterable[tuple[str, str]]:
    """Pairs of names for one tensor, of those that belong to masked-language heads among `keys`: (second name, first name)."""
    keys = set(keys)
    for source in keys:
        if source.endswith("cls.predictions.bias"):
            prefix = source.removesuffix("cls.predictions.bias")
            yield from ((prefix + alias, prefix + first) for alias, first in TIED.items())


def sizes_of(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """What the shapes tell: a dict of `model` (fields of config.Model), num_frames, and num_answers or num_entities.

    The number of heads and the split of BERT's layers leave no trace in shapes: 64 wide heads and equal halves, as in every
    official model, are assumed. Raises CheckpointError for tensors that are missing.
    """
    vision, text = "visual_encoder.model.", "text_encoder."
    shape = {without_bert(key): tuple(tensor.shape) for key, tensor in state.items()}
    try:
        width, _, patch, _ = shape[vision + "patch_embed.proj.weight"]
        side = math.isqrt(shape[vision + "pos_embed"][1] - 1)
        bert_layers = 1 + max(int(key.split(".")[3]) for key in shape if key.startswith(text + "encoder.layer."))
        vocab_size, _ = shape[text + "embeddings.word_embeddings.weight"]
        sizes: dict[str, Any] = {
            "num_frames": shape[vision + "time_embed"][1],
            "model": {
                "image_size": side * patch,
                "patch_size": patch,
                "width": width,
                "heads": max(width // 64, 1),
                "intermediate": shape[vision + "blocks.0.mlp.fc1.weight"][0],
                "vision_layers": 1 + max(int(key.split(".")[3]) for key in shape if key.startswith(vision + "blocks.")),
                "text_layers": bert_layers // 2,
                "fusion_layers": bert_layers - bert_layers // 2,
                "vocab_size": vocab_size,
                "max_positions": shape[text + "embeddings.position_embeddings.weight"][0],
            },
        }
    except (KeyError, ValueError, IndexError) as error:
        what = error.args[0] if error.args else error
        raise CheckpointError(f"not all of a model's tensors: {what} is missing or misshapen") from None
    if "vision_proj.weight" in shape:
        sizes["model"]["embed_dim"] = shape["vision_proj.weight"][0]
    lists = {"classifier.2.weight": "num_answers", "mpm_head.2.weight": "num_entities", PROMPTS[0]: "num_entities"}
    sizes |= {name: shape[key][0] for key, name in lists.items() if key in shape}
    return sizes
