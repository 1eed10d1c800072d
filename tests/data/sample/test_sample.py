"""The sample data is reproducible, balanced and disjoint, and no single frame reveals the motion."""

import csv
import json
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pytest

from alpro.config import Corpus, Dataset, Sample
from alpro.data.annotations.read import missing_files, read_answers, read_corpus, read_dataset
from alpro.data.sample import is_motion_question, make_sample, plan_sample
from alpro.data.sample.film import FRAMES, make_film
from alpro.data.sample.pixels import render
from alpro.data.sample.scenes import COLORS, MOMENTS, Cards, Scene, Toy, draw, fits
from alpro.errors import DataError
from alpro.files.atomic import sha256
from alpro.files.outputs import MANIFEST, new_dir

TINY = Sample(seed=3, frame_size=64, pretrain_videos=6, pretrain_images=5, train_videos=6, val_videos=3, test_videos=4)
HELD_OUT = [(name, split) for name in ("msrvtt_ret", "didemo_ret", "msvd_qa") for split in ("val", "test")]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    root = tmp_path_factory.mktemp("sample") / "sample"
    make_sample(TINY, root, workers=1)
    return root


@pytest.fixture(scope="module")
def plan():
    return plan_sample(Sample())


def dataset(root: Path, name: str) -> Dataset:
    videos = "msrvtt_ret" if name == "msrvtt_qa" else name
    task = "qa" if name.endswith("qa") else "retrieval"
    return Dataset(task=task, annotations=str(root / name / "txt"), videos=str(root / videos / "videos"))


def rows(plan, file):
    return [json.loads(line) for line in plan.texts[file].splitlines()]


def test_bytes_do_not_depend_on_the_number_of_workers(tiny, tmp_path):
    done = []
    make_sample(TINY, tmp_path / "two", workers=2, progress=lambda made, of: done.append((made, of)))
    files = sorted(path.relative_to(tiny) for path in tiny.rglob("*") if path.is_file())
    assert files == sorted(path.relative_to(tmp_path / "two") for path in (tmp_path / "two").rglob("*") if path.is_file())
    assert [sha256(tiny / file) for file in files] == [sha256(tmp_path / "two" / file) for file in files]
    assert done[-1] == (9 + 5 + 3 * 13, 9 + 5 + 3 * 13)


def test_another_seed_gives_other_data():
    assert plan_sample(TINY).texts == plan_sample(TINY).texts
    assert plan_sample(TINY).texts != plan_sample(TINY.model_copy(update={"seed": 4})).texts


def test_files_are_in_the_official_layouts_and_can_be_read(tiny):
    for name in ("msrvtt_ret", "didemo_ret", "msrvtt_qa", "msvd_qa"):
        of = dataset(tiny, name)
        splits = {split: read_dataset(of, split) for split in ("train", "val", "test")}
        assert {split: len(records) for split, records in splits.items()} == {"train": 6, "val": 3, "test": 4}
        assert not missing_files([record for records in splits.values() for record in records])
        kinds = {record.path.suffix for records in splits.values() for record in records}
        assert kinds == ({".avi"} if name == "msvd_qa" else {".mp4"})
        if of.task == "qa":
            assert {q.answer for record in splits["train"] for q in record.questions} == set(read_answers(of))
        elif name == "didemo_ret":
            assert all(record.captions[0].count(".") >= 2 for record in splits["train"])
    assert not (tiny / "msrvtt_qa" / "videos").exists()
    videos, images = tiny / "webvid2m", tiny / "cc3m"
    webvid = Corpus(media="video", train=f"{videos}/txt/train.csv", val=f"{videos}/txt/val.csv", root=f"{videos}/videos")
    cc3m = Corpus(media="image", train=f"{images}/txt/cc3m.json", root=f"{images}/images")
    assert (len(read_corpus(webvid, "train")), len(read_corpus(webvid, "val")), len(read_corpus(cc3m))) == (6, 3, 5)
    assert not missing_files([*read_corpus(webvid), *read_corpus(webvid, "val"), *read_corpus(cc3m)])


def test_files_decode_to_the_planned_frames(tiny):
    decord = pytest.importorskip("decord")
    from PIL import Image

    for clip in plan_sample(TINY).clips:
        if clip.file.endswith(".jpg"):
            pixels = np.asarray(Image.open(tiny / clip.file))
            expected = render(clip.film, TINY.frame_size, frames=1)[0]
        else:
            reader = decord.VideoReader(str(tiny / clip.file), num_threads=1)
            assert len(reader) == clip.film.frames and FRAMES[0] <= clip.film.frames <= FRAMES[1]
            frames = reader.get_batch(range(len(reader))).asnumpy()
            pixels, expected = frames[-1], render(clip.film, TINY.frame_size)[-1]
        assert pixels.shape == (64, 64, 3)
        assert np.abs(pixels.astype(int) - expected).mean() < 12, clip.file


