"""ALPRO's models of the tasks: pre-training, retrieval, question answering; `build_model` builds them and the prompter.

    model = build_model("retrieval", num_frames=8)
    output = model(batch)          # losses, counts, logits
    output.total.backward()

Parameters have the names of the official checkpoints, including weights that are never used.
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
from alpro.models.encoders import (
    Alpro,
    Announce,
    Negatives,
    Output,
    black,
    ignore_counts,
    mean_loss,
    normalize,
    require,
)
from alpro.models.initialise import initialise
from alpro.models.prompter import Prompter
from alpro.models.timesformer import Checkpointing
from alpro.objectives import masked_positions, mlm_loss, pem, pem_loss, vtm_loss
from alpro.objectives.precision import widened

TASKS = ("prompter", "pretrain", "retrieval", "qa")


class Retrieval(Alpro):
    """VTC and VTM; the score of a pair is VTM's probability of a match."""

    def __init__(self, config: Model, num_frames: int, gradient_checkpointing: Checkpointing = "none") -> None:
        super().__init__(config, num_frames, gradient_checkpointing, MaskedLM)

    def forward(
        self,
        batch: Batch,
        generator: torch.Generator | None = None,
        negatives: Negatives | None = None,
        announce: Announce = ignore_counts,
    ) -> Output:
        """Compute both losses of a batch of captioned clips. `generator` draws VTM's negatives unless `negatives` are given.

        A clip with several captions is encoded once. Its captions are matches; neither VTC nor VTM takes one of them as a
        negative of the clip. `negatives` are rows of the batch's pairs (B).
        """
        video = self.encode_video(batch.pixels)
        text = self.encode_text(batch.input_ids, batch.attention_mask)
        contrast = self.contrast(video, text, clips=batch.clips)
        negatives = negatives or self.draw_negatives(contrast, generator, len(batch.pixels))
        texts, clips, labels = match_pairs(len(text), negatives)
        counts: dict[str, Tensor | int] = {"vtc": len(text), "vtm": len(labels)}
        announce(counts)
        clips = clips if batch.clips is None else batch.clips[clips]
        logits = self.match(text[texts], batch.attention_mask[texts], video[clips])
        vtc, video_to_text = contrast.vtc()
        targets = torch.arange(contrast.offset, contrast.offset + len(text), device=video.device)
        return Output(
            losses={"vtc": vtc, "vtm": vtm_loss(logits, labels)},
            counts=counts,
            logits={"vtc": video_to_text, "vtm": logits},
            targets={"vtc": targets, "vtm": labels},
        )


