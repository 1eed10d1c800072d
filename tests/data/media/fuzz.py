"""Fuzzing of the video readers with damaged files.

    python -m tests.data.media.fuzz --count 2000 --seed 0

Each video is a small file of one of many formats, damaged by flipped bits, dropped packets, cuts, joins or swapped boxes.
It is probed, read and converted in a process of its own. For each file it must hold that:

- nothing but a DataError is raised, and each file takes at most 20 s;
- a frame that is read is the one that a strict decoder (FFmpeg, which stops at the first fault) gives at this position;
- a file whose frames do not all decode is refused.

The seed of a file is printed with each violation; `--seed SEED --count 1` repeats it.
"""

from __future__ import annotations

import argparse
import multiprocessing
import random
import tempfile
import time
import traceback
from collections import Counter
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import av
import numpy as np

from alpro.data.media.streams import video_stream

SECONDS = 20
FRAMES = 36
SIDE = 64  # libvpx corrupts memory below
SIZE = 32  # side of the frames that are compared
NEAR = 3.0  # mean difference of two scalings of the same frame
FORMATS = {  # file -> (codec, options)
    "plain.mp4": ("libx264", {"bf": "0"}),
    "reordered.mp4": ("libx264", {"bf": "2"}),
    "fragmented.mp4": ("libx264", {"bf": "0"}),
    "h264.mkv": ("libx264", {"bf": "2"}),
    "h264.ts": ("libx264", {"bf": "2"}),
    "h264.flv": ("libx264", {"bf": "0"}),
    "h265.mp4": ("libx265", {"x265-params": "keyint=12:open-gop=0:log-level=none"}),
    "open.mp4": ("libx265", {"x265-params": "keyint=12:open-gop=1:scenecut=0:bframes=3:b-adapt=0:log-level=none"}),
    "mpeg4.mp4": ("mpeg4", {}),
    "mpeg4.avi": ("mpeg4", {}),
    "reordered.avi": ("mpeg4", {"bf": "2"}),
    "mpeg2.mpg": ("mpeg2video", {"bf": "2"}),
    "mpeg2.ts": ("mpeg2video", {}),
    "vp8.webm": ("libvpx", {}),
    "vp9.webm": ("libvpx-vp9", {}),
    "wmv2.wmv": ("wmv2", {}),
    "motion.mov": ("mjpeg", {}),
}


# --- files ------------------------------------------------------------------------------------------------


def picture(number: int) -> np.ndarray:
    """Return a picture that differs clearly from those of all other numbers."""
    pixels = np.zeros((SIDE, SIDE, 3), np.uint8)
    pixels[..., 0] = 6 * number + 20
    pixels[: 8 + number, ::2, 1] = 150
    pixels[:, : 8 + number, 2] = 220 - 5 * number
    return pixels


def make_sources(folder: Path) -> dict[str, bytes]:
    """Encode one intact video of each format."""
    av.logging.set_level(av.logging.PANIC)
    sources = {}
    for name, (codec, options) in FORMATS.items():
        path = folder / name
        muxing = {"movflags": "frag_keyframe+empty_moov"} if name.startswith("fragmented") else {}
        with av.open(str(path), "w", options=muxing) as container:
            stream = container.add_stream(codec, rate=25, options={"g": "12", "threads": "1", **options})
            stream.width = stream.height = SIDE
            stream.pix_fmt, stream.bit_rate = "yuvj420p" if codec == "mjpeg" else "yuv420p", 1_500_000
            for number in range(FRAMES):
                container.mux(stream.encode(av.VideoFrame.from_ndarray(picture(number), "rgb24")))
            container.mux(stream.encode())
        sources[name] = path.read_bytes()
        path.unlink()
    return sources


