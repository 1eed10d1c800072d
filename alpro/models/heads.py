"""ALPRO's models of the tasks: pre-training, retrieval, question answering; `build_model` makes each, and the prompter.

    model = build_model("retrieval", num_frames=8)
    output = model(batch)          # losses, counts, logits
    output.total.backward()

Parameters have the names of the official checkpoints, weights that nothing reads included.
Letters: B batch, T frames, N patches, L text tokens, D width, E entities, A answers.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from alpro.config import PEM, Model, Objectives
from alpro.data.batches.batch import Batch
from alpro.errors import ConfigError
from alpro.models.bert import Bert, MaskedLM
from alpro.models.encoders import Alpro, Negatives, Output, black, labelled, normalize, require
from alpro.models.initialise import initialise
from alpro.models.prompter import Prompter
from alpro.models.timesformer import Checkpointing
from alpro.objectives import masked_positions, mlm_loss, pem, pem_loss, vtm_loss
from alpro.objectives.precision import widened

TASKS = ("prompter", "pretrain", "retrieval", "qa")


class Retrieval(Alpro):
    """VTC and VTM; the score of a pair is the probability that VTM gives to a match."""

    def __init__(self, config: Model, num_frames: int, gradient_checkpointing: Checkpointing = "none") -> None:
        super().__init__(config, num_frames, gradient_checkpointing, MaskedLM)

    def forward(self, batch: Batch, generator: torch.Generator | None = None, negatives: Negatives | None = None) -> Output:
        """Both losses of a batch of captioned clips. `generator` draws VTM's negatives, unless they are handed in."""
        video = self.encode_video(batch.pixels)
        text = self.encode_text(batch.input_ids, batch.attention_mask)
        vtc, v2t, t2v, offset = self.contrast(video, text)
        negatives = negatives or self.draw_negatives(v2t, t2v, offset, generator)
        texts, clips, labels = match_pairs(len(video), negatives)
        logits = self.match(text[texts], batch.attention_mask[texts], video[clips])
        return Output(
            losses={"vtc": vtc, "vtm": vtm_loss(logits, labels)},
            counts={"vtc": len(video), "vtm": len(labels)},
            logits={"vtc": v2t, "vtm": logits},
            targets={"vtc": torch.arange(offset, offset + len(video), device=video.device), "vtm": labels},
        )


class QuestionAnswering(Alpro):
    """A class for each answer, from the multimodal [CLS]."""

    def __init__(
        self, config: Model, num_frames: int, num_answers: int, gradient_checkpointing: Checkpointing = "none"
    ) -> None:
        super().__init__(config, num_frames, gradient_checkpointing, Bert)
        self.classifier = two_layers(config.width, num_answers)

    def answer(self, text: Tensor, text_mask: Tensor, video: Tensor) -> Tensor:
        """Answers' logits (B, A) of encoded questions and clips."""
        return self.classifier(self.fuse(text, text_mask, video, cls_only=True)[:, 0])

    def forward(self, batch: Batch, generator: torch.Generator | None = None) -> Output:
        """Cross-entropy over the answer list; questions whose answer is outside of it (label -100) don't count."""
        text = self.encode_text(batch.input_ids, batch.attention_mask)
        logits = self.answer(text, batch.attention_mask, self.encode_video(batch.pixels))
        if batch.labels is None:
            return Output({}, {}, {"qa": logits})
        count = (batch.labels >= 0).sum()
        loss = labelled(F.cross_entropy(widened(logits), batch.labels, reduction="sum"), count)
        return Output({"qa": loss}, {"qa": count}, {"qa": logits}, {"qa": batch.labels})