class QuestionAnswering(Alpro):
    """Classification over the answer list from the multimodal [CLS]."""

    def __init__(
        self, config: Model, num_frames: int, num_answers: int, gradient_checkpointing: Checkpointing = "none"
    ) -> None:
        super().__init__(config, num_frames, gradient_checkpointing, Bert)
        self.classifier = two_layers(config.width, num_answers)

    def answer(self, text: Tensor, text_mask: Tensor, video: Tensor) -> Tensor:
        """Return the answers' logits (B, A) of encoded questions and clips."""
        return self.classifier(self.fuse(text, text_mask, video, cls_only=True)[:, 0])

    def forward(self, batch: Batch, generator: torch.Generator | None = None, announce: Announce = ignore_counts) -> Output:
        """Compute cross-entropy over the answer list; questions whose answer is not in it (label -100) don't count.

        A clip with several questions is encoded once, so they also share its drop path. Its gradient is the sum of theirs.
        """
        if batch.labels is not None:
            count = (batch.labels >= 0).sum()
            announce({"qa": count})
        text, video = self.encode_text(batch.input_ids, batch.attention_mask), self.encode_video(batch.pixels)
        logits = self.answer(text, batch.attention_mask, video if batch.clips is None else video[batch.clips])
        if batch.labels is None:
            return Output({}, {}, {"qa": logits})
        loss = mean_loss(F.cross_entropy(widened(logits), batch.labels, reduction="sum"), count)
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
        """Set training mode; the prompter stays in evaluation mode."""
        super().train(mode)
        if self.prompter is not None:
            self.prompter.eval()
        return self

    def forward(
        self,
        batch: Batch,
        generator: torch.Generator | None = None,
        negatives: Negatives | None = None,
        announce: Announce = ignore_counts,
    ) -> Output:
        """Compute the losses of a batch of captioned clips with masked text and crop boxes.

        Each clip is encoded once, all texts are encoded together, and all pairs are fused together (see `pack_pairs`).
        `announce` is called before the pairs are fused, and VTC's loss is computed last, so that processes can exchange
        the counts during the forward pass, and the gradient of VTC's rows during the backward pass.
        """
        on, mask, (size, length) = self.objectives, batch.attention_mask, batch.input_ids.shape
        output = Output({}, {}, {}, {}, weights=on.model_dump())
        pixels = batch.pixels if batch.pixels.is_floating_point() else normalize(batch.pixels)
        masked_ids, mlm_labels = require(batch, "mlm_input_ids", "mlm_labels") if on.mlm else (batch.input_ids[:0],) * 2
        plain = size if on.vtc or on.vtm or self.prompter is not None else 0  # number of unmasked texts to encode
        mask = torch.cat([mask[:plain], mask[: len(masked_ids)]])
        video, text = self.encode_video(pixels), self.encode_text(torch.cat([batch.input_ids[:plain], masked_ids]), mask)

        rows = torch.arange(size, device=video.device)
        text_rows = clip_rows = rows if on.vtm or self.prompter is not None else rows[:0]
        matches = len(text_rows)
        if on.vtc or on.vtm:
            contrast = self.contrast(video, text[:size], local_only=not on.vtc)
            if on.vtc:
                output.counts["vtc"] = size
            if on.vtm:
                text_rows, clip_rows, vtm_labels = match_pairs(size, negatives or self.draw_negatives(contrast, generator))
                output.counts["vtm"] = len(vtm_labels)
        if on.mlm:
            masked_tokens = masked_positions(mlm_labels) if batch.mlm_positions is None else batch.mlm_positions.unbind()
            output.counts["mlm"] = len(mlm_labels[masked_tokens])
        if self.prompter is not None:
            entities = self._soft_labels(self.prompter, batch, pixels)
            keep = pem.keep_mask(entities, self.pem.ignore, self.pem.threshold)
            output.counts["pem"] = keep.sum()
        announce(output.counts)

        texts, clips, groups = pack_pairs(text_rows, clip_rows, matches, plain, len(masked_ids))
        # PEM reads all tokens of the matches, VTM only [CLS], MLM the text.
        tokens = (1 if self.prompter is None else length + video.shape[1], 1, length)
        matched, mismatched, masked = self.bert.fuse_groups(
            text[texts], mask[texts], video[clips], list(zip(groups, tokens, strict=True))
        )
        if on.vtm:
            logits = self.itm_head(torch.cat([matched[:, 0], mismatched[:, 0]]))
            _record(output, "vtm", vtm_loss(logits, vtm_labels), logits, vtm_labels)
        if on.mlm:
            logits, labels = self.text_encoder.cls(masked[masked_tokens]), mlm_labels[masked_tokens]
            _record(output, "mlm", mlm_loss(logits, labels), logits, labels)
        if self.prompter is not None:
            inside = self._crops(batch, pixels)[:, :: self.config.patch_size, :: self.config.patch_size].flatten(1)
            logits = self.mpm_head(pem.mean_inside(matched[:, length + 1 :], inside))
            _record(output, "pem", pem_loss(logits, entities, keep), logits, entities)
        if on.vtc:
            loss, logits = contrast.vtc()
            _record(output, "vtc", loss, logits, rows + contrast.offset)
        return output

    def _crops(self, batch: Batch, pixels: Tensor) -> Tensor:
        """Return the mask of each clip's crop, (B, H, W) bool."""
        (boxes,) = require(batch, "crop_boxes")
        return pem.boxes_to_mask(boxes, *pixels.shape[-2:])

    def _soft_labels(self, prompter: Prompter, batch: Batch, pixels: Tensor) -> Tensor:
        """Return the prompter's entity probabilities for the crops, (B, E)."""
        crops = pem.crop(pixels, self._crops(batch, pixels), black(pixels.device))
        return pem.soft_labels(prompter.entity_logits(crops, batch.media))


