"""Parameter names: one table for both directions, and the transfers from one task's model to another's.

The models use the official names. Files differ in two ways: question answering (and LAVIS' ALPRO, in every task) has no
`.bert` level in the text encoder, and tied tensors may be saved once or twice.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from alpro.errors import CheckpointError
from alpro.files.names import brief, some

# Prefix in models with a masked-language head; prefix in question answering and in LAVIS' files.
WITH_BERT, WITHOUT_BERT = "text_encoder.bert.", "text_encoder."
BERT_PARTS = ("embeddings.", "encoder.")

# End of a tied name -> end of the name whose tensor it shares.
TIED = {
    "cls.predictions.decoder.weight": "bert.embeddings.word_embeddings.weight",
    "cls.predictions.decoder.bias": "cls.predictions.bias",
}

# Weights in official checkpoints that a task's model never uses; they may be missing in a file.
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
    """Transfer of one task's weights to another task's model, as prefixes of names."""

    take: str = ""  # take only names with this prefix, and remove it
    drop: tuple[str, ...] = ()  # names of the source to ignore
    new: tuple[str, ...] = ()  # names of the target that stay as initialised


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
    """Return the transfer from one task's weights to another's model. Raises CheckpointError if there is none."""
    try:
        return TRANSFERS[source, target]
    except KeyError:
        takes = ", ".join(s for s, t in TRANSFERS if t == target)
        raise CheckpointError(f"a {source} checkpoint can't start a {target} model; use a checkpoint of: {takes}") from None


def task_of(keys: Iterable[str]) -> str:
    """Return the task whose model has these names. Raises CheckpointError if they are not ALPRO's."""
    keys = set(keys)
    heads = {key.split(".")[0] for key in keys}
    if not {"visual_encoder", "text_encoder"} <= heads:
        examples = f"its names are {some(sorted(keys))}" if keys else "it is empty"
        raise CheckpointError(f"no ALPRO model: visual_encoder.* or text_encoder.* is missing ({examples})")
    if {"prompter", "mpm_head"} & heads:
        return "pretrain"
    if "classifier" in heads:
        return "qa"
    return "prompter" if set(PROMPTS) & heads else "retrieval"


def with_bert(key: str) -> str:
    """Return a name with the `.bert` level."""
    head, prefix, tail = key.partition(WITHOUT_BERT)
    return head + WITH_BERT + tail if prefix and tail.startswith(BERT_PARTS) else key


def without_bert(key: str) -> str:
    """Return a name without the `.bert` level."""
    return key.replace(WITH_BERT, WITHOUT_BERT)


def official(state: Mapping[str, Tensor], task: str) -> dict[str, Tensor]:
    """Return the tensors under a task's official names, tied ones under both. Raises CheckpointError if tied ones differ."""
    named = {without_bert(key) if task == "qa" else with_bert(key): tensor for key, tensor in state.items()}
    for key, source in list(tied(named)):
        if key not in named:
            named[key] = named[source]
        elif named[key] is not named[source] and not named[key].equal(named[source]):
            raise CheckpointError(f"{brief(key)} and {brief(source)} are one tensor in the model but differ in the checkpoint")
    return named


def tied(keys: Iterable[str]) -> Iterable[tuple[str, str]]:
    """Yield both names of each tied tensor of the masked-language heads in `keys`: (second name, first name)."""
    keys = set(keys)
    for source in keys:
        if source.endswith("cls.predictions.bias"):
            prefix = source.removesuffix("cls.predictions.bias")
            yield from ((prefix + alias, prefix + first) for alias, first in TIED.items())


def sizes_of(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """Infer sizes from shapes: a dict of `model` (fields of config.Model), num_frames, and num_answers or num_entities.

    Shapes don't reveal the number of heads or the split of BERT's layers: heads of width 64 and equal halves are assumed, as
    in every official model. Raises CheckpointError for missing tensors.
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
        tensor = brief(str(error.args[0] if error.args else error))
        raise CheckpointError(
            f"incomplete model: {tensor} is missing or has a wrong shape; copy or download it again"
        ) from None
    if "vision_proj.weight" in shape:
        sizes["model"]["embed_dim"] = shape["vision_proj.weight"][0]
    lists = {"classifier.2.weight": "num_answers", "mpm_head.2.weight": "num_entities", PROMPTS[0]: "num_entities"}
    sizes |= {name: shape[key][0] for key, name in lists.items() if key in shape}
    return sizes
