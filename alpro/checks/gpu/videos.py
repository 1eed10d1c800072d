"""Made videos, and datasets and loaders over them: real decoding and augmentation, without annotations or a vocabulary."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from alpro.checks.gpu.made import Kind
from alpro.checks.gpu.steps import Skipped
from alpro.config import PEM, Model, RandAugment
from alpro.data.annotations.records import Question, Record
from alpro.data.batches.clip_frames import View
from alpro.data.batches.datasets import ClipDataset, Collator
from alpro.data.batches.loader import TrainLoader
from alpro.data.batches.sampler import BatchPlan
from alpro.data.media.read import Decoder


class Words:
    """A tokenizer without cost: every text has the same number of tokens."""

    pad_token_id, mask_token_id, all_special_ids = 0, 4, (0, 1, 2, 3, 4)

    def __init__(self, tokens: int = 5, vocabulary: int = 100) -> None:
        self.tokens, self.vocabulary = tokens, vocabulary

    def __call__(self, texts: list[str], **_: Any) -> dict[str, list[list[int]]]:
        words = (5 + np.arange(self.tokens - 2) % (self.vocabulary - 5)).tolist()
        return {"input_ids": [[2, *words, 3] for _ in texts]}

    def __len__(self) -> int:
        return self.vocabulary


def make_videos(folder: Path, number: int, frames: int = 300, width: int = 320, height: int = 240) -> list[Path]:
    """Make videos of moving noise, which are as large as real ones (H.264; the defaults are MSRVTT's shape)."""
    import av

    paths = []
    for i in range(number):
        rng = np.random.default_rng(i)
        scene = np.kron(rng.integers(0, 255, (60, 100, 3), dtype=np.uint8), np.ones((8, 8, 1), np.uint8))
        with av.open(str(folder / f"{i}.mp4"), "w") as container:
            stream = container.add_stream("libx264", rate=25, options={"preset": "veryfast", "crf": "23"})
            stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
            for t in range(frames):
                pixels = scene[t % height : t % height + height, t : t + width]
                container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), "rgb24")))
            container.mux(stream.encode())
        paths.append(folder / f"{i}.mp4")
    return paths


def shared_videos(work: Path, small: bool) -> list[Path]:
    """Return made videos beside a step's folder; the first step that needs them makes them. Raises Skipped without PyAV."""
    if importlib.util.find_spec("av") is None:
        raise Skipped("PyAV is missing, which makes the videos; carry its wheel (--wheels)")
    folder = work.parent / "videos"
    if not folder.exists():
        temporary = work / "videos"
        temporary.mkdir(parents=True)
        make_videos(temporary, *((4, 40, 96, 64) if small else (32,)))
        temporary.replace(folder)
    return sorted(folder.glob("*.mp4"))


def decoder() -> Decoder:
    """Return decord if it can be imported, else PyAV."""
    return "decord" if importlib.util.find_spec("decord") is not None else "pyav"


def made_loader(
    paths: Sequence[Path],
    kind: Kind,
    model: Model,
    *,
    batch: int,
    steps: int,
    workers: int,
    randaugment: RandAugment | None = None,
    task: str = "corpus",
    by: Decoder | None = None,
) -> TrainLoader:
    """Return the training's loader over these files for some batches; `task` is corpus, retrieval or qa; `by` decodes."""
    questions = (Question(0, "q", "a", "what"),)
    records = [Record(str(i), path, captions=("a",), questions=questions) for i, path in enumerate(paths)]
    records *= batch // len(paths) + 1
    view = View(kind.frames, model.image_size, "random", randaugment=randaugment, decoder=by or decoder())
    data = ClipDataset("made", records, task, view, seed=0, answers={"a": 0})  # type: ignore[arg-type]
    per_epoch = len(data) // batch
    plan = BatchPlan({"made": len(data)}, batch, epochs=-(-steps // per_epoch), seed=0)
    masked = {"mlm_probability": 0.15} if "mlm" in kind.losses else {}
    crop = {"crop": PEM(), "patch_size": model.patch_size} if "pem" in kind.losses else {}
    collator = Collator(Words(kind.tokens, min(model.vocab_size, 1000)), kind.tokens, 0, **masked, **crop)  # type: ignore[arg-type]
    return TrainLoader({"made": data}, plan, collator, workers=workers, stop_step=steps)


def cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0))
