"""Division of videos into training, validation and test: by video, drawn from a seed, equal files together."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence

from alpro.data.annotations.layouts import SPLITS
from alpro.errors import DataError

SHARES = {"test": 0.15, "val": 0.1}  # of the videos; the rest trains
MOST = 1000  # videos of a split that is evaluated
FEWEST = 4  # videos: two to train, as a batch needs two, one to validate and one to test


def split_videos(given: Mapping[str, str | None], content: Mapping[str, str], seed: int = 0) -> dict[str, str]:
    """Return the split of each video.

    given: videos with the split that a table gives, or None; content: hash of each video's file. A split that the table
    lacks is drawn from the training videos and from those without a split. The same videos and seed give the same splits, in
    any order. Raises DataError if there are fewer than FEWEST videos, or no videos to train.
    """
    if len(given) < FEWEST:
        raise DataError(f"{len(given)} videos have texts, but at least {FEWEST} are needed to train, validate and test")
    chosen = {video: split for video, split in given.items() if split}
    present = Counter(chosen.values())
    missing = [split for split in SHARES if not present[split]]
    free = [video for video, split in given.items() if split is None or (split == "train" and missing)]
    groups = _shuffled_groups(free, content, seed)
    for split in missing:
        wanted = min(max(round(SHARES[split] * len(given)), 1), MOST)
        taken = 0
        while groups and taken < wanted:
            group = groups.pop()
            chosen |= dict.fromkeys(group, split)
            taken += len(group)
    for group in groups:
        chosen |= dict.fromkeys(group, "train")
    counts = Counter(chosen.values())
    if lacking := [split for split in SPLITS if not counts[split]]:
        raise DataError(
            f"no video is left for {' and '.join(lacking)}: many of them are the same file, or in one split; add others"
        )
    return {video: chosen[video] for video in given}


def _shuffled_groups(videos: Sequence[str], content: Mapping[str, str], seed: int) -> list[list[str]]:
    """Return groups of videos with equal content in an order drawn from the seed, the largest first, as they fit train only."""
    groups: dict[str, list[str]] = {}
    for video in sorted(videos):
        groups.setdefault(content.get(video) or video, []).append(video)

    def drawn(group: list[str]) -> str:
        return hashlib.sha256(f"{seed} {group[0]}".encode()).hexdigest()

    return sorted(groups.values(), key=lambda group: (-(len(group) > 1), drawn(group)))
