"""Cost of the index of a folder of videos, without reading, hashing and probing the videos.

    python -m benchmarks.index --json benchmarks/index.json [--videos 5000]

All files are links to one small video, and probing is replaced by a constant. This leaves the index's own work: names, the
cache and the Parquet file. Also measures a second run without changes, and for comparison a hundred real probes. Prints CPU
milliseconds per video, then JSON on the last line.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from alpro.data.media import index
from alpro.data.media.probe import probe
from alpro.files.json_files import write_json
from benchmarks.loader import make_videos

PROBES, LIMIT_MS = 100, 2


def ms_each(work: Callable[[], object], number: int) -> float:
    """Return the CPU milliseconds of a job, divided by `number`."""
    start = time.process_time()
    work()
    return (time.process_time() - start) / number * 1e3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--videos", type=int, default=5_000)
    parser.add_argument("--json", type=Path, help="file for the result")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        (video,) = make_videos(root, 1)
        paths = [root / f"video{number}.mp4" for number in range(args.videos)]
        for path in paths:
            path.symlink_to(video)
        out, cache = root / "index.parquet", root / "cache.jsonl"
        index.build_index([], out)  # warm-up: pyarrow's own start is not measured
        info = probe(video)
        index.probe = lambda *_: info
        result = {
            "videos": args.videos,
            "bookkeeping_ms": ms_each(lambda: index.build_index(paths, out, cache=cache), len(paths)),
            "unchanged_ms": ms_each(lambda: index.build_index(paths, out, cache=cache), len(paths)),
            "look_ms": ms_each(lambda: [probe(path) for path in paths[:PROBES]], PROBES),
            "limit_ms": LIMIT_MS,
        }
    print(f"{result['bookkeeping_ms']:8.2f} ms per video, without probing it")
    print(f"{result['unchanged_ms']:8.2f} ms per video that has not changed")
    print(f"{result['look_ms']:8.2f} ms per probe: read, hashed, all {info.frames} frames decoded")
    if args.json:
        write_json(args.json, result)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
