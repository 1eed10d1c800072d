"""The four trainings as the engine sees them: each puts together its model, its data, its losses and its validation.

`make_task(params, stage, name, ...)` gives the task of a stage: `prompter`, `pretrain`, or `finetune` for a data set.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch

from alpro import distributed, watch
from alpro.config import CorpusTraining, Params, Pretraining, Training, nearest
from alpro.data.annotations import QUESTION_TYPES, annotation_file, answer_file, read_answers, read_corpus, read_dataset
from alpro.data.datasets import ClipDataset, Collator, View
from alpro.data.entities import read_entities
from alpro.data.index import cache_of
from alpro.data.loader import TrainLoader, validation_batches
from alpro.data.prepare import ENTITY_FILE
from alpro.data.records import Record
from alpro.data.sampler import BatchPlan
from alpro.data.text import FILES, load_tokenizer
from alpro.data.unreadable import refuse_unreadable
from alpro.errors import ConfigError
from alpro.evaluation.qa import evaluate_qa
from alpro.evaluation.retrieval import evaluate_retrieval
from alpro.files import write_json
from alpro.models import Alpro, Pretrain, Prompter, build_model
from alpro.models.start import start
from alpro.training.flops import training_flops

TOKENIZER_FILES = (*FILES, "tokenizer_config.json", "special_tokens_map.json")
RETRIEVAL_METRICS = tuple(f"{way}{name}" for way in ("", "v2t_") for name in ("r1", "r5", "r10", "medianR", "meanR"))
QA_METRICS = ("overall_acc", *(f"{kind}_acc" for kind in QUESTION_TYPES))


class ClipTask(ABC):
    """What the four have in common: clips with text, batched by a plan."""

    kind: str  # as `build_model` knows it
    model: Alpro
    losses: Sequence[str]
    metrics: Sequence[str]

    def __init__(self, params: Params, settings: Training, datasets: Mapping[str, ClipDataset], collator: Collator) -> None:
        self.params, self.settings, self.collator, self.datasets = params, settings, collator, dict(datasets)
        self.plan_for([(0, distributed.size())])
        self.flops_per_clip = training_flops(self.kind, params.model, settings.num_frames, settings.max_text_tokens)

    def plan_for(self, worlds: Sequence[tuple[int, int]]) -> int:
        """Plan the batches for the numbers of processes so far, (first micro-step, processes) each; how many micro-steps."""
        settings, (_, processes) = self.settings, worlds[0]
        self.plan = BatchPlan(
            {name: len(dataset) for name, dataset in self.datasets.items()},
            settings.batch_size,
            processes,
            epochs=settings.epochs,
            seed=self.params.seed,
            groups=_Groups(self.datasets),
            reshuffle=settings.reshuffle,
            distinct_videos=settings.distinct_videos,
            mix=settings.mix if isinstance(settings, CorpusTraining) else "equal",
        )
        for micro_step, processes in worlds[1:]:
            if micro_step < self.plan.total_steps:
                self.plan = self.plan.changed(micro_step, processes)
        return self.plan.total_steps

    def epoch_of(self, micro_step: int) -> int:
        """The epoch, from 0, that a micro-step belongs to."""
        return self.plan.epoch_of(micro_step)

    def loader(self, start: int, stop: int) -> TrainLoader:
        """This rank's batches of some micro-steps."""
        options = self.params.loader
        return TrainLoader(
            self.datasets,
            self.plan,
            self.collator,
            rank=distributed.rank(),
            start_step=start,
            stop_step=stop,
            workers=options.workers,
            prefetch=options.prefetch,
            max_unreadable=options.max_unreadable,
        )

    @abstractmethod
    def validate(self) -> dict[str, float]:
        """Metrics of the validation split, the same on every rank."""

    def extras(self) -> dict[str, Path]:
        """Files that a checkpoint takes along, by their names in it."""
        folder = Path(self.params.text.tokenizer)
        return {f"tokenizer/{name}": folder / name for name in TOKENIZER_FILES if (folder / name).is_file()}


class _Groups(dict[str, np.ndarray]):
    """The videos of each corpus's samples, looked up when the plan asks for them: that takes a while on millions."""

    def __init__(self, datasets: Mapping[str, ClipDataset]) -> None:
        super().__init__()
        self.datasets = datasets

    def get(self, name: str, default: Any = None) -> Any:
        return self.datasets[name].groups


# --- on caption corpora -----------------------------------------------------------------------------------


