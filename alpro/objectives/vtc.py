"""VTC, video-text contrastive: each clip against all processes' captions, each caption against all clips (paper eq. 1-2).

Letters: B this process's pairs, A all processes' pairs, E width of the shared space.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from alpro.objectives.precision import widened


def vtc_loss(
    video: Tensor,
    text: Tensor,
    all_video: Tensor,
    all_text: Tensor,
    offset: int,
    temperature: Tensor | float,
    clips: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the mean of both directions' cross-entropies over this process's pairs, and the similarities.

    `video`, `text` (B, E) and `all_video`, `all_text` (A, E) are unit vectors; row `offset + i` of all is row i of this
    process. The similarities, (B, A) each, are divided by the temperature: video to text, text to video. Computed in float32
    or better, also under autocast: in half precision a product of unit vectors has only two decimals.

    `clips` (B,) numbers the clip of each of this process's pairs, if some have the same clip. Pairs of the same clip are no
    negatives of each other: their similarities are -inf. A clip has all its pairs on one process.
    """
    with torch.autocast(video.device.type, enabled=False):
        video_to_text = widened(video) @ widened(all_text).T / temperature
        text_to_video = widened(text) @ widened(all_video).T / temperature
        if clips is not None:
            same = (clips[:, None] == clips) & ~torch.eye(len(clips), dtype=torch.bool, device=clips.device)
            same = F.pad(same, (offset, len(all_text) - offset - len(clips)))  # (B, A)
            video_to_text, text_to_video = (x.masked_fill(same, -torch.inf) for x in (video_to_text, text_to_video))
        targets = torch.arange(offset, offset + len(video), device=video.device)
        loss = (F.cross_entropy(video_to_text, targets) + F.cross_entropy(text_to_video, targets)) / 2
    return loss, video_to_text, text_to_video
