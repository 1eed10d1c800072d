"""Reads the clip of each record once, in order and ahead of use. An unreadable file is reported, never replaced."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice

from torch import Tensor

from alpro.data.annotations.records import Record
from alpro.data.batches.clip_frames import View, load_image_frame, load_video_frames
from alpro.data.batches.datasets import PackedRecords
from alpro.data.batches.frame_cache import FrameCache
from alpro.data.batches.seeds import python_rng
from alpro.data.media.frames import Strategy
from alpro.data.media.read import Decoder
from alpro.errors import DataError


def iter_clips(
    records: Sequence[Record],
    num_frames: int,
    strategy: Strategy,
    size: int,
    workers: int = 0,
    *,
    seed: int = 0,
    decode_size: int | None = None,
    cache: FrameCache | None = None,
    decoder: Decoder = "decord",
) -> Iterator[tuple[int, Tensor]]:
    """Yield each record's clip once, in order: (position in `records`, frames (T, 3, size, size) uint8).

    `workers` threads read ahead; decord releases Python's lock. Each file is read once. After the first unreadable
    file, the remaining ones are only tried, and a DataError lists *all* unreadable files.
    """
    faults = []
    for position, clip in try_clips(
        records, num_frames, strategy, size, workers, seed=seed, decode_size=decode_size, cache=cache, decoder=decoder
    ):
        if isinstance(clip, DataError):
            faults.append(str(clip))
        elif not faults:
            yield position, clip
    if faults:
        raise DataError(unreadable_message(faults))


def try_clips(
    records: Sequence[Record],
    num_frames: int,
    strategy: Strategy,
    size: int,
    workers: int = 0,
    *,
    seed: int = 0,
    decode_size: int | None = None,
    cache: FrameCache | None = None,
    decoder: Decoder = "decord",
) -> Iterator[tuple[int, Tensor | DataError]]:
    """Yield clips as `iter_clips` does, but the DataError in place of a clip whose file cannot be read."""
    view = View(num_frames, size, strategy, decode_size, train=False, decoder=decoder)
    packed = PackedRecords(records)

    def read(position: int) -> Tensor | DataError:
        record = packed[position]
        try:
            if record.media == "image":
                return load_image_frame(record, view, None, cache).expand(num_frames, -1, -1, -1)
            return load_video_frames(record, view, python_rng(seed, 0, record.id, "frames"), None, cache)
        except DataError as error:
            return error

    return _read_ahead(read, range(len(packed)), workers)


def unreadable_message(faults: Sequence[str]) -> str:
    """Format the complete list of unreadable files, so that a dataset can be repaired in one go."""
    count = f"{len(faults)} videos" if len(faults) > 1 else "1 video"
    return "\n  ".join([f"{count} can't be read; fetch again, or remove from the split:", *faults])


def _read_ahead(
    read: Callable[[int], Tensor | DataError], positions: Sequence[int], workers: int
) -> Iterator[tuple[int, Tensor | DataError]]:
    """Yield (position, result) in order, with up to 2 * `workers` positions read ahead."""
    if workers < 1:
        yield from ((position, read(position)) for position in positions)
        return
    waiting = iter(positions)
    with ThreadPoolExecutor(workers, thread_name_prefix="clips") as pool:
        ahead: deque[tuple[int, Future[Tensor | DataError]]] = deque(
            (p, pool.submit(read, p)) for p in islice(waiting, 2 * workers)
        )
        try:
            while ahead:
                position, future = ahead.popleft()
                clip = future.result()
                ahead.extend((p, pool.submit(read, p)) for p in islice(waiting, 1))
                yield position, clip
        finally:
            for _, future in ahead:
                future.cancel()