def test_brief_captions_leave_out_what_is_obvious_but_not_what_happens(plan):
    scenes = plan.scenes["webvid2m", "train"]
    captions = {row["video_id"]: row["text"] for row in csv.DictReader(plan.texts["webvid2m/txt/train.csv"].splitlines())}
    assert captions.keys() == scenes.keys()
    described = [(scenes[name], description) for name, description in plan.descriptions["webvid2m", "train"]]
    singles = [(scene, description) for scene, description in described if scene.kind == "single"]
    assert all(
        fits(description, scene) and description.toys[0].motion == scene.toys[0].motion for scene, description in singles
    )
    mentioned = {
        "setting": np.mean([bool(description.setting) for _, description in singles]),
        "color": np.mean([bool(description.toys[0].color) for _, description in singles]),
        "shape": np.mean([bool(description.toys[0].shape) for _, description in singles]),
    }
    assert 0.4 < mentioned["setting"] < mentioned["color"] < mentioned["shape"] < 1
    assert all("  " not in text and text == text.strip() for text in captions.values())


def test_splits_share_no_video(plan):
    names = [name for videos in plan.scenes.values() for name in videos]
    assert len(set(names)) == len(names)


def test_held_out_captions_fit_no_training_scene(plan):
    training = defaultdict(list)
    for (_, split), videos in plan.scenes.items():
        if split == "train":
            for scene in videos.values():
                training[scene.setting].append(scene)
    assert sum(map(len, training.values())) == 3 * Sample().train_videos + Sample().pretrain_videos + Sample().pretrain_images
    for held in (scene for key in HELD_OUT for scene in plan.scenes[key].values()):
        assert held.setting and held.toys[0].shape
        assert not any(fits(held, scene) for scene in training[held.setting]), held


def test_held_out_caption_fits_only_its_video(plan):
    for key in HELD_OUT:
        for name, description in plan.descriptions[key]:
            assert [other for other, scene in plan.scenes[key].items() if fits(description, scene)] == [name]
    for name in ("msrvtt_ret", "didemo_ret"):
        captions = [row["caption"] for row in rows(plan, f"{name}/txt/test.jsonl")]
        assert len(set(captions)) == len(captions) == 120


def test_captions_fit_their_videos(plan):
    for key, descriptions in plan.descriptions.items():
        for name, description in descriptions:
            assert fits(description, plan.scenes[key][name])


@pytest.mark.parametrize("name", ["msrvtt_qa", "msvd_qa"])
@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_answers_are_balanced_single_words_of_five_types(plan, name, split):
    asked = rows(plan, f"{name}/txt/{split}.jsonl")
    types = defaultdict(Counter)
    for row in asked:
        assert row["answer_type"] == row["question"].split()[0]
        assert len(row["answer"].split()) == 1
        types[row["answer_type"]][row["answer"]] += 1
    assert set(types) == {"what", "who", "how", "where", "when"}
    overall = sum(types.values(), Counter())
    assert overall.most_common(1)[0][1] <= 0.25 * len(asked)
    for answers in types.values():
        assert answers.most_common(1)[0][1] <= 0.5 * answers.total()
    assert set(overall) <= set(json.loads(plan.texts[f"{name}/txt/train_ans2label.json"]))


@pytest.mark.parametrize("name", ["msrvtt_qa", "msvd_qa"])
def test_at_most_a_third_of_answers_can_be_guessed_without_video(plan, name):
    names = {
        word: kind
        for kind, words in {
            "toy": "ball ring bar pole cross balls rings bars poles crosses",
            "color": "red yellow green blue white black",
        }.items()
        for word in words.split()
    }

    def form(question):
        return " ".join(names.get(word, word) for word in question.rstrip("?").split())

    answers = defaultdict(Counter)
    for row in rows(plan, f"{name}/txt/train.jsonl"):
        answers[form(row["question"])][row["answer"]] += 1
    test = rows(plan, f"{name}/txt/test.jsonl")
    best = {asked: answer for asked, counts in answers.items() for answer, _ in counts.most_common(1)}
    guessed = sum(best.get(form(row["question"])) == row["answer"] for row in test)  # unseen forms cannot be guessed
    assert guessed / len(test) < 0.33
    moving = [row for row in test if is_motion_question(row["question"])]
    assert len(moving) >= 0.2 * len(test)