def two_layers(width: int, classes: int) -> nn.Sequential:
    """Return the classifier of PEM and of question answering."""
    return nn.Sequential(nn.Linear(width, 2 * width), nn.ReLU(True), nn.Linear(2 * width, classes))


def match_pairs(size: int, negatives: Negatives) -> tuple[Tensor, Tensor, Tensor]:
    """Return VTM's pairs: rows of texts, rows of clips, and labels.

    The order is: matches, texts with a wrong clip, clips with a wrong text.
    """
    clips, texts = negatives
    match = torch.arange(size, device=clips.device)
    text_rows = torch.cat([match, match[: len(clips)], texts])
    clip_rows = torch.cat([match, clips, match[: len(texts)]])
    labels = (torch.arange(len(text_rows), device=clips.device) < size).long()
    return text_rows, clip_rows, labels


def pack_pairs(
    text_rows: Tensor, clip_rows: Tensor, matches: int, plain: int, masked: int
) -> tuple[Tensor, Tensor, tuple[int, int, int]]:
    """Append the pairs of masked texts to the others; return rows of texts, rows of clips, and the sizes of three groups.

    All pairs go through the multimodal encoder as one batch. The encoded texts are `plain` unmasked ones (B, or 0 if no
    objective reads them), followed by `masked` ones (B, or 0 without MLM). With B = 3, negatives a b c (clips) and x y z
    (texts), and all objectives on:

        group        matches    mismatches           masked
        text row     0  1  2    0  1  2   x  y  z    3  4  5
        clip row     0  1  2    a  b  c   0  1  2    0  1  2
        read by      VTM, PEM   VTM       VTM        MLM

    The first two groups are `text_rows` and `clip_rows`, of which the first `matches` are matches.
    """
    rows = torch.arange(masked, device=text_rows.device)
    counts = (matches, len(text_rows) - matches, masked)
    return torch.cat([text_rows, rows + plain]), torch.cat([clip_rows, rows]), counts


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
    """Build a model with the official parameter names; weights are drawn from `seed`, or stay on the meta device if it is None.

    `task` is prompter, pretrain, retrieval or qa. `config` has the sizes (default: ALPRO's); `image_size` replaces its image
    size. `num_answers` is the width of the answer head (qa), `num_entities` the number of entities (prompter, pretrain; 0: no
    PEM). Raises ConfigError for an unknown task or a missing number.
    """
    config = config or Model()
    if image_size is not None and image_size != config.image_size:
        if image_size % config.patch_size:
            raise ConfigError(f"image_size {image_size} is not a multiple of patch_size {config.patch_size}")
        config = config.model_copy(update={"image_size": image_size})
    if task not in TASKS:
        raise ConfigError(f"task {task!r}: must be one of {', '.join(TASKS)}")
    with torch.device("meta"):  # saves drawing weights that `initialise` draws again
        model: Alpro
        if task == "prompter":
            model = Prompter(config, num_frames, _required(task, num_entities=num_entities), gradient_checkpointing)
        elif task == "pretrain":
            entities = _required(task, num_entities=num_entities)
            model = Pretrain(config, num_frames, entities, gradient_checkpointing, objectives, pem)
        elif task == "retrieval":
            model = Retrieval(config, num_frames, gradient_checkpointing)
        else:
            model = QuestionAnswering(config, num_frames, _required(task, num_answers=num_answers), gradient_checkpointing)
    if seed is not None:
        initialise(model.to_empty(device="cpu"), seed)
    return model


def _required(task: str, **argument: int | None) -> int:
    ((name, value),) = argument.items()
    if value is None:
        raise ConfigError(f"a {task} model needs {name}")
    return value


def _record(output: Output, name: str, loss: Tensor, logits: Tensor, targets: Tensor) -> None:
    output.losses[name], output.logits[name], output.targets[name] = loss, logits, targets
