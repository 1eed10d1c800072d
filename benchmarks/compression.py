"""Reading speed and size of converted videos compared with the originals (`alpro data convert`).

    python -m benchmarks.compression [--videos FOLDER] [--number 16] [--json FILE]

Unreadable files and videos under 60 frames in the folder are left out. Without a folder it makes videos of MSRVTT's shape
(320x240, 300 frames, H.264). They show moving noise, which compresses worse if fewer frames are kept, so use real videos to
judge sizes. Reads 8 random frames of each clip at 224 pixels, like a training, from the originals and from three kinds of
copies, on one core. Prints a table, then JSON on the last line.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
import time
from pathlib import Path
from typing import Any

from alpro.config import Convert
from alpro.data.copies.convert import convert
from alpro.data.media.probe import probe
from alpro.data.media.read import read_frames
from alpro.files.json_files import write_json
from benchmarks.loader import FRAMES, SIZE, make_videos

SHORTEST = 60  # frames
KINDS: dict[str, dict[str, Any]] = {
    "every 10th frame": {"every": 10},
    "2 frames/s": {"fps": 2},
    "2 frames/s, 224 short side": {"fps": 2, "short_side": 224},
}


def clips_per_s(paths: list[Path], reads: int) -> float:
    """Return the clips read per second of CPU time, each with new random frames. Other processes hardly change CPU time."""
    read_frames(paths[0], FRAMES, SIZE, "random", random.Random(0))  # warm-up
    start = time.process_time()
    for i in range(reads):
        read_frames(paths[i % len(paths)], FRAMES, SIZE, "random", random.Random(i))
    return reads / (time.process_time() - start)


def link_videos(folder: Path, into: Path) -> None:
    """Link the readable videos of a folder that have at least SHORTEST frames."""
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        info = probe(path, digest=False)
        if info.readable and info.frames >= SHORTEST:
            (into / path.name).symlink_to(path.resolve())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--videos", type=Path, help="folder of videos to read")
    parser.add_argument("--number", type=int, default=16, help="videos to make if no folder is given")
    parser.add_argument("--reads", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=3, help="each speed is the best of this many runs")
    parser.add_argument("--json", type=Path, help="file for the result")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "originals"
        source.mkdir()
        if args.videos:
            link_videos(args.videos, source)
        else:
            make_videos(source, args.number)
        folders = {"originals": source}
        seconds = {}
        for number, (kind, options) in enumerate(KINDS.items()):
            folders[kind] = Path(folder) / str(number)
            start = time.process_time()
            conversion = convert(Convert(source=str(source), output=str(folders[kind]), **options), 1, Path(folder) / "state")
            seconds[kind] = (time.process_time() - start) / conversion.converted
        files = {kind: sorted(path for path in where.rglob("*") if path.is_file()) for kind, where in folders.items()}
        speed = dict.fromkeys(files, 0.0)
        for _ in range(args.repeats):  # in turns, so that other load on the machine affects all alike
            for kind, paths in files.items():
                speed[kind] = max(speed[kind], clips_per_s(paths, args.reads))
        result: dict[str, Any] = {"clips": len(files["originals"])}
        for kind, paths in files.items():
            size = sum(path.stat().st_size for path in paths) / len(paths)
            result[kind] = {"clips_per_s": speed[kind], "kb_a_clip": size / 1e3, "s_to_make": seconds.get(kind)}
            gain = speed[kind] / speed["originals"]
            print(f"{kind:28}{speed[kind]:8.1f} clips/s {gain:6.1f} x  {size / 1e3:8.1f} kB a clip", end="")
            print(f"  {seconds[kind]:5.2f} s to make" if kind in seconds else "")
        if args.json:
            write_json(args.json, result)
        print(json.dumps(result))


if __name__ == "__main__":
    main()
