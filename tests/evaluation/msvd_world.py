"""Synthetic data with the shape of MSVD-QA's test split: 13,157 questions on 504 videos, for a tiny model.

test_msvd_world.py runs it under a launcher. To run it by hand, on one or several processes:

    python -m tests.evaluation.msvd_world FOLDER
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import numpy as np
import torch

from alpro import distributed
from alpro.data.annotations.records import Question, Record
from alpro.data.text.tokenizer import SPECIAL, load_tokenizer
from alpro.evaluation.clips import Preprocessing
from alpro.evaluation.qa import QAResult, evaluate_qa
from alpro.files.json_files import write_json
from alpro.models import build_model
from tests.evaluation.conftest import ANSWERS, SIZES, WORDS, spread, write_video

QUESTIONS, VIDEOS, FILES = 13_157, 504, 24
TYPES = {"what": 8149, "who": 4552, "how": 370, "when": 58, "where": 28}


def make(folder: Path) -> None:
    """Write the vocabulary and the video files; each file serves 21 videos."""
    (folder / "text").mkdir(parents=True)
    (folder / "text/vocab.txt").write_text("\n".join([*SPECIAL, *WORDS]) + "\n")
    for n in range(FILES):
        write_video(folder / f"{n}.mp4", n)


def records(folder: Path) -> list[Record]:
    """Return 504 videos with 1 to 75 questions each, 13,157 in all, of MSVD-QA's types."""
    rng = np.random.default_rng(0)
    shares = rng.gamma(2.0, size=VIDEOS)
    counts = 1 + np.floor(shares / shares.sum() * (QUESTIONS - VIDEOS)).astype(int)
    counts[: QUESTIONS - counts.sum()] += 1
    types = rng.permutation(np.repeat(list(TYPES), list(TYPES.values())))
    numbers = iter(rng.permutation(QUESTIONS).tolist())
    found = []
    for video, count in enumerate(counts):
        asked = []
        for number in (next(numbers) for _ in range(count)):
            text = " ".join(rng.choice(WORDS, rng.integers(2, 9)))
            asked.append(Question(number, text, str(rng.choice([*ANSWERS, "unheard"])), str(types[number])))
        found.append(Record(f"video{video}", folder / f"{video % FILES}.mp4", questions=tuple(asked)))
    return found


def evaluate(folder: Path) -> QAResult:
    model = spread(build_model("qa", num_frames=4, config=SIZES, num_answers=len(ANSWERS)))
    tokenizer = load_tokenizer(folder / "text", vocab_size=SIZES.vocab_size)
    return evaluate_qa(model, records(folder), tokenizer, ANSWERS, Preprocessing(4, 32, 12))  # type: ignore[arg-type]


def main() -> None:
    folder = Path(sys.argv[1])
    distributed.init()
    torch.set_num_threads(1)
    if distributed.rank() == 0 and not folder.is_dir():
        make(folder)
    distributed.barrier()
    start = time.perf_counter()
    result = evaluate(folder)
    seconds = time.perf_counter() - start
    if distributed.rank() == 0:
        rows = [[p.id, p.video, p.type, p.correct, p.top] for p in result.predictions]
        write_json(folder / f"world{distributed.size()}.json", {"metrics": result.metrics(), "rows": rows})
        print(f"{distributed.size()} processes: {len(rows)} questions in {seconds:.0f} s, {result.metrics()}")
    distributed.barrier()


if __name__ == "__main__":
    main()
