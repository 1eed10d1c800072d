"""ALPRO (CVPR 2022): video-and-language pre-training with entity prompts, as a project one can rerun."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

    from alpro.hub.model import HubModel

__version__ = "0.1.0"


def from_pretrained(
    pretrained_model_name_or_path: str | Path,
    *,
    revision: str | None = None,
    cache_dir: str | Path | None = None,
    token: str | bool | None = None,
    local_files_only: bool = False,
    force_download: bool = False,
    **options: Any,
) -> HubModel:
    """Load a model from a folder or from the Hugging Face Hub ("org/name").

    The folder is one that `alpro weights export --format hub` or a training wrote. `revision` is a branch, tag or commit;
    `cache_dir`, `token`, `local_files_only` and `force_download` are those of huggingface_hub. `options` may have `frames`,
    `max_text_tokens` and `media_root`, as in `alpro.serving.service.Service.load`. Only safetensors are read.

    Raises CheckpointError if there is no such model, DataError for an unusable tokenizer or answer list.
    """
    from alpro.hub.model import HubModel

    return HubModel.from_pretrained(
        pretrained_model_name_or_path, revision=revision, cache_dir=cache_dir, token=token,
        local_files_only=local_files_only, force_download=force_download, **options,
    )  # fmt: skip
