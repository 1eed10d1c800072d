"""Decoders of `loader.decoder` on a folder of videos: frames equal to decord's, largest difference, speed and memory of each.

    python -m benchmarks.decoders [FOLDER]          # default: tests/videos

Each decoder runs in a process of its own, so that its memory is its own. With PYTHONPATH set to a folder with a drop-in
replacement, such as decord2, that takes the place of decord. Prints a table, then JSON on the last line.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import rich
from rich.table import Table

from alpro.data.media.frames import frame_indices
from alpro.data.media.read import READERS
from alpro.data.media.strict import check_frames
from alpro.errors import AlproError

FRAMES, SIDE, ROUNDS = 8, 224, 10
SUFFIXES = (".mp4", ".mov", ".mkv", ".webm", ".avi")


def videos(folder: Path) -> list[Path]:
    """Return the videos whose frames all decode; the others are refused before any decoder reads them."""
    found = []
    for path in sorted(path for path in folder.iterdir() if path.suffix in SUFFIXES and path.stat().st_size):
        try:
            check_frames(path, lambda total: [0])
        except AlproError:
            continue
        found.append(path)
    return found


def measure(decoder: str, folder: Path, pixels: Path, skip: Sequence[str]) -> dict[str, Any]:
    """Save all frames of each video as they are and FRAMES of them at SIDE pixels; return what failed, speed and memory.

    Speed (processor time) and memory leave out the videos in `skip`, so that all decoders are measured on the same ones.
    """
    read: Any = READERS[decoder][decoder]  # type: ignore[index]
    seconds, clips, failed = 0.0, 0, []
    found = [(path, check_frames(path, lambda total: [0])[0]) for path in videos(folder)]
    for path, frames in found:
        chosen = frame_indices(frames.count, FRAMES, "uniform")
        try:
            if path.name in skip:
                continue
            read(path, frames, chosen, SIDE)
            began_s = time.process_time()
            for _ in range(ROUNDS):
                read(path, frames, chosen, SIDE)
            seconds, clips = seconds + time.process_time() - began_s, clips + ROUNDS
        except AlproError:
            failed.append(path.name)
    peak_mb = _peak_mb()  # before whole videos are read
    for path, frames in found:
        if path.name in failed:
            continue
        chosen = frame_indices(frames.count, FRAMES, "uniform")
        try:
            np.save(pixels / f"{path.name}.small.npy", read(path, frames, chosen, SIDE))
            np.save(pixels / f"{path.name}.whole.npy", read(path, frames, range(frames.count), None))
        except AlproError:
            failed.append(path.name)
    return {"failed": failed, "ms_per_clip": 1000 * seconds / max(clips, 1), "peak_mb": peak_mb}


def _peak_mb() -> float:
    """Return this process's peak memory; getrusage would count that of the process that started it, too."""
    status = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in status if line.startswith("VmHWM:")) / 1024


def compare(pixels: Path, reference: Path, kind: str) -> dict[str, Any]:
    """Return the number of frames, how many equal the reference's, and the largest and mean difference of a value."""
    frames = equal = largest = 0
    total = values = 0.0
    for file in sorted(pixels.glob(f"*.{kind}.npy")):
        if not (reference / file.name).exists():
            continue
        one, other = np.load(file), np.load(reference / file.name)
        difference = np.abs(one.astype(np.int16) - other)
        per_frame = difference.reshape(len(difference), -1).max(1)
        frames, equal, largest = frames + len(one), equal + int((per_frame == 0).sum()), max(largest, int(per_frame.max()))
        total, values = total + float(difference.sum()), values + difference.size
    return {"frames": frames, "equal": equal, "largest": largest, "mean": total / max(values, 1)}


def main() -> None:
    """Measure every decoder and print the comparison."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", nargs="?", type=Path, default=Path("tests/videos"))
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    parser.add_argument("--skip", action="append", default=[], help=argparse.SUPPRESS)
    parser.add_argument("--pixels", type=Path, help="folder in which the pixels are kept, to compare two versions of decord")
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measure(options.measure, options.folder, options.pixels, options.skip)))
        return
    with tempfile.TemporaryDirectory() as temporary:
        root = options.pixels or Path(temporary)
        results: dict[str, Any] = {}
        for decoder in READERS:
            (root / decoder).mkdir(parents=True, exist_ok=True)
            words = ["-m", "benchmarks.decoders", str(options.folder), "--measure", decoder, "--pixels", str(root / decoder)]
            words += [word for name in results.get("decord", {}).get("failed", ()) for word in ("--skip", name)]
            done = subprocess.run([sys.executable, *words], capture_output=True, text=True)
            if done.returncode:
                print(f"{decoder}: {done.stderr.strip().splitlines()[-1]}", file=sys.stderr)
                continue
            kinds = {kind: compare(root / decoder, root / "decord", kind) for kind in ("whole", "small")}
            results[decoder] = {**json.loads(done.stdout.splitlines()[-1]), **kinds}
    table = Table(
        "decoder", "fails", "equal", "largest", "mean", f"equal, {SIDE} px", "largest", "mean", "CPU ms/clip", "peak MB"
    )
    for decoder, result in results.items():
        cells = [
            text
            for kind in ("whole", "small")
            for one in [result[kind]]
            for text in (f"{one['equal']}/{one['frames']}", str(one["largest"]), f"{one['mean']:.3f}")
        ]
        speed = (f"{result['ms_per_clip']:.1f}", f"{result['peak_mb']:.0f}")
        table.add_row(decoder, str(len(result["failed"])), *cells, *speed)
    rich.print(table)
    print(json.dumps(results))


if __name__ == "__main__":
    main()
