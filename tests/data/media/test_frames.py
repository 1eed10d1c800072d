"""Frame selection: every strategy gives the released code's indices, in order and within the clip."""

import json
import random
from pathlib import Path

import numpy as np
import pytest

from alpro.data.media.frames import frame_indices
from alpro.data.media.read import read_frames
from alpro.data.media.strict import check_frames
from alpro.errors import DataError
from tests.data.media.fuzz import FRAMES, make_sources, picture

SAMPLING = json.loads((Path(__file__).parents[2] / "goldens" / "j_frame_sampling.json").read_text())


def sizes(case):
    total, count = case.removeprefix("vlen").split("_frm")
    return int(total), int(count)


@pytest.mark.parametrize("case", SAMPLING["uniform"])
def test_uniform_floor_is_the_released_rule(case):
    assert frame_indices(*sizes(case), "uniform_floor") == SAMPLING["uniform"][case]["indices"]


@pytest.mark.parametrize(("strategy", "golden"), [("random", "rand"), ("headtail", "headtail")])
def test_drawn_frames_repeat_the_released_draws(strategy, golden):
    for case, expected in SAMPLING[golden].items():
        if isinstance(expected, list):
            assert frame_indices(*sizes(case), strategy, random.Random(0)) == expected


@pytest.mark.parametrize("strategy", ["uniform", "uniform_floor", "random", "headtail"])
def test_any_clip_gives_the_requested_number_of_frames_in_order(strategy):
    for total in (*range(1, 40), 300, 20000):
        for count in (1, 2, 3, 4, 8, 16):
            indices = frame_indices(total, count, strategy, random.Random(1))
            assert len(indices) == count and indices == sorted(indices) and indices[0] >= 0 and indices[-1] < total


def test_uniform_covers_the_whole_clip_evenly():
    assert frame_indices(30, 16, "uniform")[-1] == 29
    for total in range(1, 200):
        for count in (4, 8, 16):
            indices = np.array(frame_indices(total, count, "uniform"))
            assert np.ptp(np.diff(indices)) <= 1  # even steps
            assert abs(indices[0] - (total - 1 - indices[-1])) <= 1  # as far from the end as from the start
            if total <= count:
                assert set(indices) == set(range(total))


def test_head_and_tail_come_from_their_halves():
    for total in range(2, 60):
        indices = frame_indices(total, 8, "headtail", random.Random(total))
        assert max(indices[:4]) < total // 2 <= min(indices[4:])


def test_clip_without_frames_is_an_error():
    with pytest.raises(DataError, match="no frames"):
        frame_indices(0, 4, "uniform")


def test_open_groups_of_pictures_are_not_read_with_decord(tmp_path):
    path = tmp_path / "open.mp4"
    path.write_bytes(make_sources(tmp_path)["open.mp4"])
    frames, _ = check_frames(path)
    assert (frames.count, frames.by_decord) == (FRAMES, False)
    for index in range(FRAMES):
        pixels = read_frames(path, [index], None)[0].astype(int)
        nearest = min(range(FRAMES), key=lambda number: np.abs(picture(number) - pixels).mean())
        assert nearest == index
