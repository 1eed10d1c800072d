"""What the index of a folder of videos costs beyond reading, hashing and probing each: the bookkeeping.

    python -m benchmarks.index --json benchmarks/index.json [--videos 5000]

The files are links to one small video and every look at one is given at once, so all that is left is the index's own: names,
the cache of what was seen, the Parquet. Then the whole again with nothing changed, and a hundred real looks for comparison.
Prints milliseconds of the processor for a video, and JSON on the last line.
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

LOOKS, LIMIT_MS = 100, 2


def ms_each(work: Callable[[], object], number: int) -> float:
    """Milliseconds of the processor, by number."""
    start = time.process_time()
    work()
    return (time.process_time() - start) / number * 1e3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--videos", type=int, default=5_000)
    parser.add_argument("--json", type=Path, help="write the result there")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        (video,) = make_videos(root, 1)
        paths = [root / f"video{number}.mp4" for number in range(args.videos)]
        for path in paths:
            path.symlink_to(video)
        out, cache = root / "index.parquet", root / "cache.jsonl"
        index.build_index([], out)  # pyarrow's own start is not the index's
        seen = probe(video)
        index.probe = lambda *_: seen
        result = {
            "videos": args.videos,
            "bookkeeping_ms": ms_each(lambda: index.build_index(paths, out, cache=cache), len(paths)),
            "unchanged_ms": ms_each(lambda: index.build_index(paths, out, cache=cache), len(paths)),
            "look_ms": ms_each(lambda: [probe(path) for path in paths[:LOOKS]], LOOKS),
            "limit_ms": LIMIT_MS,
        }
    print(f"{result['bookkeeping_ms']:8.2f} ms a video beyond looking at it")
    print(f"{result['unchanged_ms']:8.2f} ms a video that has not changed")
    print(f"{result['look_ms']:8.2f} ms a look: read, hashed, all {seen.frames} frames decoded")
    if args.json:
        write_json(args.json, result)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
