"""alpro/training/tasks/corpus.py: NEW MODULE."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import cast

import torch

from alpro import distributed
from alpro.config import CorpusTraining, Params, Pretraining
from alpro.data.annotations.read import read_corpus
from alpro.data.batches.datasets import ClipDataset, Collator, View
from alpro.data.batches.loader import validation_batches
from alpro.data.text.entities import read_entities
from alpro.errors import ConfigError
from alpro.launch import heartbeat
from alpro.models import Alpro, Pretrain, Prompter, build_model
from alpro.objectives.precision import autocast
from alpro.training.tasks.base import ClipTask, _start, _tokenizer

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
        world, rank = distributed.size(), distributed.rank()
        weights: Mapping[str, float] = {}
        for dataset in self.val.values():
            options = {"rank": rank, "world_size": world, "workers": self.params.loader.workers}
            for batch in validation_batches(dataset, self.collator, self.settings.batch_size, **options):
                heartbeat.beat("validation")
                with autocast(device, self.settings.precision):
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