class CorpusTask(ClipTask):
    """The prompter's training (VTC) and the pre-training (VTC, VTM, MLM, PEM)."""

    def __init__(
        self, params: Params, settings: CorpusTraining, model: Alpro, losses: Sequence[str], collator: Collator
    ) -> None:
        corpora = {name: params.corpora[name] for name in settings.corpora}
        view, eval_view = View.training(settings, params.model), View.evaluation(settings, params.model)
        train = {name: ClipDataset(name, read_corpus(corpus), "corpus", view, params.seed) for name, corpus in corpora.items()}
        self.val = {
            name: ClipDataset(name, records, "corpus", eval_view, params.seed)
            for name, corpus in corpora.items()
            if (records := read_corpus(corpus, "val"))
        }
        if not self.val:
            raise ConfigError(f"corpora {', '.join(corpora)}: none has a validation split (`val`), which select_by needs")
        super().__init__(params, settings, train, collator)
        self.model, self.losses = model, losses
        self.right = tuple(name for name in ("vtc", "vtm", "mlm") if name in losses)
        self.metrics = ("loss", *losses, *(_ACCURACY[name] for name in self.right))

    def validate(self) -> dict[str, float]:
        """Mean losses over the validation splits, VTC's recall@1 in a batch, VTM's and MLM's accuracy in percent."""
        device = self.model.temp.device
        sums = torch.zeros(2, len(self.losses) + len(self.right), dtype=torch.float64, device=device)  # of values, of counts
        half = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(self.settings.precision)
        world, rank = distributed.size(), distributed.rank()
        weights: Mapping[str, float] = {}
        for dataset in self.val.values():
            options = {"rank": rank, "world_size": world, "workers": self.params.loader.workers}
            for batch in validation_batches(dataset, self.collator, self.settings.batch_size, **options):
                watch.beat("validation")
                with torch.autocast(device.type, half, enabled=half is not None):
                    output = self.model(batch.to(device))
                weights = output.weights
                for place, name in enumerate(self.losses):
                    count = torch.as_tensor(output.counts[name], dtype=torch.float64, device=device)
                    sums[:, place] += torch.stack([output.losses[name].double() * count, count])
                for place, name in enumerate(self.right, len(self.losses)):
                    hits = output.logits[name].argmax(-1) == output.targets[name]
                    sums[:, place] += torch.tensor([100.0 * hits.sum().item(), hits.numel()], device=device)
        total, count = distributed.all_reduce(sums, "sum", name="validation").tolist()
        means = [t / c if c else 0.0 for t, c in zip(total, count, strict=True)]
        found = dict(zip((*self.losses, *(_ACCURACY[name] for name in self.right)), means, strict=True))
        return {"loss": math.fsum(weights.get(name, 1.0) * found[name] for name in self.losses), **found}


_ACCURACY = {"vtc": "vtc_r1", "vtm": "vtm_acc", "mlm": "mlm_acc"}


class PrompterTask(CorpusTask):
    """VTC alone; the entity prompts are made when pre-training takes the prompter up."""

    kind = "prompter"

    def __init__(self, params: Params, init: str, say: Callable[[str], None]) -> None:
        settings = params.prompter
        model = build_model(
            "prompter",
            num_frames=settings.num_frames,
            config=params.model,
            num_entities=0,
            gradient_checkpointing=settings.gradient_checkpointing,
            seed=None,
        )
        _start(model, init, params, say)
        collator = Collator(_tokenizer(params), settings.max_text_tokens, params.seed)
        super().__init__(params, settings, model, ("vtc",), collator)


class PretrainTask(CorpusTask):
    """The four objectives; PEM asks a frozen prompter, the teacher."""

    kind = "pretrain"

    def __init__(self, params: Params, init: str, teacher: str | None, entities: Path, say: Callable[[str], None]) -> None:
        settings: Pretraining = params.pretrain
        pem = params.pem
        self.entities = entities if pem else None
        words = read_entities(entities, params.entities.number) if pem else []
        model = build_model(
            "pretrain",
            num_frames=settings.num_frames,
            config=params.model,
            num_entities=len(words),
            gradient_checkpointing=settings.gradient_checkpointing,
            objectives=settings.objectives,
            pem=settings.pem,
            seed=None,
        )
        tokenizer = _tokenizer(params)
        _start(model, init, params, say)
        if pem:
            if teacher is None:
                raise ConfigError("pre-training with PEM (pretrain.objectives.pem) needs a prompter: give --teacher")
            prompter = cast(Prompter, cast(Pretrain, model).prompter)
            _start(prompter, teacher, params, say)
            prompter.set_prompts(words, tokenizer, settings.pem.ensemble)
        on = settings.objectives.model_dump() | ({} if pem else {"pem": 0})
        collator = Collator(
            tokenizer,
            settings.max_text_tokens,
            params.seed,
            mlm_probability=settings.mlm_probability if on["mlm"] else None,
            crop=settings.pem if pem else None,
            patch_size=params.model.patch_size,
        )
        losses = [name for name in ("vtc", "vtm", "mlm", "pem") if on[name]]
        super().__init__(params, settings, model, losses, collator)

    def extras(self) -> dict[str, Path]:
        """The entity list too."""
        return super().extras() | ({"entities.txt": self.entities} if self.entities else {})


# --- down-stream ------------------------------------------------------------------------------------------


