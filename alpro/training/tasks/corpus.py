"""Trainings on caption corpora: the prompter, and pre-training with the paper's four objectives."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import cast

import torch

from alpro import distributed
from alpro.config import CorpusTraining, Params, Pretraining
from alpro.data.annotations.read import read_corpus
from alpro.data.batches.clip_frames import View
from alpro.data.batches.datasets import ClipDataset, Collator
from alpro.data.batches.frame_cache import open_frame_cache
from alpro.data.batches.loader import validation_batches
from alpro.data.media.index import probe_cache_path, trust_probes
from alpro.data.text.entities import read_entities
from alpro.data.text.tokenizer import load_tokenizer
from alpro.errors import ConfigError
from alpro.launch import heartbeat
from alpro.models import Alpro, Pretrain, Prompter, build_model
from alpro.objectives.precision import autocast
from alpro.training.tasks.base import ClipTask, load_initial_weights, padding

_ACCURACY = {"vtc": "vtc_r1", "vtm": "vtm_acc", "mlm": "mlm_acc"}  # metric of each loss that has an accuracy


class CorpusTask(ClipTask):
    """Base of the prompter's training (VTC) and of pre-training (VTC, VTM, MLM, PEM)."""

    def __init__(
        self, params: Params, settings: CorpusTraining, model: Alpro, losses: Sequence[str], collator: Collator
    ) -> None:
        corpora = {name: params.corpora[name] for name in settings.corpora}
        for corpus in corpora.values():
            trust_probes(probe_cache_path(corpus.root))
        view, eval_view = (make(settings, params.model, params.loader.decoder) for make in (View.training, View.evaluation))
        cache = open_frame_cache(params.loader)
        train = {
            name: ClipDataset(name, read_corpus(corpus), "corpus", view, params.seed, cache=cache)
            for name, corpus in corpora.items()
        }
        self.val = {
            name: ClipDataset(name, records, "corpus", eval_view, params.seed, cache=cache)
            for name, corpus in corpora.items()
            if (records := read_corpus(corpus, "val"))
        }
        if not self.val:
            raise ConfigError(
                f"corpora {', '.join(corpora)}: none has a validation split, which select_by needs; set `val` of one of them"
            )
        super().__init__(params, settings, train, collator)
        self.model, self.losses = model, losses
        self.with_accuracy = tuple(name for name in ("vtc", "vtm", "mlm") if name in losses)
        self.metrics = ("loss", *losses, *(_ACCURACY[name] for name in self.with_accuracy))

    def validate(self) -> dict[str, float]:
        """Return mean losses over the validation splits; in percent, VTC's recall@1 in a batch and VTM's and MLM's accuracy."""
        device = self.model.temp.device
        sums = torch.zeros(
            2, len(self.losses) + len(self.with_accuracy), dtype=torch.float64, device=device
        )  # rows: values, counts
        world, rank = distributed.size(), distributed.rank()
        weights: Mapping[str, float] = {}
        for dataset in self.val.values():
            options = {"rank": rank, "world_size": world, "workers": self.params.loader.workers}
            for batch in validation_batches(dataset, self.collator, self.settings.batch_size, **options):
                heartbeat.beat("validation")
                with autocast(device, self.settings.precision):
                    output = self.model(batch.to(device))
                weights = output.weights
                for column, name in enumerate(self.losses):
                    count = torch.as_tensor(output.counts[name], dtype=torch.float64, device=device)
                    sums[:, column] += torch.stack([output.losses[name].double() * count, count])
                for column, name in enumerate(self.with_accuracy, len(self.losses)):
                    hits = output.logits[name].argmax(-1) == output.targets[name]
                    sums[:, column] += torch.tensor([100.0 * hits.sum().item(), hits.numel()], device=device)
        total, count = distributed.all_reduce(sums, "sum", name="validation").tolist()
        means = [t / c if c else 0.0 for t, c in zip(total, count, strict=True)]
        metrics = dict(zip((*self.losses, *(_ACCURACY[name] for name in self.with_accuracy)), means, strict=True))
        return {"loss": math.fsum(weights.get(name, 1.0) * metrics[name] for name in self.losses), **metrics}


class PrompterTask(CorpusTask):
    """Training of the prompter with VTC. Its entity prompts are computed when pre-training loads it."""

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
        load_initial_weights(model, init, params.seed, params.init.resize, say)
        tokenizer = load_tokenizer(params.text.tokenizer, vocab_size=params.model.vocab_size)
        collator = Collator(tokenizer, settings.max_text_tokens, params.seed, pad_to=padding(params.model))
        super().__init__(params, settings, model, ("vtc",), collator)


class PretrainTask(CorpusTask):
    """Pre-training with up to four objectives; PEM takes its targets from a frozen prompter, the teacher."""

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
        tokenizer = load_tokenizer(params.text.tokenizer, vocab_size=params.model.vocab_size)
        load_initial_weights(model, init, params.seed, params.init.resize, say)
        if pem:
            if teacher is None:
                raise ConfigError(
                    "pre-training with PEM (pretrain.objectives.pem) needs a trained prompter; pass it as --teacher"
                )
            prompter = cast(Prompter, cast(Pretrain, model).prompter)
            load_initial_weights(prompter, teacher, params.seed, params.init.resize, say)
            prompter.set_prompts(words, tokenizer, settings.pem.ensemble)
        loss_weights = settings.objectives.model_dump() | ({} if pem else {"pem": 0})
        collator = Collator(
            tokenizer,
            settings.max_text_tokens,
            params.seed,
            mlm_probability=settings.mlm_probability if loss_weights["mlm"] else None,
            crop=settings.pem if pem else None,
            patch_size=params.model.patch_size,
            pad_to=padding(params.model),
        )
        losses = [name for name in ("vtc", "vtm", "mlm", "pem") if loss_weights[name]]
        super().__init__(params, settings, model, losses, collator)

    def extras(self) -> dict[str, Path]:
        """Add the entity list."""
        return super().extras() | ({"entities.txt": self.entities} if self.entities else {})
