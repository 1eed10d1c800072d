"""Time of DVC on a corpus of millions of clips in shards: `dvc add`, a first `dvc repro`, and one with nothing to do.

    python -m benchmarks.shards [--clips 2500000] [--shards 2500] [--kb 64]

The shards are small, because only their number and the index matter, and are in a temporary repository. Also measures how
fast a folder of shards is listed, and how fast random clips are found. Prints a table, then JSON on the last line.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from alpro.data.media.shards import INDEX, list_clips, locate_clip

STAGE = """stages:
  count:
    cmd: echo done > counted.txt
    deps: [data/webvid2m/shards]
    outs: [counted.txt]
"""


def make_corpus(folder: Path, clips: int, shards: int, kb: int) -> None:
    """Write shards of random bytes, and an index of clips that could be in them."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    each = clips // shards
    names = ("name", "shard", "offset", "bytes", "sha256")
    schema = pa.schema(list(zip(names, (pa.string(), pa.string(), pa.int64(), pa.int64(), pa.string()), strict=True)))
    with pq.ParquetWriter(folder / INDEX, schema, compression="zstd") as writer:
        for number in range(shards):
            shard = f"shard-{number:05d}.tar"
            (folder / shard).write_bytes(rng.bytes(kb * 1024))
            digests = rng.bytes(32 * each).hex()
            rows = {
                "name": [f"{number:06d}_{number:06d}/{number * each + i:010d}.mp4" for i in range(each)],
                "shard": [shard] * each,
                "offset": [512 + 1024 * i for i in range(each)],
                "bytes": [512] * each,
                "sha256": [digests[64 * i : 64 * (i + 1)] for i in range(each)],
            }
            writer.write_table(pa.table(rows, schema=schema))


def seconds(root: Path, *command: str) -> float:
    """Return the seconds of a command, which must succeed."""
    env = os.environ | {"DVC_NO_ANALYTICS": "1"}
    start = time.perf_counter()
    subprocess.run(command, cwd=root, env=env, check=True, capture_output=True)
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=2_500_000)
    parser.add_argument("--shards", type=int, default=2_500)
    parser.add_argument("--kb", type=int, default=64, help="size of a shard in kB")
    args = parser.parse_args()
    dvc = (sys.executable, "-m", "dvc")
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        shards = root / "data/webvid2m/shards"
        make_corpus(shards, args.clips, args.shards, args.kb)
        (root / "dvc.yaml").write_text(STAGE)
        seconds(root, "git", "init", "-q")
        seconds(root, *dvc, "init", "-q")
        seconds(root, *dvc, "config", "cache.type", "reflink,hardlink,symlink,copy")
        result = {"index_mb": (shards / INDEX).stat().st_size / 1e6}
        result["dvc_add_s"] = seconds(root, *dvc, "add", "-q", "data/webvid2m/shards")
        result["first_repro_s"] = seconds(root, *dvc, "repro", "-q")
        result["noop_repro_s"] = min(seconds(root, *dvc, "repro", "-q") for _ in range(2))
        start = time.perf_counter()
        clips = list(list_clips(shards))
        result["listing_s"] = time.perf_counter() - start
        chosen = random.Random(0).sample(clips, min(500, len(clips)))
        locate_clip(shards / chosen[0][0] / chosen[0][1])
        start = time.perf_counter()
        for shard, name in chosen:
            locate_clip(shards / shard / name)
        result["lookup_ms"] = (time.perf_counter() - start) / len(chosen) * 1e3
    print(f"{args.clips:,} clips in {args.shards:,} shards")
    for name, value in result.items():
        print(f"{name:16}{value:10.2f}")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
