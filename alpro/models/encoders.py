"""Base of ALPRO's models: both encoders, their projections into VTC's space, and the output of a forward pass.

Letters: B batch, C clips, T frames, N patches, L text tokens, D width, E width of the shared space. C is B unless a batch has
several texts of a clip, which then share its encoding.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from alpro import distributed
from alpro.config import Model
from alpro.data.batches.batch import Batch
from alpro.models.bert import Bert, MaskedLM
from alpro.models.timesformer import Checkpointing, TimeSformer
from alpro.objectives.precision import widened
from alpro.objectives.vtc import vtc_loss
from alpro.objectives.vtm import hard_negatives

PIXEL_MEAN = (0.48145466, 0.4578275, 0.40821073)  # CLIP's, RGB
PIXEL_STD = (0.26862954, 0.26130258, 0.27577711)
Announce = Callable[[Mapping[str, Tensor | int]], None]  # is given the counts of a forward pass as soon as they are known
Negatives = tuple[Tensor, Tensor]  # row numbers (B,): for each text another clip, for each clip another text
TEMPERATURES = (0.001, 0.5)  # limits of the learned temperature


@dataclass(frozen=True, slots=True)
class Output:
    """Output of a model's forward pass. Names are vtc, vtm, mlm, pem, qa.

    `losses` are unweighted means over this process's items; `counts` are the numbers of items (0: nothing to predict, the
    loss is 0). `logits` and `targets` of the items serve accuracies: vtm (3B, 2) and (3B,), mlm (M, vocabulary) and (M,),
    pem (B, entities) twice (the target is soft), qa (B, answers) and (B,), vtc (B, pairs of all processes) and (B,).
    """

    losses: dict[str, Tensor]
    counts: dict[str, Tensor | int]
    logits: dict[str, Tensor]
    targets: dict[str, Tensor] = field(default_factory=dict)
    weights: Mapping[str, float] = field(default_factory=dict)

    @property
    def total(self) -> Tensor:
        """Weighted sum of the losses (default weight 1). Raises ValueError if there is no loss."""
        if not self.losses:
            raise ValueError("the batch has no labels, so there is no loss")
        return torch.stack([widened(loss) * self.weights.get(name, 1.0) for name, loss in self.losses.items()]).sum()


class Contrast:
    """The features of a batch and of all processes' batches, which VTC compares.

    `video_to_text` and `text_to_video` are the similarities / temperature (B, pairs of all processes), without a gradient;
    `offset` is the column of this process's first pair.
    """

    def __init__(
        self, video: Tensor, text: Tensor, everyone: distributed.Gathered, temperature: Tensor, clips: Tensor | None
    ) -> None:
        self._own, self._everyone, self._temperature, self._clips = (video, text), everyone, temperature, clips
        self.offset = everyone.offset
        with torch.no_grad():
            _, self.video_to_text, self.text_to_video = self._compare(everyone.rows)

    def vtc(self) -> tuple[Tensor, Tensor]:
        """Return VTC's loss and the similarities from video to text, with a gradient.

        Call it once, at the end of the forward pass: see `distributed.Gathered.for_last_loss`.
        """
        return self._compare(self._everyone.for_last_loss())[:2]

    def _compare(self, everyone: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        video, text = self._own
        all_video, all_text = everyone.split(video.shape[1], 1)
        return vtc_loss(video, text, all_video, all_text, self.offset, self._temperature, self._clips)


class Alpro(nn.Module):
    """Both encoders with the official parameter names. The tasks' models add their heads."""

    text_encoder: Bert | MaskedLM

    def __init__(
        self, config: Model, num_frames: int, gradient_checkpointing: Checkpointing, text: type[Bert | MaskedLM]
    ) -> None:
        super().__init__()
        self.config = config
        self.num_frames = num_frames
        self.temp = nn.Parameter(torch.tensor(config.temperature))
        self.visual_encoder = TimeSformer(config, num_frames, gradient_checkpointing)
        self.text_encoder = text(config)
        self.vision_proj = nn.Linear(config.width, config.embed_dim)
        self.text_proj = nn.Linear(config.width, config.embed_dim)
        self.itm_head = nn.Linear(config.width, 2)

    @property
    def bert(self) -> Bert:
        """The text and multimodal encoder, under either of its names."""
        return self.text_encoder if isinstance(self.text_encoder, Bert) else self.text_encoder.bert

    def encode_video(self, pixels: Tensor, cls_only: bool = False) -> Tensor:
        """Encode clips (B, T, 3, H, W), uint8 or normalised: (B, 1+N, D), CLS and the patches averaged over time.

        With `cls_only`, only CLS, (B, 1, D): the same numbers for less work.
        """
        return self.visual_encoder(pixels if pixels.is_floating_point() else normalize(pixels), cls_only)

    def encode_text(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Encode tokens (B, L) with their mask (B, L): (B, L, D)."""
        return self.bert.text(input_ids, attention_mask)

    def fuse(self, text: Tensor, text_mask: Tensor, video: Tensor, cls_only: bool = False) -> Tensor:
        """Fuse text (B, L, D), its mask (B, L) and video (B, 1+N, D) in the multimodal encoder: (B, L+1+N, D), text first.

        With `cls_only`, only the multimodal [CLS], (B, 1, D): the same numbers for less work.
        """
        return self.bert.fuse(text, text_mask, video, cls_only)

    def video_feature(self, video: Tensor) -> Tensor:
        """Project video tokens (B, 1+N, D) to unit vectors (B, E) in VTC's space."""
        return F.normalize(widened(self.vision_proj(video[:, 0])), dim=-1)

    def text_feature(self, text: Tensor) -> Tensor:
        """Project text tokens (B, L, D) to unit vectors (B, E) in VTC's space."""
        return F.normalize(widened(self.text_proj(text[:, 0])), dim=-1)

    def match(self, text: Tensor, text_mask: Tensor, video: Tensor) -> Tensor:
        """Return VTM's logits (B, 2) of encoded pairs; class 1 is a match."""
        return self.itm_head(self.fuse(text, text_mask, video, cls_only=True)[:, 0])

    def contrast(self, video: Tensor, text: Tensor, local_only: bool = False, clips: Tensor | None = None) -> Contrast:
        """Compare all processes' batches in VTC's space: the similarities now, the loss when its `vtc` is called.

        `local_only` compares this process's pairs only, without communication. `clips` (B,) has each text's row of `video`;
        the pairs of one clip are no negatives of each other (their similarities are -inf).
        """
        if self.training:
            with torch.no_grad():
                self.temp.clamp_(*TEMPERATURES)
        v, t = self.video_feature(video), self.text_feature(text)
        v = v if clips is None else v[clips]
        own = torch.cat([v, t], 1)
        everyone = distributed.Gathered(own, 0) if local_only else distributed.gather(own)
        return Contrast(v, t, everyone, self.temp, clips)

    def draw_negatives(self, contrast: Contrast, generator: torch.Generator | None, videos: int = 0) -> Negatives:
        """Draw VTM's negatives from this process's batch by the similarities.

        A batch of one clip has no negatives: VTM then sees the matches only. This happens in training if the other samples
        can't be read, and in evaluation for a split's last batch. `videos` is the number of clips if pairs share
        some; the contrast's -inf then excludes the pairs of one clip.
        """
        v2t, t2v, offset = contrast.video_to_text, contrast.text_to_video, contrast.offset
        if (videos or len(v2t)) == 1:
            return (empty := torch.arange(0, device=v2t.device)), empty
        here = slice(offset, offset + len(v2t))
        clips = hard_negatives(t2v[:, here], generator)
        return clips, hard_negatives(v2t[:, here], generator)


def ignore_counts(counts: Mapping[str, Tensor | int]) -> None:
    """The default `Announce`."""


def normalize(pixels: Tensor) -> Tensor:
    """Convert pixels (..., 3, H, W) uint8 to float32: divide by 255, then normalise with CLIP's mean and deviation.

    The released code skips the division for a batch without a value over 1, and so reads a nearly black batch as white.
    Here pixels are always divided.
    """
    mean, std = _pixel_statistics(pixels.device)
    return (pixels.float() / 255 - mean) / std


@cache
def _pixel_statistics(device: torch.device) -> tuple[Tensor, Tensor]:
    """Return CLIP's mean and deviation, (3, 1, 1) each, copied to a device once: a GPU would be waited for each time."""
    with torch.inference_mode(False):
        mean, std = (torch.tensor(values, device=device)[:, None, None] for values in (PIXEL_MEAN, PIXEL_STD))
    return mean, std


def black(device: torch.device) -> Tensor:
    """Return a black pixel after normalisation, (3,)."""
    return normalize(torch.zeros(3, 1, 1, dtype=torch.uint8, device=device))[:, 0, 0]


def mean_loss(loss_sum: Tensor, count: Tensor) -> Tensor:
    """Return the mean loss over `count` items; 0 with zero gradients if there are none."""
    return loss_sum / count.clamp(min=1)


def require(batch: Batch, *names: str) -> list[Tensor]:
    """Return the batch's tensors of these names. Raises ValueError that names a missing one."""
    values = [getattr(batch, name) for name in names]
    for name, value in zip(names, values, strict=True):
        if value is None:
            raise ValueError(f"batch of {batch.corpus}: {name} is missing; the collator must make it for this training")
    return values
