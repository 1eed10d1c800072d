"""Time of VTC's search in an index, with random features of the paper's width.

    python -m benchmarks.search [--videos 100000]

Prints the seconds to open an index and to find the 128 best videos of a text, then JSON on the last line.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path

import numpy as np

from alpro.search.index import FORMAT, Video, VideoIndex, write

WIDTH, RERANK = 256, 128


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--videos", type=int, default=100_000)
    parser.add_argument("--queries", type=int, default=20)
    args = parser.parse_args()
    rng = np.random.default_rng(0)
    features = rng.normal(size=(args.videos, WIDTH)).astype(np.float32)
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    rows = [Video(f"videos/{n}.mp4", 1, 1, f"{n:064x}") for n in range(args.videos)]
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder), rows, features, {"format": FORMAT, "tokens": "made", "videos": folder})
        VideoIndex.open(folder)  # warm-up: pyarrow's own start is not measured
        start = time.perf_counter()
        index = VideoIndex.open(folder)
        opened = time.perf_counter() - start
        times = []
        for n in range(args.queries):
            start = time.perf_counter()
            matches, _ = index.nearest(features[n], RERANK)
            times.append(time.perf_counter() - start)
            if matches[0] != n:
                raise SystemExit(f"query {n}: the best match is video {matches[0]}, not its own")
    result = {"videos": args.videos, "open_s": opened, "search_s": float(np.median(times)), "slowest_s": max(times)}
    median = f"{float(np.median(times)) * 1e3:.0f} ms (median of {args.queries})"
    print(f"{args.videos:,} videos: opened in {opened:.2f} s, searched in {median}")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
