"""Videos are divided by a seed, equal files stay together, and splits of the table are kept."""

from __future__ import annotations

from collections import Counter

import pytest

from alpro.errors import DataError
from alpro.own_data.splits import split_videos

VIDEOS = [f"v{n}" for n in range(40)]
CONTENT = {video: video for video in VIDEOS}


def test_shares_and_determinism() -> None:
    drawn = split_videos(dict.fromkeys(VIDEOS), CONTENT)
    assert Counter(drawn.values()) == {"train": 30, "test": 6, "val": 4}
    assert split_videos(dict.fromkeys(reversed(VIDEOS)), CONTENT) == drawn
    assert split_videos(dict.fromkeys(VIDEOS), CONTENT, seed=1) != drawn


@pytest.mark.parametrize("seed", range(5))
def test_equal_files_are_in_one_split(seed: int) -> None:
    content = CONTENT | {"v3": "same", "v17": "same", "v29": "same"}
    drawn = split_videos(dict.fromkeys(VIDEOS), content, seed)
    assert len({drawn[video] for video in ("v3", "v17", "v29")}) == 1


def test_splits_of_the_table_are_kept_and_missing_ones_drawn_from_the_rest() -> None:
    given = {video: "test" if n < 10 else "train" for n, video in enumerate(VIDEOS)}
    drawn = split_videos(given, CONTENT)
    assert Counter(drawn.values()) == {"test": 10, "val": 4, "train": 26}
    assert all(drawn[video] == "test" for video in VIDEOS[:10])
    complete = {video: ("train", "val", "test")[n % 3] for n, video in enumerate(VIDEOS)}
    assert split_videos(complete, CONTENT) == complete
    assert split_videos({**complete, "v0": None}, CONTENT)["v0"] == "train"


def test_smallest_set_has_one_video_to_validate_and_one_to_test() -> None:
    assert Counter(split_videos(dict.fromkeys(VIDEOS[:4]), CONTENT).values()) == {"train": 2, "val": 1, "test": 1}
    with pytest.raises(DataError, match="3 videos have texts, but at least 4 are needed"):
        split_videos(dict.fromkeys(VIDEOS[:3]), CONTENT)


def test_videos_that_are_all_the_same_are_refused() -> None:
    with pytest.raises(DataError, match="no video is left for"):
        split_videos(dict.fromkeys(VIDEOS), dict.fromkeys(VIDEOS, "same"))