def damaged(sources: dict[str, bytes], seed: int, folder: Path) -> Path:
    """Write the damaged video of a seed."""
    rng = random.Random(seed)
    name = rng.choice(sorted(sources))
    content, faults = sources[name], []
    for _ in range(rng.choice((1, 1, 1, 2))):
        fault = rng.choice((flip, flip, drop_packets, drop_packets, cut, join, swap_boxes, overwrite))
        content = fault(content, name, sources, rng, folder)
        faults.append(fault.__name__)
    path = folder / f"{seed}_{'_'.join(faults)}_{name}"
    path.write_bytes(content)
    return path


def flip(content: bytes, name: str, sources: dict[str, bytes], rng: random.Random, folder: Path) -> bytes:
    """Flip 1 to 16 bits, anywhere or close to each other."""
    changed = bytearray(content)
    start, end = 0, len(changed)
    if rng.random() < 0.5:
        start = rng.randrange(end)
        end = min(end, start + 64)
    for _ in range(rng.choice((1, 1, 2, 4, 16))):
        changed[rng.randrange(start, end)] ^= 1 << rng.randrange(8)
    return bytes(changed)


def drop_packets(content: bytes, name: str, sources: dict[str, bytes], rng: random.Random, folder: Path) -> bytes:
    """Copy without one to six packets, often key frames; the times stay, or move up."""
    before, after = folder / f"before_{name}", folder / f"after_{name}"
    before.write_bytes(content)
    shift = rng.random() < 0.5
    try:
        with av.open(str(before)) as source, av.open(str(after), "w") as copy:
            stream = copy.add_stream_from_template(source.streams.video[0])
            packets = [packet for packet in source.demux(video=0) if packet.size]
            keys = [i for i, packet in enumerate(packets) if packet.is_keyframe]
            dropped = set(rng.sample(range(len(packets)), min(len(packets) - 1, rng.randint(1, 6))))
            if len(keys) > 1 and rng.random() < 0.6:
                dropped |= {rng.choice(keys[1:])}
            dropped_before = 0
            for number, packet in enumerate(packets):
                if number in dropped:
                    dropped_before += packet.duration or 0
                    continue
                if shift and packet.pts is not None and packet.dts is not None:
                    packet.pts, packet.dts = packet.pts - dropped_before, packet.dts - dropped_before
                packet.stream = stream
                copy.mux(packet)
        return after.read_bytes()
    except (av.FFmpegError, ValueError, IndexError):  # damaged already, so that it can't be copied
        return flip(content, name, sources, rng, folder)
    finally:
        before.unlink(missing_ok=True)
        after.unlink(missing_ok=True)


