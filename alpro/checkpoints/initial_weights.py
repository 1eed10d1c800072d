"""Initial weights of a training: from scratch, from ImageNet and BERT, or from a checkpoint (paper section 4.1).

`load_start(model, path, seed)`: `path` is a value of `init.*` in params.yaml, either a checkpoint or a YAML file from
recipes/init.
"""

from __future__ import annotations

from pathlib import Path

import torch
import yaml
from pydantic import BaseModel, ConfigDict, ValidationError
from torch import Tensor

from alpro.checkpoints.files import load_checkpoint
from alpro.checkpoints.foreign import open_weights
from alpro.checkpoints.load import LoadReport, Resize, fit, load_into
from alpro.checkpoints.names import CONSTANT, official, with_bert
from alpro.errors import CheckpointError
from alpro.models.encoders import Alpro
from alpro.models.initialise import initialise

SCRATCH = "scratch"
HUB_ERRORS = "no internet, no such model, or not in the cache"
WEIGHT_SUFFIXES = (".safetensors", ".pt", ".pth", ".pyth", ".bin")
BERT_FILES = ("model.safetensors", "pytorch_model.bin")


class InitSpec(BaseModel):
    """Content of a file of recipes/init."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    vision: str = SCRATCH
    text: str = SCRATCH


def load_start(model: Alpro, path: str | Path, seed: int = 0, resize: Resize = "flat_nearest") -> list[LoadReport]:
    """Load the initial weights of a training into a model; return the loading reports. Raises CheckpointError.

    Weights missing from the source are initialised randomly from `seed`.
    """
    if Path(path).suffix in (".yaml", ".yml"):
        return init_weights(model, read_spec(path), seed)
    state, info = load_checkpoint(path)
    initialise(model, seed)
    return [load_into(model, state, info, resize)]


def read_spec(path: str | Path) -> InitSpec:
    """Read a file of recipes/init. Raises CheckpointError if it is missing or has other keys."""
    try:
        return InitSpec.model_validate(yaml.safe_load(Path(path).read_text(encoding="utf-8")) or {})
    except FileNotFoundError:
        raise CheckpointError(f"{path}: not found; recipes/init has scratch.yaml and imagenet.yaml") from None
    except (yaml.YAMLError, ValidationError) as error:
        raise CheckpointError(
            f"{path}: may contain only the keys `vision` and `text`, each a string ({str(error).splitlines()[0]})"
        ) from None


def init_weights(model: Alpro, spec: InitSpec, seed: int = 0) -> list[LoadReport]:
    """Initialise a whole model from the seed, then load the encoders of the spec. Raises CheckpointError."""
    initialise(model, seed)
    reports = []
    if spec.vision != SCRATCH:
        reports.append(load_vision(model, spec.vision))
    if spec.text != SCRATCH:
        reports.append(load_bert(model, spec.text))
    return reports


def load_vision(model: Alpro, source: str) -> LoadReport:
    """Load a ViT's or a TimeSformer's weights into the video encoder.

    `source` is the name of a timm model or a weights file. Temporal attention starts as a copy of a ViT's spatial attention;
    `temporal_fc` and the time embedding start at zero, so that the video encoder equals the ViT on each frame.
    """
    if Path(source).suffix in WEIGHT_SUFFIXES:
        opened, unwrapped = open_weights(Path(source))
        state = {key.removeprefix("model."): tensor for key, tensor in opened.items()}
    else:
        unwrapped = []
        state = _timm_state_dict(source)
    for key in list(state):
        temporal = key.replace(".attn.", ".temporal_attn.").replace(".norm1.", ".temporal_norm1.")
        state.setdefault(temporal, state[key])
    prefix = "visual_encoder.model."
    needed = {prefix + key: tensor for key, tensor in model.visual_encoder.model.state_dict().items()}
    have = {prefix + key: tensor for key, tensor in state.items()}

    def optional(key: str) -> bool:
        return ".temporal_fc." in key or key.endswith("time_embed") or key.startswith((prefix + "head.", prefix + "fc_norm."))

    report = fit(
        needed,
        have,
        LoadReport(source, "video encoder", unwrapped=unwrapped),
        f"vision: {source}",
        optional=optional,
        resize="bicubic",
    )
    with torch.no_grad():  # temporal weights that a ViT lacks
        for key, parameter in needed.items():
            if key not in have and (".temporal_fc." in key or key.endswith("time_embed")):
                parameter.zero_()
    return report


def load_bert(model: Alpro, source: str) -> LoadReport:
    """Load BERT's weights into the text and multimodal encoders, and its masked-language head if the model has one.

    `source` is a directory in Hugging Face layout (looked up as given, then under ext/, as in the released code) or a model
    name on the Hub.
    """
    folder = next((path for path in (Path(source), Path("ext") / source) if path.is_dir()), None)
    if folder is None:
        file = _download_bert(source)
    else:
        file = next((folder / name for name in BERT_FILES if (folder / name).exists()), folder / BERT_FILES[0])
    opened, unwrapped = open_weights(file)
    state = official({f"text_encoder.{_modern_key(key)}": tensor for key, tensor in opened.items()}, "retrieval")
    needed = {with_bert(f"text_encoder.{key}"): tensor for key, tensor in model.text_encoder.state_dict().items()}
    head, unused = "text_encoder.cls.predictions.", ("text_encoder.cls.seq_relationship.", "text_encoder.bert.pooler.")
    report = LoadReport(source, "text encoder", unwrapped=unwrapped)
    return fit(
        needed, state, report, f"text: {source}", optional=lambda key: key.startswith((head, *unused)) or CONSTANT in key
    )


def _modern_key(key: str) -> str:
    """Map a parameter name from an older file or a bare BERT to the name used by the current BERT masked-LM model."""
    key = key.replace("LayerNorm.gamma", "LayerNorm.weight").replace("LayerNorm.beta", "LayerNorm.bias")
    return key if key.startswith(("bert.", "cls.")) else f"bert.{key}"


def _download_bert(name: str) -> Path:
    from huggingface_hub import hf_hub_download

    try:
        return Path(hf_hub_download(name, BERT_FILES[0]))
    except (OSError, ValueError):
        raise CheckpointError(
            f"text: {name}: can't download BERT ({HUB_ERRORS}); set `text` to a directory with its {BERT_FILES[0]}, "
            "or put that directory at ext/bert-base-uncased"
        ) from None


def _timm_state_dict(name: str) -> dict[str, Tensor]:
    import timm

    try:
        return dict(timm.create_model(name, pretrained=True).state_dict())
    except (OSError, RuntimeError, ValueError) as error:
        reason = str(error).splitlines()[0] if isinstance(error, RuntimeError) else HUB_ERRORS
        raise CheckpointError(
            f"vision: {name}: timm can't load it ({reason}); set `vision` to a file with its weights, such as model.safetensors"
        ) from None
