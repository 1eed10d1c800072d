"""Speed of the training's data loader compared with decord alone, cost of augmentation, and memory over time.

    python -m benchmarks.loader --workers 2 [--videos FOLDER] [--reads 20000] [--json FILE]

Without a folder it makes videos of MSRVTT's shape (320x240, 300 frames, H.264). The table shows clips per second and CPU
milliseconds per clip, of all threads and processes; on a busy machine the latter are more reliable. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from alpro.checks.gpu.videos import Words, make_videos
from alpro.config import RandAugment
from alpro.data.annotations.records import Record
from alpro.data.batches.clip_frames import View
from alpro.data.batches.datasets import ClipDataset, Collator
from alpro.data.batches.loader import TrainLoader
from alpro.data.batches.sampler import BatchPlan
from alpro.data.media.frames import frame_indices
from alpro.files.json_files import write_json

FRAMES, SIZE, BATCH = 8, 224, 8


@dataclass(frozen=True)
class Speed:
    """Clips per second, and CPU time per clip."""

    clips_per_s: float
    cpu_ms: float  # of all threads and processes, per clip

    def better(self, other: Speed | None) -> Speed:
        """Return the better of each value."""
        if other is None:
            return self
        return Speed(max(self.clips_per_s, other.clips_per_s), min(self.cpu_ms, other.cpu_ms))


def cpu_s() -> float:
    """Return the CPU time of this process and of its children that have ended."""
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def bare(paths: list[Path], threads: int, clips: int) -> Speed:
    """Measure decord alone with some threads: open, draw frames, decode at the model's size."""
    import decord

    def read(i: int) -> int:
        reader = decord.VideoReader(str(paths[i % len(paths)]), width=SIZE, height=SIZE, num_threads=1)
        return reader.get_batch(frame_indices(len(reader), FRAMES, "random", random.Random(i))).asnumpy().size

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(read, range(threads)))  # warm-up
        start, used = time.perf_counter(), cpu_s()
        list(pool.map(read, range(clips)))
    return Speed(clips / (time.perf_counter() - start), (cpu_s() - used) / clips * 1e3)


def loaded(paths: list[Path], workers: int, clips: int, randaugment: RandAugment | None) -> Speed:
    """Measure the training's loader, without the start of its workers."""
    ahead = BATCH * (2 * workers + 1)  # clips that the workers read ahead while they start
    start_used, start_read, _ = drained(paths, workers, BATCH, 0, randaugment)
    used, read, rate = drained(paths, workers, ahead + clips, ahead, randaugment)
    return Speed(rate, (used - start_used) / (read - start_read) * 1e3)


def drained(
    paths: list[Path], workers: int, clips: int, ahead: int, randaugment: RandAugment | None
) -> tuple[float, int, float]:
    """Return CPU time and clips of a loader from start to end, and its clips per second after the first `ahead`."""
    used, read, start = cpu_s(), 0, time.perf_counter()
    for _, batch in make_loader(paths, workers, clips, randaugment):
        read += len(batch)
        if read <= ahead:
            start = time.perf_counter()
    return cpu_s() - used, read, (read - ahead) / (time.perf_counter() - start)


def make_loader(paths: list[Path], workers: int, clips: int, randaugment: RandAugment | None) -> TrainLoader:
    """Return a loader over these files for some number of clips."""
    records = [Record(str(i), path, captions=("a",)) for i, path in enumerate(paths)] * (BATCH // len(paths) + 1)
    data = ClipDataset("bench", records, "corpus", View(FRAMES, SIZE, "random", randaugment=randaugment), seed=0)
    plan = BatchPlan({"bench": len(data)}, BATCH, epochs=1 + clips // (len(data) // BATCH * BATCH), seed=0)
    return TrainLoader({"bench": data}, plan, Collator(Words(), 30, seed=0), workers=workers, stop_step=clips // BATCH)


def memory_growth(paths: list[Path], reads: int) -> tuple[float, float]:
    """Return the median memory of this process, in MB, in the second and in the last tenth of the reads."""
    samples = [resident_mb() for _ in make_loader(paths, 0, reads, None)]
    tenth = len(samples) // 10
    return float(np.median(samples[tenth : 2 * tenth])), float(np.median(samples[-tenth:]))


def resident_mb() -> float:
    """Return the memory of this process, in MB."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--videos", type=Path, help="folder of videos to read")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--clips", type=int, default=400)
    parser.add_argument("--repeats", type=int, default=3, help="each speed is the best of this many runs")
    parser.add_argument("--reads", type=int, default=0, help="also measure the memory over this many reads")
    parser.add_argument("--json", type=Path, help="file for the result")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        paths = sorted(p for p in args.videos.rglob("*") if p.is_file()) if args.videos else make_videos(Path(folder), 32)
        rows: dict[str, Speed] = {}
        for _ in range(args.repeats):  # in turns, so that other load on the machine affects all alike
            for name, speed in (
                ("bare decord", bare(paths, args.workers, args.clips)),
                ("loader", loaded(paths, args.workers, args.clips, None)),
                ("loader + RandAugment", loaded(paths, args.workers, args.clips, RandAugment())),
            ):
                rows[name] = speed.better(rows.get(name))
        result: dict[str, Any] = {"workers": args.workers, "speeds": {name: asdict(speed) for name, speed in rows.items()}}
        decord, loader = rows["bare decord"], rows["loader"]
        result |= {"share": loader.clips_per_s / decord.clips_per_s, "share_by_cpu": decord.cpu_ms / loader.cpu_ms}
        for name, speed in rows.items():
            shares = f"{speed.clips_per_s / decord.clips_per_s:6.1%}, {decord.cpu_ms / speed.cpu_ms:6.1%} by CPU time"
            print(f"{name:24}{speed.clips_per_s:8.1f} clips/s {speed.cpu_ms:8.1f} ms/clip {shares}")
        if args.reads:
            early, late = memory_growth(paths, args.reads)
            result["memory_mb"] = [early, late]
            growth = f"{early:.0f} MB, after {args.reads} {late:.0f} MB: {late / early - 1:+.2%}"
            print(f"memory after {args.reads // 5} reads {growth}")
        if args.json:
            write_json(args.json, result)
        print(json.dumps(result))


if __name__ == "__main__":
    main()
