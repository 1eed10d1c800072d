"""Published numbers of rows and videos of each split of the official sets.

Sources: MSRVTT-QA and MSVD-QA, Xu et al., "Video Question Answering via Gradually Refined Attention over Appearance
and Motion", ACM MM 2017 (tables 1 and 2); DiDeMo, Hendricks et al., ICCV 2017; MSRVTT's 1k-A test list, Yu et al.,
"A Joint Sequence Fusion Model", ECCV 2018; the numbers of videos with questions are those of the released files.
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class PublishedCounts:
    """Published counts of one split; None if not published."""

    rows: int | None = None
    videos: int | None = None
    types: dict[str, int] = field(default_factory=dict)


def _types(what: int, who: int, how: int, when: int, where: int) -> dict[str, int]:
    return {"what": what, "who": who, "how": how, "when": when, "where": where}


PUBLISHED_COUNTS: dict[str, dict[str, PublishedCounts]] = {
    "msrvtt_ret": {"test": PublishedCounts(rows=1000, videos=1000)},
    "didemo_ret": {"val": PublishedCounts(videos=1065), "test": PublishedCounts(videos=1004)},
    "msrvtt_qa": {
        "train": PublishedCounts(158581, 6513, _types(108792, 43592, 4067, 1626, 504)),
        "val": PublishedCounts(12278, 497, _types(8337, 3439, 344, 106, 52)),
        "test": PublishedCounts(72821, 2990, _types(49869, 20385, 1640, 677, 250)),
    },
    "msvd_qa": {
        "train": PublishedCounts(30933, 1161, _types(19485, 10479, 736, 161, 72)),
        "val": PublishedCounts(6415, 245, _types(3995, 2168, 185, 51, 16)),
        "test": PublishedCounts(13157, 504, _types(8149, 4552, 370, 58, 28)),
    },
}