class DatasetTask(ClipTask):
    """Fine-tuning for a data set, validated as its evaluation does."""

    def __init__(self, params: Params, name: str) -> None:
        dataset, settings = params.datasets[name], params.finetune[name]
        self.answers = read_answers(dataset) if dataset.task == "qa" else None
        self.name, self.tokenizer = name, _tokenizer(params)
        self.val: list[Record] = read_dataset(dataset, "val")
        refuse_unreadable(self.val, settings.num_frames, settings.eval_frames, cache_of(dataset.videos))
        view = View.training(settings, params.model)
        train = ClipDataset(name, read_dataset(dataset, "train"), dataset.task, view, params.seed, self.answers)
        super().__init__(params, settings, {name: train}, Collator(self.tokenizer, settings.max_text_tokens, params.seed))

    def _evaluation(self) -> dict[str, Any]:
        settings = self.settings
        return {
            "num_frames": settings.num_frames,
            "image_size": self.params.model.image_size,
            "max_text_tokens": settings.max_text_tokens,
            "frames_strategy": settings.eval_frames,
            "precision": settings.precision,
            "decode_size": settings.decode_size,
            "batch_pairs": self.params.evaluate[self.name].batch_pairs,
            "progress": lambda done, total: watch.beat("validation", done, total),
        }


class RetrievalTask(DatasetTask):
    """VTC and VTM; validated by ranking every video for every caption of the validation split."""

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
        _start(self.model, init, params, say)

    def validate(self) -> dict[str, float]:
        """Recalls and ranks in both directions."""
        return evaluate_retrieval(self.model, self.val, self.tokenizer, **self._evaluation()).flat()


class QuestionAnsweringTask(DatasetTask):
    """Cross-entropy over the answer list; validated by accuracy on the validation split."""

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
        _start(self.model, init, params, say)

    def validate(self) -> dict[str, float]:
        """Accuracy, overall and by type of question, in percent."""
        result = evaluate_qa(self.model, self.val, self.tokenizer, self.answers or {}, **self._evaluation())  # type: ignore[arg-type]
        return result.flat()

    def extras(self) -> dict[str, Path]:
        """The answer list too."""
        file = answer_file(self.params.datasets[self.name])
        if file is None:  # they are those of the one table
            file = Path(".state") / "answers" / f"{self.name}.json"
            write_json(file, self.answers)
        return super().extras() | {"answers.json": file}


# --- making them ------------------------------------------------------------------------------------------


def entity_file(params: Params) -> Path:
    """Where the pipeline puts the entity list."""
    return Path("models") / params.recipe / "entities" / ENTITY_FILE


def make_task(
    params: Params, stage: str, name: str | None, init: str, teacher: str | None, say: Callable[[str], None] = print
) -> ClipTask:
    """The task of a stage. Raises ConfigError, DataError or CheckpointError, each before any training."""
    if stage == "prompter":
        return PrompterTask(params, init, say)
    if stage == "pretrain":
        return PretrainTask(params, init, teacher, entity_file(params), say)
    if name not in params.finetune:
        raise ConfigError(f"task {name!r}: `finetune` has no such task{nearest(name or '', params.finetune)}")
    kind = RetrievalTask if params.datasets[name].task == "retrieval" else QuestionAnsweringTask
    return kind(params, name, init, say)


def inputs(params: Params, stage: str, name: str | None, init: str, teacher: str | None) -> dict[str, tuple[str, ...]]:
    """What a stage reads: (kind of digest, path) by its name in the record."""
    found: dict[str, tuple[str, ...]] = {"init": ("content", init), "tokenizer": ("content", params.text.tokenizer)}
    if stage == "pretrain" and params.pem:
        found["teacher"] = ("content", teacher or "")
        found["entities"] = ("content", str(entity_file(params)))
    if stage == "finetune" and name is not None:
        dataset = params.datasets[name]
        for split in ("train", "val"):
            found[f"annotations_{split}"] = ("content", str(annotation_file(dataset, split)))
        if dataset.task == "qa" and (file := answer_file(dataset)):  # else they are those of the training annotations
            found["answers"] = ("content", str(file))
        found["videos"] = ("listing", dataset.videos)
        return found
    section = params.prompter if stage == "prompter" else params.pretrain
    for corpus in section.corpora:
        files = params.corpora[corpus]
        found[f"{corpus}_train"] = ("content", files.train)
        if files.val:
            found[f"{corpus}_val"] = ("content", files.val)
        found[f"{corpus}_files"] = ("listing", files.root)
    return found


def _tokenizer(params: Params) -> Any:
    return load_tokenizer(params.text.tokenizer, vocab_size=params.model.vocab_size)


def _start(model: Alpro, init: str, params: Params, say: Callable[[str], None]) -> None:
    """Give a model, until now without memory, its first weights."""
    if next(model.parameters()).is_meta:
        model.to_empty(device="cpu")
    for report in start(model, init, params.seed, params.init.resize):
        say(str(report))
