"""Nominal arithmetic agrees with what was counted on the real model."""

from __future__ import annotations

import pytest

from alpro.config import Model
from alpro.training.flops import bert_macs, training_flops, video_macs


def test_the_papers_model_costs_what_was_counted() -> None:
    model = Model()
    assert video_macs(model, 8) / 1e9 == pytest.approx(195.8, abs=0.1)
    assert video_macs(model, 4) / 1e9 == pytest.approx(97.9, abs=0.1)
    assert video_macs(model, 16) / 1e9 == pytest.approx(392.1, abs=0.3)
    assert bert_macs(model, 6, 40) / 1e9 == pytest.approx(1.7, abs=0.05)
    assert bert_macs(model, 6, 40 + 197) / 1e9 == pytest.approx(10.6, abs=0.05)


def test_a_training_clip_is_forward_and_backward_of_all_its_passes() -> None:
    model = Model()
    video, text, fusion = video_macs(model, 8), bert_macs(model, 6, 40), bert_macs(model, 6, 237)
    assert training_flops("retrieval", model, 8, 40) == pytest.approx(6 * (video + text + 3 * fusion))
    assert training_flops("qa", model, 8, 40) == pytest.approx(6 * (video + text + fusion))
