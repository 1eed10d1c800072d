"""Time of a validation with Great Expectations on as many annotation rows as MSRVTT-QA's training split has.

    python -m benchmarks.validation --json benchmarks/validation.json [--rows 160000] [--faults 0.01]

The rows are random questions on 10,000 videos. A share of them has a fault: an empty question, an answer outside the list, or
an unreadable video. The videos are not probed, which `benchmarks.index` measures. Prints a table of wall and CPU seconds,
then JSON on the last line.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from alpro.config import Dataset
from alpro.data.text.tokenizer import train_vocabulary
from alpro.data.validation import docs, run
from alpro.data.validation.limits import Limits
from alpro.data.validation.problems import problems_of
from alpro.data.validation.published_counts import PUBLISHED_COUNTS
from alpro.data.validation.tables import read_tables
from alpro.files.json_files import write_json

VIDEOS, WORDS, ANSWERS = 10_000, 6_000, 1_500
SHARES = {"train": 0.65, "val": 0.05, "test": 0.3}  # of the videos, as MSRVTT-QA's
LIMIT_S = 60


def make_set(root: Path, rows: int, faults: float) -> None:
    """Write questions in the official layout, the vocabulary of their words, and the answer list."""
    rng = random.Random(0)
    words = ["".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=rng.randint(3, 8))) for _ in range(WORDS)]
    answers = words[:ANSWERS]
    files = {split: (root / f"{split}.jsonl").open("w", encoding="utf-8") for split in SHARES}
    splits = rng.choices([*SHARES], weights=[*SHARES.values()], k=VIDEOS)
    for _ in range(rows):
        video = rng.randrange(VIDEOS)
        kind = rng.choices(("what", "who", "how", "when", "where"), weights=(68, 27, 3, 1, 1))[0]
        text, answer = f"{kind} is {' '.join(rng.choices(words, k=rng.randint(3, 10)))} ?", rng.choice(answers)
        if rng.random() < faults:
            text, answer = rng.choice(((" ", answer), (text, "outside")))
        row = {"video_id": f"video{video}", "question": text, "answer": answer, "answer_type": kind}
        files[splits[video]].write(json.dumps(row) + "\n")
    for file in files.values():
        file.close()
    (root / "train_ans2label.json").write_text(
        json.dumps({answer: label for label, answer in enumerate(dict.fromkeys(answers))})
    )
    train_vocabulary((f"what who how when where is {word}" for word in words), root / "vocabulary", 8_000)


def fill_index(videos: pd.DataFrame, faults: float, index: Path) -> None:
    """Write an index of these videos without probing them, a share of them unreadable."""
    rng = random.Random(1)
    readable = [rng.random() >= faults for _ in videos.index]
    frames = [300 if good else 0 for good in readable]
    pq.write_table(pa.table({"path": list(videos["path"]), "readable": readable, "frames": frames}), index)
    videos["frames"] = [300 if good else None for good in readable]
    videos["content"] = [f"{number:064x}" for number in videos.index]
    videos["error"] = ["" if good else "the file was cut" for good in readable]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=160_000)
    parser.add_argument("--faults", type=float, default=0.01, help="share of faulty rows and videos")
    parser.add_argument("--json", type=Path, help="file for the result")
    args = parser.parse_args()
    steps: dict[str, dict[str, float]] = {}

    @contextmanager
    def timed(name: str) -> Iterator[None]:
        start, used = time.perf_counter(), time.process_time()
        yield
        steps[name] = {"wall_s": time.perf_counter() - start, "cpu_s": time.process_time() - used}

    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        make_set(root, args.rows, args.faults)
        limits = Limits("qa", tuple(SHARES), 40, 16, 0.001, PUBLISHED_COUNTS["msrvtt_qa"])
        with timed("rows read"):
            tables = read_tables(Dataset(task="qa", annotations=folder, videos=str(root / "videos")), limits.needed)
        with timed("tokens counted"):
            tables.rows["tokens"] = run.token_lengths(tables.rows["text"], str(root / "vocabulary"))
        fill_index(tables.videos, args.faults, root / "index.parquet")
        with timed("Great Expectations imported"):
            import alpro.data.validation.suites  # noqa: F401
        with timed("Great Expectations"):
            results = run.run_suites(tables, limits, str(root / "index.parquet"))
        with timed("problems named"):
            named = [problems_of("made", results[part], getattr(tables, part))[1] for part in ("rows", "videos")]
        with timed("Data Docs"):
            docs.write_docs("made", results, root)
        total = {kind: sum(step[kind] for step in steps.values()) for kind in ("wall_s", "cpu_s")}
        counts = {
            "rows": len(tables.rows),
            "videos": len(tables.videos),
            "problems": sum(sum(problems.values()) for problems in named),
        }
        result: dict[str, Any] = {**counts, "parts": steps, "all": total, "limit_s": LIMIT_S}
    for name, seconds in {**steps, "all": total}.items():
        print(f"{name:30}{seconds['wall_s']:8.1f} s {seconds['cpu_s']:8.1f} s of CPU time")
    if args.json:
        write_json(args.json, result)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
