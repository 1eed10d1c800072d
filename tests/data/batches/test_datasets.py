"""Samples and batches: content, seeding by (seed, epoch, sample) only, masking and cropping."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from alpro.config import PEM, RandAugment
from alpro.data.annotations.records import Record
from alpro.data.batches.clip_frames import View
from alpro.data.batches.datasets import ClipDataset, Collator, PackedRecords, Unreadable
from alpro.errors import DataError
from tests.data.clips import make_records, make_tokenizer

VIEW = View(num_frames=4, size=32, frames="headtail", decode_size=40, randaugment=RandAugment())


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    return make_records(tmp_path_factory.mktemp("videos"))


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return make_tokenizer(tmp_path_factory.mktemp("text"))


def test_caption_corpus_has_one_sample_per_video_with_a_drawn_caption(records):
    data = ClipDataset("web", records, "corpus", VIEW, seed=0)
    assert len(data) == 6
    drawn = [data[epoch, 2] for epoch in range(8)]
    assert {s.ids for s in drawn} == {("web/video2#0",), ("web/video2#1",)}
    assert all(s.texts == (records[2].captions[int(s.ids[0][-1])],) for s in drawn)


def test_retrieval_has_one_sample_per_caption_and_questions_have_labels(records):
    data = ClipDataset("ret", records, "retrieval", VIEW, seed=0)
    assert len(data) == 12 and data.groups.tolist() == np.repeat(np.arange(6), 2).tolist()
    assert (data[0, 5].ids, data[0, 5].texts, data[0, 5].labels) == (("ret/video2#1",), (records[2].captions[1],), None)
    questions = ClipDataset("qa", records, "qa", VIEW, seed=0, answers={"red": 0, "blue": 1})
    assert [questions[0, row].labels for row in range(6)] == [
        (0,),
        (1,),
        (1,),
        (-100,),
        (-100,),
        (0,),
    ]  # "mauve" is not in the list
    assert questions[0, 3].ids == ("qa/video1#3",)


def test_sample_depends_only_on_seed_epoch_and_name(records):
    def data(seed=0, items=records):
        return ClipDataset("web", items, "corpus", VIEW, seed=seed)

    one = data()[3, 1]
    assert one.frames.shape == (4, 3, 32, 32) and one.frames.dtype == torch.uint8
    again = data(items=records[1:])[3, 0]  # at another row of another dataset object
    assert again.ids == one.ids and torch.equal(again.frames, one.frames)
    others = [data()[e, 1].frames for e in range(3)] + [data(seed=1)[3, 1].frames]
    assert not any(torch.equal(one.frames, other) for other in others)


def test_validation_uses_no_random_crops_or_colours(records):
    view = View(4, 32, "uniform", decode_size=40, randaugment=None, train=False)
    data = ClipDataset("ret", records, "retrieval", view, seed=0)
    assert torch.equal(data[0, 0].frames, data[9, 0].frames)


def test_without_randaugment_a_training_clip_keeps_its_pixels(records):
    def frames(**options):
        return ClipDataset("ret", records, "retrieval", View(4, 32, "uniform", **options), seed=0)[0, 2].frames

    plain = frames(train=False)
    assert torch.equal(frames(randaugment=None), plain)
    assert not torch.equal(frames(randaugment=RandAugment()), plain)


def test_frames_are_decoded_at_decode_size_then_cropped(records):
    def frames(size, **options):
        return ClipDataset("ret", records, "retrieval", View(4, size, "uniform", **options), seed=0)[0, 2].frames

    whole, cropped = frames(40, train=False), frames(32, decode_size=40)
    offsets = [(y, x) for y in range(9) for x in range(9) if torch.equal(whole[..., y : y + 32, x : x + 32], cropped)]
    assert offsets and not torch.equal(frames(32), cropped)


def test_image_becomes_one_repeated_frame(tmp_path):
    Image.fromarray(np.random.RandomState(0).randint(0, 256, (50, 70, 3), dtype=np.uint8)).save(tmp_path / "a.jpg")
    record = Record("a", tmp_path / "a.jpg", media="image", captions=("a red square",))
    frames = ClipDataset("cc3m", [record], "corpus", VIEW, seed=0)[0, 0].frames
    assert frames.shape == (4, 3, 32, 32) and (frames == frames[:1]).all()
    plain = ClipDataset("cc3m", [record], "corpus", View(2, 32, "uniform", train=False), seed=0)
    assert torch.equal(plain[0, 0].frames, plain[1, 0].frames)


def test_unreadable_sample_is_reported_and_not_replaced(records, tmp_path):
    broken = [*records[:1], Record("gone", tmp_path / "gone.mp4", captions=("a",))]
    sample = ClipDataset("web", broken, "corpus", VIEW, seed=0)[0, 1]
    assert isinstance(sample, Unreadable) and sample.ids == ("web/gone#0",) and "gone.mp4: not found" in sample.reason


def test_records_without_text_give_no_samples(records):
    mixed = [records[0], Record("silent", records[1].path), records[2]]
    data = ClipDataset("ret", mixed, "retrieval", VIEW, seed=0)
    assert [data.path(row) for row in range(4)] == [records[0].path] * 2 + [records[2].path] * 2
    with pytest.raises(DataError, match="qa: no record has a question"):
        ClipDataset("qa", mixed[1:2], "qa", VIEW, seed=0, answers={})


def test_packed_records_equal_the_originals(records):
    packed = PackedRecords(records)
    assert list(packed) == records and packed[-1] == records[-1] and list(PackedRecords(packed)) == records
    with pytest.raises(IndexError):
        packed[6]


def test_text_is_padded_to_the_longest_in_the_batch_and_truncated(records, tokenizer):
    ids, mask = Collator(tokenizer, 6, seed=0).tokenize(["a red square", "a blue circle moves left right up"])
    assert ids.shape == (2, 6) and mask.sum(1).tolist() == [5, 6]
    assert ids[0, 5] == tokenizer.pad_token_id and ids[1, 5] == tokenizer.sep_token_id


def test_text_is_padded_to_a_multiple_without_changing_any_draw(records, tokenizer):
    data = ClipDataset("web", records, "corpus", VIEW, seed=0)
    samples = [data[0, i] for i in range(6)]
    plain, padded = (
        Collator(tokenizer, 30, seed=0, mlm_probability=0.5, crop=PEM(), patch_size=8, pad_to=pad_to)(samples).batch
        for pad_to in (1, 8)
    )
    length = plain.input_ids.shape[1]
    assert length % 8 and padded.input_ids.shape == (6, -(-length // 8) * 8)
    assert not padded.attention_mask[:, length:].any() and (padded.mlm_labels[:, length:] == -100).all()
    for name in ("input_ids", "attention_mask", "mlm_input_ids", "mlm_labels"):
        assert torch.equal(getattr(padded, name)[:, :length], getattr(plain, name))
    for name in ("mlm_positions", "crop_boxes", "pixels"):
        assert torch.equal(getattr(padded, name), getattr(plain, name))


def test_batch_has_masked_words_and_crop_boxes_for_pretraining(records, tokenizer):
    data = ClipDataset("web", records, "corpus", VIEW, seed=0)
    batch = Collator(tokenizer, 30, seed=0, mlm_probability=0.5, crop=PEM(), patch_size=8)([data[0, i] for i in range(6)]).batch
    assert batch.pixels.shape == (6, 4, 3, 32, 32) and batch.corpus == "web" and batch.media == "video"
    changed = batch.mlm_input_ids != batch.input_ids
    chosen = batch.mlm_labels != -100
    assert chosen.any() and not (changed & ~chosen).any()
    assert torch.equal(batch.mlm_labels[chosen], batch.input_ids[chosen])
    assert not (chosen & torch.isin(batch.input_ids, torch.tensor(tokenizer.all_special_ids))).any()
    assert batch.crop_boxes.shape == (6, 4) and not (batch.crop_boxes % 8).any()
    plain = Collator(tokenizer, 30, seed=0)([data[0, 0]]).batch
    assert plain.mlm_labels is None and plain.crop_boxes is None and plain.labels is None


def test_random_draws_do_not_depend_on_the_rest_of_the_batch(records, tokenizer):
    data = ClipDataset("web", records, "corpus", VIEW, seed=0)
    samples = [data[0, i] for i in range(6)]
    collate = Collator(tokenizer, 30, seed=0, mlm_probability=0.5, crop=PEM(), patch_size=8)
    whole, alone = collate.batch(samples), collate.batch(samples[4:5])
    length = alone.input_ids.shape[1]
    assert torch.equal(whole.mlm_labels[4:5, :length], alone.mlm_labels)
    assert torch.equal(whole.mlm_input_ids[4:5, :length], alone.mlm_input_ids)
    assert torch.equal(whole.crop_boxes[4:5], alone.crop_boxes)


def test_batches_include_labels_and_unreadable_samples(records, tokenizer):
    data = ClipDataset("qa", records, "qa", VIEW, seed=0, answers={"red": 0, "blue": 1})
    collated = Collator(tokenizer, 30, seed=0)([data[0, 0], Unreadable(("qa/x#1",), "gone"), data[0, 3]])
    assert collated.batch.labels.tolist() == [0, -100] and [u.ids for u in collated.unreadable] == [("qa/x#1",)]
    assert Collator(tokenizer, 30, seed=0)([Unreadable(("qa/x#1",), "gone")]).batch is None


def test_relative_paths_are_accepted(records, monkeypatch):
    folder = records[0].path.parent
    monkeypatch.chdir(folder)
    near = Record("video0", Path("video0.avi"), captions=records[0].captions)
    assert not isinstance(ClipDataset("web", [near], "corpus", VIEW, seed=0)[0, 0], Unreadable)
