"""Published sizes of the public datasets, for plans without the data: videos and texts of each split.

Sources: the ALPRO paper, section 4.1 (WebVid-2M, CC3M, DiDeMo's and MSRVTT's splits; 20 captions a video in MSRVTT), and
Xu et al., "Video Question Answering via Gradually Refined Attention over Appearance and Motion" (2017) for both QA sets.
Splits without a published number are missing.
"""

from __future__ import annotations

from typing import NamedTuple


class Size(NamedTuple):
    """Size of a split: videos (or images), and captions or questions."""

    clips: int
    texts: int
    counts: tuple[int, ...] = ()  # texts of each clip, if they were counted

    def samples(self, texts_per_clip: int) -> int:
        """Return the samples of an epoch if up to `texts_per_clip` texts of a clip are one sample.

        Estimated for published sizes, with a clip's last sample half full on average; exact for one text per sample or clip.
        """
        if self.counts:
            return sum(-(-count // texts_per_clip) for count in self.counts)
        estimate = round(self.texts / texts_per_clip + self.clips * (texts_per_clip - 1) / (2 * texts_per_clip))
        return min(self.texts, max(self.clips, estimate))


SIZES = {
    ("webvid2m", "train"): Size(2_500_000, 2_500_000),
    ("cc3m", "train"): Size(3_000_000, 3_000_000),
    ("msrvtt_ret", "train"): Size(7_000, 140_000),
    ("didemo_ret", "train"): Size(8_394, 8_394),
    ("didemo_ret", "val"): Size(1_065, 1_065),
    ("msrvtt_qa", "train"): Size(6_513, 158_581),
    ("msrvtt_qa", "val"): Size(497, 12_278),
    ("msvd_qa", "train"): Size(1_161, 30_933),
    ("msvd_qa", "val"): Size(245, 6_415),
}
ANSWERS = {"msrvtt_qa": 1_500, "msvd_qa": 2_423}