def cut(content: bytes, name: str, sources: dict[str, bytes], rng: random.Random, folder: Path) -> bytes:
    """Remove the end, the start or a part in the middle."""
    at, length = rng.randrange(1, len(content)), rng.randrange(1, max(2, len(content) // 3))
    return rng.choice((content[:at], content[at:], content[:at] + content[at + length :]))


def join(content: bytes, name: str, sources: dict[str, bytes], rng: random.Random, folder: Path) -> bytes:
    """Append another video, or the same one again, or put it into the middle."""
    same = [other for other in sources if other.rpartition(".")[2] == name.rpartition(".")[2]]
    other = sources[rng.choice(same if rng.random() < 0.7 else sorted(sources))]
    at = rng.randrange(len(content))
    return rng.choice((content + other, other + content, content[:at] + other + content[at:]))


def swap_boxes(content: bytes, name: str, sources: dict[str, bytes], rng: random.Random, folder: Path) -> bytes:
    """Exchange two neighbouring boxes of an .mp4, at the top or inside `moov`; elsewhere two blocks of 188 bytes."""
    spans, start, end = [], 0, len(content)
    if name.endswith((".mp4", ".mov")):
        moov = content.find(b"moov")
        if moov > 3 and rng.random() < 0.5:
            start, end = moov + 4, min(end, moov - 4 + int.from_bytes(content[moov - 4 : moov], "big"))
        while start + 8 <= end:
            length = int.from_bytes(content[start : start + 4], "big")
            if length < 8:
                break
            spans.append((start, min(end, start + length)))
            start += length
    else:
        spans = [(at, at + 188) for at in range(0, end - 187, 188)]
    if len(spans) < 2:
        return content[::-1]
    first, second = sorted(rng.sample(spans, 2))
    (a, b), (c, d) = first, second
    return content[:a] + content[c:d] + content[b:c] + content[a:b] + content[d:]


def overwrite(content: bytes, name: str, sources: dict[str, bytes], rng: random.Random, folder: Path) -> bytes:
    """Fill a part with zeros, with noise, or with another part."""
    length = rng.randrange(1, max(2, len(content) // 8))
    at, other = rng.randrange(len(content) - length + 1), rng.randrange(len(content) - length + 1)
    filling = rng.choice((bytes(length), rng.randbytes(length), content[other : other + length]))
    return content[:at] + filling + content[at + length :]


# --- the strict decoder, and what is compared with it -----------------------------------------------------


def strict_frames(path: Path, keep: bool = False) -> tuple[list[np.ndarray], bool]:
    """Return the frames that FFmpeg gives before its first fault, scaled, and True if there was none.

    `keep` holds on to all decoded frames, so that the decoder cannot use their memory again.
    """
    frames: list[np.ndarray] = []
    kept: list[Any] = []
    try:
        with av.open(str(path), metadata_errors="replace") as container:
            stream = video_stream(container)
            stream.codec_context.options = {"err_detect": "crccheck+bitstream+buffer+explode"}
            for frame in container.decode(stream):
                if frame.is_corrupt:
                    return frames, False
                if keep:
                    kept.append(frame)
                small = frame.reformat(SIZE, SIZE, "rgb24", interpolation="BILINEAR")
                frames.append(small.to_ndarray().astype(np.int16))
    except Exception:
        return frames, False
    return frames, True


def distance(one: np.ndarray, other: np.ndarray, turned: bool = False) -> float:
    """Return the mean difference of two frames; if `turned`, the least of the eight orientations.

    A flipped bit may change the display matrix, which the strict decoder ignores (test_orientation.py has its own oracle).
    """
    views = [np.rot90(flipped, turns) for flipped in (other, other[:, ::-1]) for turns in range(4)] if turned else [other]
    return min(float(np.abs(one - view).mean()) for view in views)


def equal(one: np.ndarray, other: np.ndarray, turned: bool = False) -> bool:
    """Return True if two frames are scalings of the same picture."""
    return distance(one, other, turned) < NEAR


def is_frame(frame: np.ndarray, position: int, expected: list[np.ndarray], turned: bool) -> bool:
    """Return True if a frame is the expected one at its position.

    A turned frame was scaled after turning and the expected one before. They may differ more, but no other is nearer.
    """
    if position >= len(expected):
        return False
    if equal(frame, expected[position], turned):
        return True
    distances = [distance(frame, other, turned) for other in expected]
    return turned and distances[position] == min(distances) and distances[position] < 2 * NEAR


def repeatable(path: Path, expected: list[np.ndarray]) -> bool:
    """Return True if the strict decoder gives the same frames again. VP8 may show memory that no packet has filled."""
    runs = [strict_frames(path, keep)[0] for keep in (True, False, True, False)]
    return all(
        len(run) == len(expected) and all(np.array_equal(*pair) for pair in zip(run, expected, strict=True)) for run in runs
    )


def violations(path: Path, convert: bool) -> tuple[str, list[str]]:
    """Return the outcome of one file, and what must not have happened."""
    from alpro.config import Convert
    from alpro.data.copies.convert import convert_file
    from alpro.data.media.probe import probe
    from alpro.data.media.read import read_frames
    from alpro.errors import DataError

    expected, complete = strict_frames(path)
    info = probe(path, digest=False)
    found: list[str] = []
    if info.readable and not complete:
        found.append(f"readable, but the strict decoder stops after {len(expected)} frames")
    if info.readable and info.frames != len(expected):
        found.append(f"{info.frames} frames, but the strict decoder gives {len(expected)}")
    count, turned = info.frames or len(expected) or 1, bool(info.rotation or info.mirrored)
    for indices in (8, list(range(count)), sorted({count // 3, count // 2, count - 1})):
        try:
            frames = read_frames(path, indices, SIZE)
        except DataError:
            if info.readable:
                found.append(f"readable, but frames {indices} can't be read")
            continue
        if not complete:
            found.append("frames were read, but the strict decoder stops")
        positions = [(2 * i + 1) * info.frames // 16 for i in range(8)] if isinstance(indices, int) else indices
        for position, frame in zip(positions, frames, strict=True):
            if not is_frame(frame, position, expected, turned):
                if not repeatable(path, expected):
                    return "not judged: the strict decoder's frames differ from run to run", []
                same = [i for i, other in enumerate(expected) if equal(frame, other, turned)]
                found.append(f"frame {position} is {same or 'none'} of the strict decoder's ({info.decoder})")
                break
    if convert:
        target = path.with_name("copy.mp4")
        reason = convert_file(path, target, Convert(source="a", output="b", crf=1))
        if bool(reason) == info.readable and not (reason and complete):
            found.append(f"readable {info.readable}, but converted: {reason or 'yes'}")
        if not reason and len(strict_frames(target)[0]) != len(expected):
            found.append("the copy has other frames")
        target.unlink(missing_ok=True)
    refused = "refused although it decodes" if complete and expected else "refused"
    return (f"read by {info.decoder}" if info.readable else refused), found


def _work(pipe: Connection) -> None:
    import decord

    av.logging.set_level(av.logging.PANIC)
    decord.logging.set_level(decord.logging.QUIET)
    while True:
        path, convert = pipe.recv()
        try:
            pipe.send(violations(path, convert))
        except BaseException:
            pipe.send(("traceback", [traceback.format_exc()]))


class Tester:
    """A process that tests files one by one; it is replaced if it hangs or crashes."""

    def __init__(self) -> None:
        self._process: Any = None
        self._start()

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, other = context.Pipe()
        self._process = context.Process(target=_work, args=(other,), daemon=True)
        self._process.start()
        other.close()

    def __call__(self, path: Path, convert: bool) -> tuple[str, list[str]]:
        """Return the outcome and the violations of a file."""
        self._pipe.send((path, convert))
        outcome = "crash"
        try:
            if self._pipe.poll(SECONDS + (20 if not self._process.pid else 0)):
                return self._pipe.recv()
            outcome = "hang"
        except EOFError:
            pass
        self.close()
        self._start()
        return outcome, [outcome]

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.join()


def run(seed: int, count: int, folder: Path, say: Any = print) -> tuple[Counter[str], list[str]]:
    """Test `count` videos from a seed on; return the outcomes and the violations."""
    sources = make_sources(folder)
    tester, outcomes, faults = Tester(), Counter[str](), []
    started, slowest = time.monotonic(), 0.0
    for number in range(seed, seed + count):
        path = damaged(sources, number, folder)
        begun = time.monotonic()
        outcome, found = tester(path, convert=number % 4 == 0)
        slowest = max(slowest, time.monotonic() - begun)
        outcomes[outcome] += 1
        if outcome == "refused although it decodes":
            say(f"note: seed {number}: {path.name}: {outcome}")
        for fault in found:
            faults.append(f"seed {number}: {path.name}: {fault}")
            say(faults[-1])
        path.unlink()
    tester.close()
    say(f"seeds {seed} to {seed + count - 1}: {dict(outcomes)}; {len(faults)} violations; "
        f"{time.monotonic() - started:.0f} s, the slowest file {slowest:.1f} s")  # fmt: skip
    return outcomes, faults


def main() -> int:
    """Run from the command line; return 1 if there is a violation."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=2000, help="number of videos")
    parser.add_argument("--seed", type=int, default=0, help="seed of the first one")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        return bool(run(options.seed, options.count, Path(folder))[1])


if __name__ == "__main__":
    raise SystemExit(main())