class Pretrain(Alpro):
    """VTC, VTM, MLM and PEM; an objective of weight 0 costs nothing. Without PEM there is no prompter and no entity head."""

    text_encoder: MaskedLM
    prompter: Prompter | None
    mpm_head: nn.Sequential

    def __init__(
        self,
        config: Model,
        num_frames: int,
        num_entities: int,
        gradient_checkpointing: Checkpointing = "none",
        objectives: Objectives | None = None,
        pem: PEM | None = None,
    ) -> None:
        super().__init__(config, num_frames, gradient_checkpointing, MaskedLM)
        self.objectives = objectives or Objectives()
        self.pem = pem or PEM()
        self.prompter = None
        if num_entities and self.objectives.pem:
            self.prompter = Prompter(config, num_frames, num_entities).requires_grad_(False).eval()
            self.mpm_head = two_layers(config.width, num_entities)

    def train(self, mode: bool = True) -> Pretrain:
        """As of any module; the prompter stays in evaluation mode."""
        super().train(mode)
        if self.prompter is not None:
            self.prompter.eval()
        return self

    def forward(self, batch: Batch, generator: torch.Generator | None = None, negatives: Negatives | None = None) -> Output:
        """The losses of a batch of captioned clips with masked text and crop boxes.

        Each clip is encoded once, and all texts together. So are all pairs fused: matches, VTM's negatives, and clips with
        their masked text, of which the last layer computes what is read: all tokens for PEM, [CLS], and the text.
        """
        on, mask, (size, length) = self.objectives, batch.attention_mask, batch.input_ids.shape
        output = Output({}, {}, {}, {}, weights=on.model_dump())
        pixels = batch.pixels if batch.pixels.is_floating_point() else normalize(batch.pixels)
        masked_ids, mlm_labels = require(batch, "mlm_input_ids", "mlm_labels") if on.mlm else (batch.input_ids[:0],) * 2
        plain = size if on.vtc or on.vtm or self.prompter is not None else 0  # texts without masks that are read
        mask = torch.cat([mask[:plain], mask[: len(masked_ids)]])
        video, text = self.encode_video(pixels), self.encode_text(torch.cat([batch.input_ids[:plain], masked_ids]), mask)

        rows = torch.arange(size, device=video.device)
        texts = clips = rows if on.vtm or self.prompter is not None else rows[:0]  # of the pairs; the matches come first
        matches = len(texts)
        if on.vtc or on.vtm:
            loss, v2t, t2v, offset = self.contrast(video, text[:size], alone=not on.vtc)
            if on.vtc:
                _note(output, "vtc", loss, size, v2t, rows + offset)
            if on.vtm:
                negatives = negatives or self.draw_negatives(v2t, t2v, offset, generator)
                texts, clips, vtm_labels = match_pairs(size, negatives)
        texts, clips = torch.cat([texts, rows[: len(masked_ids)] + plain]), torch.cat([clips, rows[: len(masked_ids)]])
        parts = [
            (matches, 1 if self.prompter is None else length + video.shape[1]),
            (len(texts) - matches - len(masked_ids), 1),
            (len(masked_ids), length),
        ]
        matched, mismatched, masked = self.bert.fuse_parts(text[texts], mask[texts], video[clips], parts)

        if on.vtm:
            logits = self.itm_head(torch.cat([matched[:, 0], mismatched[:, 0]]))
            _note(output, "vtm", vtm_loss(logits, vtm_labels), len(vtm_labels), logits, vtm_labels)
        if on.mlm:
            masked_tokens = masked_positions(mlm_labels)
            logits, labels = self.text_encoder.cls(masked[masked_tokens]), mlm_labels[masked_tokens]
            _note(output, "mlm", mlm_loss(logits, labels), len(labels), logits, labels)
        if self.prompter is not None:
            labels = self._soft_labels(self.prompter, batch, pixels)
            inside = self._crops(batch, pixels)[:, :: self.config.patch_size, :: self.config.patch_size].flatten(1)
            logits = self.mpm_head(pem.mean_inside(matched[:, length + 1 :], inside))
            keep = pem.kept(labels, self.pem.ignore, self.pem.threshold)
            _note(output, "pem", pem_loss(logits, labels, keep), keep.sum(), logits, labels)
        return output

    def _crops(self, batch: Batch, pixels: Tensor) -> Tensor:
        """Where each clip's crop is, (B, H, W) bool."""
        (boxes,) = require(batch, "crop_boxes")
        return pem.boxes_to_mask(boxes, *pixels.shape[-2:])

    def _soft_labels(self, prompter: Prompter, batch: Batch, pixels: Tensor) -> Tensor:
        """What the prompter sees in the crops, (B, E)."""
        crops = pem.crop(pixels, self._crops(batch, pixels), black(pixels.device))
        return pem.soft_labels(prompter.entity_logits(crops, batch.media))


def two_layers(width: int, classes: int) -> nn.Sequential:
    """The classifier of PEM and of question answering."""
    return nn.Sequential(nn.Linear(width, 2 * width), nn.ReLU(True), nn.Linear(2 * width, classes))


def match_pairs(size: int, negatives: Negatives) -> tuple[Tensor, Tensor, Tensor]:
    """VTM's pairs as rows of texts, rows of clips, and classes: matches, texts with a wrong clip, clips with a wrong text."""
    clips, texts = negatives
    match = torch.arange(size, device=clips.device)
    text_rows = torch.cat([match, match[: len(clips)], texts])
    clip_rows = torch.cat([match, clips, match[: len(texts)]])
    labels = (torch.arange(len(text_rows), device=clips.device) < size).long()
    return text_rows, clip_rows, labels


def build_model(
    task: str,
    *,
    num_frames: int,
    config: Model | None = None,
    image_size: int | None = None,
    num_answers: int | None = None,
    num_entities: int | None = None,
    gradient_checkpointing: Checkpointing = "none",
    objectives: Objectives | None = None,
    pem: PEM | None = None,
    seed: int | None = 0,
) -> Alpro:
    """A model with the official parameter names, its weights drawn from `seed`; None leaves them on the meta device.

    `task` is prompter, pretrain, retrieval or qa; `config` holds the sizes (default: ALPRO's), `image_size` replaces its
    image size. `num_answers` is the width of the answer head (qa), `num_entities` the number of entities (prompter, pretrain;
    0: no PEM). Raises ConfigError for an unknown task or a number that the task needs and wasn't given.
    """
    config = config or Model()
    if image_size is not None and image_size != config.image_size:
        if image_size % config.patch_size:
            raise ConfigError(f"image_size {image_size} is no multiple of patch_size {config.patch_size}")
        config = config.model_copy(update={"image_size": image_size})
    if task not in TASKS:
        raise ConfigError(f"task {task!r} is none of {', '.join(TASKS)}")
    with torch.device("meta"):  # no time goes into weights that are drawn again
        model: Alpro
        if task == "prompter":
            model = Prompter(config, num_frames, _given(task, num_entities=num_entities), gradient_checkpointing)
        elif task == "pretrain":
            entities = _given(task, num_entities=num_entities)
            model = Pretrain(config, num_frames, entities, gradient_checkpointing, objectives, pem)
        elif task == "retrieval":
            model = Retrieval(config, num_frames, gradient_checkpointing)
        else:
            model = QuestionAnswering(config, num_frames, _given(task, num_answers=num_answers), gradient_checkpointing)
    if seed is not None:
        initialise(model.to_empty(device="cpu"), seed)
    return model


def _given(task: str, **argument: int | None) -> int:
    ((name, value),) = argument.items()
    if value is None:
        raise ConfigError(f"a {task} model needs {name}")
    return value


def _note(output: Output, name: str, loss: Tensor, count: Tensor | int, logits: Tensor, targets: Tensor) -> None:
    output.losses[name], output.counts[name] = loss, count
    output.logits[name], output.targets[name] = logits, targets
