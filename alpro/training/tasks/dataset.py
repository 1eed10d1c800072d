"""Fine-tuning on a dataset: retrieval and question answering."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from alpro.config import Params
from alpro.data.annotations.read import answer_file, read_answers, read_dataset
from alpro.data.annotations.records import QUESTION_TYPES, Record
from alpro.data.batches.clip_frames import View
from alpro.data.batches.datasets import ClipDataset, Collator
from alpro.data.batches.frame_cache import open_frame_cache
from alpro.data.batches.unreadable import refuse_unreadable
from alpro.data.media.index import probe_cache_path
from alpro.data.text.tokenizer import load_tokenizer
from alpro.evaluation.clips import Preprocessing
from alpro.evaluation.qa import evaluate_qa
from alpro.evaluation.retrieval import evaluate_retrieval
from alpro.files.json_files import write_json
from alpro.files.state import state_folder
from alpro.launch import heartbeat
from alpro.models import build_model
from alpro.training.tasks.base import ClipTask, load_initial_weights, padding

RETRIEVAL_METRICS = tuple(
    f"{direction}{name}" for direction in ("", "v2t_") for name in ("r1", "r5", "r10", "medianR", "meanR")
)
QA_METRICS = ("overall_acc", *(f"{kind}_acc" for kind in QUESTION_TYPES))


class DatasetTask(ClipTask):
    """Base of fine-tuning; the validation computes the metrics of the dataset's evaluation."""

    def __init__(self, params: Params, name: str) -> None:
        dataset, settings = params.datasets[name], params.finetune[name]
        self.answers = read_answers(dataset) if dataset.task == "qa" else None
        self.name, self.tokenizer = name, load_tokenizer(params.text.tokenizer, vocab_size=params.model.vocab_size)
        self.val: list[Record] = read_dataset(dataset, "val")
        refuse_unreadable(self.val, settings.num_frames, settings.eval_frames, probe_cache_path(dataset.videos))
        view = View.training(settings, params.model, params.loader.decoder)
        self.cache = open_frame_cache(params.loader)
        records, texts = read_dataset(dataset, "train"), settings.texts_per_clip
        train = ClipDataset(name, records, dataset.task, view, params.seed, self.answers, texts, self.cache)
        collator = Collator(self.tokenizer, settings.max_text_tokens, params.seed, pad_to=padding(params.model))
        super().__init__(params, settings, {name: train}, collator)

    def _evaluation(self) -> dict[str, Any]:
        return {
            "preprocessing": Preprocessing.from_training(
                self.settings, self.params.model.image_size, self.cache, self.params.loader.decoder
            ),
            "batch_pairs": self.params.evaluate[self.name].batch_pairs,
            "progress": lambda done, total: heartbeat.beat("validation", done, total),
        }


class RetrievalTask(DatasetTask):
    """Fine-tuning with VTC and VTM; validated by ranking every video for every caption of the validation split."""

    kind = "retrieval"
    losses = ("vtc", "vtm")
    metrics = RETRIEVAL_METRICS

    def __init__(self, params: Params, name: str, init: str, say: Callable[[str], None]) -> None:
        super().__init__(params, name)
        self.model = build_model(
            "retrieval",
            num_frames=self.settings.num_frames,
            config=params.model,
            gradient_checkpointing=self.settings.gradient_checkpointing,
            seed=None,
        )
        load_initial_weights(self.model, init, params.seed, params.init.resize, say)

    def validate(self) -> dict[str, float]:
        """Return recalls and ranks in both directions."""
        return evaluate_retrieval(self.model, self.val, self.tokenizer, **self._evaluation()).flat_metrics()


class QuestionAnsweringTask(DatasetTask):
    """Fine-tuning with cross-entropy over the answer list; validated by accuracy on the validation split."""

    kind = "qa"
    losses = ("qa",)
    metrics = QA_METRICS

    def __init__(self, params: Params, name: str, init: str, say: Callable[[str], None]) -> None:
        super().__init__(params, name)
        assert self.answers is not None
        self.model = build_model(
            "qa",
            num_frames=self.settings.num_frames,
            config=params.model,
            num_answers=len(self.answers),
            gradient_checkpointing=self.settings.gradient_checkpointing,
            seed=None,
        )
        load_initial_weights(self.model, init, params.seed, params.init.resize, say)

    def validate(self) -> dict[str, float]:
        """Return the accuracy in percent, overall and by question type."""
        result = evaluate_qa(self.model, self.val, self.tokenizer, self.answers or {}, **self._evaluation())  # type: ignore[arg-type]
        return result.flat_metrics()

    def extras(self) -> dict[str, Path]:
        """Add the answer list."""
        file = answer_file(self.params.datasets[self.name])
        if file is None:  # the answers come from the annotation table
            file = state_folder() / "answers" / f"{self.name}.json"
            write_json(file, self.answers)
        return super().extras() | {"answers.json": file}
