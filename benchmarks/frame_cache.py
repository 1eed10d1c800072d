"""Time to read a clip from the frame cache, compared with decoding it.

    python -m benchmarks.frame_cache [--clips 200] [--json FILE]

Clips of 4 frames of 40 px (recipe `sample`) and of 16 frames of 224 px (the paper's question answering), from made videos. The
last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from alpro.data.annotations.records import Record
from alpro.data.batches.clip_frames import View, load_video_frames
from alpro.data.batches.frame_cache import FrameCache
from alpro.data.batches.seeds import python_rng
from alpro.files.json_files import write_json
from benchmarks.loader import make_videos

VIEWS = {
    "4 x 40 px": View(4, 40, "uniform"),
    "16 x 224 px": View(16, 224, "uniform"),
    "16 of 32 x 224 px": View(16, 224, "random", candidates=32),
}


def median_ms(records: list[Record], view: View, cache: FrameCache | None, clips: int) -> float:
    """Return the median time in ms in which a clip is loaded."""
    times = []
    for i in range(clips):
        rng = python_rng(i)
        start = time.perf_counter()
        load_video_frames(records[i % len(records)], view, rng, None, cache)
        times.append(time.perf_counter() - start)
    return float(np.median(times)) * 1e3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=200, help="clips to read of each size")
    parser.add_argument("--json", type=Path, help="file for the result")
    args = parser.parse_args()
    result: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        paths = make_videos(Path(folder), 16)
        records = [Record(str(i), path) for i, path in enumerate(paths)]
        time.sleep(2.5)  # the hash of a file is remembered from two seconds after its last change on
        for name, view in VIEWS.items():
            cache = FrameCache(Path(folder) / "cache", 10**10)
            row = {
                "decoded_ms": median_ms(records, view, None, len(records)),
                "filled_ms": median_ms(records, view, cache, len(records)),
                "cached_ms": median_ms(records, view, cache, args.clips),
            }
            result[name] = {key: round(value, 3) for key, value in row.items()}
            print(
                f"{name:20}decoded {row['decoded_ms']:8.2f} ms/clip, decoded and stored {row['filled_ms']:8.2f}, "
                f"cached {row['cached_ms']:8.3f}"
            )
            cache.close()
    if args.json:
        write_json(args.json, result)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
