"""A model with the conventional methods of the Hugging Face Hub: from_pretrained, save_pretrained, push_to_hub.

    model = alpro.from_pretrained("org/name")        # or a folder
    model.ask("video.mp4", "what is the man doing?")
    model.push_to_hub("org/other-name")

Weights are read and written as safetensors only.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from huggingface_hub import ModelHubMixin, snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

from alpro.checkpoints.layout import CONFIG, WEIGHTS
from alpro.errors import CheckpointError
from alpro.files.atomic import sha256
from alpro.files.json_files import read_json_object
from alpro.hub.card import find_results, model_card
from alpro.hub.layout import FILES, README, check_folder, write_folder
from alpro.serving import Answer, Match, ask, match
from alpro.serving.service import Service

if TYPE_CHECKING:
    import pandas as pd

    from alpro.data.media.frames import Strategy
    from alpro.models.encoders import Alpro


class HubModel(ModelHubMixin, library_name="alpro", repo_url=None, tags=["alpro"]):
    """A loaded model. `service` answers questions and scores texts; `source` is the folder that it was loaded from."""

    _hub_mixin_config: dict[str, Any] = {}  # noqa: RUF012  the mixin then leaves config.json to `_save_pretrained`

    def __init__(self, service: Service, source: Path, licence: str | None = None) -> None:
        """Wrap a loaded checkpoint. `licence` is an identifier of the Hub for the model card (default: see `card`)."""
        self.service = service
        self.source = source
        self.licence = licence

    @property
    def model(self) -> Alpro:
        """The torch module."""
        return self.service.model

    @property
    def tokenizer(self) -> Any:
        """The transformers tokenizer."""
        return self.service.tokenizer

    @property
    def task(self) -> str:
        """One of prompter, pretrain, retrieval and qa."""
        return self.service.task

    def ask(self, video: str | Path, question: str) -> list[Answer]:
        """Return the five most likely answers to a question, as `alpro.serving.ask` does."""
        return ask(self.service, video, question)

    def match(self, video: str | Path, texts: Sequence[str]) -> list[Match]:
        """Return how well each text fits the video, as `alpro.serving.match` does."""
        return match(self.service, video, texts)

    def predict(self, table: pd.DataFrame) -> pd.DataFrame:
        """Return a row of results for each row of `video` and `caption` or `question`, as `Service.predict` does."""
        return self.service.predict(table)

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | Path,
        *,
        force_download: bool = False,
        token: str | bool | None = None,
        cache_dir: str | Path | None = None,
        local_files_only: bool = False,
        revision: str | None = None,
        **model_kwargs: Any,
    ) -> HubModel:
        """Load a folder or a repository of the Hub; all arguments are those of huggingface_hub.

        `model_kwargs` may have `frames`, `max_text_tokens` and `media_root` (see `Service.load`). Raises CheckpointError if the
        repository cannot be read or has no model of this project, DataError for an unusable tokenizer or answer list.
        """
        name = str(pretrained_model_name_or_path)
        try:
            return super().from_pretrained(
                name, force_download=force_download, token=token, cache_dir=cache_dir,
                local_files_only=local_files_only, revision=revision, **model_kwargs,
            )  # fmt: skip
        except HFValidationError:
            raise CheckpointError(f"{name}: no such folder, and no name of a repository (org/name)") from None
        except json.JSONDecodeError as error:  # the mixin reads config.json first
            raise CheckpointError(f"{name}: its {CONFIG} is not valid JSON ({error.msg}); export it again") from None
        except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
            cause = " ".join(str(error).split(". ")[0].split())
            raise CheckpointError(f"{name}: cannot be loaded from a folder or from the Hub: {cause}") from error

    @classmethod
    def _from_pretrained(  # type: ignore[override]
        cls,
        *,
        model_id: str,
        revision: str | None,
        cache_dir: str | Path | None,
        force_download: bool,
        local_files_only: bool,
        token: str | bool | None,
        frames: Strategy | None = None,
        max_text_tokens: int | None = None,
        media_root: str = "/",
    ) -> HubModel:
        """Download the files of the Hub's layout, unless `model_id` is a folder, and load them."""
        folder = Path(model_id)
        if not folder.is_dir():
            folder = Path(
                snapshot_download(
                    model_id, revision=revision, cache_dir=cache_dir, force_download=force_download,
                    local_files_only=local_files_only, token=token, allow_patterns=list(FILES),
                )
            )  # fmt: skip
        check_folder(folder, model_id)
        service = Service.load(folder, frames, max_text_tokens, media_root)
        return cls(service, folder)

    def _save_pretrained(self, save_directory: Path) -> None:
        """Write the folder of the Hub's layout, with a model card that has results only if they are of these weights."""
        write_folder(save_directory, self.service, self.source)
        digest = sha256(save_directory / WEIGHTS)
        config = read_json_object(save_directory / CONFIG, CheckpointError, "export it again")
        before, source_weights = self.source / README, self.source / WEIGHTS
        is_unchanged = source_weights.is_file() and sha256(source_weights) == digest
        if before.is_file() and is_unchanged and self.licence is None:
            card = before.read_text(encoding="utf-8")
        else:
            card = model_card(config, find_results(digest), self.licence)
        (save_directory / README).write_text(card, encoding="utf-8")


def export_folder(checkpoint: str | Path, output: str | Path, licence: str | None = None) -> None:
    """Write a checkpoint as a new folder in the Hub's layout. Raises CheckpointError, DataError and OutputError."""
    from alpro.files.outputs import new_dir
    from alpro.serving import load

    with new_dir(output, checkpoint) as temporary:
        source = Path(checkpoint)
        HubModel(load(source), source, licence).save_pretrained(temporary)