def test_motion_questions_are_recognised_by_their_words():
    moving = ["where does the ball go?", "who changes color?", "how does the size of the box change?", "Who gets bigger?"]
    still = ["where is the ball?", "who is red?", "how big is the box?", "what place is this?", "how many toys are there?"]
    assert all(map(is_motion_question, moving)) and not any(map(is_motion_question, still))


# --- a single frame does not reveal the motion --------------------------------------------------------------------


def looks(motion: str, time: float, clips: int = 2000, **toy: str) -> np.ndarray:
    """Return x, y and side (clips, 3) at a time, of toys that differ only by random draws."""
    rng = np.random.default_rng(0)
    scene = Scene("sea", (Toy("ball", "red", motion, **toy),))
    return np.array([make_film(scene, rng).tracks[0].at(time)[:3] for _ in range(clips)])


def distance(a: np.ndarray, b: np.ndarray) -> float:
    """Return the Kolmogorov-Smirnov distance between two samples."""
    both = np.sort(np.concatenate([a, b]))
    shares = [np.searchsorted(np.sort(values), both, "right") / len(values) for values in (a, b)]
    return float(np.abs(shares[0] - shares[1]).max())


@pytest.mark.parametrize("pair", [("left", "right"), ("up", "down"), ("left", "up"), ("right", "down"), ("grow", "shrink")])
def test_middle_frame_has_the_same_distribution_for_opposite_motions(pair):
    size = {} if "grow" in pair else {"size": "small"}
    one, other = (looks(motion, 0.5, **size) for motion in pair)
    for column in range(3):
        assert distance(one[:, column], other[:, column]) < 0.065  # equal distributions exceed it once in 3,000


@pytest.mark.parametrize(
    "motion, column, way", [("left", 0, -1), ("right", 0, 1), ("up", 1, -1), ("down", 1, 1), ("grow", 2, 1)]
)
def test_toys_follow_their_planned_motion(motion, column, way):
    size = {} if motion == "grow" else {"size": "small"}
    before, after = (looks(motion, time, **size)[:, column] for time in (0.0, 1.0))
    assert (way * (after - before)).min() > 0.19  # of the frame's side


def test_colors_of_a_change_are_independent_of_its_moment():
    cards = Cards(np.random.default_rng(0))
    seen = defaultdict(Counter)
    for _ in range(12000):
        for toy in draw(cards).toys:
            if toy.motion == "change":
                seen[toy.moment][toy.color] += 1
                assert toy.later != toy.color
    table = np.array([[seen[moment][color] for color in COLORS] for moment in MOMENTS])
    expected = table.sum(1, keepdims=True) * table.sum(0) / table.sum()
    assert ((table - expected) ** 2 / expected).sum() < 29.6  # chi-square, 10 degrees of freedom: 0.1 %


def test_middle_frame_hides_motion_of_two_toys():
    rng = np.random.default_rng(1)
    cards = Cards(rng)
    left, right = [], []
    while len(left) < 1500:
        scene = draw(cards)
        if scene.kind == "pair" and {toy.motion for toy in scene.toys} == {"left", "right"}:
            for toy, track in zip(scene.toys, make_film(scene, rng).tracks, strict=True):
                (left if toy.motion == "left" else right).append(track.at(0.5)[:2])
    for column in range(2):
        assert distance(np.array(left)[:, column], np.array(right)[:, column]) < 0.075


def test_toys_stay_inside_the_frame():
    rng = np.random.default_rng(2)
    cards = Cards(rng)
    for _ in range(300):
        for track in make_film(draw(cards), rng).tracks:
            for time in np.linspace(0, 1, 9):
                x, y, side, _ = track.at(time)
                assert side / 2 <= x <= 1 - side / 2 and side / 2 <= y <= 1 - side / 2


# --- bad input --------------------------------------------------------------------------------------------


def test_too_many_requested_scenes_is_one_clear_error(monkeypatch):
    monkeypatch.setattr("alpro.data.sample.plan.TRIES", 3)  # reaching the real limit takes long
    with pytest.raises(DataError, match=r"sample: no further distinct scene for \w+; request fewer videos"):
        plan_sample(TINY.model_copy(update={"test_videos": 4000}))


def test_failure_keeps_existing_data(tmp_path):
    with new_dir(tmp_path / "sample") as temporary:
        (temporary / "earlier.txt").write_text("earlier")

    def stop(made, of):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make_sample(TINY, tmp_path / "sample", workers=1, progress=stop)
    assert {path.name for path in tmp_path.rglob("*")} == {"sample", "earlier.txt", MANIFEST}
